"""conv2d and conv2d_transpose as one thing: sums over windows of images that are read through their strides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.graph.view import View
from jitinfer.kernels.contractions import Contraction, Matrices, partition
from jitinfer.kernels.operands import operand, result

if TYPE_CHECKING:
    from jitinfer.graph import Node
    from jitinfer.kernels.operands import Strided

Pair: TypeAlias = tuple[int, int]
"""Of rows and of columns of an image."""


@dataclass(frozen=True)
class Taps:
    """The windows of one axis of an image: result q reads `start + q * stride + i * step`, for i below `count`.

    What lies outside of the image is 0. Of the weights along this axis, window element i is `first + i * skip`.
    """

    start: int
    stride: int
    step: int
    count: int
    first: int = 0
    skip: int = 1

    def outside(self, results: int, size: int) -> bool:
        """Whether a window of one of so many results reaches over an image of `size`."""
        ends = [self.start + q * self.stride + i * self.step for q in (0, results - 1) for i in (0, self.count - 1)]
        return min(ends) < 0 or max(ends) >= size


@dataclass(frozen=True)
class Convolution:
    """y[n, o, p, q] = activation(sum over c, i, j of x[n, c, row, column] * weight[o, c, i, j] + bias[o] + residual)

    Of each of `groups` groups: c among `channels`, o among `columns` of a group. `row` of p and i is what `taps[0]`
    says, `column` of q and j what `taps[1]` says; those outside of `image` give 0. Views: x [group, n, row, column, c],
    weight [group, o, i, j, c], y and residual [group, n, p, q, o], bias [group, o].
    """

    x: Strided
    weight: Strided
    y: Strided
    bias: Strided | None
    taps: tuple[Taps, Taps]
    activation: str = "none"
    residual: Strided | None = None

    @property
    def groups(self) -> int:
        return self.y.shape[0]

    @property
    def batch(self) -> int:
        return self.y.shape[1]

    @property
    def size(self) -> Pair:
        """Rows and columns of the result."""
        return self.y.shape[2], self.y.shape[3]

    @property
    def columns(self) -> int:
        return self.y.shape[4]

    @property
    def image(self) -> Pair:
        return self.x.shape[2], self.x.shape[3]

    @property
    def channels(self) -> int:
        return self.x.shape[4]

    @property
    def window(self) -> Pair:
        return self.taps[0].count, self.taps[1].count

    @property
    def padded(self) -> bool:
        """Whether some windows reach over the image's border."""
        pairs = zip(self.taps, self.size, self.image, strict=True)
        return any(taps.outside(results, size) for taps, results, size in pairs)

    @property
    def origin(self) -> int:
        """The offset of x[0, 0, first row of the first window, its first column, 0]: it may lie before the buffer."""
        starts = zip(self.taps, self.x.strides[2:4], strict=True)
        return self.x.view.offset + sum(taps.start * stride for taps, stride in starts)

    def contraction(self, *, groups_as_columns: bool = False) -> Contraction | None:
        """The product that it is where no window reaches over a border; its x lies from `origin` on.

        Stack: groups; rows: (n, p, q); depth: (i, j, c); columns: o, or (group, o) with groups_as_columns, where x and
        weight are those of the first group, and depth is that of one. None where strides cannot say that.
        """
        rows, depth = self.batch * math.prod(self.size), math.prod(self.window) * self.channels
        windows, weight = self._windows(), self._weight()
        stack, columns, order = self.groups, self.columns, (0, 1, 2, 3, 4)
        if groups_as_columns:
            windows, weight = _first_group(windows), _first_group(weight)
            stack, columns, order = 1, self.groups * self.columns, (1, 2, 3, 0, 4)
        x = _matrices(self.x, windows, (stack, rows, depth))
        factors = _matrices(self.weight, weight, (stack, depth, weight.shape[-1]))
        y = _matrices(self.y, self.y.view.transpose(order), (stack, rows, columns))
        if x is None or factors is None or y is None:
            return None
        others: dict[str, Any] = {}
        for name, each, shape in (("bias", self.bias, (0, 1)), ("residual", self.residual, order)):
            if each is not None:
                sizes = (stack, 1 if name == "bias" else rows, columns)
                found = _matrices(each, each.view.transpose(shape), sizes)
                if found is None:
                    return None
                others[name] = found
        return Contraction(stack, rows, depth, columns, x, factors, y, activation=self.activation, inner=True, **others)

    def _windows(self) -> View:
        """Of x: [group, n, p, q, i, j, c]."""
        group, image, down, across, channel = self.x.strides
        rows, columns = self.taps
        results = (rows.stride * down, columns.stride * across)
        strides = (group, image, *results, rows.step * down, columns.step * across, channel)
        return View((self.groups, self.batch, *self.size, *self.window, self.channels), strides, self.origin)

    def _weight(self) -> View:
        """[group, i, j, c, o]."""
        return self.weight.view.transpose((0, 2, 3, 4, 1))


def _first_group(view: View) -> View:
    return View((1, *view.shape[1:]), view.strides, view.offset)


def _matrices(source: Strided, view: View, sizes: tuple[int, int, int]) -> Matrices | None:
    axes = partition(view, sizes)
    return None if axes is None else Matrices(source.buffer, source.dtype, view.offset, *axes)


