"""Convolution and resizing of images, [N, C, H, W]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.op import Kind, Op, register, require
from jitinfer.graph.operations.contraction import ACTIVATIONS
from jitinfer.graph.operations.pointwise import broadcast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.types import TensorType

Array = Any
"""A NumPy array, of one of the dtypes that the graph has."""

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""((top, bottom), (left, right))"""


class Conv2d(Op):
    """activation(conv(x, weight) + bias + residual); weight: [O, C / groups, height, width], not turned over.

    bias: [O]; residual: anything that broadcasts to the result.
    """

    name = "conv2d"
    kind = Kind.CONTRACTION
    strided = True

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        bias: TensorType | None = None,
        residual: TensorType | None = None,
        *,
        strides: Pair = (1, 1),
        padding: Padding = ((0, 0), (0, 0)),
        dilation: Pair = (1, 1),
        groups: int = 1,
        activation: str = "none",
    ) -> TensorType:
        require(x.rank == weight.rank == 4, "x and weight have four axes")
        require(x.dtype == weight.dtype, "the dtypes differ")
        require(activation in ACTIVATIONS, f"there is no activation {activation!r}")
        require(groups > 0 and weight.shape[0] % groups == 0, f"{weight.shape[0]} results are not {groups} groups")
        require(x.shape[1] == weight.shape[1] * groups, f"{x.shape[1]} channels meet {weight.shape[1]} x {groups}")
        require(bias is None or bias.shape == weight.shape[:1], f"its bias is not [{weight.shape[0]}]")
        size = []
        for axis in (0, 1):
            reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
            room = x.shape[2 + axis] + sum(padding[axis]) - reach
            require(room >= 0, f"its window of {reach} does not fit")
            size.append(room // strides[axis] + 1)
        shape = (x.shape[0], weight.shape[0], *size)
        fits = residual is None or (residual.dtype == x.dtype and broadcast(residual.shape, shape) == shape)
        require(fits, f"its residual does not fit {list(shape)}")
        return x.with_shape(shape)

    def evaluate(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        residual: Array | None = None,
        *,
        strides: Pair,
        padding: Padding,
        dilation: Pair,
        groups: int,
        activation: str,
    ) -> Array:
        x = numpy.pad(x, ((0, 0), (0, 0), *padding))
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        windows = numpy.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
        windows = windows[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]
        batch, channels, height, width = windows.shape[:4]
        rows = windows.reshape(batch, groups, channels // groups, height, width, *weight.shape[2:])
        rows = rows.transpose(1, 0, 3, 4, 2, 5, 6).reshape(groups, batch * height * width, -1)
        y = rows @ weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
        y = y.reshape(groups, batch, height, width, -1).transpose(1, 0, 4, 2, 3).reshape(batch, -1, height, width)
        y = y if bias is None else y + bias[:, None, None]
        return ACTIVATIONS[activation](y if residual is None else y + residual)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        weight = inputs[1]
        assert weight is not None
        return 2 * outputs[0].size * weight.size // weight.shape[0]


class Conv2dTranspose(Op):
    """What conv2d of these attributes is the adjoint of, + bias; weight: [C, O / groups, height, width]; bias: [O].

    Each element of x is spread over a window of the result by the weight; what falls on the padding is left out.
    `output_padding`: rows and columns more at the bottom and at the right.
    """

    name = "conv2d_transpose"
    kind = Kind.CONTRACTION
    strided = True

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        bias: TensorType | None = None,
        *,
        strides: Pair = (1, 1),
        padding: Padding = ((0, 0), (0, 0)),
        output_padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> TensorType:
        require(x.rank == weight.rank == 4, "x and weight have four axes")
        require(x.dtype == weight.dtype, "the dtypes differ")
        require(x.shape[1] == weight.shape[0], f"{x.shape[1]} channels meet {weight.shape[0]}")
        require(groups > 0 and x.shape[1] % groups == 0, f"{x.shape[1]} channels are not {groups} groups")
        channels = weight.shape[1] * groups
        require(bias is None or bias.shape == (channels,), f"its bias is not [{channels}]")
        least = min((*padding[0], *padding[1], *output_padding))
        require(min(x.shape[2:]) > 0 and least >= 0, "an empty image, or a negative padding")
        whole = _spread(x.shape[2:], weight.shape[2:], strides, dilation, output_padding)
        size = tuple(whole[axis] - sum(padding[axis]) for axis in (0, 1))
        require(min(size) > 0, "its padding leaves nothing")
        return x.with_shape((x.shape[0], channels, *size))

    def evaluate(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        strides: Pair,
        padding: Padding,
        output_padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        batch, channels, height, width = x.shape
        rows = x.reshape(batch, groups, channels // groups, height * width)
        whole = _spread(x.shape[2:], weight.shape[2:], strides, dilation, output_padding)
        y = numpy.zeros((batch, weight.shape[1] * groups, *whole), x.dtype)
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                tap = weight[:, :, i, j].reshape(groups, channels // groups, -1).swapaxes(1, 2)
                part = (tap @ rows).reshape(batch, -1, height, width)
                top, left = i * dilation[0], j * dilation[1]
                bottom, right = top + (height - 1) * strides[0] + 1, left + (width - 1) * strides[1] + 1
                y[:, :, top : bottom : strides[0], left : right : strides[1]] += part
        (top, bottom), (left, right) = padding
        y = y[:, :, top : whole[0] - bottom, left : whole[1] - right]
        return y if bias is None else y + bias[:, None, None]

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Any) -> int:
        x, weight = inputs[:2]
        assert x is not None
        assert weight is not None
        return 2 * x.size * weight.size // weight.shape[0]


def _spread(image: Sequence[int], window: Sequence[int], strides: Pair, dilation: Pair, more: Pair) -> Pair:
    """The height and width over which windows spread an image, padding included."""
    height, width = (
        (old - 1) * stride + reach * (each - 1) + 1 + extra
        for old, each, stride, reach, extra in zip(image, window, strides, dilation, more, strict=True)
    )
    return height, width


class ResizeNearest(Op):
    """Element i of each axis of the result is element floor(i * old / new) of the image's."""

    name = "resize_nearest"
    kind = Kind.MOVEMENT
    strided = True

    def infer(self, x: TensorType, *, size: Pair) -> TensorType:
        require(x.rank == 4 and min(size) > 0 and min(x.shape[2:]) > 0, f"there is no image of {size}")
        return x.with_shape((*x.shape[:2], *size))

    def evaluate(self, x: Array, *, size: Pair) -> Array:
        rows, columns = (numpy.arange(new) * old // new for new, old in zip(size, x.shape[2:], strict=True))
        return x[:, :, rows[:, None], columns]


for _class in (Conv2d, Conv2dTranspose, ResizeNearest):
    register(_class())
