"""Pooling and resizing of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.convolution import as_given, channels_second, sides
from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import Constant, ops
from jitinfer.graph.types import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.importing import Importer

Array = numpy.ndarray[Any, Any]


@converter("pool2d")
def pool2d(importer: Importer, op: PirOp, x: Any, window: Any) -> Any:
    supported(op.attributes["data_format"] == "NCHW", "channels in the last place")
    size = known_integers(importer, window)
    return pooled(importer, op, x, size * 2 if len(size) == 1 else size, largest=op.attributes["pooling_type"] == "max")


@converter("max_pool2d_with_index")
def max_pool2d_with_index(importer: Importer, op: PirOp, x: Any) -> list[Any]:
    """Without the indices."""
    return [pooled(importer, op, x, list(op.attributes["kernel_size"]), largest=True), None]


def pooled(importer: Importer, op: PirOp, x: Any, size: list[int], *, largest: bool) -> Any:
    """x pooled by windows of `size`, or to an image of `size` where the operator is adaptive."""
    if op.attributes["global_pooling"] or (op.attributes["adaptive"] and size == [1, 1]):
        return (ops.max if largest else ops.mean)(x, axes=(2, 3), keepdims=True)
    pool = ops.max_pool2d if largest else ops.average_pool2d
    if op.attributes["adaptive"]:
        if all(old % new == 0 for old, new in zip(x.shape[2:], size, strict=True)):
            step = (x.shape[2] // size[0], x.shape[3] // size[1])
            return pool(x, window=step, strides=step)
        if largest:
            return largest_of_uneven(importer, x, size)
        rows, columns = (adaptive_means(old, new) for old, new in zip(x.shape[2:], size, strict=True))
        return mixed(importer, x, rows, columns)
    counting = {} if largest else {"count_padding": not op.attributes["exclusive"]}
    strides, padding = op.attributes["strides"], list(sides(op, x.shape[2:], size))
    if op.attributes.get("ceil_mode"):
        supported(not any(counting.values()), "windows beyond the padding that count it")
        padding = [
            (low, high + -(old + low + high - width) % stride)
            for old, width, stride, (low, high) in zip(x.shape[2:], size, strides, padding, strict=True)
        ]
    return pool(x, window=tuple(size), strides=tuple(strides), padding=tuple(padding), **counting)


def largest_of_uneven(importer: Importer, x: Any, size: Sequence[int]) -> Any:
    """Along one axis after the other: each window's elements, the last one repeated in the shorter ones."""
    for axis, (old, new) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        bounds = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        width = max(stop - start for start, stop in bounds)
        places = numpy.array([[min(start + j, stop - 1) for j in range(width)] for start, stop in bounds])
        spread = ops.gather(x, importer.apply("constant", value=Constant(places.reshape(-1))), axis=axis)
        apart = ops.reshape(spread, shape=(*x.shape[:axis], new, width, *x.shape[axis + 1 :]))
        x = ops.max(apart, axes=(axis + 1,))
    return x


def adaptive_means(old: int, new: int) -> Array:
    """[new, old]: row i is the mean over floor(i * old / new) up to ceil((i + 1) * old / new)."""
    rows = numpy.zeros((new, old))
    for i in range(new):
        start, stop = i * old // new, -(-(i + 1) * old // new)
        rows[i, start:stop] = 1.0 / (stop - start)
    return rows


def mixed(importer: Importer, x: Any, rows: Array, columns: Array) -> Any:
    """rows @ x @ columns^T for each channel of each image."""
    by_rows, by_columns = (
        importer.apply("constant", value=Constant(each.astype(numpy_dtype(x.dtype)))) for each in (rows, columns)
    )
    return ops.matmul(ops.matmul(by_rows, x), by_columns, transpose_y=True)


