"""Noticing that weights have changed, without reading all of them at every call.

Paddle's own counter (`Tensor.inplace_version`) misses `set_value`, `set_state_dict`, `copy_` and the optimisers, which
write into the same memory. So each call compares, for every weight, the address and the counter, and its bytes at a
fixed set of places: all of a small tensor, a sample of a large one, a third of it at a call. A load, a LoRA merge or
an optimiser's step changes nearly every value, and is seen at once. An edit of a few elements that avoids the counter
and the sample is found by the full check that runs along, a slice at every call; `refresh_weights` takes it over
immediately.
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
"""8-byte words compared in a larger one, in `_TURNS` calls."""
_TURNS = 3
_SLICE = 1 << 18
"""Bytes of the full check at every call."""


class _Weight:
    """One weight as it was when the program took it over."""

    __slots__ = ("_alias", "address", "bytes", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.address = _address(tensor)
        self._alias = tensor.detach()  # keeps the memory alive, so that the address cannot be given to another tensor
        readable = self.address and tensor.place.is_cpu_place() and tensor.is_contiguous()
        self.bytes = tensor.size * tensor.element_size() if readable else 0
        """That can be read here."""

    @property
    def words(self) -> Any:
        """Whole ones of its memory."""
        return _words(self.address, self.bytes // 8)

    def places(self, generator: numpy.random.Generator) -> list[Any]:
        """Of the words that are compared in each of `_TURNS` calls, all the words of a small tensor in each."""
        count = self.bytes // 8
        if self.bytes <= _WHOLE:
            return [numpy.arange(count)] * _TURNS
        chosen = _chosen(count, generator)
        return [numpy.sort(chosen[turn::_TURNS]) for turn in range(_TURNS)]

    def slices(self) -> list[Any]:
        """The memory in pieces for the full check."""
        if self.bytes <= _WHOLE:
            return []
        words, step = self.words, _SLICE // 8
        return [words[start : start + step] for start in range(0, len(words), step)]

    def is_zero(self) -> bool:
        return self.bytes > 0 and self.tensor.ndim > 1 and not _bytes(self.address, self.bytes).any()


class _Samples:
    """What memory holds at fixed places, read at once: by one gather over all addresses from the first to the last."""

    def __init__(self, weights: Sequence[_Weight], generator: numpy.random.Generator) -> None:
        readable = [weight for weight in weights if weight.bytes]
        base = min((weight.address for weight in readable), default=0) // 8 * 8
        end = max((weight.address + weight.bytes for weight in readable), default=0)
        words: list[list[Any]] = [[] for _ in range(_TURNS)]
        single: list[Any] = []
        for weight in readable:
            start, rest = divmod(weight.address - base, 8)
            if rest:  # no word of its memory is one of the base's
                whole = weight.bytes <= _WHOLE
                places = numpy.arange(weight.bytes) if whole else _chosen(weight.bytes, generator)
                single.append(weight.address - base + places)
                continue
            for turn, chosen in enumerate(weight.places(generator)):
                words[turn].append(start + chosen)
            single.append(weight.address - base + numpy.arange(weight.bytes // 8 * 8, weight.bytes))
        self._words = _words(base, (end - base) // 8)
        self._bytes = _bytes(base, end - base)
        self._word_places = [_joined(each) for each in words]
        self._byte_places = _joined(single)
        self._remembered = [self._read(turn) for turn in range(_TURNS)]

    def changed(self, turn: int) -> bool:
        turn %= _TURNS
        return self._read(turn) != self._remembered[turn]

    def _read(self, turn: int) -> tuple[bytes, bytes]:
        return self._words.take(self._word_places[turn]).tobytes(), self._bytes.take(self._byte_places).tobytes()


def _chosen(count: int, generator: numpy.random.Generator) -> Any:
    """Places below `count`, the first and the last one among them."""
    chosen = generator.integers(0, count, _SAMPLES)
    chosen[0], chosen[-1] = 0, count - 1
    return chosen


def _joined(places: Sequence[Any]) -> Any:
    return numpy.concatenate([numpy.empty(0, numpy.intp), *places]).astype(numpy.intp)


def _words(address: int, count: int) -> Any:
    """Memory as an array; none of it is read here."""
    return _bytes(address, 8 * count).view(numpy.uint64)


def _bytes(address: int, count: int) -> Any:
    memory: Any = (ctypes.c_ubyte * count).from_address(address) if count else b""
    return numpy.frombuffer(memory, numpy.uint8)


def _address(tensor: Any) -> int:
    """0 for a tensor that has no memory yet."""
    return int(tensor.data_ptr()) if tensor._is_initialized() else 0


class Weights:
    """The weights of one specialisation. Holds the tensors, and so must not outlive the model."""

    def __init__(self, tensors: Sequence[paddle.Tensor]) -> None:
        self.tensors = list(tensors)
        generator = numpy.random.default_rng(len(self.tensors))
        self._weights = [_Weight(tensor) for tensor in self.tensors]
        self._samples = _Samples(self._weights, generator)
        self._places = [
            (tensor._is_initialized, tensor.data_ptr, weight.address, tensor._inplace_version, tensor.inplace_version)
            for tensor, weight in zip(self.tensors, self._weights, strict=True)
        ]
        self._slices = [piece for weight in self._weights for piece in weight.slices()]
        self._factors = generator.integers(1, 1 << 63, _SLICE // 8, dtype=numpy.uint64) | numpy.uint64(1)
        self._sums: list[Any] = [None] * len(self._slices)
        self._turn = 0

    def changed(self) -> bool:
        """Whether the values are, as far as one call can tell, no longer those that the program runs with."""
        for initialized, pointer, address, counter, version in self._places:
            if (pointer() if initialized() else 0) != address or counter() != version:
                return True
        self._turn += 1
        return self._samples.changed(self._turn) or (bool(self._slices) and self._slice_changed(self._turn))

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

    def _slice_changed(self, turn: int) -> bool:
        position = turn % len(self._slices)
        return self._sums[position] is not None and bool(self._sum(self._slices[position]) != self._sums[position])
