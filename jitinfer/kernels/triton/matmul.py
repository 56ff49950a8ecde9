"""Products of matrices of many rows, with what follows them, in one kernel (two where the depth is split).

A program multiplies tiles that it takes one after another from a list in which those that share rows or columns are
near each other, so that what two programs read comes from the L2 cache once. Where strides and alignment allow it,
tiles are moved by the bulk copy engine (TMA), by tensor maps made on the host, or in the kernel where the tile is wider
than one copy; elsewhere by loads of each thread. Triton's own warp specialization is not offered: what Triton 3.6 makes
of this loop by it for sm_90 never ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from jitinfer.kernels.contractions import Contraction, contraction_of, dense, restacked
from jitinfer.kernels.family import Candidate, Family, KernelLaunch
from jitinfer.kernels.triton.epilogue import (
    COLUMNS,
    ROWS,
    STACK,
    epilogue_arguments,
    finish,
    finishing_launch,
    places,
    tile_of,
    walk,
    walkable,
)
from jitinfer.kernels.triton.tensor_maps import Layers, layers_of
from jitinfer.kernels.triton.tile_choice import tile_configs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.contractions import Matrices
    from jitinfer.kernels.family import Config
    from jitinfer.kernels.target import Target

_FEWEST_ROWS = 32
"""Of one matrix of a stack, for which it is worth to be one."""

FLOATING = ("float16", "bfloat16", "float32")


@triton.jit
def described(tensor, LAYERS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr):
    """A tensor map made in the kernel. LAYERS: (layers, outer, inner, stride of layers, stride of outer)."""
    if LAYERS[0] > 1:
        return tl.make_tensor_descriptor(
            tensor, [LAYERS[0], LAYERS[1], LAYERS[2]], [LAYERS[3], LAYERS[4], 1], [1, OUTER, INNER]
        )
    else:
        return tl.make_tensor_descriptor(tensor, [LAYERS[1], LAYERS[2]], [LAYERS[4], 1], [OUTER, INNER])


@triton.jit
def copied(source, stack, outer, inner, LAYERS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr):
    """[OUTER, INNER] of what a tensor map describes; LAYERS[5:]: how the layer is found in the stack, as in places."""
    if LAYERS[0] > 1:
        return source.load([walk(stack, LAYERS, 5, False), outer, inner]).reshape(OUTER, INNER)
    else:
        return source.load([outer, inner])


@triton.jit
def factor(
    source,
    stack,
    row,
    column,
    PLACES: tl.constexpr,
    LAYERS: tl.constexpr,
    TURNED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """[BLOCK_R, BLOCK_C] of a factor from `row` and `column` on; what lies outside is 0."""
    if LAYERS is not None:
        if TURNED:
            return copied(source, stack, column, row, LAYERS, BLOCK_C, BLOCK_R).T
        else:
            return copied(source, stack, row, column, LAYERS, BLOCK_R, BLOCK_C)
    else:
        rows = row + tl.arange(0, BLOCK_R)
        columns = column + tl.arange(0, BLOCK_C)
        across = walk(rows, PLACES, ROWS, WIDE)[:, None] + walk(columns, PLACES, COLUMNS, WIDE)[None, :]
        start = source + walk(stack, PLACES, STACK, WIDE)
        if HEIGHT % BLOCK_R == 0 and WIDTH % BLOCK_C == 0:
            return tl.load(start + across)
        elif HEIGHT % BLOCK_R == 0:
            return tl.load(start + across, (columns < WIDTH)[None, :], other=0.0)
        elif WIDTH % BLOCK_C == 0:
            return tl.load(start + across, (rows < HEIGHT)[:, None], other=0.0)
        else:
            return tl.load(start + across, (rows < HEIGHT)[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def multiply(
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
    X_LAYERS: tl.constexpr,
    WEIGHT_LAYERS: tl.constexpr,
    X_TURNED: tl.constexpr,
    WEIGHT_TURNED: tl.constexpr,
    X_MADE: tl.constexpr,
    WEIGHT_MADE: tl.constexpr,
    HEIGHT: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    APART: tl.constexpr,
    TILES: tl.constexpr,
    PROGRAMS: tl.constexpr,
    TOGETHER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    EARLY: tl.constexpr,
    FLATTEN: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """y = residual + gate * activation(x @ weight + bias), or the product of part of the depth for each of SPLITS.

    X, ...: `places` of each tensor; X_LAYERS: `Layers.numbers` where it is read by TMA, else None; X_MADE: the kernel
    makes the tensor map; APART: elements between the parts; TOGETHER: tile rows that are worked on at a time; EARLY:
    the residual is loaded ahead of the product.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    down: tl.constexpr = (HEIGHT + BLOCK_M - 1) // BLOCK_M
    across: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    steps: tl.constexpr = (DEPTH + BLOCK_K - 1) // BLOCK_K
    steps_each: tl.constexpr = (steps + SPLITS - 1) // SPLITS
    x_source = x
    if X_MADE:
        if X_TURNED:
            x_source = described(x, X_LAYERS, BLOCK_K, BLOCK_M)
        else:
            x_source = described(x, X_LAYERS, BLOCK_M, BLOCK_K)
    weight_source = weight
    if WEIGHT_MADE:
        if WEIGHT_TURNED:
            weight_source = described(weight, WEIGHT_LAYERS, BLOCK_N, BLOCK_K)
        else:
            weight_source = described(weight, WEIGHT_LAYERS, BLOCK_K, BLOCK_N)
    for tile in tl.range(tl.program_id(0), TILES, PROGRAMS, flatten=FLATTEN):
        part = tile % SPLITS
        stack = tile // SPLITS // (down * across)
        within = tile // SPLITS % (down * across)
        band = within // (TOGETHER * across)
        height = tl.minimum(down - band * TOGETHER, TOGETHER)
        first_row = (band * TOGETHER + within % (TOGETHER * across) % height) * BLOCK_M
        first_column = within % (TOGETHER * across) // height * BLOCK_N
        row = first_row + tl.arange(0, BLOCK_M)
        column = first_column + tl.arange(0, BLOCK_N)
        held = None
        if EARLY:
            mask = (row < HEIGHT)[:, None] & (column < WIDTH)[None, :]
            held = tile_of(residual, stack, row, column, mask, RESIDUAL, WIDE)
        value = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        start = 0
        stop = steps
        if SPLITS > 1:
            start = part * steps_each
            stop = tl.minimum(start + steps_each, steps)
        for step in range(start, stop):
            k = step * BLOCK_K
            left = factor(x_source, stack, first_row, k, X, X_LAYERS, X_TURNED, BLOCK_M, BLOCK_K, HEIGHT, DEPTH, WIDE)
            right = factor(
                weight_source, stack, k, first_column, WEIGHT, WEIGHT_LAYERS, WEIGHT_TURNED, BLOCK_K, BLOCK_N, DEPTH,
                WIDTH, WIDE,
            )  # fmt: skip
            value = tl.dot(left, right, value, input_precision="ieee")
        if DEPENDENT and PROGRAMS == TILES:
            tl.extra.cuda.gdc_launch_dependents()
        target = y
        if SPLITS > 1:
            target = y + part.to(tl.int64) * APART
        finish(
            value, held, bias, residual, gate, target, stack, first_row, row, column, BIAS, RESIDUAL, GATE, Y, HEIGHT,
            WIDTH, ACTIVATION, SLOPE, ONE_GATE, INNER, WIDE,
        )  # fmt: skip


