"""For the tests of passes, the library's own and those of its users."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph import Builder, Graph, Tensor, evaluate
from jitinfer.graph.op import Kind
from jitinfer.graph.rounding import BITS, SIGMAS
from jitinfer.graph.types import FLOATING, INTEGRAL, TensorType, numpy_dtype
from jitinfer.passes import run_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Array = numpy.ndarray


def random_array(kind: TensorType, seed: int) -> Array:
    """Floating: normal; integral: 0 or 1, which are valid indices nearly everywhere; bool: either."""
    generator = numpy.random.default_rng(seed)
    if kind.dtype in FLOATING:
        return generator.standard_normal(kind.shape).astype(numpy_dtype(kind.dtype))
    if kind.dtype in INTEGRAL:
        return generator.integers(0, 2, kind.shape).astype(numpy_dtype(kind.dtype))
    return generator.integers(0, 2, kind.shape).astype(numpy.bool_)


class ProgramBuilder(Builder):
    """A builder whose inputs and parameters are of the case's dtype, where none is given."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def input(self, name: str, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        return super().input(name, shape, dtype or self.dtype)

    def parameter(self, name: str, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        return super().parameter(name, shape, dtype or self.dtype)


@dataclass(frozen=True)
class Case:
    """One point of a grid: the dtype, and a value for each of the grid's axes."""

    dtype: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        """For the name of the test: "bfloat16-bias=True"."""
        return "-".join([self.dtype, *(f"{name}={_short(value)}" for name, value in self.values.items())])


def _short(value: Any) -> str:
    return "".join(each for each in str(value) if each not in " '\"{}").replace("-", "~")


Program = Any
"""A method that takes a builder and a value for each axis, and returns the outputs of a graph, or yields them once."""


def fires(counts: Mapping[str, int] | Callable[..., Mapping[str, int]], **axes: Sequence[Any]) -> Callable[..., Any]:
    """Make a test of a method that builds a program, for each dtype of the class and each point of the grid `axes`.

    The method takes a builder, whose inputs and parameters are of the case's dtype by default, and one argument for
    each axis. It returns a tensor or a tuple of them; or it yields them, is sent the graph after the passes, and makes
    further assertions on that.

    Args:
        counts: how many nodes of each op there are afterwards, exactly; or a function of the axes (those that it
            takes, by name) that says so.
        axes: the values of each argument.
    """
    return functools.partial(_declared, dict(axes), counts)


def must_not_fire(**axes: Sequence[Any]) -> Callable[..., Any]:
    """As `fires`, for programs that the passes must leave as they are."""
    return functools.partial(_declared, dict(axes), None)


def _declared(axes: dict[str, Sequence[Any]], counts: Any, program: Program) -> Any:
    @functools.wraps(program)
    def test(self: PassTest, case: Case) -> None:
        built = program(self, builder := ProgramBuilder(case.dtype), **case.values)
        outputs = next(built) if inspect.isgenerator(built) else built
        graph = builder.build(*(outputs if isinstance(outputs, tuple) else (outputs,)))
        if counts is None:
            after = self.stays(graph)
        else:
            after = self.becomes(graph, _expected(counts, case))
            self.changes(graph)
        if inspect.isgenerator(built):
            _finish(built, after)

    del test.__wrapped__  # pytest would ask for the program's arguments
    test.axes = axes  # type: ignore[attr-defined]
    return test


def _expected(counts: Any, case: Case) -> Mapping[str, int]:
    if not callable(counts):
        return dict(counts)
    taken = inspect.signature(counts).parameters
    found: Mapping[str, int] = counts(**{name: value for name, value in case.values.items() if name in taken})
    return found


def _finish(program: Any, after: Graph) -> None:
    """Let a program that has yielded its outputs see what has become of them."""
    try:
        program.send(after)
    except StopIteration:
        return
    raise AssertionError("a program yields its outputs once")


class PassTest:
    """Base of a test class for passes: say what a graph becomes, or that it stays. Run it with pytest.

    ```python
    class TestMyPass(PassTest):
        passes = ("my_pass",)

        @fires({"swiglu": 1}, rows=[1, 5])
        def test_it_fires(self, builder, rows):
            x = builder.input("x", (rows, 8))
            return ops.silu(x) * x

        @must_not_fire(shape=[(), (8,)])
        def test_broadcasting_stays(self, builder, shape):
            return ops.silu(builder.input("x", (2, 8))) * builder.input("y", shape)
    ```
    """

    passes: Sequence[str] = ()
    before: Sequence[str] = ()
    """Passes that bring a graph into the form that `passes` meet it in."""
    after: Sequence[str] = ()
    """Passes that clean up what `passes` have left, before nodes are counted."""
    dtypes: Sequence[str] = ("float32", "bfloat16", "float16")
    """Those of the cases of `fires` and `must_not_fire`."""
    tolerance: float = 1e-12
    """Largest difference, relative to the largest result, between the graphs evaluated in float64."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """pytest's hook: the grids of the methods that `fires` and `must_not_fire` declare."""
        axes = getattr(metafunc.function, "axes", None)
        if axes is not None:
            points = itertools.product(type(self).dtypes, itertools.product(*axes.values()))
            cases = [Case(dtype, dict(zip(axes, values, strict=True))) for dtype, values in points]
            metafunc.parametrize("case", cases, ids=str)

    def becomes(self, graph: Graph, counts: Mapping[str, int]) -> Graph:
        """After the passes, `graph` has exactly these numbers of nodes, op by op, and the same results."""
        met, _ = run_passes(graph, self.before, check=True)
        after, _ = run_passes(met, (*self.passes, *self.after), check=True)
        assert dict(after.counts()) == dict(counts), f"\n{after}"
        self.means_the_same(after, graph)
        return after

    def changes(self, graph: Graph) -> None:
        """One of the passes must fire."""
        met, _ = run_passes(graph, self.before, check=True)
        _, report = run_passes(met, self.passes, check=True)
        assert any(step.changes for step in report.steps), f"no pass has fired\n{met}"

    def stays(self, graph: Graph) -> Graph:
        """The passes must not fire: the graph afterwards has the same hash."""
        met, _ = run_passes(graph, self.before, check=True)
        after, report = run_passes(met, self.passes, check=True)
        assert after.hash == met.hash, f"\n{report}\n{after}"
        return after

    def means_the_same(self, after: Graph, before: Graph) -> None:
        """Equal results, on random data, in float64 arithmetic; types and shapes exactly.

        And in the graphs' own dtypes, the new one is as near to the exact results as rounding explains, or the old one.
        """
        assert [value.type for value in after.outputs] == [value.type for value in before.outputs]
        inputs = [random_array(value.type, seed) for seed, value in enumerate(before.inputs)]
        weights = [random_array(value.type, 1000 + seed) for seed, value in enumerate(before.weights)]
        exact = evaluate(before, inputs, weights, arithmetic="float64")
        for got, wanted in zip(evaluate(after, inputs, weights, arithmetic="float64"), exact, strict=True):
            if wanted.dtype.kind in "biu":
                numpy.testing.assert_array_equal(got, wanted)
            else:
                assert _error(got, wanted) <= self.tolerance
        explained = rounding(before)
        rounded, was = (evaluate(graph, inputs, weights) for graph in (after, before))
        for got, old, wanted in zip(rounded, was, exact, strict=True):
            if numpy.isfinite(wanted).all() and wanted.dtype.kind == "f":  # else a narrow dtype may overflow elsewhere
                assert _error(got, wanted) <= max(explained, 2 * _error(old, wanted))


def _error(got: Array, wanted: Array) -> float:
    """The largest difference of the finite values, relative to the largest of them; inf if others are finite."""
    finite = numpy.isfinite(wanted)
    wide = numpy.complex128 if wanted.dtype.kind == "c" else numpy.float64
    got = got.astype(wide)
    if not numpy.array_equal(numpy.isfinite(got), finite):
        return math.inf
    if not finite.any():
        return 0.0
    scale = max(float(numpy.abs(wanted[finite]).max()), 1e-30)
    return float(numpy.abs(got[finite] - wanted[finite].astype(wide)).max()) / scale


def rounding(graph: Graph) -> float:
    """The largest error that rounding explains, relative to the largest value.

    Along the longest chain of d nodes that compute something, each result is rounded to the coarsest dtype, and each
    of n accumulated products or terms to float32; independent errors add in quadrature (Higham and Mary, "A new
    approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019).
    """
    chains: dict[Any, tuple[int, int]] = {}
    for node in graph.nodes:
        read = [chains.get(value, (0, 0)) for value in node.inputs if value is not None]
        depth, terms = max((each[0] for each in read), default=0), max((each[1] for each in read), default=0)
        if node.op.kind not in (Kind.VIEW, Kind.CREATION):
            flops = node.op.flops(node.input_types(), [value.type for value in node.outputs], **node.attributes)
            size = max(1, sum(value.type.size for value in node.outputs))
            depth, terms = depth + 1, terms + math.ceil(flops / size)
        chains.update((value, (depth, terms)) for value in node.outputs)
    dtypes = {value.dtype for value in _values(graph)} & FLOATING
    bits = min((BITS[dtype] for dtype in dtypes), default=53)
    accumulator = 53 if dtypes <= {"float64"} else BITS["float32"]
    depth, terms = (max((each[position] for each in chains.values()), default=0) for position in (0, 1))
    return SIGMAS * math.hypot(math.sqrt(max(depth, 1)) * 2.0**-bits, math.sqrt(max(terms, 1)) * 2.0**-accumulator)


def _values(graph: Graph) -> Iterator[Any]:
    yield from (*graph.inputs, *graph.parameters)
    for node in graph.nodes:
        yield from node.outputs
