"""Data to run a program on where only the time counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.types import FLOATING, TensorType, numpy_dtype
from jitinfer.runtime.device import Device
from jitinfer.runtime.driver import call
from jitinfer.runtime.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitinfer.runtime.arrays import DeviceArray

_PATTERN = 1 << 20  # elements of random data, repeated over larger tensors


def sample(kind: TensorType, spread: float = 1.0) -> numpy.ndarray[Any, Any]:
    """An array of this type, always the same: normal where floating, else zeros and ones, which are valid indices.

    spread: the standard deviation.
    """
    generator = numpy.random.default_rng(0)
    elements = min(max(kind.size, 1), _PATTERN)
    if kind.dtype in FLOATING:
        pattern = (spread * generator.standard_normal(elements, "float32")).astype(numpy_dtype(kind.dtype))
    else:
        pattern = generator.integers(0, 2, elements).astype(numpy_dtype(kind.dtype))
    return numpy.resize(pattern, kind.shape)


def fill(held: DeviceArray, spread: float = 1.0) -> None:
    """Puts `sample` of an array's type into it, most of it by the device itself. Raises DeviceError."""
    pattern = sample(TensorType((min(TensorType(held.shape, held.dtype).size, _PATTERN),), held.dtype), spread)
    end = pattern.nbytes
    with Device.of(held.device).current():
        if end:
            call("cuMemcpyHtoD", held.address, pattern.ctypes.data, end, step="uploading samples")
        while end < held.nbytes:
            more = min(end, held.nbytes - end)
            call("cuMemcpyDtoD", held.address + end, held.address, more, step="repeating samples")
            end += more
        call("cuCtxSynchronize")


def sampled(
    types: Mapping[str, TensorType], device: Device, spread: Callable[[TensorType], float] = lambda kind: 1.0
) -> Weights:
    """Weights of these types that hold `sample` of them, with the `spread` of each.

    Raises DeviceError where the memory does not suffice.
    """
    weights = Weights.reserved(types, device)
    first: dict[TensorType, str] = {}
    for name, kind in types.items():
        if first.setdefault(kind, name) == name:
            fill(weights[name], spread(kind))
        else:
            weights.update(name, weights[first[kind]])
    return weights
