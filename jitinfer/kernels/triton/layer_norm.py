"""Norms over rows, with what stands before and behind them, in one pass over memory.

layer_norm, rms_norm, adaptive_layer_norm, gated_residual_adaptive_layer_norm, and this of the sum of some parts: a
program holds some whole rows in registers, computes their statistics in float32 from what it holds (first the mean,
then the squares of what is left of it: no cancellation), and writes each result once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family, KernelLaunch
from jitinfer.kernels.operands import Strided, operand, result
from jitinfer.kernels.rows import RowSpace, row_space
from jitinfer.runtime.plan import Scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MAX_WIDTH = 16384
"""Elements of a row that 32 warps hold in registers."""

OF_PARTS = "gated_residual_adaptive_layer_norm_of_parts"
_OPERANDS = ("x", "x_bias", "residual", "gate", "weight", "bias", "scale", "shift")
_FLOATING = ("float16", "bfloat16", "float32")


@triton.jit
def _places(row, INNER: tl.constexpr, STRIDES: tl.constexpr):
    """Where rows begin; 64 bits, since a tensor may have more elements than 32 can count."""
    outer = (row // INNER).to(tl.int64) * STRIDES[0]
    return outer + (row % INNER).to(tl.int64) * STRIDES[1]


@triton.jit
def _load(pointer, row, column, mask, INNER: tl.constexpr, STRIDES: tl.constexpr):
    places = _places(row, INNER, STRIDES)[:, None] + column.to(tl.int64)[None, :] * STRIDES[2]
    return tl.load(pointer + places, mask, other=0.0)


@triton.jit
def _store(pointer, value, row, column, mask, INNER: tl.constexpr, STRIDES: tl.constexpr):
    places = _places(row, INNER, STRIDES)[:, None] + column.to(tl.int64)[None, :] * STRIDES[2]
    tl.store(pointer + places, value.to(pointer.dtype.element_ty), mask)


@triton.jit
def normalize_rows(
    x,
    x_bias,
    residual,
    gate,
    weight,
    bias,
    scale,
    shift,
    y,
    total,
    rows,
    epsilon,
    X: tl.constexpr,
    X_BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    Y: tl.constexpr,
    TOTAL: tl.constexpr,
    INNER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    CENTRED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """y = norm(total) * weight + bias, times 1 + scale, plus shift; total = residual + gate * x, or x itself.

    Operands that are absent are None. X, ...: strides over outer and inner row dimension and column, in elements;
    INNER: rows in the inner dimension; PARTS: x is the sum of so many tensors, each PART elements behind the one
    before, and of x_bias; CENTRED: layer norm, otherwise rms norm; DEPENDENT: wait for what runs before.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (column < WIDTH)[None, :]
    mask = (row < rows)[:, None] & inside
    value = _load(x, row, column, mask, INNER, X)
    for part in tl.static_range(1, PARTS):
        value = value.to(tl.float32) + _load(x + part * PART, row, column, mask, INNER, X).to(tl.float32)
    if x_bias is not None:
        value = value.to(tl.float32) + _load(x_bias, row, column, mask, INNER, X_BIAS).to(tl.float32)
    if residual is not None:
        gates = _load(gate, row, column, mask, INNER, GATE)
        residuals = _load(residual, row, column, mask, INNER, RESIDUAL)
    # Asked for before the statistics, so that memory answers while they are computed.
    if weight is not None:
        weights = _load(weight, row, column, mask, INNER, WEIGHT)
    if bias is not None:
        biases = _load(bias, row, column, mask, INNER, BIAS)
    if scale is not None:
        scales = _load(scale, row, column, mask, INNER, SCALE)
        shifts = _load(shift, row, column, mask, INNER, SHIFT)
    value = value.to(tl.float32)
    if residual is not None:
        value = value * gates.to(tl.float32) + residuals.to(tl.float32)
        _store(total, value, row, column, mask, INNER, TOTAL)
    if CENTRED:
        mean = tl.sum(value, axis=1) / WIDTH
        value = tl.where(inside, value - mean[:, None], 0.0)
    variance = tl.sum(value * value, axis=1) / WIDTH
    value = value * tl.rsqrt(variance + epsilon)[:, None]
    if weight is not None:
        value = value * weights.to(tl.float32)
    if bias is not None:
        value += biases.to(tl.float32)
    if scale is not None:
        value = value * (1.0 + scales.to(tl.float32)) + shifts.to(tl.float32)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    _store(y, value, row, column, mask, INNER, Y)


