"""What is done to a product before it is written: bias, activation, gate, residual, and the way to its place.

Kernels of products call `finish`; `finish_parts` does the same to products that lie in memory, in one or several parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from jitinfer.kernels.family import KernelLaunch

if TYPE_CHECKING:
    from jitinfer.kernels.contractions import Axes, Contraction, Matrices

MAX_AXES = 4
"""That one dimension of a tensor is walked along."""

STACK, ROWS, COLUMNS = tl.constexpr(0), tl.constexpr(7), tl.constexpr(14)
"""Where the seven numbers of a dimension begin among the places of a tensor: see `places`."""

_OPERANDS = ("bias", "residual", "gate")


@triton.jit
def walk(index, PLACES: tl.constexpr, AT: tl.constexpr, WIDE: tl.constexpr):
    """The offsets of elements `index` of the dimension whose numbers stand in PLACES from AT on."""
    rest = index
    if WIDE:
        rest = index.to(tl.int64)
    place = rest * 0
    if PLACES[AT + 2] > 1:
        place += rest % PLACES[AT + 2] * PLACES[AT + 6]
        rest = rest // PLACES[AT + 2]
    if PLACES[AT + 1] > 1:
        place += rest % PLACES[AT + 1] * PLACES[AT + 5]
        rest = rest // PLACES[AT + 1]
    if PLACES[AT] > 1:
        place += rest % PLACES[AT] * PLACES[AT + 4]
        rest = rest // PLACES[AT]
    return place + rest * PLACES[AT + 3]


@triton.jit
def tile_of(tensor, stack, row, column, mask, PLACES: tl.constexpr, WIDE: tl.constexpr):
    """[rows, columns] of a tensor of matrices, as it is stored."""
    across = walk(row, PLACES, ROWS, WIDE)[:, None] + walk(column, PLACES, COLUMNS, WIDE)[None, :]
    return tl.load(tensor + walk(stack, PLACES, STACK, WIDE) + across, mask, other=0.0)


@triton.jit
def row_of(tensor, stack, row, column, mask, PLACES: tl.constexpr, WIDE: tl.constexpr):
    """[1, columns] of a tensor of matrices in float32; `row` is one number."""
    along = walk(row, PLACES, ROWS, WIDE) + walk(column, PLACES, COLUMNS, WIDE)
    return tl.load(tensor + walk(stack, PLACES, STACK, WIDE) + along, mask, other=0.0).to(tl.float32)[None, :]


@triton.jit
def activated(value, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    if ACTIVATION == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh u) is the logistic function of 2 u.
        inner = value * (1.5957691216057308 + 0.07135481627159992 * value * value)
        value = value / (1.0 + tl.exp(-inner))
    elif ACTIVATION == "gelu_sigmoid":
        value = value / (1.0 + tl.exp(-1.702 * value))
    elif ACTIVATION == "silu":
        value = value / (1.0 + tl.exp(-value))
    elif ACTIVATION == "sigmoid":
        value = 1.0 / (1.0 + tl.exp(-value))
    elif ACTIVATION == "relu":
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value >= 0.0, value, value * SLOPE)
    return value


@triton.jit
def finish(
    value,
    held,
    bias,
    residual,
    gate,
    y,
    stack,
    first_row,
    row,
    column,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    Y: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Writes y = residual + gate * activation(value + bias) for one tile; value: [rows, columns] in float32.

    held: the residual's tile where it has been loaded; first_row: row[0]; HEIGHT, WIDTH: of the whole matrix;
    ONE_GATE: all rows of a tile have the same gate; INNER: y = gate * activation(value + bias + residual).
    """
    inside = column < WIDTH
    mask = (row < HEIGHT)[:, None] & inside[None, :]
    if bias is not None:
        value += row_of(bias, stack, 0, column, inside, BIAS, WIDE)
    if INNER:
        value += tile_of(residual, stack, row, column, mask, RESIDUAL, WIDE).to(tl.float32)
    value = activated(value, ACTIVATION, SLOPE)
    if gate is not None:
        if ONE_GATE:
            value = value * row_of(gate, stack, first_row, column, inside, GATE, WIDE)
        else:
            value = value * tile_of(gate, stack, row, column, mask, GATE, WIDE).to(tl.float32)
    if held is not None:
        value += held.to(tl.float32)
    elif residual is not None and not INNER:
        value += tile_of(residual, stack, row, column, mask, RESIDUAL, WIDE).to(tl.float32)
    across = walk(row, Y, ROWS, WIDE)[:, None] + walk(column, Y, COLUMNS, WIDE)[None, :]
    tl.store(y + walk(stack, Y, STACK, WIDE) + across, value.to(y.dtype.element_ty), mask)


