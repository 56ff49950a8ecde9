"""matmul and linear as one thing: stacks of matrices, each read or written in place through its strides."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.graph.types import itemsize
from jitinfer.graph.view import View
from jitinfer.kernels.family import WORKSPACE, TypedPointer, output_name
from jitinfer.kernels.operands import operand
from jitinfer.runtime.plan import Pointer

if TYPE_CHECKING:
    from jitinfer.graph import Node
    from jitinfer.kernels.operands import Strided

Axes: TypeAlias = tuple[tuple[int, int], ...]
"""(size, stride) of axes that are walked as one dimension, outermost first; none has size 1, no two could be one."""

_REACH_OF_32_BITS = 2**31


@dataclass(frozen=True)
class Matrices:
    """A stack of matrices in a candidate's buffer, each of its three dimensions along some axes; offset in elements."""

    buffer: str
    dtype: str
    offset: int
    stack: Axes
    rows: Axes
    columns: Axes

    @property
    def pointer(self) -> TypedPointer:
        return TypedPointer(Pointer(self.buffer, self.offset * itemsize(self.dtype)), self.dtype)

    @property
    def dimensions(self) -> tuple[Axes, Axes, Axes]:
        return self.stack, self.rows, self.columns

    @property
    def reach(self) -> int:
        """How far from its first element it goes, in elements."""
        return sum((size - 1) * abs(stride) for axes in self.dimensions for size, stride in axes)

    def transposed(self) -> Matrices:
        return replace(self, rows=self.columns, columns=self.rows)


@dataclass(frozen=True)
class Contraction:
    """y[s, m, n] = residual[s, m, n] + gate[s, m, n] * activation(product[s, m, n] + bias[s, n])

    `inner`: the residual is added to what the activation is given instead.
    product[s, m, n]: the sum over k of x[s, m, k] * weight[s, k, n]; for s in `stack`, m in `rows`, k in `depth`, n in
    `columns`, of which none is empty.
    """

    stack: int
    rows: int
    depth: int
    columns: int
    x: Matrices
    weight: Matrices
    y: Matrices
    bias: Matrices | None = None
    residual: Matrices | None = None
    gate: Matrices | None = None
    activation: str = "none"
    negative_slope: float = 0.0
    inner: bool = False

    @property
    def tensors(self) -> dict[str, Matrices]:
        """Those that there are, by name."""
        names = ("x", "weight", "bias", "residual", "gate", "y")
        given = {name: getattr(self, name) for name in names}
        return {name: each for name, each in given.items() if each is not None}

    @property
    def plain(self) -> bool:
        """Whether y is the product itself."""
        return self.activation == "none" and self.bias is None and self.residual is None and self.gate is None

    @property
    def weight_bytes(self) -> int:
        """Of the weights that are different ones."""
        stacked = math.prod(size for size, stride in self.weight.stack if stride)
        return stacked * self.depth * self.columns * itemsize(self.weight.dtype)

    @property
    def wide(self) -> bool:
        """Whether some tensor has elements that 32 bits do not count."""
        return any(each.reach >= _REACH_OF_32_BITS for each in self.tensors.values())

    def bare(self, y: Matrices) -> Contraction:
        """The product alone, written to `y`."""
        return replace(self, y=y, bias=None, residual=None, gate=None, activation="none")


def restacked(contraction: Contraction) -> Contraction | None:
    """The outermost axis of x's rows as one more axis of the stack; None where there is none, or others cut it."""
    if len(contraction.x.rows) < 2:
        return None
    outer = contraction.x.rows[0][0]
    inner = contraction.rows // outer
    moved: dict[str, Any] = {}
    for name, each in contraction.tensors.items():
        if name in ("weight", "bias"):
            moved[name] = replace(each, stack=_merged([(outer, 0), *reversed(each.stack)]))
            continue
        axes = partition(View(tuple(a for a, _ in each.rows), tuple(b for _, b in each.rows)), (outer, inner))
        if axes is None:
            return None
        stack = _merged([*reversed(axes[0]), *reversed(each.stack)])
        moved[name] = replace(each, stack=stack, rows=axes[1])
    return replace(contraction, stack=contraction.stack * outer, rows=inner, **moved)


def contraction_of(node: Node) -> Contraction | None:
    """Of a matmul or linear node, or of a conv2d node whose windows are pixels of the image.

    None where it is empty, or its axes do not fall into stack, rows and columns.
    """
    if node.op.name == "conv2d":
        from jitinfer.kernels.convolutions import product_of  # here: it imports this module

        return product_of(node)
    return _matmul(node) if node.op.name == "matmul" else _linear(node)


def dense(buffer_offset: int, dtype: str, stack: int, rows: int, columns: int) -> Matrices:
    """Row-major matrices in the workspace, from this offset on; in bytes."""
    view = View.of((stack, rows, columns))
    offset, rest = divmod(buffer_offset, itemsize(dtype))
    assert rest == 0
    axes = partition(view, view.shape)
    assert axes is not None
    return Matrices(WORKSPACE, dtype, offset, *axes)


