"""Data to run a program on where only the time counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.types import FLOATING, numpy_dtype

if TYPE_CHECKING:
    from jitinfer.graph.types import TensorType

_PATTERN = 1 << 20  # elements of random data, repeated over larger tensors


def sample(kind: TensorType) -> numpy.ndarray[Any, Any]:
    """An array of this type, always the same: normal where floating, else zeros and ones, which are valid indices."""
    generator = numpy.random.default_rng(0)
    elements = min(max(kind.size, 1), _PATTERN)
    if kind.dtype in FLOATING:
        pattern = generator.standard_normal(elements, "float32").astype(numpy_dtype(kind.dtype))
    else:
        pattern = generator.integers(0, 2, elements).astype(numpy_dtype(kind.dtype))
    return numpy.resize(pattern, kind.shape)