@triton.jit
def finish_parts(
    parts,
    bias,
    residual,
    gate,
    y,
    PARTS: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    Y: tl.constexpr,
    COUNT: tl.constexpr,
    APART: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    ONE_GATE: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Of COUNT parts that lie APART elements from each other, added up in their order."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    across = (WIDTH + BLOCK_N - 1) // BLOCK_N
    down = (HEIGHT + BLOCK_M - 1) // BLOCK_M
    program = tl.program_id(0)
    column = program % across * BLOCK_N + tl.arange(0, BLOCK_N)
    first_row = program // across % down * BLOCK_M
    row = first_row + tl.arange(0, BLOCK_M)
    stack = program // (across * down)
    mask = (row < HEIGHT)[:, None] & (column < WIDTH)[None, :]
    value = tile_of(parts, stack, row, column, mask, PARTS, WIDE).to(tl.float32)
    for part in tl.static_range(1, COUNT):
        value += tile_of(parts + part * APART, stack, row, column, mask, PARTS, WIDE).to(tl.float32)
    finish(
        value, None, bias, residual, gate, y, stack, first_row, row, column, BIAS, RESIDUAL, GATE, Y, HEIGHT, WIDTH,
        ACTIVATION, SLOPE, ONE_GATE, INNER, WIDE,
    )  # fmt: skip


def walkable(contraction: Contraction) -> bool:
    """Whether `places` can say where all its elements lie."""
    return all(len(axes) <= MAX_AXES for each in contraction.tensors.values() for axes in each.dimensions)


def places(matrices: Matrices) -> tuple[int, ...]:
    """For stack, rows and columns, seven numbers each: sizes of up to three inner axes, strides of all four.

    A single axis is the outermost one: it is walked by a multiplication alone.
    """
    return tuple(number for axes in matrices.dimensions for number in seven(axes))


def seven(axes: Axes) -> tuple[int, ...]:
    """The numbers that `walk` wants of one dimension."""
    missing = MAX_AXES - len(axes)
    sizes = [size for size, _ in axes[1:]] + [1] * (min(missing, MAX_AXES - 1))
    return (*sizes, *(stride for _, stride in axes), *[0] * missing)


def epilogue_arguments(contraction: Contraction, block_m: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants for `finish`, but for WIDE, which depends on what else is walked."""
    arguments: dict[str, Any] = {"y": contraction.y.pointer}
    constants: dict[str, Any] = {
        "Y": places(contraction.y),
        "HEIGHT": contraction.rows,
        "WIDTH": contraction.columns,
        "ACTIVATION": contraction.activation,
        "SLOPE": contraction.negative_slope,
        "INNER": contraction.inner and contraction.residual is not None,
        "ONE_GATE": contraction.gate is not None and _same_for(contraction.gate.rows, block_m),
    }
    for name in _OPERANDS:
        each: Matrices | None = getattr(contraction, name)
        constants[name.upper()] = None if each is None else places(each)
        if each is None:
            constants[name] = None
        else:
            arguments[name] = each.pointer
    return arguments, constants


def _same_for(rows: Axes, block: int) -> bool:
    """Whether each block of rows lies within one element of all axes but one that is not walked."""
    alike = 1
    for size, stride in reversed(rows):
        if stride:
            break
        alike *= size
    return not any(stride for _, stride in rows) or alike % block == 0


def finishing_launch(
    contraction: Contraction, parts: Matrices, count: int, apart: int, *, programmatic: bool
) -> KernelLaunch:
    """The epilogue of `contraction` on `count` parts of its product, `apart` elements from each other."""
    block_n = min(triton.next_power_of_2(contraction.columns), 256)
    block_m = max(1, min(triton.next_power_of_2(contraction.rows), 2048 // block_n))
    arguments, constants = epilogue_arguments(contraction, block_m)
    tiles = -(-contraction.rows // block_m) * -(-contraction.columns // block_n) * contraction.stack
    constants.update(
        PARTS=places(parts),
        COUNT=count,
        APART=apart,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        WIDE=contraction.wide or apart * count + parts.reach >= 2**31,
        DEPENDENT=programmatic,
    )
    return KernelLaunch(
        finish_parts,
        {"parts": parts.pointer, **arguments},
        constants,
        (tiles, 1, 1),
        num_warps=4,
        num_stages=1,
        programmatic=programmatic,
    )
