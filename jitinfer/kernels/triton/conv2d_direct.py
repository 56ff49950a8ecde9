"""Convolutions whose groups have few channels, depthwise ones above all: sums without matrix units.

What they cost is reading the image once, so each program adds up a block of pixels and channels, window element by
window element, from what the caches hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from jitinfer.kernels.family import Candidate, Config, Family, KernelLaunch
from jitinfer.kernels.triton.conv2d import FEWEST_COLUMNS, computable, window_arguments
from jitinfer.kernels.triton.epilogue import epilogue_arguments, finish, walkable
from jitinfer.kernels.triton.generated.launching import NOTHING, empty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.convolutions import Convolution
    from jitinfer.kernels.target import Target

MOST_CHANNELS = 8
"""Of a group, with which matrix units would be idle for the most part."""
_BLOCKS = ((1024, 4), (512, 4), (2048, 8), (2048, 4))
"""Elements and warps."""


@triton.jit
def convolve_groups(
    x,
    weight,
    bias,
    residual,
    gate,
    y,
    X: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    Y: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,
    IMAGE: tl.constexpr,
    START: tl.constexpr,
    STRIDE: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """As `convolve` of conv2d.py, but for columns of all groups, COLUMNS of each."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    across: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    first_row = program // across * BLOCK_M
    row = first_row + tl.arange(0, BLOCK_M)
    column = program % across * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = tl.minimum(row, HEIGHT - 1)
    top = pixel // SIZE[1] % SIZE[0] * STRIDE[0] + START[0]
    left = pixel % SIZE[1] * STRIDE[1] + START[1]
    image = pixel // (SIZE[0] * SIZE[1])
    group = column // COLUMNS
    output = column % COLUMNS
    if WIDE:
        image = image.to(tl.int64)
        group = group.to(tl.int64)
        output = output.to(tl.int64)
    pixels = x + (image * X[1] + top * X[2] + left * X[3])[:, None] + (group * X[0])[None, :]
    factors = weight + (group * WEIGHT[0] + output * WEIGHT[1])
    known = column < WIDTH
    value = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(WINDOW[0] * WINDOW[1] * CHANNELS):
        channel = step % CHANNELS
        j = step // CHANNELS % WINDOW[1]
        i = step // CHANNELS // WINDOW[1]
        inside = known[None, :]
        if PADDED:
            h = top + i * STEP[0]
            w = left + j * STEP[1]
            inside = inside & ((h >= 0) & (h < IMAGE[0]) & (w >= 0) & (w < IMAGE[1]))[:, None]
        from_x = i * (STEP[0] * X[2]) + j * (STEP[1] * X[3]) + channel * X[4]
        from_weight = i * WEIGHT[2] + j * WEIGHT[3] + channel * WEIGHT[4]
        taken = tl.load(pixels + from_x, inside, other=0.0).to(tl.float32)
        value += taken * tl.load(factors + from_weight, known, other=0.0).to(tl.float32)[None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    finish(
        value, None, bias, residual, gate, y, 0, first_row, row, column, BIAS, RESIDUAL, GATE, Y, HEIGHT, WIDTH,
        ACTIVATION, SLOPE, ONE_GATE, INNER, WIDE,
    )  # fmt: skip


class DirectConvolution(Family):
    """Groups of few channels, or of few results."""

    name = "direct_convolution"
    ops = ("conv2d", "conv2d_transpose")

    def supports(self, node: Node, target: Target) -> bool:
        found = computable(node)
        if found is None or found[0].groups == 1:
            return False
        few = found[0].channels <= MOST_CHANNELS or found[0].columns < FEWEST_COLUMNS
        contractions = [each.contraction(groups_as_columns=True) for each in found]
        return few and all(each is not None and walkable(each) for each in contractions)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        found = computable(node)
        assert found is not None
        early = int(target.has_programmatic_launch)
        blocks = [(*_block(found[0], elements), warps) for elements, warps in _BLOCKS]
        return [Config.of(block_m=m, block_n=n, warps=warps, programmatic=early) for m, n, warps in blocks]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if empty(node):
            return NOTHING
        found = computable(node)
        assert found is not None
        return Candidate(tuple(_launch(each, config) for each in found))


def _block(convolution: Convolution, elements: int) -> tuple[int, int]:
    """Rows and columns of a block: most of them along the axis in which the image's elements are neighbours."""
    columns = triton.next_power_of_2(convolution.groups * convolution.columns)
    channels_last = 1 in (convolution.x.strides[0], convolution.x.strides[4])
    block_n = min(columns, 64 if channels_last else 2)
    return elements // block_n, block_n


def _launch(convolution: Convolution, config: Config) -> KernelLaunch:
    contraction = convolution.contraction(groups_as_columns=True)
    assert contraction is not None
    block_m, block_n = config["block_m"], config["block_n"]
    tiles = -(-contraction.rows // block_m) * -(-contraction.columns // block_n)
    arguments, constants = epilogue_arguments(contraction, block_m)
    named, geometry = window_arguments(convolution)
    constants.update(
        geometry,
        COLUMNS=convolution.columns,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        WIDE=contraction.wide,
        DEPENDENT=bool(config["programmatic"]),
    )
    return KernelLaunch(
        convolve_groups,
        {**arguments, **named},
        constants,
        (tiles, 1, 1),
        num_warps=config["warps"],
        num_stages=2,
        programmatic=bool(config["programmatic"]),
    )
