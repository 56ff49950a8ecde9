"""Whether a node's results are right, by the op table's reference, and whether two kernels agree on them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.evaluation import apply_view, evaluate_node
from jitinfer.graph.node import Node, Value
from jitinfer.graph.rounding import SIGMAS, node_tolerance
from jitinfer.graph.types import FLOATING, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitinfer.graph.types import TensorType

Array = Any

MOST_FLOPS = 2e10
"""Multiplications and additions, of a node or of a graph, up to which NumPy is asked for results: about a second."""

_PIECE = 1 << 16
"""Elements: arrays of a hundred million, whose pages would have to be made for each result, take ten times as long."""

_LEEWAY = 4.0
"""By how much a kernel may be less exact than the same op in float32 by NumPy: it adds up in another order."""


def failure_of(node: Node, buffers: Sequence[Array], arrays: Sequence[Array | None]) -> str:
    """What is wrong with a node's results, "" if nothing is.

    They are compared with the reference in float64, at a tolerance that follows from the dtypes and the lengths of
    sums, or from how far the reference in float32 is from that, where the numbers themselves are hard.

    Args:
        buffers: for each output, of its value's type; arrays: for each input.
    """
    types = node.op.output_types(node.input_types(), node.attributes)
    outputs = tuple(Value(kind, value.name) for kind, value in zip(types, node.outputs, strict=True))
    plain = dataclasses.replace(node, outputs=outputs, stores=())
    exact = evaluate_node(plain, [_wide(array) for array in arrays], "float64")
    near = evaluate_node(plain, arrays)
    tolerance = node_tolerance(node)
    for position, buffer in enumerate(buffers):
        store = node.store(position)
        got = buffer if store is None else apply_view(buffer, store)
        failure = _difference(got, exact[position], near[position], outputs[position].type, tolerance)
        if failure:
            return failure if len(buffers) == 1 else f"result {position}: {failure}"
    return ""


def _difference(got: Array, exact: Array, near: Array, kind: TensorType, tolerance: float) -> str:
    if exact.size == 0:
        return ""
    if kind.dtype not in FLOATING and not kind.dtype.startswith("complex"):
        differ = int(numpy.count_nonzero(got != near))  # by rounding before a comparison, as rarely as it says
        return f"{differ} of {exact.size} values differ" if differ > tolerance * exact.size else ""
    with numpy.errstate(all="ignore"):
        dtype = numpy_dtype(kind.dtype)
        finite = numpy.isfinite(_wide(exact.astype(dtype))) & numpy.isfinite(_wide(near))
    got, exact, near = _wide(got)[finite], exact[finite], _wide(near)[finite]
    if not exact.size:
        return ""
    if not numpy.isfinite(got).all():
        return "it gives NaN or infinity in place of a number"
    for norm, of, limit in (
        (_largest, "largest value", tolerance),
        (_root_mean_square, "root mean square", tolerance / SIGMAS),
    ):
        scale = norm(exact) or 1.0
        error, explained = (norm(each - exact) / scale for each in (got, near))
        allowed = max(limit, _LEEWAY * explained)
        if error > allowed:
            return f"its result differs by {error:.3e} of the {of}; rounding explains {allowed:.1e}"
    return ""


def _largest(numbers: Array) -> float:
    """What a fault in few places changes."""
    return float(numpy.abs(numbers).max())


def _root_mean_square(numbers: Array) -> float:
    """What a small fault in all places changes."""
    return float(numpy.sqrt(numpy.mean(numpy.abs(numbers) ** 2)))


def disagreement(node: Node, ones: Sequence[Array], others: Sequence[Array]) -> str:
    """Where two kernels' results for the same operands differ by more than rounding explains, "" where they do not.

    ones, others: for each output, of its value's type. What they agree on can be wrong, and what they do not agree on
    can be right in both, where a result is the small difference of large numbers.
    """
    tolerance = node_tolerance(node)
    for position, (one, other) in enumerate(zip(ones, others, strict=True)):
        store = node.store(position)
        if store is not None:
            one, other = apply_view(one, store), apply_view(other, store)
        failure = _gap(one, other, tolerance)
        if failure:
            return failure if len(ones) == 1 else f"result {position}: {failure}"
    return ""


def _gap(one: Array, other: Array, tolerance: float) -> str:
    if not _is_floating(one):
        differ = int(numpy.count_nonzero(one != other))
        return f"{differ} of {one.size} values differ" if differ > tolerance * one.size else ""
    gap = largest = 0.0
    for first, second in _pieces(one, other):
        with numpy.errstate(all="ignore"):
            gaps = numpy.abs(first - second)
            scale = numpy.abs(second)
        numbers = numpy.isfinite(gaps)
        if not numbers.all():
            same = (first == second) | (numpy.isnan(first) & numpy.isnan(second))
            if not (numbers | same).all():
                return "one gives NaN or infinity where another gives a number"
            gaps, scale = gaps[numbers], scale[numbers]
        if gaps.size:
            gap, largest = max(gap, float(gaps.max())), max(largest, float(scale.max()))
    return f"they differ by {gap:.3e}, of at most {largest:.3e}" if gap > tolerance * largest else ""


def _pieces(one: Array, other: Array) -> Iterator[tuple[Array, Array]]:
    """Of two arrays of one shape, so small that what is computed of them stays in the processor's cache."""
    flat = one.reshape(-1), other.reshape(-1)
    for start in range(0, one.size, _PIECE):
        first, second = (each[start : start + _PIECE] for each in flat)
        yield _computable(first), _computable(second)


def _is_floating(array: Array) -> bool:
    return array.dtype.kind not in "biu"


def _computable(array: Array) -> Array:
    """Of a dtype that NumPy computes fast in, and exactly enough for a gap."""
    return array if array.dtype.itemsize >= 4 else array.astype(numpy.float32)


def _wide(array: Array) -> Array:
    """Floating numbers as float64, complex ones as complex128; None for None."""
    if array is None or array.dtype.kind in "biu":
        return array
    return array.astype(numpy.complex128 if array.dtype.kind == "c" else numpy.float64)
