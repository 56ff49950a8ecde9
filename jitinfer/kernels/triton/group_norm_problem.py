"""Group norms as images of groups, and the blocks of pixels and channels in which kernels could read them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.operands import Strided, operand, result
from jitinfer.kernels.rows import row_space
from jitinfer.kernels.triton.matmul import FLOATING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MOST_HELD = 16384
"""Elements, in float32, that the registers of a multiprocessor hold beside what is computed of them."""
_MOST_SPLITS = 1024
_MOST_MEMBERS = 8192
"""Pairs of a group and a channel that a program looks at to sum over groups."""
_LIMIT = 2**31
_LAUNCH = 1.5e-6  # seconds that one more launch costs
_LANE = 9e-11  # seconds that a multiprocessor computes for an element
_IN_FLIGHT = 24 * 1024  # bytes under way to a multiprocessor that keep the memory busy
_ASKED = 1024  # bytes that a warp asks for before it uses the first of them
_SECTOR, _LINE, _VECTOR = 32, 128, 16  # bytes: the least that memory gives, that a cache keeps, that a thread takes
_SIZES = ((4096, 8), (8192, 8), (2048, 4), (4096, 4))
"""Elements of a block, and warps."""


@dataclass(frozen=True)
class Images:
    """x and y as [images, pixels, channels] of `groups` groups, with their strides; scale and bias [channels]."""

    x: Strided
    y: Strided
    scale: Strided | None
    bias: Strided | None
    count: int
    pixels: int
    channels: int
    groups: int
    x_strides: tuple[int, int, int]
    y_strides: tuple[int, int, int]

    @staticmethod
    def of(node: Node) -> Images | None:
        """None where dtypes are others, nothing is to be computed, or no one stride leads from pixel to pixel."""
        x = operand(node, "x")
        assert x is not None
        y = result(node, 0, x.shape)
        scale, bias = operand(node, "scale"), operand(node, "bias")
        if y is None or not x.view.size:
            return None
        if any(each is not None and each.dtype not in FLOATING for each in (x, scale, bias, y)):
            return None
        space = row_space([_pixels_first(each.view) for each in (x, y)], 1)
        if space is None or len(space.dims) > 1:
            return None
        walked = [strides[0] if strides else 0 for strides in space.row_strides]
        return Images(
            x,
            y,
            scale,
            bias,
            count=x.shape[0],
            pixels=space.rows,
            channels=x.shape[1],
            groups=int(node.groups),
            x_strides=(x.strides[0], walked[0], x.strides[1]),
            y_strides=(y.strides[0], walked[1], y.strides[1]),
        )

    @property
    def each(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def wide(self) -> bool:
        """Whether 32 bits do not count the elements between the first and the last of an image."""
        sizes = (self.pixels, self.channels)
        spans = (zip(sizes, strides[1:], strict=True) for strides in (self.x_strides, self.y_strides))
        return any(sum(size * abs(stride) for size, stride in span) >= _LIMIT for span in spans)

    @property
    def runs(self) -> bool:
        """Whether each group is one run of elements in memory, of x and of y."""
        return all(
            (pixel == 1 or self.pixels == 1) and (channel == self.pixels or self.each == 1)
            for _, pixel, channel in (self.x_strides, self.y_strides)
        )


def _pixels_first(view: View) -> View:
    """[N, C, ...] without N, and with the channels last."""
    return View((*view.shape[2:], view.shape[1]), (*view.strides[2:], view.strides[1]), view.offset)


@dataclass(frozen=True)
class Blocks:
    """launches: 1 where a block has all pixels of its groups, otherwise 2, or 3 with statistics merged between them;
    together: groups, and pixels: of a block; steps: blocks of a part of an image that has statistics of its own.
    """

    launches: int
    together: int
    pixels: int
    steps: int
    warps: int


def power(size: int) -> int:
    """The least power of two that is no smaller."""
    return int(triton.next_power_of_2(size))


def best_blocks(images: Images, target: Target, most: int) -> list[Blocks]:
    """At most so many, the best guess first: the best of each number of launches, size of blocks and warps."""
    best: dict[tuple[int, ...], tuple[float, Blocks]] = {}
    for blocks in _every(images, target):
        kind = (blocks.launches, blocks.pixels * power(blocks.together * images.each), blocks.warps)
        cost = _seconds(images, blocks, target)
        if kind not in best or cost < best[kind][0]:
            best[kind] = (cost, blocks)
    return [blocks for _, blocks in sorted(best.values(), key=lambda pair: pair[0])[:most]]


def _every(images: Images, target: Target) -> Iterator[Blocks]:
    for together in (each for each in range(1, images.groups + 1) if images.groups % each == 0):
        columns = power(together * images.each)
        if together > 1 and power(together) * columns > _MOST_MEMBERS:
            continue
        held = columns * power(images.pixels)
        if held <= MOST_HELD:
            yield Blocks(1, together, power(images.pixels), 1, max(1, min(16, held // 512)))
        for elements, warps in _SIZES:
            pixels = min(max(elements // columns, 1), power(images.pixels))
            if pixels * columns > 32 * 32 * warps:
                continue
            count = -(-images.pixels // pixels)
            chunks = images.count * images.groups // together
            for launches, programs in itertools.product((2, 3), (1, 2, 4)):
                wanted = max(1, min(programs * target.sm_count // chunks, _MOST_SPLITS))
                yield Blocks(launches, together, pixels, -(-count // wanted), warps)


def _seconds(images: Images, blocks: Blocks, target: Target) -> float:
    """What they would cost: bytes that are moved as well as blocks let it, launches, and statistics that are read."""
    size = images.count * images.pixels * images.channels
    reading, writing = (
        size * itemsize(each.dtype) * _waste(images, blocks, strides, each.dtype)
        for each, strides in ((images.x, images.x_strides), (images.y, images.y_strides))
    )
    chunks = images.count * images.groups // blocks.together
    tiles = -(-images.pixels // blocks.pixels)
    splits = -(-tiles // blocks.steps)
    lanes = blocks.pixels * power(blocks.together * images.each)
    full = blocks.together * images.each * min(blocks.pixels, images.pixels) / lanes
    block_bytes = lanes * full * itemsize(images.x.dtype)

    def busy(programs: int, asked: float) -> float:
        """The share of the device's bandwidth that so many programs can ask for: one may have twice its own."""
        resident = min(programs / target.sm_count, max(1, MOST_HELD // lanes))
        return min(1.0, 2 * programs / target.sm_count, resident * asked / _IN_FLIGHT)

    if blocks.launches == 1:
        # A program computes only when it has read all, and writes only then.
        computing = -(-chunks // target.sm_count) * lanes * _LANE
        return _LAUNCH + computing + (reading + writing) / (target.bandwidth * busy(chunks, block_bytes))
    first = reading / busy(chunks * splits, min(block_bytes, full * blocks.warps * _ASKED))
    again = reading if reading + writing > target.l2_bytes else reading / 2
    second = (again + writing) / busy(chunks * tiles, block_bytes)
    # Two numbers of each part and group, read from the second-level cache at twice the memory's speed.
    statistics = chunks * tiles * blocks.together * (splits if blocks.launches == 2 else 1) * 8 / 2
    return (first + second + statistics) / target.bandwidth + blocks.launches * _LAUNCH


def _waste(images: Images, blocks: Blocks, strides: tuple[int, int, int], dtype: str) -> float:
    """How many times as long as a copy it takes to read or write the tensor's bytes in such blocks."""
    size, (image, pixel, channel) = itemsize(dtype), strides
    width = blocks.together * images.each
    lanes = power(width) / width
    if channel == 1 or (images.channels == 1 and pixel != 1):
        run, apart = width * size, math.gcd(width, pixel if images.pixels > 1 else image) * size
    elif pixel == 1 or images.pixels == 1:
        run, apart = min(blocks.pixels, images.pixels) * size, math.gcd(blocks.pixels, channel) * size
    else:
        run, apart = size, size
    sectors = 1 + (_SECTOR - math.gcd(run, _SECTOR)) / run
    short = max(0.0, _LINE / run - 1)
    narrow = _VECTOR / math.gcd(apart, _VECTOR) - 1
    return sectors + 0.1 * short + 0.15 * narrow + 0.25 * (lanes - 1)
