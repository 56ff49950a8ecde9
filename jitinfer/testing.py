"""For the tests of passes, the library's own and those of its users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from jitinfer.graph import Graph, evaluate
from jitinfer.graph.types import FLOATING, INTEGRAL, TensorType, numpy_dtype
from jitinfer.passes import run_passes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = numpy.ndarray


def random_array(kind: TensorType, seed: int) -> Array:
    """Floating: normal; integral: 0 or 1, which are valid indices nearly everywhere; bool: either."""
    generator = numpy.random.default_rng(seed)
    if kind.dtype in FLOATING:
        return generator.standard_normal(kind.shape).astype(numpy_dtype(kind.dtype))
    if kind.dtype in INTEGRAL:
        return generator.integers(0, 2, kind.shape).astype(numpy_dtype(kind.dtype))
    return generator.integers(0, 2, kind.shape).astype(numpy.bool_)


class PassTest:
    """Base of a test class for passes: say what a graph becomes, or that it stays.

    ```python
    class TestMyPass(PassTest):
        passes = ("my_pass",)

        def test_it_fires(self):
            builder = Builder()
            x = builder.input("x", (2, 8))
            self.becomes(builder.build(ops.silu(x) * x), {"swiglu": 1})
    ```
    """

    passes: Sequence[str] = ()
    tolerance: float = 1e-12
    """Largest difference, relative to the largest result, between the graphs evaluated in float64."""

    def becomes(self, graph: Graph, counts: Mapping[str, int]) -> Graph:
        """After the passes, `graph` has exactly these numbers of nodes, op by op, and the same results."""
        after, _ = run_passes(graph, self.passes, check=True)
        assert dict(after.counts()) == dict(counts), f"\n{after}"
        self.means_the_same(after, graph)
        return after

    def stays(self, graph: Graph) -> None:
        """The passes must not fire: the graph afterwards has the same hash."""
        after, report = run_passes(graph, self.passes, check=True)
        assert after.hash == graph.hash, f"\n{report}\n{after}"

    def means_the_same(self, after: Graph, before: Graph) -> None:
        """Equal results, on random data, in float64 arithmetic; types and shapes exactly."""
        assert [value.type for value in after.outputs] == [value.type for value in before.outputs]
        inputs = [random_array(value.type, seed) for seed, value in enumerate(before.inputs)]
        weights = [random_array(value.type, 1000 + seed) for seed, value in enumerate(before.weights)]
        expected = evaluate(before, inputs, weights, arithmetic="float64")
        actual = evaluate(after, inputs, weights, arithmetic="float64")
        for got, wanted in zip(actual, expected, strict=True):
            if wanted.dtype.kind in "biu":
                numpy.testing.assert_array_equal(got, wanted)
                continue
            numpy.testing.assert_array_equal(numpy.isfinite(got), numpy.isfinite(wanted))
            finite = numpy.isfinite(wanted)
            if finite.any():
                scale = max(float(numpy.abs(wanted[finite]).max()), 1e-30)
                assert float(numpy.abs(got[finite] - wanted[finite]).max()) <= self.tolerance * scale
