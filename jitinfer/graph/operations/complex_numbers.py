"""From complex numbers to pairs of real ones, and back: graphs compute in reals."""

from __future__ import annotations

from typing import Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.pointwise import broadcast
from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""

PARTS = {"complex64": "float32", "complex128": "float64"}
"""The dtype of either part."""
_WHOLE = {part: whole for whole, part in PARTS.items()}


class Part(Op):
    """The real, or the imaginary, parts of complex numbers."""

    kind = Kind.POINTWISE

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def infer(self, x: TensorType) -> TensorType:
        require(x.dtype in PARTS, f"{x.dtype} is not complex")
        return x.with_dtype(PARTS[x.dtype])

    def evaluate(self, x: Array) -> Array:
        return x.real if self.name == "real" else x.imag


class FromParts(Op):
    """real + i * imaginary."""

    name = "complex"
    kind = Kind.POINTWISE

    def infer(self, real: TensorType, imag: TensorType) -> TensorType:
        require(
            real.dtype == imag.dtype and real.dtype in _WHOLE, "the parts are float32 or float64, and both the same"
        )
        return TensorType(broadcast(real.shape, imag.shape), _WHOLE[real.dtype])

    def evaluate(self, real: Array, imag: Array) -> Array:
        whole = numpy.empty(broadcast(real.shape, imag.shape), numpy.result_type(real.dtype, numpy.complex64))
        whole.real, whole.imag = real, imag
        return whole


for _op in (Part("real"), Part("imag"), FromParts()):
    register(_op)
