"""Dtypes and tensor types of the graph: names as text, sizes, NumPy counterparts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy

from jitinfer.errors import GraphError

_NUMPY: dict[str, numpy.dtype[Any]] = {
    "bool": numpy.dtype(numpy.bool_),
    "int8": numpy.dtype(numpy.int8),
    "uint8": numpy.dtype(numpy.uint8),
    "int16": numpy.dtype(numpy.int16),
    "int32": numpy.dtype(numpy.int32),
    "int64": numpy.dtype(numpy.int64),
    "float8_e4m3fn": numpy.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": numpy.dtype(ml_dtypes.float8_e5m2),
    "float16": numpy.dtype(numpy.float16),
    "bfloat16": numpy.dtype(ml_dtypes.bfloat16),
    "float32": numpy.dtype(numpy.float32),
    "float64": numpy.dtype(numpy.float64),
    "complex64": numpy.dtype(numpy.complex64),
    "complex128": numpy.dtype(numpy.complex128),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}
DTYPES = frozenset(_NUMPY)
FLOATING = frozenset({"float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64"})
NARROW = frozenset({"float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"})
"""Floating dtypes in which the reference stores, but never computes."""
INTEGRAL = frozenset({"int8", "uint8", "int16", "int32", "int64"})


def numpy_dtype(name: str) -> numpy.dtype[Any]:
    """Raises KeyError for what is not a dtype of the graph."""
    return _NUMPY[name]


def dtype_name(dtype: numpy.dtype[Any]) -> str:
    """Raises KeyError for a NumPy dtype that the graph does not have."""
    return _NAMES[dtype]


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return int(_NUMPY[name].itemsize)


def limits(name: str) -> Any:
    """What numpy.finfo says, of any floating dtype."""
    return ml_dtypes.finfo(_NUMPY[name])  # type: ignore[no-untyped-call]


def exact_cast(dtype: str, to: str) -> bool:
    """Whether every number of `dtype` is one of `to`."""
    if dtype == to or dtype == "bool":
        return True
    if to in INTEGRAL:
        return dtype in INTEGRAL and numpy.can_cast(_NUMPY[dtype], _NUMPY[to])
    if to not in FLOATING or dtype not in FLOATING | INTEGRAL:
        return False
    wide = limits(to)
    if dtype in INTEGRAL:
        bounds = numpy.iinfo(_NUMPY[dtype])
        return max(bounds.max, -bounds.min).bit_length() <= wide.nmant + 1 and bounds.max <= float(wide.max)
    narrow = limits(dtype)
    in_range = float(narrow.max) <= float(wide.max)
    finer = float(narrow.smallest_subnormal) >= float(wide.smallest_subnormal)
    return bool(in_range and finer and narrow.nmant <= wide.nmant)


@dataclass(frozen=True)
class TensorType:
    """`shape`: -1 for a dim that is not known; `dtype`: such as "float32".

    In a traced program, dims that may change from call to call are not known; in a graph, those that depend on data:
    only opaque nodes have such results, and only they read them.
    """

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if dim < 0 else str(dim) for dim in self.shape)}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def known(self) -> bool:
        """Whether all dims are."""
        return min((*self.shape, 0)) >= 0

    @property
    def size(self) -> int:
        """Number of elements. Raises GraphError where a dim is not known."""
        if not self.known:
            raise GraphError(f"nobody knows how many elements {self} has")
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Raises GraphError where a dim is not known."""
        return self.size * itemsize(self.dtype)

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATING

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(self.shape, dtype)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * max(shape[dim + 1], 1)
    return tuple(strides)
