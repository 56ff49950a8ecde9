"""Convolutions and what goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.registry import PirOp, converter, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer


@converter("conv2d", "depthwise_conv2d")
def conv2d(importer: Importer, op: PirOp, x: Any, weight: Any) -> Any:
    supported(op.attributes["data_format"] == "NCHW", "channels in the last place")
    return ops.conv2d(
        x,
        weight,
        strides=tuple(op.attributes["strides"]),
        padding=padding(op, x, weight),
        dilation=tuple(op.attributes["dilations"]),
        groups=op.attributes["groups"],
    )


def padding(op: PirOp, x: Any, weight: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)), worked out where the operator says VALID or SAME."""
    algorithm, given = op.attributes["padding_algorithm"], op.attributes["paddings"]
    if algorithm == "VALID":
        return (0, 0), (0, 0)
    if algorithm == "SAME":
        supported(list(op.attributes["dilations"]) == [1, 1], "SAME together with dilation")
        sides = []
        for size, window, stride in zip(x.shape[2:], weight.shape[2:], op.attributes["strides"], strict=True):
            missing = max((-(-size // stride) - 1) * stride + window - size, 0)
            sides.append((missing // 2, missing - missing // 2))
        return sides[0], sides[1]
    if len(given) == 2:
        return (given[0], given[0]), (given[1], given[1])
    return (given[0], given[1]), (given[2], given[3])


@converter("nearest_interp")
def nearest_interp(importer: Importer, op: PirOp, x: Any, out_size: Any, size: Any, scale: Any) -> Any:
    """By whole factors, at which all ways of rounding agree."""
    supported(out_size is None and not size and scale is None, "a size that is a tensor")
    supported(op.attributes["data_format"] == "NCHW" and not op.attributes["align_corners"], "another layout")
    factors = [float(each) for each in op.attributes["scale"]]
    wanted: tuple[int, ...] = op.attributes["out_h"], op.attributes["out_w"]
    if factors:
        factors = factors * 2 if len(factors) == 1 else factors
        wanted = tuple(int(dim * factor) for dim, factor in zip(x.shape[2:], factors, strict=True))
    supported(all(new > 0 and new % old == 0 for new, old in zip(wanted, x.shape[2:], strict=True)), "a fraction")
    return ops.resize_nearest(x, size=wanted)
