"""Operators that write into a part of a tensor: the result takes each element from the new or from the old one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import ops
from jitinfer.graph.types import numpy_dtype

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer

FEW = 16
"""Elements written along an axis up to which `put_along_axis` compares every place with each of them."""


@converter("set_value_with_tensor")
def set_value_with_tensor(importer: Importer, op: PirOp, x: Any, value: Any, *bounds: Any) -> Any:
    """x[start:end:step along some axes] = value"""
    supported(not op.attributes["none_axes"], "an assignment through new axes")
    starts, ends, steps = (known_integers(importer, each) for each in bounds)
    places = {
        axis % len(x.shape): range(x.shape[axis])[_bounds(start, end, step, x.shape[axis])]
        for axis, start, end, step in zip(op.attributes["axes"], starts, ends, steps, strict=True)
    }
    region = tuple(len(places[axis]) if axis in places else dim for axis, dim in enumerate(x.shape))
    if 0 in region:
        return x
    dropped = {axis % len(x.shape) for axis in op.attributes["decrease_axes"]}
    kept = tuple(dim for axis, dim in enumerate(region) if axis not in dropped)
    if len(value.shape) > len(kept):  # Paddle lets a value have more axes, of one element each
        surplus = len(value.shape) - len(kept)
        supported(math.prod(value.shape[:surplus]) == 1, "a value with more axes than its place")
        value = ops.reshape(value, shape=value.shape[surplus:])
    value = ops.cast(value, dtype=x.dtype) if value.dtype != x.dtype else value
    value = ops.reshape(ops.broadcast_to(value, shape=kept), shape=region)
    written = numpy.ones([1] * len(region), bool)
    for axis, place in places.items():
        here = numpy.zeros(x.shape[axis], bool)
        order = numpy.zeros(x.shape[axis], "int64")
        here[list(place)] = True
        order[list(place)] = range(len(place))
        value = ops.gather(value, importer.builder.constant(order), axis=axis)
        written = written & _along(here, axis, len(region))
    return ops.where(importer.builder.constant(written), value, x)


def _bounds(start: int, end: int, step: int, dim: int) -> slice:
    """Of a slice as Paddle writes it: for a negative step, an end before the first element is below -dim."""
    return slice(start, None if step < 0 and end < -dim else end, step)


def _along(vector: Any, axis: int, rank: int) -> Any:
    """A NumPy vector as an array of that rank which broadcasts over all other axes."""
    return vector.reshape([-1 if each == axis else 1 for each in range(rank)])


@converter("set_value")
def set_value(importer: Importer, op: PirOp, x: Any, *bounds: Any) -> Any:
    """As above, of numbers."""
    array = numpy.array(op.attributes["values"]).astype(numpy_dtype(x.dtype)).reshape(op.attributes["shape"])
    return set_value_with_tensor(importer, op, x, importer.builder.constant(array), *bounds)


@converter("put_along_axis")
def put_along_axis(importer: Importer, op: PirOp, x: Any, indices: Any, values: Any) -> Any:
    """x with values[..., j, ...] at indices[..., j, ...] of one axis.

    Of two at one place the last one stays.
    """
    axis = op.attributes["axis"] % len(x.shape)
    supported(op.attributes["reduce"] == "assign", "a sum or product with what was there")
    supported(indices.shape[axis] <= FEW, f"more than {FEW} elements along an axis")
    others = [dim for each, dim in enumerate(x.shape) if each != axis]
    supported([dim for each, dim in enumerate(indices.shape) if each != axis] == others, "indices for a part of x")
    values = ops.broadcast_to(values, shape=indices.shape)
    here = importer.builder.constant(_along(numpy.arange(x.shape[axis]), axis, len(x.shape)), indices.dtype)
    for j in range(indices.shape[axis]):
        index = cut(indices, axis, j, j + 1)
        index = ops.where(ops.less(index, 0), index + x.shape[axis], index)
        x = ops.where(ops.equal(here, index), cut(values, axis, j, j + 1), x)
    return x
