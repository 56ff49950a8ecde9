"""Products of few rows: what they cost is reading the weights once, so nothing may hold up that stream.

Up to 16 rows are one tile of the matrix units' smallest height, whose weights are copied far ahead. One row needs no
matrix units: each thread multiplies what it loads itself, and the sums of all threads are added up once, at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from jitinfer.graph.types import itemsize
from jitinfer.kernels.contractions import Contraction, contraction_of, dense
from jitinfer.kernels.family import Candidate, Config, Family, KernelLaunch
from jitinfer.kernels.triton.epilogue import (
    COLUMNS,
    STACK,
    epilogue_arguments,
    finish,
    finishing_launch,
    places,
    walk,
)
from jitinfer.kernels.triton.matmul import factor, multipliable, product_candidate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MAX_ROWS = 16
_MOST = 12
_OF_ONE_TILE = 2
_LAUNCH = 1.3e-6  # seconds that adding up the parts in a second kernel costs
_IN_FLIGHT = 40 * 1024  # bytes under way to a multiprocessor that keep the memory busy
_LINE = 128  # bytes that the L2 cache keeps together
_CUT_LINES = 1.15  # times as long where programs share them


@triton.jit
def multiply_one_row(
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
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    APART: tl.constexpr,
    STAGES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """As `multiply` of matmul.py, for HEIGHT 1: BLOCK_N columns, over all or one of SPLITS parts of the depth."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    across: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    steps: tl.constexpr = (DEPTH + BLOCK_K - 1) // BLOCK_K
    steps_each: tl.constexpr = (steps + SPLITS - 1) // SPLITS
    program = tl.program_id(0)
    part = program % SPLITS
    first_column = program // SPLITS % across * BLOCK_N
    stack = program // SPLITS // across
    start = 0
    stop = steps
    if SPLITS > 1:
        start = part * steps_each
        stop = tl.minimum(start + steps_each, steps)
    value = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    for step in tl.range(start, stop, num_stages=STAGES):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        left = tl.load(x + walk(stack, X, STACK, WIDE) + walk(k, X, COLUMNS, WIDE), k < DEPTH, other=0.0)
        right = factor(
            weight, stack, step * BLOCK_K, first_column, WEIGHT, None, False, BLOCK_K, BLOCK_N, DEPTH, WIDTH, WIDE
        )
        value += left.to(tl.float32)[:, None] * right.to(tl.float32)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    column = first_column + tl.arange(0, BLOCK_N)
    target = y
    if SPLITS > 1:
        target = y + part.to(tl.int64) * APART
    finish(
        tl.sum(value, axis=0)[None, :], None, bias, residual, gate, target, stack, 0, tl.arange(0, 1), column, BIAS,
        RESIDUAL, GATE, Y, HEIGHT, WIDTH, ACTIVATION, SLOPE, ONE_GATE, INNER, WIDE,
    )  # fmt: skip