def partition(view: View, sizes: tuple[int, ...]) -> tuple[Axes, ...] | None:
    """The axes of a view among the dimensions of a row-major tensor of `sizes`, for each those that make it up.

    An axis that spans several dimensions is cut. None where that is not possible.
    """
    pending = [(size, stride) for size, stride in zip(view.shape, view.strides, strict=True) if size != 1]
    found: list[Axes] = []
    for size in reversed(sizes):
        left = size
        axes: list[tuple[int, int]] = []
        while left > 1:
            dim, stride = pending.pop()
            if left % dim == 0:
                axes.append((dim, stride))
                left //= dim
            elif dim % left == 0:
                axes.append((left, stride))
                pending.append((dim // left, stride * left))
                left = 1
            else:
                return None
        found.append(_merged(axes))
    return tuple(reversed(found))


def _merged(innermost_first: list[tuple[int, int]]) -> Axes:
    merged: list[tuple[int, int]] = []
    for size, stride in reversed(innermost_first):
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def _matrices(source: Strided | None, shape: tuple[int, ...], sizes: tuple[int, int, int]) -> Matrices | None:
    """`source`, broadcast to `shape`, as matrices of `sizes`."""
    assert source is not None
    view = source.view.broadcast_to(shape)
    axes = partition(view, sizes)
    return None if axes is None else Matrices(source.buffer, source.dtype, view.offset, *axes)


def _written(node: Node, sizes: tuple[int, int, int]) -> Matrices | None:
    value = node.output
    view = node.store(0) or View.of(value.shape)
    axes = partition(view, sizes)
    return None if axes is None else Matrices(output_name(0), value.dtype, view.offset, *axes)


def _matmul(node: Node) -> Contraction | None:
    x, weight = operand(node, "x"), operand(node, "y")
    assert x is not None
    assert weight is not None
    left = _as_matrix(x, node.transpose_x, (1, 0))
    right = _as_matrix(weight, node.transpose_y, (0, 1))
    rows, depth, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    batch = of_weight = _broadcast(left.shape[:-2], right.shape[:-2])
    stack = math.prod(batch)
    if min(rows, depth, columns, stack) == 0:
        return None
    spread = right.view.broadcast_to((*batch, depth, columns))
    if not any(stride for size, stride in zip(batch, spread.strides, strict=False) if size > 1):
        # One matrix for all: the stack is nothing but more rows of x.
        right = replace(right, view=View(right.shape[-2:], right.strides[-2:], right.view.offset))
        stack, rows, of_weight = 1, stack * rows, ()
    return _complete(
        _matrices(left, (*batch, left.shape[-2], depth), (stack, rows, depth)),
        _matrices(right, (*of_weight, depth, columns), (stack, depth, columns)),
        _written(node, (stack, rows, columns)),
        (stack, rows, depth, columns),
    )


def _as_matrix(source: Strided, transposed: bool, vector: tuple[int, int]) -> Strided:
    """Of two axes at least, in the order that the product reads; `vector`: whether a vector's size stands second."""
    view = source.view
    if len(view.shape) == 1:
        size, stride = view.shape[0], view.strides[0]
        pairs = ((1, 0), (size, stride)) if vector[0] else ((size, stride), (1, 0))
        return replace(source, view=View(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), view.offset))
    if not transposed:
        return source
    lead = tuple(range(len(view.shape) - 2))
    return replace(source, view=view.transpose((*lead, len(lead) + 1, len(lead))))


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def _linear(node: Node) -> Contraction | None:
    x, weight, bias = operand(node, "x"), operand(node, "weight"), operand(node, "bias")
    assert x is not None
    assert weight is not None
    weight = _as_matrix(weight, node.transpose_weight, (0, 1))
    stack = weight.shape[0] if len(weight.shape) == 3 else 1
    depth, columns = weight.shape[-2:]
    kept = x.shape[: len(x.shape) - node.contraction]
    if min((stack, depth, columns, *kept)) == 0:
        return None
    rows = math.prod(kept) // stack
    full, sizes = (*kept, columns), (stack, rows, columns)
    found = _complete(
        _matrices(x, x.shape, (stack, rows, depth)),
        _matrices(weight, weight.shape, (stack, depth, columns)),
        _written(node, sizes),
        (stack, rows, depth, columns),
    )
    if found is None:
        return None
    others: dict[str, Any] = {}
    if bias is not None:
        others["bias"] = _matrices(bias, bias.shape, (stack, 1, columns))
    for name in ("residual", "gate"):
        given = operand(node, name)
        if given is not None:
            others[name] = _matrices(given, full, sizes)
    if any(each is None for each in others.values()):
        return None
    slope = float(node.negative_slope) if node.activation == "leaky_relu" else 0.0
    return replace(found, activation=node.activation, negative_slope=slope, **others)


def _complete(
    x: Matrices | None, weight: Matrices | None, y: Matrices | None, sizes: tuple[int, int, int, int]
) -> Contraction | None:
    if x is None or weight is None or y is None:
        return None
    return Contraction(*sizes, x, weight, y)
