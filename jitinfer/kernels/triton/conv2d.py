"""Convolutions as products whose left factor is never made: each of its tiles is gathered from the image.

A row is a pixel of the result, a column one of its channels, and the sum goes over the elements of a window: either
element by element, over blocks of channels of each ("tap by tap"), or over blocks of both together where there are few
channels. Images whose channels lie next to each other are read, and written, in whole vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from jitinfer.kernels.contractions import dense
from jitinfer.kernels.convolutions import convolutions_of
from jitinfer.kernels.family import Candidate, Config, Family, KernelLaunch, TypedPointer
from jitinfer.kernels.triton.epilogue import epilogue_arguments, finish, finishing_launch, walkable
from jitinfer.kernels.triton.generated.launching import NOTHING, empty
from jitinfer.kernels.triton.matmul import FLOATING
from jitinfer.kernels.triton.tile_choice import tile_configs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.contractions import Contraction
    from jitinfer.kernels.convolutions import Convolution
    from jitinfer.kernels.target import Target

FEWEST_COLUMNS = 4
"""Channels of a group's result for which matrix units, which make 8 at a time, are worth it."""
_LEAST = 16
"""Rows, columns and depth of a tile."""


@triton.jit
def convolve(
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
    SIZE: tl.constexpr,
    IMAGE: tl.constexpr,
    START: tl.constexpr,
    STRIDE: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    APART: tl.constexpr,
    BAND: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One tile of y, or the sum over one of SPLITS parts of the windows, APART elements from each other.

    X: strides of x's groups, images, rows, columns and channels; x is its first element. WEIGHT: those of groups,
    outputs, rows and columns of the window, channels. SIZE, IMAGE, START, STRIDE, STEP, WINDOW: `Taps`, of rows and
    columns. PADDED: windows reach over the image. TOGETHER: a block of the depth goes over several elements of the
    window. BAND: tile rows that are worked on at a time.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    down: tl.constexpr = (HEIGHT + BLOCK_M - 1) // BLOCK_M
    across: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    depth: tl.constexpr = WINDOW[0] * WINDOW[1] * CHANNELS
    each_tap: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    program = tl.program_id(0)
    part = program % SPLITS
    stack = program // SPLITS // (down * across)
    within = program // SPLITS % (down * across)
    band = within // (BAND * across)
    tall = tl.minimum(down - band * BAND, BAND)
    first_row = (band * BAND + within % (BAND * across) % tall) * BLOCK_M
    row = first_row + tl.arange(0, BLOCK_M)
    column = within % (BAND * across) // tall * BLOCK_N + tl.arange(0, BLOCK_N)
    # Pixels behind the last one are the last one once more; they are not written.
    pixel = tl.minimum(row, HEIGHT - 1)
    top = pixel // SIZE[1] % SIZE[0] * STRIDE[0] + START[0]
    left = pixel % SIZE[1] * STRIDE[1] + START[1]
    image = pixel // (SIZE[0] * SIZE[1])
    group = stack
    output = column
    if WIDE:
        image = image.to(tl.int64)
        group = stack.to(tl.int64)
        output = column.to(tl.int64)
    x_start = x + (group * X[0] + image * X[1] + top * X[2] + left * X[3])
    weight_start = weight + (group * WEIGHT[0] + output * WEIGHT[1])
    steps: tl.constexpr = (depth + BLOCK_K - 1) // BLOCK_K if TOGETHER else WINDOW[0] * WINDOW[1] * each_tap
    steps_each: tl.constexpr = (steps + SPLITS - 1) // SPLITS
    start = 0
    stop = steps
    if SPLITS > 1:
        start = part * steps_each
        stop = tl.minimum(start + steps_each, steps)
    value = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(start, stop):
        if TOGETHER:
            k = step * BLOCK_K + tl.arange(0, BLOCK_K)
            channel = k % CHANNELS
            i = k // CHANNELS // WINDOW[1]
            j = k // CHANNELS % WINDOW[1]
            known = k < depth
            h = top[:, None] + (i * STEP[0])[None, :]
            w = left[:, None] + (j * STEP[1])[None, :]
            inside = known[None, :] & (h >= 0) & (h < IMAGE[0]) & (w >= 0) & (w < IMAGE[1])
            within_x = i * (STEP[0] * X[2]) + j * (STEP[1] * X[3]) + channel * X[4]
            pixels = tl.load(x_start[:, None] + within_x[None, :], inside, other=0.0)
            within_weight = i * WEIGHT[2] + j * WEIGHT[3] + channel * WEIGHT[4]
        else:
            tap = step // each_tap
            channel = step % each_tap * BLOCK_K + tl.arange(0, BLOCK_K)
            i = tap // WINDOW[1]
            j = tap % WINDOW[1]
            known = channel < CHANNELS
            across_x = x_start[:, None] + (i * (STEP[0] * X[2]) + j * (STEP[1] * X[3]) + channel * X[4])[None, :]
            if PADDED:
                h = top + i * STEP[0]
                w = left + j * STEP[1]
                inside = ((h >= 0) & (h < IMAGE[0]) & (w >= 0) & (w < IMAGE[1]))[:, None]
                if CHANNELS % BLOCK_K != 0:
                    inside = inside & known[None, :]
                pixels = tl.load(across_x, inside, other=0.0)
            elif CHANNELS % BLOCK_K != 0:
                pixels = tl.load(across_x, known[None, :], other=0.0)
            else:
                pixels = tl.load(across_x)
            within_weight = i * WEIGHT[2] + j * WEIGHT[3] + channel * WEIGHT[4]
        factors = tl.load(
            weight_start[None, :] + within_weight[:, None], known[:, None] & (column < WIDTH)[None, :], other=0.0
        )
        value = tl.dot(pixels, factors, value, input_precision="ieee")
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    target = y
    if SPLITS > 1:
        target = y + part.to(tl.int64) * APART
    finish(
        value, None, bias, residual, gate, target, stack, first_row, row, column, BIAS, RESIDUAL, GATE, Y, HEIGHT,
        WIDTH, ACTIVATION, SLOPE, ONE_GATE, INNER, WIDE,
    )  # fmt: skip


class ImplicitGemm(Family):
    """Any windows, strides and groups, but for groups of very few channels; float32 without rounding of factors."""

    name = "implicit_gemm"
    ops = ("conv2d", "conv2d_transpose")

    def supports(self, node: Node, target: Target) -> bool:
        if empty(node):
            return True
        found = computable(node)
        return found is not None and (found[0].groups == 1 or found[0].columns >= FEWEST_COLUMNS)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        found = computable(node)
        if found is None:
            return [Config.of(programmatic=0)]
        largest = max(found, key=lambda each: each.window)
        contraction = largest.contraction()
        assert contraction is not None
        chosen = tile_configs(contraction, target, bulk=False)
        return list(dict.fromkeys(_adapted(largest, config, len(found) > 1) for config in chosen))

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if empty(node):
            return NOTHING
        found = computable(node)
        assert found is not None
        steps: list[KernelLaunch] = []
        nbytes = 0
        for each in found:
            candidate = _candidate(each, config)
            steps += [step for step in candidate.steps if isinstance(step, KernelLaunch)]
            nbytes = max(nbytes, candidate.workspace_bytes)
        return Candidate(tuple(steps), nbytes)


def computable(node: Node) -> list[Convolution] | None:
    """The node as convolutions of tensors that kernels can read, multiply and write; else None."""
    if any(value is not None and value.dtype not in FLOATING for value in (*node.inputs, *node.outputs)):
        return None
    found = convolutions_of(node)
    if found is None:
        return None
    contractions = [each.contraction() for each in found]
    return found if all(each is not None and walkable(each) for each in contractions) else None


def _adapted(convolution: Convolution, config: Config, whole: bool) -> Config:
    """A tile of a product as one of a convolution. whole: the depth is not split."""
    columns = max(_LEAST, min(config["block_n"], triton.next_power_of_2(convolution.columns)))
    block_k, together = _depth_block(convolution, config["block_k"])
    # As many bytes on their way as with the block that the number of stages was chosen for.
    stages = min(6, config["stages"] * max(config["block_k"] // block_k, 1))
    return Config.of(
        block_m=config["block_m"],
        block_n=columns,
        block_k=block_k,
        together=int(together),
        splits=1 if whole else config["splits"],
        warps=config["warps"],
        stages=stages,
        programmatic=config["programmatic"],
    )


def _depth_block(convolution: Convolution, most: int) -> tuple[int, bool]:
    """How much of the depth is taken at a time, and whether from several elements of the window together.

    Blocks that channels do not fill are wasted, short ones keep the matrix units waiting, and a gather over elements of
    the window moves single numbers.
    """
    window, channels = convolution.window[0] * convolution.window[1], convolution.channels
    costs = []
    size = most
    while size >= _LEAST:
        padded = -(-channels // size) * size * window
        costs.append((padded * (1 + 4 / size), -size, False))
        size //= 2
    gathered = min(most, max(_LEAST, triton.next_power_of_2(window * channels)))
    if channels > 1 or window > 1:
        costs.append((-(-window * channels // gathered) * gathered * 1.6, -gathered, True))
    _, size, together = min(costs)
    return -size, together


def _candidate(convolution: Convolution, config: Config) -> Candidate:
    """One launch, or two with parts of the sums in the workspace between them."""
    contraction = convolution.contraction()
    assert contraction is not None
    splits, programmatic = config["splits"], bool(config["programmatic"])
    if splits == 1:
        return Candidate((_launch(convolution, contraction, config, 0),))
    size = contraction.stack * contraction.rows * contraction.columns
    parts = dense(0, "float32", contraction.stack, contraction.rows, contraction.columns)
    first = _launch(convolution, contraction.bare(parts), config, size)
    second = finishing_launch(contraction, parts, splits, size, programmatic=programmatic)
    return Candidate((first, second), splits * size * 4)


def _launch(convolution: Convolution, contraction: Contraction, config: Config, apart: int) -> KernelLaunch:
    block_m, block_n, splits = config["block_m"], config["block_n"], config["splits"]
    tiles = -(-contraction.rows // block_m) * -(-contraction.columns // block_n) * contraction.stack
    arguments, constants = epilogue_arguments(contraction, block_m)
    named, geometry = window_arguments(convolution)
    constants.update(
        geometry,
        TOGETHER=bool(config["together"]),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=config["block_k"],
        SPLITS=splits,
        APART=apart,
        BAND=8,
        WIDE=contraction.wide,
        DEPENDENT=bool(config["programmatic"]),
    )
    return KernelLaunch(
        convolve,
        {**arguments, **named},
        constants,
        (tiles * splits, 1, 1),
        num_warps=config["warps"],
        num_stages=config["stages"],
        programmatic=bool(config["programmatic"]),
    )


def window_arguments(convolution: Convolution) -> tuple[dict[str, TypedPointer], dict[str, Any]]:
    """Arguments and constants that say where windows and weights lie."""
    rows, columns = convolution.taps
    arguments = {"x": convolution.x.pointer, "weight": convolution.weight.pointer}
    constants = {
        "X": convolution.x.strides,
        "WEIGHT": convolution.weight.strides,
        "SIZE": convolution.size,
        "IMAGE": convolution.image,
        "START": (rows.start, columns.start),
        "STRIDE": (rows.stride, columns.stride),
        "STEP": (rows.step, columns.step),
        "WINDOW": convolution.window,
        "CHANNELS": convolution.channels,
        "PADDED": convolution.padded,
    }
    return arguments, constants
