"""Noticing that weights have changed, without reading all of them at every call.

Paddle's own counter (`Tensor.inplace_version`) misses `set_value`, `set_state_dict`, `copy_` and the optimisers, which
write into the same memory. So each call compares, for every weight, the address and the counter, and its bytes at a
fixed set of places: all of a small tensor, a sample of a large one. A load, a LoRA merge or an optimiser's step changes
nearly every value, and is seen at once. An edit of a few elements that avoids the counter and the sample is found by
the full check that runs along, a slice at every call; `refresh_weights` takes it over immediately.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import paddle

_WHOLE = 1024
"""Bytes of a tensor up to which all of it is compared."""
_SAMPLES = 48
"""8-byte words compared in a larger one."""
_SLICE = 1 << 18
"""Bytes of the full check at every call."""


class _Weight:
    """One weight as it was when the program took it over."""

    __slots__ = ("_alias", "_places", "_remembered", "_words", "address", "tensor", "version")

    def __init__(self, tensor: Any, generator: numpy.random.Generator) -> None:
        self.tensor = tensor
        self.address = _address(tensor)
        self.version = tensor.inplace_version
        self._alias = tensor.detach()  # keeps the memory alive, so that the address cannot be given to another tensor
        self._words: Any = None
        if self.address and tensor.place.is_cpu_place() and tensor.is_contiguous() and tensor.size:
            size = tensor.size * tensor.element_size()
            raw = numpy.frombuffer((ctypes.c_ubyte * size).from_address(self.address), dtype=numpy.uint8)
            whole = size <= _WHOLE
            self._words = raw if whole else raw[: size - size % 8].view(numpy.uint64)
            places = numpy.arange(size) if whole else generator.integers(0, len(self._words), _SAMPLES)
            if not whole:
                places[0], places[-1] = 0, len(self._words) - 1
            self._places = numpy.sort(places)
            self._remembered = self._words.take(self._places).tobytes()

    def changed(self) -> bool:
        tensor = self.tensor
        if _address(tensor) != self.address or tensor.inplace_version != self.version:
            return True
        return self._words is not None and self._words.take(self._places).tobytes() != self._remembered

    def slices(self) -> list[Any]:
        """The memory in pieces for the full check."""
        if self._words is None or self._words.dtype == numpy.uint8:
            return []
        step = _SLICE // 8
        return [self._words[start : start + step] for start in range(0, len(self._words), step)]

    def is_zero(self) -> bool:
        return self._words is not None and self.tensor.ndim > 1 and not self._words.any()


def _address(tensor: Any) -> int:
    """0 for a tensor that has no memory yet."""
    return int(tensor.data_ptr()) if tensor._is_initialized() else 0


class Weights:
    """The weights of one specialisation. Holds the tensors, and so must not outlive the model."""

    def __init__(self, tensors: Sequence[paddle.Tensor]) -> None:
        self.tensors = list(tensors)
        generator = numpy.random.default_rng(len(self.tensors))
        self._weights = [_Weight(tensor, generator) for tensor in self.tensors]
        self._slices = [piece for weight in self._weights for piece in weight.slices()]
        self._factors = generator.integers(1, 1 << 63, _SLICE // 8, dtype=numpy.uint64) | numpy.uint64(1)
        self._sums: list[Any] = [None] * len(self._slices)
        self._turn = 0

    def changed(self) -> bool:
        """Whether the values are, as far as one call can tell, no longer those that the program runs with."""
        if any(weight.changed() for weight in self._weights):
            return True
        return bool(self._slices) and self._next_slice_changed()

    def same_tensors(self, tensors: Sequence[Any]) -> bool:
        return len(tensors) == len(self.tensors) and all(a is b for a, b in zip(tensors, self.tensors, strict=True))

    def remember(self) -> None:
        """Take the sums for the full check now, while the program is known to have these values."""
        self._sums = [self._sum(piece) for piece in self._slices]

    def degenerate(self) -> bool:
        """Whether a whole matrix is zero, as in a model before training: then a comparison shows little."""
        return any(weight.is_zero() for weight in self._weights)

    def _sum(self, piece: Any) -> Any:
        return (piece * self._factors[: len(piece)]).sum()

    def _next_slice_changed(self) -> bool:
        position = self._turn % len(self._slices)
        self._turn = position + 1
        return self._sums[position] is not None and bool(self._sum(self._slices[position]) != self._sums[position])
