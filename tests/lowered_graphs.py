"""Graphs as they are lowered, and what of them has no kernel."""

from jitinfer.kernels.target import Target
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.work import kernel_nodes, unsupported
from jitinfer.passes import default, run_passes

TARGET = Target.named(90)


def lowered(graph, precision):
    return run_passes(graph, arranged(default(), precision), check=True)[0]


def without_kernels(graph):
    """Nodes of the graph and of its prologue."""
    parts = [graph] if graph.prologue is None else [graph, graph.prologue]
    return [node for part in parts for node in unsupported(kernel_nodes(part, TARGET), TARGET)]
