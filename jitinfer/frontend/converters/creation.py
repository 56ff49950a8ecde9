"""Operators that make tensors from attributes, and those that ask for a shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import ops
from jitinfer.graph.types import FLOATING, numpy_dtype

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer


def spread(importer: Importer, shape: tuple[int, ...], value: Any, dtype: str) -> Any:
    """A tensor of one number: the number alone where the shape says no more."""
    supported(dtype in FLOATING or float(value) == int(value), "a fraction as an integer")
    if numpy.prod(shape) <= 1:
        return importer.builder.constant(numpy.full(shape, value), dtype)
    return importer.apply("full", shape=shape, value=float(value) if dtype in FLOATING else int(value), dtype=dtype)


@converter("full")
def full(importer: Importer, op: PirOp) -> Any:
    return spread(importer, tuple(op.attributes["shape"]), op.attributes["value"], op.attributes["dtype"])


@converter("full_int_array")
def full_int_array(importer: Importer, op: PirOp) -> Any:
    return importer.builder.constant(numpy.array(op.attributes["value"], "int64"), op.attributes["dtype"])


@converter("full_with_tensor")
def full_with_tensor(importer: Importer, op: PirOp, value: Any, shape: Any) -> Any:
    number = importer.number(value)
    supported(number is not None, "a number that depends on data")
    return spread(importer, tuple(known_integers(importer, shape)), number, op.attributes["dtype"])


@converter("full_like")
def full_like(importer: Importer, op: PirOp, x: Any, value: Any) -> Any:
    number = importer.number(value)
    supported(number is not None, "a number that depends on data")
    dtype = op.attributes["dtype"] if op.attributes["dtype"] not in ("undefined", "") else x.dtype
    return spread(importer, x.shape, number, dtype)


@converter("assign_value")
def assign_value(importer: Importer, op: PirOp, *_: Any) -> Any:
    array = numpy.array(op.attributes["values"]).reshape(op.attributes["shape"])
    return importer.builder.constant(array, op.attributes["dtype"])


@converter("arange")
def arange(importer: Importer, op: PirOp, start: Any, end: Any, step: Any) -> Any:
    bounds = [importer.known(each) for each in (start, end, step)]
    supported(all(bound is not None for bound in bounds), "bounds that depend on data")
    dtype = numpy_dtype(op.attributes["dtype"])
    return importer.builder.constant(
        numpy.arange(*(bound.item() for bound in bounds if bound is not None), dtype=dtype)
    )


@converter("shape64", "shape")
def shape64(importer: Importer, op: PirOp, x: Any) -> Any:
    return importer.builder.constant(numpy.array(x.shape, "int64" if op.name.endswith("64") else "int32"))


@converter("eye")
def eye(importer: Importer, op: PirOp, rows: Any, columns: Any) -> Any:
    sizes = known_integers(importer, [rows, columns])
    shape = (sizes[0], sizes[1] if sizes[1] >= 0 else sizes[0])
    return importer.builder.constant(numpy.eye(*shape), op.attributes["dtype"])


@converter("linspace")
def linspace(importer: Importer, op: PirOp, start: Any, stop: Any, count: Any) -> Any:
    first, last = importer.known(start), importer.known(stop)
    supported(first is not None and last is not None, "bounds that depend on data")
    supported(op.attributes["dtype"] in FLOATING, "steps of integers")
    assert first is not None
    assert last is not None
    (number,) = known_integers(importer, count)
    return importer.builder.constant(numpy.linspace(first.item(), last.item(), number), op.attributes["dtype"])


@converter("numel")
def numel(importer: Importer, op: PirOp, x: Any) -> Any:
    return importer.builder.constant(x.type.size, "int64")


@converter("triu", "tril")
def triangle(importer: Importer, op: PirOp, x: Any) -> Any:
    """Where column - row is at least (triu), or at most (tril), the diagonal; 0 elsewhere."""
    rows, columns = x.shape[-2:]
    distance = numpy.arange(columns)[None, :] - numpy.arange(rows)[:, None]
    diagonal = op.attributes["diagonal"]
    kept = distance >= diagonal if op.name == "pd_op.triu" else distance <= diagonal
    return ops.where(importer.builder.constant(kept), x, importer.builder.constant(0, x.dtype))