def convolutions_of(node: Node) -> list[Convolution] | None:
    """Of a conv2d node, one; of a conv2d_transpose, one for each set of results that the same taps reach.

    None where its result is not written through strides, or there is nothing to compute it from.
    """
    x, weight, bias = operand(node, "x"), operand(node, "weight"), operand(node, "bias")
    (kind,) = node.op.output_types(node.input_types(), node.attributes)
    y = result(node, 0, kind.shape)
    assert x is not None
    assert weight is not None
    if y is None or 0 in (*x.shape, *weight.shape, *y.shape):
        return None
    groups = node.groups
    parts = _grouped(x.view, groups), _grouped(y.view, groups)
    given = None if bias is None else _with(bias, _cut(bias.view, 0, groups))
    residual = operand(node, "residual") if node.op.name == "conv2d" else None
    if residual is not None:
        residual = _with(residual, _grouped(residual.view.broadcast_to(y.shape), groups))
    turned = _along_output(weight.view, groups) if node.op.name == "conv2d" else _along_input(weight.view, groups)
    x, y, weight = _with(x, parts[0]), _with(y, parts[1]), _with(weight, turned)
    if node.op.name == "conv2d":
        lows = [low for low, _ in node.padding]
        windows = zip(lows, node.strides, node.dilation, weight.shape[2:4], strict=True)
        rows, columns = (Taps(-low, stride, step, count) for low, stride, step, count in windows)
        return [Convolution(x, weight, y, given, (rows, columns), node.activation, residual)]
    sizes = zip(x.shape[2:4], weight.shape[2:4], y.shape[2:4], strict=True)
    phases = [_phases(node, axis, *each) for axis, each in enumerate(sizes)]
    return [
        _of_phase(Convolution(x, weight, y, given, (rows, columns)), (top, left), node.strides)
        for top, rows in phases[0]
        for left, columns in phases[1]
    ]


def product_of(node: Node) -> Contraction | None:
    """Of a conv2d node whose windows are single pixels, none of them of the padding; else None."""
    found = convolutions_of(node)
    if found is None or found[0].window != (1, 1) or found[0].padded:
        return None
    return found[0].contraction()


def _phases(node: Node, axis: int, image: int, window: int, size: int) -> list[tuple[int, Taps]]:
    """The results `phase + q * stride` of conv2d_transpose along an axis: element i of the window comes to them from
    the image's element (phase + low + q * stride - i * dilation) / stride, where that is a whole number."""
    stride, dilation, low = node.strides[axis], node.dilation[axis], node.padding[axis][0]
    found = []
    for phase in range(min(stride, size)):
        reaching = [i for i in range(window) if (phase + low - i * dilation) % stride == 0]
        if not reaching:  # one tap, which lies outside for all of them
            found.append((phase, Taps(image, 1, 0, 1)))
            continue
        first = reaching[0]
        skip = reaching[1] - first if len(reaching) > 1 else 1
        start = (phase + low - first * dilation) // stride
        found.append((phase, Taps(start, 1, -(skip * dilation) // stride, len(reaching), first, skip)))
    return found


def _of_phase(whole: Convolution, phase: Pair, strides: Pair) -> Convolution:
    """`whole` with those weights and results alone that its taps are about."""
    view = whole.y.view
    steps = (1, 1, *strides, 1)
    y = view.slice((0, 0, *phase, 0), view.shape, steps)
    view = whole.weight.view
    firsts, skips = tuple(t.first for t in whole.taps), tuple(t.skip for t in whole.taps)
    strided = tuple(stride * skip for stride, skip in zip(view.strides[2:4], skips, strict=True))
    offset = view.offset + sum(first * stride for first, stride in zip(firsts, view.strides[2:4], strict=True))
    shape = (*view.shape[:2], *whole.window, view.shape[4])
    weight = View(shape, (*view.strides[:2], *strided, view.strides[4]), offset)
    return Convolution(whole.x, _with(whole.weight, weight), _with(whole.y, y), whole.bias, whole.taps)


def _with(source: Strided, view: View) -> Strided:
    return type(source)(source.buffer, source.dtype, view)


def _cut(view: View, axis: int, groups: int) -> View:
    """One axis as two, of which the first has `groups` elements."""
    size, stride = view.shape[axis] // groups, view.strides[axis]
    shape = (*view.shape[:axis], groups, size, *view.shape[axis + 1 :])
    return View(shape, (*view.strides[:axis], stride * size, stride, *view.strides[axis + 1 :]), view.offset)


def _grouped(view: View, groups: int) -> View:
    """[n, channels, row, column] as [group, n, row, column, channel]."""
    return _cut(view, 1, groups).transpose((1, 0, 3, 4, 2))


def _along_output(view: View, groups: int) -> View:
    """[outputs, c, i, j] as [group, o, i, j, c]."""
    return _cut(view, 0, groups).transpose((0, 1, 3, 4, 2))


def _along_input(view: View, groups: int) -> View:
    """[inputs, o, i, j] as [group, o, i, j, c]."""
    return _cut(view, 0, groups).transpose((0, 2, 3, 4, 1))
