"""Graphs as they are lowered, and what of them has no kernel."""

from jitinfer.kernels.target import Target
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.work import unsupported
from jitinfer.passes import default, run_passes

TARGET = Target.named(90)


def lowered(graph, precision):
    return run_passes(graph, arranged(default(), precision), check=True)[0]


def without_kernels(graph):
    """Nodes of the graph and of its prologue."""
    return unsupported(graph, TARGET)
