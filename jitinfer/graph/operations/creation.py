"""Ops that make a tensor from attributes alone."""

from __future__ import annotations

from typing import Any

import numpy

from jitinfer.graph.node import Constant
from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.types import DTYPES, TensorType, numpy_dtype

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


class ConstantOp(Op):
    """An array."""

    name = "constant"
    kind = Kind.CREATION

    def infer(self, *, value: Constant) -> TensorType:
        require(isinstance(value, Constant), "its value is not a Constant")
        return value.type

    def evaluate(self, *, value: Constant) -> Array:
        return value.array


class Full(Op):
    """One number everywhere."""

    name = "full"
    kind = Kind.CREATION

    def infer(self, *, shape: tuple[int, ...], value: float, dtype: str) -> TensorType:
        require(dtype in DTYPES, f"there is no dtype {dtype!r}")
        require(all(dim >= 0 for dim in shape), f"{list(shape)} is not a shape")
        return TensorType(shape, dtype)

    def evaluate(self, *, shape: tuple[int, ...], value: float, dtype: str) -> Array:
        return numpy.full(shape, value).astype(numpy_dtype(dtype))


class Iota(Op):
    """0, 1, 2, ..., size - 1."""

    name = "iota"
    kind = Kind.CREATION

    def infer(self, *, size: int, dtype: str = "int64") -> TensorType:
        require(dtype in DTYPES and size >= 0, f"there are no {size} numbers of dtype {dtype!r}")
        return TensorType((size,), dtype)

    def evaluate(self, *, size: int, dtype: str) -> Array:
        return numpy.arange(size).astype(numpy_dtype(dtype))


for _class in (ConstantOp, Full, Iota):
    register(_class())
