"""Ops that only move elements: views, which strides can express, and those that need a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.pointwise import broadcast
from jitinfer.graph.types import INTEGRAL, TensorType
from jitinfer.graph.view import View

if TYPE_CHECKING:
    from jitinfer.graph.node import Node

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""

if TYPE_CHECKING:
    from collections.abc import Sequence


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front. Raises TypeMismatch."""
    require(-rank <= axis < rank, f"there is no axis {axis} among {rank}")
    return axis % rank


class Reshape(Op):
    """The same elements in the same, row-major, order."""

    name = "reshape"
    kind = Kind.VIEW

    def infer(self, x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
        result = x.with_shape(shape)
        require(all(dim >= 0 for dim in shape) and result.size == x.size, f"{list(shape)} has another size")
        return result

    def evaluate(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        return numpy.ascontiguousarray(x).reshape(shape)


class Transpose(Op):
    """Axis i of the result is axis permutation[i] of the operand."""

    name = "transpose"
    kind = Kind.VIEW
    strided = True

    def infer(self, x: TensorType, *, permutation: tuple[int, ...]) -> TensorType:
        require(sorted(permutation) == list(range(x.rank)), f"{permutation} is no permutation of its axes")
        return x.with_shape(tuple(x.shape[axis] for axis in permutation))

    def evaluate(self, x: Array, *, permutation: tuple[int, ...]) -> Array:
        return x.transpose(permutation)


class Slice(Op):
    """Along each axis the elements of range(start, stop, step); a negative step with stop -1 ends at the first."""

    name = "slice"
    kind = Kind.VIEW
    strided = True

    def infer(
        self, x: TensorType, *, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]
    ) -> TensorType:
        require(len(starts) == len(stops) == len(steps) == x.rank, "it needs one start, stop and step for each axis")
        for dim, start, stop, step in zip(x.shape, starts, stops, steps, strict=True):
            inside = 0 <= start <= stop <= dim if step > 0 else -1 <= stop <= start < max(dim, 1)
            require(step != 0 and inside, f"range({start}, {stop}, {step}) leaves an axis of {dim}")
        return x.with_shape(tuple(len(range(*bounds)) for bounds in zip(starts, stops, steps, strict=True)))

    def evaluate(self, x: Array, *, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> Array:
        ends = [None if stop < 0 else stop for stop in stops]
        return x[tuple(slice(*bounds) for bounds in zip(starts, ends, steps, strict=True))]


class BroadcastTo(Op):
    """NumPy's broadcasting to a given shape."""

    name = "broadcast_to"
    kind = Kind.VIEW
    strided = True

    def infer(self, x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
        require(broadcast(x.shape, shape) == shape, f"it cannot be broadcast to {list(shape)}")
        return x.with_shape(shape)

    def evaluate(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        return numpy.broadcast_to(x, shape)


class Concat(Op):
    """One after the other along `axis`."""

    name = "concat"
    kind = Kind.MOVEMENT
    strided = True

    def infer(self, *xs: TensorType, axis: int) -> TensorType:
        require(bool(xs), "it needs an operand")
        axis = normal_axis(axis, xs[0].rank)
        for x in xs[1:]:
            same = x.rank == xs[0].rank and all(
                a == b or i == axis for i, (a, b) in enumerate(zip(x.shape, xs[0].shape, strict=True))
            )
            require(same and x.dtype == xs[0].dtype, f"the operands differ otherwise than along axis {axis}")
        total = sum(x.shape[axis] for x in xs)
        return xs[0].with_shape((*xs[0].shape[:axis], total, *xs[0].shape[axis + 1 :]))

    def evaluate(self, *xs: Array, axis: int) -> Array:
        return numpy.concatenate(xs, axis=axis)


def concat_places(node: Node) -> list[View] | None:
    """Where the operands of a concat node go in the buffer of its result; None where one has no strided place."""
    (kind,) = node.op.output_types(node.input_types(), node.attributes)
    whole, axis, start = View.of(kind.shape), normal_axis(node.axis, kind.rank), 0
    store = node.store(0) or whole
    places = []
    for each in node.input_types():
        assert each is not None
        starts, stops = [0] * kind.rank, list(kind.shape)
        starts[axis], stops[axis] = start, start + each.shape[axis]
        start = stops[axis]
        part = whole.slice(tuple(starts), tuple(stops), (1,) * kind.rank)
        place = store.compose(part, kind.shape)
        if place is None:
            return None
        places.append(place)
    return places


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


class Pad(Op):
    """`low` and `high` elements more at both ends of each axis."""

    name = "pad"
    kind = Kind.MOVEMENT
    strided = True

    def infer(
        self,
        x: TensorType,
        *,
        low: tuple[int, ...],
        high: tuple[int, ...],
        mode: str = "constant",
        value: float = 0.0,
    ) -> TensorType:
        require(mode in _PAD_MODES, f"there is no mode {mode!r}")
        require(len(low) == len(high) == x.rank and min((*low, *high, 0)) >= 0, "it needs two widths for each axis")
        return x.with_shape(tuple(dim + a + b for dim, a, b in zip(x.shape, low, high, strict=True)))

    def evaluate(self, x: Array, *, low: tuple[int, ...], high: tuple[int, ...], mode: str, value: float) -> Array:
        widths = list(zip(low, high, strict=True))
        if mode == "constant":
            return numpy.pad(x, widths, constant_values=x.dtype.type(value))
        padded: Array = numpy.pad(x, widths, mode=mode)  # type: ignore[call-overload]
        return padded


class _Lookup(Op):
    """Elements of x where the indices say."""

    kind = Kind.MOVEMENT

    def bytes_moved(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        """Of x, only what is looked up."""
        (x, indices), (result,) = inputs, outputs
        assert x is not None
        assert indices is not None
        return min(x.nbytes, result.nbytes) + indices.nbytes + result.nbytes


class Gather(_Lookup):
    """Slices of x along `axis` at the given indices: x.shape[:axis] + indices.shape + x.shape[axis + 1:]."""

    name = "gather"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
        require(indices.dtype in INTEGRAL, "the indices are no integers")
        axis = normal_axis(axis, x.rank)
        return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def evaluate(self, x: Array, indices: Array, *, axis: int) -> Array:
        return numpy.take(x, indices, axis=axis)


class GatherNd(_Lookup):
    """x[indices[..., 0], indices[..., 1], ...]."""

    name = "gather_nd"

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require(indices.dtype in INTEGRAL and indices.rank > 0, "the indices are no integers")
        require(indices.shape[-1] <= x.rank, f"{indices.shape[-1]} indices for {x.rank} axes")
        return x.with_shape((*indices.shape[:-1], *x.shape[indices.shape[-1] :]))

    def evaluate(self, x: Array, indices: Array) -> Array:
        return x[tuple(numpy.moveaxis(indices, -1, 0))]


class TakeAlongAxis(_Lookup):
    """x at the index that stands in its place, along one axis; the other axes are broadcast."""

    name = "take_along_axis"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        require(indices.dtype in INTEGRAL and indices.rank == x.rank, "the indices do not fit")
        axis = normal_axis(axis, x.rank)
        shape = broadcast(
            (*x.shape[:axis], 1, *x.shape[axis + 1 :]), (*indices.shape[:axis], 1, *indices.shape[axis + 1 :])
        )
        return x.with_shape((*shape[:axis], indices.shape[axis], *shape[axis + 1 :]))

    def evaluate(self, x: Array, indices: Array, *, axis: int) -> Array:
        return numpy.take_along_axis(x, indices, axis)


for _class in (Reshape, Transpose, Slice, BroadcastTo, Concat, Pad, Gather, GatherNd, TakeAlongAxis):
    register(_class())