class TiledProduct(Family):
    """By loads of each thread: any strides, any depth."""

    name = "tiled_product"
    ops = ("matmul", "linear", "conv2d")

    def supports(self, node: Node, target: Target) -> bool:
        return multipliable(contraction_of(node))

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        contraction = contraction_of(node)
        assert contraction is not None
        return tile_configs(contraction, target, bulk=False)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        contraction = contraction_of(node)
        assert contraction is not None
        return product_candidate(contraction, config)


class BulkCopyProduct(Family):
    """By TMA, for the weights at least: 16-bit elements, rows that are 16 bytes aligned, sm_90 or later."""

    name = "bulk_copy_product"
    ops = ("matmul", "linear", "conv2d")

    def supports(self, node: Node, target: Target) -> bool:
        return target.has_tma and _copied(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        contraction = _copied(node)
        assert contraction is not None
        return tile_configs(contraction, target, bulk=True)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        contraction = _copied(node)
        assert contraction is not None
        return product_candidate(contraction, config)


def _copied(node: Node) -> Contraction | None:
    """The contraction as TMA reads most of it; None where it cannot read the weights."""
    contraction = contraction_of(node)
    if contraction is None or not multipliable(contraction) or layers_of(contraction.weight) is None:
        return None
    if layers_of(contraction.x) is None:
        other = restacked(contraction)
        if other is not None and multipliable(other) and layers_of(other.x) and other.rows >= _FEWEST_ROWS:
            return other
    return contraction


def multipliable(contraction: Contraction | None) -> bool:
    """Whether the kernels of products can read, multiply and write all of its tensors."""
    if contraction is None or contraction.x.dtype != contraction.weight.dtype or not walkable(contraction):
        return False
    return all(each.dtype in FLOATING for each in contraction.tensors.values())


def product_candidate(contraction: Contraction, config: Config) -> Candidate:
    """One launch, or two with parts of the product in the workspace between them."""
    splits = config["splits"]
    programmatic = bool(config["programmatic"])
    if splits == 1:
        return Candidate((_multiplying_launch(contraction, config, 0),))
    size = contraction.stack * contraction.rows * contraction.columns
    parts = dense(0, "float32", contraction.stack, contraction.rows, contraction.columns)
    first = _multiplying_launch(contraction.bare(parts), config, size)
    second = finishing_launch(contraction, parts, splits, size, programmatic=programmatic)
    return Candidate((first, second), splits * size * 4)


def _multiplying_launch(contraction: Contraction, config: Config, apart: int) -> KernelLaunch:
    block_m, block_n, block_k = config["block_m"], config["block_n"], config["block_k"]
    splits = config["splits"]
    tiles = -(-contraction.rows // block_m) * -(-contraction.columns // block_n) * contraction.stack * splits
    programs = min(tiles, config["programs"] or tiles)
    arguments, constants = epilogue_arguments(contraction, block_m)
    factors = (("x", contraction.x, block_m, block_k), ("weight", contraction.weight, block_k, block_n))
    for name, matrices, rows, columns in factors:
        argument, named = _factor_arguments(name, matrices, rows, columns, config)
        arguments[name] = argument
        constants.update(named)
    constants.update(
        DEPTH=contraction.depth,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        SPLITS=splits,
        APART=apart,
        TILES=tiles,
        PROGRAMS=programs,
        TOGETHER=8,
        EARLY=bool(config["early"]) and contraction.residual is not None and not contraction.inner,
        FLATTEN=bool(config["flatten"]),
        WIDE=contraction.wide,
        DEPENDENT=bool(config["programmatic"]),
    )
    return KernelLaunch(
        multiply,
        arguments,
        constants,
        (programs, 1, 1),
        num_warps=config["warps"],
        num_stages=config["stages"],
        programmatic=bool(config["programmatic"]),
    )


def _factor_arguments(
    name: str, matrices: Matrices, rows: int, columns: int, config: Config
) -> tuple[Any, dict[str, Any]]:
    """What the kernel is given for x or weight, whose tile is [rows, columns]."""
    layers: Layers | None = layers_of(matrices) if config["bulk"] else None
    argument: Any = matrices.pointer
    made = False
    if layers is not None:
        outer, inner = (columns, rows) if layers.turned else (rows, columns)
        made = not config["host_maps"] or not layers.one_copy(inner)
        if not made:
            argument = layers.tensor_map(matrices, outer, inner)
    upper = name.upper()
    constants = {
        upper: places(matrices),
        f"{upper}_LAYERS": None if layers is None else layers.numbers,
        f"{upper}_TURNED": layers is not None and layers.turned,
        f"{upper}_MADE": made,
    }
    return argument, constants
