"""Convolutions and what goes with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.pointwise import activated
from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import op_named, ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.importing import Importer


@converter("conv2d", "depthwise_conv2d")
def conv2d(importer: Importer, op: PirOp, x: Any, weight: Any) -> Any:
    x = channels_second(op, x)
    y = ops.conv2d(
        x,
        weight,
        strides=tuple(op.attributes["strides"]),
        padding=sides(op, x.shape[2:], weight.shape[2:]),
        dilation=tuple(op.attributes["dilations"]),
        groups=op.attributes["groups"],
    )
    return as_given(op, y)


@converter("fused_conv2d_add_act")
def fused_conv2d_add_act(
    importer: Importer, op: PirOp, x: Any, weight: Any, bias: Any = None, residual: Any = None
) -> list[Any]:
    """activation(conv(x, weight) + bias + residual)"""
    supported(not op.attributes["split_channels"], "results for parts of the channels")
    y = conv2d(importer, op, x, weight)
    if bias is not None:
        after = 2 if op.attributes["data_format"] == "NCHW" else 0
        y = y + ops.reshape(bias, shape=(math.prod(bias.shape), *[1] * after))
    y = y if residual is None else y + residual
    return [activated(op.attributes["activation"], y), None]


@converter("conv3d", "depthwise_conv3d")
def conv3d(importer: Importer, op: PirOp, x: Any, weight: Any) -> Any:
    """As convolutions of the planes: the planes that meet in a window are side by side as channels of one image."""
    supported(op.attributes["data_format"] == "NCDHW", "channels in the last place")
    strides, dilation = op.attributes["strides"], op.attributes["dilations"]
    (front, back), *padding = sides(op, x.shape[2:], weight.shape[2:])
    if front or back:
        x = ops.pad(x, low=(0, 0, front, 0, 0), high=(0, 0, back, 0, 0), mode="constant", value=0.0)
    batch, channels, planes, height, width = x.shape
    results, reach, taps = weight.shape[0], dilation[0] * (weight.shape[2] - 1) + 1, weight.shape[2]
    supported(planes >= reach, "a window that does not fit")
    steps = (planes - reach) // strides[0] + 1
    windows = [
        ops.reshape(
            cut(x, 2, tap * dilation[0], tap * dilation[0] + (steps - 1) * strides[0] + 1, strides[0]),
            shape=(batch, channels, 1, steps, height, width),
        )
        for tap in range(taps)
    ]
    x = ops.transpose(ops.concat(*windows, axis=2), permutation=(0, 3, 1, 2, 4, 5))
    y = ops.conv2d(
        ops.reshape(x, shape=(batch * steps, channels * taps, height, width)),
        ops.reshape(weight, shape=(results, weight.shape[1] * taps, *weight.shape[3:])),
        strides=tuple(strides[1:]),
        padding=tuple(padding),
        dilation=tuple(dilation[1:]),
        groups=op.attributes["groups"],
    )
    y = ops.reshape(y, shape=(batch, steps, *y.shape[1:]))
    return ops.transpose(y, permutation=(0, 2, 1, 3, 4))


@converter("conv2d_transpose", "depthwise_conv2d_transpose")
def conv2d_transpose(importer: Importer, op: PirOp, x: Any, weight: Any, size: Any, bias: Any = None) -> Any:
    """Where a size is asked for, the rows and columns that it has more than needed are the output's padding."""
    x = channels_second(op, x)
    wanted = known_integers(importer, size)
    attributes = {
        "strides": tuple(op.attributes["strides"]),
        "padding": sides(op, x.shape[2:], weight.shape[2:]),
        "dilation": tuple(op.attributes["dilations"]),
        "groups": op.attributes["groups"],
    }
    more = tuple(op.attributes["output_padding"]) or (0, 0)
    if wanted:
        whole = op_named("conv2d_transpose")
        kind = whole.infer(x.type, weight.type, **attributes)
        more = tuple(new - old for new, old in zip(wanted, kind.shape[2:], strict=True))
    return as_given(op, ops.conv2d_transpose(x, weight, bias, output_padding=more, **attributes))


@converter("conv2d_transpose_bias")
def conv2d_transpose_bias(importer: Importer, op: PirOp, x: Any, weight: Any, bias: Any, size: Any) -> Any:
    return conv2d_transpose(importer, op, x, weight, size, bias)


def channels_second(op: PirOp, x: Any) -> Any:
    """An image with its channels where the graph's ops want them."""
    return x if op.attributes["data_format"] == "NCHW" else ops.transpose(x, permutation=(0, 3, 1, 2))


def as_given(op: PirOp, y: Any) -> Any:
    """The inverse of `channels_second`, for results."""
    return y if op.attributes["data_format"] == "NCHW" else ops.transpose(y, permutation=(0, 2, 3, 1))


def sides(op: PirOp, image: Sequence[int], window: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """((top, bottom), (left, right)), worked out where the operator says VALID or SAME; so for any number of axes."""
    algorithm, given = op.attributes.get("padding_algorithm", "EXPLICIT"), op.attributes["paddings"]
    if algorithm == "VALID":
        return tuple((0, 0) for _ in image)
    if algorithm == "SAME":
        supported(set(op.attributes.get("dilations", [1])) == {1}, "SAME together with dilation")
        missing = [
            max((-(-old // stride) - 1) * stride + width - old, 0)
            for old, width, stride in zip(image, window, op.attributes["strides"], strict=True)
        ]
        return tuple((each // 2, each - each // 2) for each in missing)
    if len(given) == len(image):
        return tuple((each, each) for each in given)
    return tuple(zip(given[::2], given[1::2], strict=True))


@converter("batch_norm")
def batch_norm(importer: Importer, op: PirOp, x: Any, mean: Any, variance: Any, scale: Any, bias: Any) -> list[Any]:
    """What it does in eval mode, where the statistics are weights: one factor and one summand for each channel."""
    supported(op.attributes["is_test"] or op.attributes["use_global_stats"], "statistics of the batch itself")
    supported(x.dtype == mean.dtype, "statistics in another dtype")
    factor = ops.rsqrt(variance + op.attributes["epsilon"])
    factor = factor if scale is None else factor * scale
    summand = -mean * factor if bias is None else bias - mean * factor
    after = len(x.shape) - 2 if op.attributes["data_format"] in ("NCHW", "NCDHW") else 0
    shape = (*mean.shape, *[1] * after)
    return [x * ops.reshape(factor, shape=shape) + ops.reshape(summand, shape=shape)]
