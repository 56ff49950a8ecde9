"""Functions as graphs: traced, imported, with the arrays to evaluate them on."""

from dataclasses import dataclass
from functools import cached_property

import numpy
import paddle

from jitinfer.frontend.importing import import_program
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.frontend.tree import flatten_results
from jitinfer.graph import Graph, evaluate
from jitinfer.passes import default, run_passes


@dataclass
class Imported:
    graph: Graph
    inputs: list[numpy.ndarray]
    weights: list[numpy.ndarray]
    expected: list[numpy.ndarray]
    operations: int
    """Operators of the program."""

    @cached_property
    def after(self) -> Graph:
        """After the default passes."""
        return run_passes(self.graph, check=True)[0]

    def error_of(self, graph):
        """The largest difference to the dynamic results, relative to the largest value; types and shapes exactly."""
        errors = [0.0]
        for actual, wanted in zip(evaluate(graph, self.inputs, self.weights), self.expected, strict=True):
            assert (actual.shape, actual.dtype) == (wanted.shape, wanted.dtype)
            assert numpy.isfinite(wanted).all()
            assert numpy.isfinite(actual).all()
            if wanted.dtype.kind in "biu":
                assert numpy.array_equal(actual, wanted)
            else:
                errors.append(float(numpy.abs(actual - wanted).max() / max(numpy.abs(wanted).max(), 1e-30)))
        return max(errors)

    def error_of_each_pass(self):
        """The largest error after a default pass alone, of those that change the graph."""
        errors = [0.0]
        for name in sorted(set(default())):
            alone, report = run_passes(self.graph, [name], check=True)
            if alone is not self.graph:
                errors.append(self.error_of(alone))
            else:
                assert not any(step.changes for step in report.steps)
        return max(errors)

    @property
    def opaque(self):
        return {node.operator for node in self.graph.walk() if node.op.name == "paddle"}


def imported(function, tensors, arguments=None, layer=None):
    """The graph of `function(**tensors, **arguments)`."""
    names, values = list(tensors), list(tensors.values())
    arguments = arguments or {}

    def call(symbols):
        return translated_root(function)(**dict(zip(names, symbols, strict=True)), **arguments)

    state = [] if layer is None else [*layer.parameters(), *layer.buffers()]
    found = trace(call, [type_of(tensor) for tensor in values], state)
    with paddle.no_grad():
        _, expected = flatten_results(function(**tensors, **arguments), (paddle.Tensor,))
    graph = import_program(found.program, origins=found.origins)
    weights = [tensor.numpy() for tensor in found.parameters]
    return Imported(
        graph,
        [value.numpy() for value in values],
        weights,
        [each.numpy() for each in expected],
        found.program.operations,
    )
