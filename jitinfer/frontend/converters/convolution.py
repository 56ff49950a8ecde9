"""Convolutions and what goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.registry import PirOp, converter, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.importing import Importer


@converter("conv2d", "depthwise_conv2d")
def conv2d(importer: Importer, op: PirOp, x: Any, weight: Any) -> Any:
    supported(op.attributes["data_format"] == "NCHW", "channels in the last place")
    return ops.conv2d(
        x,
        weight,
        strides=tuple(op.attributes["strides"]),
        padding=sides(op, x.shape[2:], weight.shape[2:]),
        dilation=tuple(op.attributes["dilations"]),
        groups=op.attributes["groups"],
    )


def sides(op: PirOp, image: Sequence[int], window: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)), worked out where the operator says VALID or SAME."""
    algorithm, given = op.attributes.get("padding_algorithm", "EXPLICIT"), op.attributes["paddings"]
    if algorithm == "VALID":
        return (0, 0), (0, 0)
    if algorithm == "SAME":
        supported(list(op.attributes.get("dilations", [1, 1])) == [1, 1], "SAME together with dilation")
        missing = [
            max((-(-old // stride) - 1) * stride + width - old, 0)
            for old, width, stride in zip(image, window, op.attributes["strides"], strict=True)
        ]
        top, left = (each // 2 for each in missing)
        return (top, missing[0] - top), (left, missing[1] - left)
    if len(given) == 2:
        return (given[0], given[0]), (given[1], given[1])
    return (given[0], given[1]), (given[2], given[3])


@converter("batch_norm")
def batch_norm(importer: Importer, op: PirOp, x: Any, mean: Any, variance: Any, scale: Any, bias: Any) -> list[Any]:
    """What it does in eval mode, where the statistics are weights: one factor and one summand for each channel."""
    supported(op.attributes["is_test"] or op.attributes["use_global_stats"], "statistics of the batch itself")
    supported(x.dtype == mean.dtype, "statistics in another dtype")
    factor = ops.rsqrt(variance + op.attributes["epsilon"])
    factor = factor if scale is None else factor * scale
    summand = -mean * factor if bias is None else bias - mean * factor
    after = len(x.shape) - 2 if op.attributes["data_format"] == "NCHW" else 0
    shape = (*mean.shape, *[1] * after)
    return [x * ops.reshape(factor, shape=shape) + ops.reshape(summand, shape=shape)]
