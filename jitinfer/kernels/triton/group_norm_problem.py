"""Group norms as images of groups, and the blocks of pixels and channels in which kernels could read them."""

from __future__ import annotations

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
_MOST_OF_THREAD = 256
"""Bytes of x that a thread's registers hold beside what is computed of them."""
_MOST_SPLITS = 1024
_MOST_PARTS = 8192
"""Of the channels of a group, that one program merges."""
_LIMIT = 2**31
# Seconds, fitted to launches of their own on an H100, whose blocks have 2048 to 8192 elements: what a launch takes, and
# one that merges what is known of channels; what a multiprocessor takes for a warp that sums over its block, whatever
# its size, that tells its threads of their channels, and, for each lane of channels, that makes groups of channels or
# channels of groups; for an element that is read and followed, or read, changed and written; for a part of a group
# that is merged.
_LAUNCH, _MERGING = 2.1e-6, 1.2e-6
_SUM, _TELL, _REGROUP = 1.1e-7, 2e-9, 9e-11
_FOLLOW, _WRITE, _MERGE = 2e-11, 4.4e-11, 1e-10
_NARROW = 0.5  # of an element's time is taken once more for each further access that its vector takes
_IN_FLIGHT = 24 * 1024  # bytes under way to a multiprocessor that keep the memory busy
_FASTER = 2  # than memory is the second-level cache, which answers as much sooner
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
    """launches: 1 where a block has all pixels of its groups, otherwise 2 with statistics of groups, or 3 with those of
    channels, merged between the others; together: groups, or channels where there are 3 launches, and pixels: of a
    block; steps: blocks of a part of an image that has statistics of its own.
    """

    launches: int
    together: int
    pixels: int
    steps: int
    warps: int

    def width(self, images: Images) -> int:
        """Channels of a block."""
        return self.together if self.launches == 3 else self.together * images.each

    def programs(self, images: Images) -> int:
        """Those that take statistics."""
        return images.count * images.channels // self.width(images) * -(-images.pixels // (self.pixels * self.steps))

    def at_once(self, images: Images) -> bool:
        """Whether threads ask for all of a part before they look at it: no loop over the steps."""
        lanes = self.steps * self.pixels * power(self.width(images))
        return lanes * itemsize(images.x.dtype) <= _MOST_OF_THREAD * 32 * self.warps


def power(size: int) -> int:
    """The least power of two that is no smaller."""
    return int(triton.next_power_of_2(size))


def best_blocks(images: Images, target: Target, most: int) -> list[Blocks]:
    """At most so many, the best guess first: the best of each number of launches, and of other kinds.

    Kinds are what a guess may be wrong about by most. Widths: how many lanes they leave idle, how wide loads are, how
    many groups are merged; of channels that are merged already, a line of the cache is as good as several. And whether
    each multiprocessor has one program that takes statistics, or several, of which one computes while others wait.
    """
    line = _LINE // itemsize(images.x.dtype)
    best: dict[tuple[int, int, bool], tuple[float, Blocks]] = {}
    for blocks in _every(images, target):
        columns = power(blocks.width(images))
        several = blocks.programs(images) > target.sm_count
        kind = (blocks.launches, min(columns, line) if blocks.launches == 3 else columns, several)
        cost = seconds(images, blocks, target)
        if kind not in best or cost < best[kind][0]:
            best[kind] = (cost, blocks)
    ranked = sorted(best.values(), key=lambda pair: pair[0])
    first = {blocks.launches: place for place, (_, blocks) in reversed(list(enumerate(ranked)))}
    taken = sorted(range(len(ranked)), key=lambda place: (place not in first.values(), place))[:most]
    return [ranked[place][1] for place in sorted(taken)]