@converter("pixel_shuffle")
def pixel_shuffle(importer: Importer, op: PirOp, x: Any) -> Any:
    """[N, C r r, H, W] -> [N, C, H r, W r]"""
    factor = op.attributes["upscale_factor"]
    batch, channels, height, width = channels_second(op, x).shape
    apart = (batch, channels // factor**2, factor, factor, height, width)
    y = ops.transpose(ops.reshape(channels_second(op, x), shape=apart), permutation=(0, 1, 4, 2, 5, 3))
    return as_given(op, ops.reshape(y, shape=(batch, apart[1], height * factor, width * factor)))


@converter("pixel_unshuffle")
def pixel_unshuffle(importer: Importer, op: PirOp, x: Any) -> Any:
    """[N, C, H r, W r] -> [N, C r r, H, W]"""
    factor = op.attributes["downscale_factor"]
    batch, channels, height, width = channels_second(op, x).shape
    apart = (batch, channels, height // factor, factor, width // factor, factor)
    y = ops.transpose(ops.reshape(channels_second(op, x), shape=apart), permutation=(0, 1, 3, 5, 2, 4))
    return as_given(op, ops.reshape(y, shape=(batch, channels * factor**2, apart[2], apart[4])))


@converter("channel_shuffle")
def channel_shuffle(importer: Importer, op: PirOp, x: Any) -> Any:
    """The first channels of all groups, then the second ones, and so on."""
    groups = op.attributes["groups"]
    batch, channels, *image = channels_second(op, x).shape
    y = ops.reshape(channels_second(op, x), shape=(batch, groups, channels // groups, *image))
    y = ops.transpose(y, permutation=(0, 2, 1, 3, 4))
    return as_given(op, ops.reshape(y, shape=(batch, channels, *image)))


@converter("nearest_interp")
def nearest_interp(importer: Importer, op: PirOp, x: Any, *sizes: Any) -> Any:
    """By whole factors, at which all ways of rounding agree, a resize; by others a gather along each axis."""
    wanted, ratios = resized(op, x, sizes)
    if all(new % old == 0 for new, old in zip(wanted, x.shape[2:], strict=True)) and not op.attributes["align_corners"]:
        return ops.resize_nearest(x, size=wanted)
    for axis, (new, ratio) in enumerate(zip(wanted, ratios, strict=True)):
        places = numpy.arange(new, dtype="float32") * ratio + (0.5 if op.attributes["align_corners"] else 0.0)
        chosen = numpy.minimum(places.astype("int64"), x.shape[2 + axis] - 1)
        x = ops.gather(x, importer.apply("constant", value=Constant(chosen)), axis=2 + axis)
    return x


@converter("bilinear_interp")
def bilinear_interp(importer: Importer, op: PirOp, x: Any, *sizes: Any) -> Any:
    """Each axis is a product with a matrix of two weights a row."""
    wanted, ratios = resized(op, x, sizes)
    corners = op.attributes["align_corners"] or op.attributes["align_mode"] == 1
    weights = [
        interpolation(old, new, float(ratio), 0.0 if corners else 0.5)
        for old, new, ratio in zip(x.shape[2:], wanted, ratios, strict=True)
    ]
    return mixed(importer, x, weights[0], weights[1])


def interpolation(old: int, new: int, ratio: float, centre: float) -> Array:
    """[new, old]: row i has the weights of the two neighbours of place (i + centre) * ratio - centre."""
    rows = numpy.zeros((new, old))
    for i in range(new):
        place = max((i + centre) * ratio - centre, 0.0)
        low = min(int(place), old - 1)
        share = place - low
        rows[i, low] += 1.0 - share
        rows[i, min(low + 1, old - 1)] += share
    return rows


@converter("bicubic_interp")
def bicubic_interp(importer: Importer, op: PirOp, x: Any, *sizes: Any) -> Any:
    """Each axis is a product with a matrix of four weights a row."""
    wanted, ratios = resized(op, x, sizes)
    weights = [
        cubic_interpolation(old, new, float(ratio), 0.0 if op.attributes["align_corners"] else 0.5)
        for old, new, ratio in zip(x.shape[2:], wanted, ratios, strict=True)
    ]
    return mixed(importer, x, weights[0], weights[1])


def cubic_interpolation(old: int, new: int, ratio: float, centre: float) -> Array:
    """[new, old]: row i has the weights of the four neighbours of place (i + centre) * ratio - centre.

    By convolution with Keys' kernel (1981) at a = -0.75; beyond the image, its last element goes on.
    """
    rows = numpy.zeros((new, old))
    for i in range(new):
        place = (i + centre) * ratio - centre
        low = math.floor(place)
        for neighbour in range(low - 1, low + 3):
            distance = abs(place - neighbour)
            near = (1.25 * distance - 2.25) * distance**2 + 1.0
            far = -0.75 * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
            rows[i, min(max(neighbour, 0), old - 1)] += near if distance <= 1.0 else far
    return rows


def resized(op: PirOp, x: Any, sizes: tuple[Any, ...]) -> tuple[tuple[int, int], list[numpy.float32]]:
    """The new height and width, and how far one step of the result goes in the image, for each."""
    absent = all(each is None or (isinstance(each, list) and not each) for each in sizes)
    supported(absent, "a size that is a tensor")
    supported(op.attributes["data_format"] == "NCHW", "channels in the last place")
    factors = [float(each) for each in op.attributes["scale"]]
    factors = factors * 2 if len(factors) == 1 else factors
    if factors:
        wanted = int(x.shape[2] * factors[0]), int(x.shape[3] * factors[1])
    else:
        wanted = op.attributes["out_h"], op.attributes["out_w"]
    supported(min(wanted) > 0, "no size")
    ratios = []
    for axis, new in enumerate(wanted):
        old = x.shape[2 + axis]
        if op.attributes["align_corners"]:
            ratios.append(numpy.float32((old - 1) / (new - 1) if new > 1 else 0.0))
        else:
            ratios.append(numpy.float32(1.0 / factors[axis] if factors else old / new))
    return wanted, ratios