class RowNorm(Family):
    """Rows of any width up to 16384, of strided operands with at most two row dimensions that differ in strides."""

    name = "row_norm"
    ops = ("layer_norm", "rms_norm", "adaptive_layer_norm", "gated_residual_adaptive_layer_norm", OF_PARTS)

    def supports(self, node: Node, target: Target) -> bool:
        tensors = _tensors(node)
        if tensors is None or any(each.dtype not in _FLOATING for each in tensors.values()):
            return False
        space = _space(node, tensors)
        return space is not None and space.rows > 0 and 0 < space.width <= MAX_WIDTH and len(space.dims) <= 2

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """About 16 elements a thread, and at least one program for every multiprocessor, are best."""
        _, space = _described(node)
        block = triton.next_power_of_2(space.width)
        ranked = []
        for rows, warps in itertools.product((1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32)):
            held = block * rows / (32 * warps)
            sparse = held < 1 and warps > 1
            crowded = rows > 1 and (rows > space.rows or block * rows > 8192)
            if held > 32 or sparse or crowded:
                continue
            idle = rows > 1 and -(-space.rows // rows) < 2 * target.sm_count
            ranked.append(((idle, abs(math.log2(held) - 4), abs(warps - 4), rows), rows, warps))
        programmatic = (1, 0) if target.has_programmatic_launch else (0,)
        chosen = [(rows, warps) for _, rows, warps in sorted(ranked)[:8]]
        return [
            Config.of(rows=rows, warps=warps, programmatic=early) for rows, warps in chosen for early in programmatic
        ]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        tensors, space = _described(node)
        strides = dict(zip(tensors, _three_strides(space), strict=True))
        arguments: dict[str, Any] = {
            "rows": Scalar("i32", space.rows),
            "epsilon": Scalar("f32", float(node.epsilon)),
        }
        constants: dict[str, Any] = {
            "INNER": space.dims[1] if len(space.dims) == 2 else 1,
            "WIDTH": space.width,
            "BLOCK": triton.next_power_of_2(space.width),
            "ROWS": config["rows"],
            "PARTS": 1,
            "PART": 0,
            "CENTRED": node.op.name != "rms_norm",
            "DEPENDENT": bool(config["programmatic"]),
        }
        if node.op.name == OF_PARTS:
            parts = operand(node, "parts")
            assert parts is not None
            constants.update(PARTS=parts.shape[0], PART=parts.strides[0])
        for name in (*_OPERANDS, "y", "total"):
            if name in tensors:
                arguments[name] = tensors[name].pointer
            else:
                constants[name] = None
            constants[name.upper()] = strides.get(name)
        grid = (-(-space.rows // config["rows"]), 1, 1)
        launch = KernelLaunch(
            normalize_rows,
            arguments,
            constants,
            grid,
            num_warps=config["warps"],
            num_stages=1,
            programmatic=bool(config["programmatic"]),
        )
        return Candidate((launch,))


def _tensors(node: Node) -> dict[str, Strided] | None:
    """Operands and results by the kernel's names, all of x's shape; None where a result is not one strided view."""
    names = {each.name: each.name for each in node.op.operands}
    if node.op.name in ("layer_norm", "rms_norm"):
        # What is a scale to these ops is a weight beside the (1 + scale) of the adaptive ones.
        names = {"x": "x", "scale": "weight", "bias": "bias"}
    given = {role: each for name, role in names.items() if (each := operand(node, name)) is not None}
    parts = given.pop("parts", None)
    if parts is not None:
        given["x"] = replace(parts, view=View(parts.shape[1:], parts.strides[1:], parts.view.offset))
    x = given["x"]
    tensors = {role: each.broadcast_to(x.shape) for role, each in given.items()}
    gated = node.op.name in ("gated_residual_adaptive_layer_norm", OF_PARTS)
    for position, role in enumerate(("total", "y") if gated else ("y",)):
        written = result(node, position, x.shape)
        if written is None:
            return None
        tensors[role] = written
    return tensors


def _space(node: Node, tensors: dict[str, Strided]) -> RowSpace | None:
    axes = node.attributes.get("axes", 1)
    return row_space([each.view for each in tensors.values()], axes)


def _described(node: Node) -> tuple[dict[str, Strided], RowSpace]:
    """Of a node that is supported."""
    tensors = _tensors(node)
    space = None if tensors is None else _space(node, tensors)
    assert tensors is not None
    assert space is not None
    return tensors, space


def _three_strides(space: RowSpace) -> list[tuple[int, int, int]]:
    """Over outer and inner rows and columns: a single row dimension is the outer one, beside an inner one of size 1."""
    return [
        (*walked, *[0] * (2 - len(walked)), column)  # type: ignore[misc]
        for walked, column in zip(space.row_strides, space.columns, strict=True)
    ]