def _every(images: Images, target: Target) -> Iterator[Blocks]:
    for together in _divisors(images.groups):
        columns = power(together * images.each)
        held = columns * power(images.pixels)
        if held <= MOST_HELD:
            yield Blocks(1, together, power(images.pixels), 1, max(1, min(16, held // 512)))
        yield from _in_parts(images, target, 2, together, _MOST_SPLITS)
    for together in _divisors(images.channels):
        yield from _in_parts(images, target, 3, together, min(_MOST_SPLITS, max(1, _MOST_PARTS // power(images.each))))


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _in_parts(images: Images, target: Target, launches: int, together: int, most: int) -> Iterator[Blocks]:
    """Blocks of parts of images, and at most so many parts of each."""
    width = together * images.each if launches == 2 else together
    columns, chunks = power(width), images.count * images.channels // width
    for elements, warps in _SIZES:
        pixels = min(max(elements // columns, 1), power(images.pixels))
        if pixels * columns > 32 * 32 * warps:
            continue
        count = -(-images.pixels // pixels)
        for programs in (1, 2, 4):
            wanted = max(1, min(programs * target.sm_count // chunks, most))
            yield Blocks(launches, together, pixels, -(-count // wanted), warps)


def seconds(images: Images, blocks: Blocks, target: Target) -> float:
    """What they would cost: launches, bytes as fast as they are moved, and what a multiprocessor computes with all
    lanes of its blocks, those of no channel as well.
    """
    sides = ((images.x, images.x_strides), (images.y, images.y_strides))
    size = images.count * images.pixels * images.channels
    cached = size * sum(itemsize(each.dtype) for each, _ in sides) <= target.l2_bytes
    speed, in_flight = target.bandwidth, _IN_FLIGHT
    if cached:
        speed, in_flight = speed * _FASTER, in_flight // _FASTER
    reading, writing = (
        size * itemsize(each.dtype) * _waste(images, blocks, strides, each.dtype) / speed for each, strides in sides
    )
    narrow_x, narrow_y = (1 + _NARROW * _narrow(images, blocks, strides, each.dtype) for each, strides in sides)
    width = blocks.width(images)
    chunks = images.count * images.channels // width
    tiles = -(-images.pixels // blocks.pixels)
    splits = -(-tiles // blocks.steps)
    lanes = blocks.pixels * power(width)
    regrouping = 0.0 if blocks.launches == 3 else _REGROUP * power(width)
    summing = blocks.warps * (_SUM + regrouping)
    following = summing + lanes * blocks.steps * _FOLLOW * narrow_x
    changing = blocks.warps * (_TELL + regrouping) + lanes * _WRITE * max(narrow_x, narrow_y)
    block_bytes = width * min(blocks.pixels, images.pixels) * itemsize(images.x.dtype)

    def launch(programs: int, moving: float, asked: int, computing: float) -> float:
        """moving: of all programs at full speed, where one has at most twice its share; asked: bytes at a time, and
        computing: of one program.
        """
        resident = min(programs / target.sm_count, max(1, MOST_HELD // lanes))
        busy = min(1.0, 2 * programs / target.sm_count, resident * asked / in_flight)
        return _LAUNCH + moving / busy + -(-programs // target.sm_count) * computing

    if blocks.launches == 1:
        return launch(chunks, reading + writing, block_bytes, following + changing)
    if blocks.launches == 2:
        changing += power(blocks.together) * power(splits) * _MERGE
    part_bytes = block_bytes * (blocks.steps if blocks.at_once(images) else 1)
    between = _MERGING if blocks.launches == 3 else 0.0
    first = launch(chunks * splits, reading, part_bytes, following)
    return first + between + launch(chunks * tiles, reading + writing, block_bytes, changing)


def _runs(images: Images, blocks: Blocks, strides: tuple[int, int, int]) -> tuple[int, int]:
    """Elements of a block that stand next to each other, and of what all their starts are multiples."""
    image, pixel, channel = strides
    width = blocks.width(images)
    if channel == 1 or (images.channels == 1 and pixel != 1):
        return width, math.gcd(width, pixel if images.pixels > 1 else image)
    if pixel == 1 or images.pixels == 1:
        return min(blocks.pixels, images.pixels), math.gcd(blocks.pixels, channel)
    return 1, 1


def _narrow(images: Images, blocks: Blocks, strides: tuple[int, int, int], dtype: str) -> float:
    """How many accesses more than one a thread makes for what could be a vector."""
    _, apart = _runs(images, blocks, strides)
    return _VECTOR / math.gcd(apart * itemsize(dtype), _VECTOR) - 1


def _waste(images: Images, blocks: Blocks, strides: tuple[int, int, int], dtype: str) -> float:
    """How many times as long as a copy it takes to move the tensor's bytes in such blocks."""
    run = _runs(images, blocks, strides)[0] * itemsize(dtype)
    sectors = 1 + (_SECTOR - math.gcd(run, _SECTOR)) / run
    return sectors + 0.1 * max(0.0, _LINE / run - 1)