class FewRowsProduct(Family):
    """Up to 16 rows, for each matrix of a stack."""

    name = "few_rows_product"
    ops = ("matmul", "linear", "conv2d")

    def supports(self, node: Node, target: Target) -> bool:
        contraction = contraction_of(node)
        return contraction is not None and contraction.rows <= MAX_ROWS and multipliable(contraction)

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        contraction = contraction_of(node)
        assert contraction is not None
        kinds = [list(_tiles(contraction, target))]
        if contraction.rows == 1:
            kinds.append(list(_lines(contraction)))
        early = int(target.has_programmatic_launch)
        best = [_best(contraction, choices, target)[: _MOST // len(kinds)] for choices in kinds if choices]
        ranked = sorted((each for some in best for each in some), key=lambda each: _seconds(contraction, each, target))
        return [Config.of(**dict(each.values), programmatic=early) for each in ranked]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        contraction = contraction_of(node)
        assert contraction is not None
        if config["block_m"] > 1:
            return product_candidate(contraction, config)
        splits = config["splits"]
        if splits == 1:
            return Candidate((_one_row_launch(contraction, config, 0),))
        size = contraction.stack * contraction.columns
        parts = dense(0, "float32", contraction.stack, 1, contraction.columns)
        first = _one_row_launch(contraction.bare(parts), config, size)
        second = finishing_launch(contraction, parts, splits, size, programmatic=bool(config["programmatic"]))
        return Candidate((first, second), splits * size * 4)


def _one_row_launch(contraction: Contraction, config: Config, apart: int) -> KernelLaunch:
    arguments, constants = epilogue_arguments(contraction, 1)
    arguments.update(x=contraction.x.pointer, weight=contraction.weight.pointer)
    constants.update(
        X=places(contraction.x),
        WEIGHT=places(contraction.weight),
        DEPTH=contraction.depth,
        BLOCK_N=config["block_n"],
        BLOCK_K=config["block_k"],
        SPLITS=config["splits"],
        APART=apart,
        STAGES=config["stages"],
        WIDE=contraction.wide,
        DEPENDENT=bool(config["programmatic"]),
    )
    return KernelLaunch(
        multiply_one_row,
        arguments,
        constants,
        (_programs(contraction, config), 1, 1),
        num_warps=config["warps"],
        num_stages=config["stages"],
        programmatic=bool(config["programmatic"]),
    )


def _best(contraction: Contraction, choices: list[Config], target: Target) -> list[Config]:
    """Ranked, two at most of one tile."""
    taken: dict[tuple[int, int], int] = {}
    found = []
    for each in sorted(choices, key=lambda each: _seconds(contraction, each, target)):
        tile = (each["block_n"], each["block_k"])
        taken[tile] = taken.get(tile, 0) + 1
        if taken[tile] <= _OF_ONE_TILE:
            found.append(each)
    return found


def _programs(contraction: Contraction, config: Config) -> int:
    return -(-contraction.columns // config["block_n"]) * contraction.stack * config["splits"]


def _tiles(contraction: Contraction, target: Target) -> Iterator[Config]:
    """By matrix units: the weights wait in shared memory."""
    size = itemsize(contraction.weight.dtype)
    for block_n in (32, 64, 128):
        for block_k in (64, 128, 256):
            for stages in (3, 4, 6):
                each = (block_n + MAX_ROWS) * block_k * size
                if stages * each > min(target.shared_memory // 2, 112 * 1024):
                    continue
                for splits in _splits(contraction, block_k, stages):
                    yield Config.of(
                        block_m=MAX_ROWS,
                        block_n=block_n,
                        block_k=block_k,
                        warps=4,
                        stages=stages,
                        splits=splits,
                        bulk=0,
                        host_maps=0,
                        flatten=0,
                        programs=0,
                        early=0,
                    )


def _lines(contraction: Contraction) -> Iterator[Config]:
    """By threads: longer along the axis in which the weights are contiguous, some loads of 16 bytes for each."""
    size = itemsize(contraction.weight.dtype)
    along_depth = _along_depth(contraction)
    vector = 16 // size
    for warps in (4, 8):
        for loads in (4, 8):
            elements = 32 * warps * loads * vector
            for across in (8, 16, 32) if along_depth else (64, 128, 256):
                block_n, block_k = across, elements // across
                if block_k > 2 * triton.next_power_of_2(contraction.depth):
                    continue
                for splits in _splits(contraction, block_k, 1):
                    yield Config.of(block_m=1, block_n=block_n, block_k=block_k, warps=warps, stages=1, splits=splits)


def _splits(contraction: Contraction, block_k: int, least: int) -> list[int]:
    """Numbers of parts, none of them empty, of `least` steps or more."""
    steps = -(-contraction.depth // block_k)
    return [n for n in (1, 2, 4, 8) if n == 1 or (steps >= least * n and -(-steps // n) * (n - 1) < steps)]


def _seconds(contraction: Contraction, config: Config, target: Target) -> float:
    """The weights at the memory's pace, as far as enough of them are under way and no multiprocessor lies idle."""
    programs = _programs(contraction, config)
    tile = config["block_n"] * config["block_k"] * itemsize(contraction.weight.dtype)
    each = tile * max(1, config["stages"] - 1)
    resident = max(1, min(64 // (2 * config["warps"]), target.shared_memory // (2 * each)))
    busiest = -(-programs // target.sm_count)
    balance = programs / (busiest * target.sm_count)
    under_way = min(1.0, min(busiest, resident) * each / _IN_FLIGHT)
    wasted = (-(-contraction.columns // config["block_n"]) * config["block_n"]) / contraction.columns
    seconds = wasted * contraction.weight_bytes / (target.bandwidth * balance * under_way)
    contiguous = config["block_k"] if _along_depth(contraction) else config["block_n"]
    if contiguous * itemsize(contraction.weight.dtype) < _LINE:
        seconds *= _CUT_LINES
    return seconds + (_LAUNCH if config["splits"] > 1 else 0.0)


def _along_depth(contraction: Contraction) -> bool:
    """Whether the weights are contiguous along the sum."""
    return bool(contraction.weight.rows) and contraction.weight.rows[-1][1] == 1
