"""Pooling of images, [N, C, H, W]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.operations.convolution import Padding, Pair
    from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""


class Pool2d(Op):
    """The largest element, or the mean, of each window. Padding is never the largest, and has no part in the mean,
    unless `count_padding` says that it is zeros like any other."""

    kind = Kind.REDUCTION
    strided = True

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def infer(
        self,
        x: TensorType,
        *,
        window: Pair,
        strides: Pair,
        padding: Padding = ((0, 0), (0, 0)),
        count_padding: bool = False,
    ) -> TensorType:
        require(x.rank == 4, "x has four axes")
        require(min(window) > 0 and min(strides) > 0, "windows and strides are positive")
        require(not count_padding or self.name == "average_pool2d", "only a mean can count its padding")
        size = []
        for old, width, stride, (low, high) in zip(x.shape[2:], window, strides, padding, strict=True):
            room = old + low + high - width
            require(room >= 0, f"its window of {width} does not fit")
            steps = room // stride
            within = min(low, high) >= 0 and low < width and steps * stride < old + low
            require(within, f"a window of {width} lies in the padding")
            size.append(steps + 1)
        return x.with_shape((*x.shape[:2], *size))

    def evaluate(self, x: Array, *, window: Pair, strides: Pair, padding: Padding, count_padding: bool) -> Array:
        if self.name == "max_pool2d":
            least = -numpy.inf if x.dtype.kind == "f" else numpy.iinfo(x.dtype).min
            return windows(x, least, window, strides, padding).max(axis=(4, 5))
        total = windows(x, 0.0, window, strides, padding).sum(axis=(4, 5))
        ones = numpy.ones((1, 1, *x.shape[2:]), x.dtype)
        counts = windows(ones, 1.0 if count_padding else 0.0, window, strides, padding).sum(axis=(4, 5))
        return total / counts

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **attributes: Any) -> int:
        return int(outputs[0].size * math.prod(attributes["window"]))


def windows(x: Array, outside: float, window: Pair, strides: Pair, padding: Padding) -> Array:
    """[N, C, H', W', height, width], a view of the padded image."""
    padded = numpy.pad(x, ((0, 0), (0, 0), *padding), constant_values=x.dtype.type(outside))
    return numpy.lib.stride_tricks.sliding_window_view(padded, window, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]


register(Pool2d("max_pool2d"))
register(Pool2d("average_pool2d"))
