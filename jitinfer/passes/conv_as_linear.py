"""Convolutions whose windows do not overlap are products with a matrix, and products read patches where they lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitinfer.graph.arithmetic import ops
from jitinfer.graph.view import View
from jitinfer.passes.absorb_views import CUTTING
from jitinfer.passes.editor import Editor
from jitinfer.passes.pattern import Match, optional
from jitinfer.passes.rewrite import GraphPass, RewritePass, graph_pass

if TYPE_CHECKING:
    from jitinfer.graph.builder import Tensor
    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value


@graph_pass("conv_as_linear")
class ConvAsLinear(GraphPass):
    """conv2d(x [N, C, H, W], weight [O, C, h, w]), strides (h, w)  ->  linear(patches of x [N, H'W', Chw], [O, Chw])

    An Image is Worth 16x16 Words, Dosovitskiy et al., 2021. The result is transposed back to [N, O, H', W']; where
    the model wants tokens, its own transpose cancels against that one. The weight's reshape is one for the prologue.
    Without padding, dilation, groups and residual, and where windows are larger than one pixel, that is always done:
    the patches are read in their places (contract_axes), so nothing is copied.

    A window of one pixel is done only where tokens stand on one side of it, that is, where x was transposed from
    [N, HW, C], or all readers of the result transpose it to that. One of the two transposes then cancels, and strides
    of the product do the other, so that no node that moves data is added; between images the convolution stays.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        editor = Editor(graph)
        count = 0
        for node in editor.nodes():
            if _is_product(editor, node):
                editor.builder.origin = node.origin
                editor.replace(node.output, _product(editor, node).value)
                count += 1
        return (editor.finish(), count) if count else (graph, 0)


def _is_product(editor: Editor, node: Node) -> bool:
    if node.op.name != "conv2d" or not node.plain or node.groups != 1:
        return False
    x, weight = editor.inputs(node)[:2]
    if node.operand("residual") is not None:
        return False
    assert x is not None
    assert weight is not None
    window = weight.shape[2:]
    if node.strides != window or node.dilation != (1, 1) or any(map(any, node.padding)):
        return False
    return window != (1, 1) or _from_tokens(editor, x) or _to_tokens(editor, node.output)


def _product(editor: Editor, node: Node) -> Tensor:
    operands = editor.inputs(node)[:3]
    x, weight, *bias = (None if value is None else editor.builder.tensor(value) for value in operands)
    assert x is not None
    assert weight is not None
    (batch, channels), (out, _, *window) = x.shape[:2], weight.shape
    rows, columns = node.output.shape[2:]
    size = (rows * window[0], columns * window[1])
    if x.shape[2:] != size:  # pixels at the end that no window reaches
        x = ops.slice(x, starts=(0, 0, 0, 0), stops=(batch, channels, *size), steps=(1, 1, 1, 1))
    parts = ops.reshape(x, shape=(batch, channels, rows, window[0], columns, window[1]))
    patches = ops.transpose(parts, permutation=(0, 2, 4, 1, 3, 5))
    length = channels * math.prod(window)
    tokens = ops.linear(
        ops.reshape(patches, shape=(batch, rows * columns, length)),
        ops.reshape(weight, shape=(out, length)),
        *bias,
        activation=node.activation,
        transpose_weight=True,
    )
    images: Tensor = ops.reshape(ops.transpose(tokens, permutation=(0, 2, 1)), shape=node.output.shape)
    return images


def _from_tokens(editor: Editor, image: Value) -> bool:
    """Whether an image [N, C, H, W] is transposed from [N, HW, C] or [N, H, W, C]."""
    turned = _producer(editor, image, "transpose")
    if turned is not None:
        return bool(turned.permutation == (0, 3, 1, 2))
    flat = _producer(editor, image, "reshape")
    (source,) = (None,) if flat is None else editor.inputs(flat)
    before = None if source is None else _producer(editor, source, "transpose")
    if before is None or before.output.shape[:2] != image.shape[:2]:
        return False
    return bool(before.permutation == (0, 2, 1))


def _to_tokens(editor: Editor, image: Value) -> bool:
    """Whether all readers of an image [N, C, H, W] transpose it to [N, HW, C] or [N, H, W, C]."""
    readers = editor.users(image)
    return not editor.is_output(image) and all(_reads_tokens(editor, image, node) for node in readers) and any(readers)


def _reads_tokens(editor: Editor, image: Value, reader: Node) -> bool:
    if reader.op.name == "transpose" and reader.plain:
        return bool(reader.permutation == (0, 2, 3, 1))
    if reader.op.name != "reshape" or not reader.plain or reader.output.shape[:2] != image.shape[:2]:
        return False
    after = editor.users(reader.output)
    turned = all(node.op.name == "transpose" and node.plain and node.permutation == (0, 2, 1) for node in after)
    return not editor.is_output(reader.output) and turned and any(after)


def _producer(editor: Editor, value: Value, name: str) -> Node | None:
    node = editor.producer(value)
    return node if node is not None and node.op.name == name and node.plain else None


@graph_pass("contract_axes")
class ContractAxes(RewritePass):
    """linear(reshape(y), weight), where the reshape would copy  ->  linear(y, weight) over several axes of y

    Patches of an image, [N, H', W', C, h, w] of strides, are no matrix without a copy, but a product can sum over the
    last three axes where they lie. Residual and gate are split as the rows are, and the result is put together again,
    which costs nothing. Not where the op that computes y can write it in the other order: absorb_stores has it do so.
    """

    def pattern(self, y: Any, weight: Any, bias: Any, residual: Any, gate: Any) -> Any:
        x = ops.reshape(ops.transpose(y), label="flat")
        more = (optional(bias), optional(residual), optional(gate))
        return ops.linear(x, weight, *more, contraction=1)

    def where(self, m: Match) -> bool:
        turned = View.of(m.y.shape).transpose(m.transpose.permutation)
        return (
            len(m.weight.shape) == 2
            and turned.size > 0
            and turned.reshape(m.flat.output.shape) is None
            and _summed(turned.shape, m.flat.output.shape[-1]) is not None
            and all(_split(each.shape, *self._rows(m)) is not None for each in (m.residual, m.gate) if each is not None)
            and not _written_for(m.editor, m.editor.resolve(m.y.value))
        )

    def replace(self, m: Match) -> Any:
        patches = ops.transpose(m.y, permutation=m.transpose.permutation)
        residual, gate = (
            None if each is None else ops.reshape(each, shape=_split(each.shape, *self._rows(m)))
            for each in (m.residual, m.gate)
        )
        summed = _summed(patches.shape, m.flat.output.shape[-1])
        attributes = {**m.linear.attributes, "contraction": summed}
        product = ops.linear(patches, m.weight, m.bias, residual, gate, **attributes)
        return ops.reshape(product, shape=m.linear.output.shape)

    def _rows(self, m: Match) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes that are not summed over: before, and after."""
        turned = m.transpose.output.shape
        summed = _summed(turned, m.flat.output.shape[-1])
        assert summed is not None
        return m.flat.output.shape[:-1], turned[: len(turned) - summed]


def _written_for(editor: Editor, value: Value) -> bool:
    """Whether an op that can write any axes computes `value` for its one reader alone, reshapes between them or not."""
    while len(editor.users(value)) == 1 and not editor.is_output(value):
        node = editor.producer(value)
        if node is None or node.op.name != "reshape" or not node.plain:
            return node is not None and node.op.name in CUTTING
        (source,) = editor.inputs(node)
        assert source is not None
        value = source
    return False


def _summed(shape: tuple[int, ...], length: int) -> int | None:
    """How many of the last axes have `length` elements together; None if no number of them has."""
    for count in range(1, len(shape) + 1):
        if math.prod(shape[-count:]) == length:
            return count
    return None


def _split(shape: tuple[int, ...], rows: tuple[int, ...], parts: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of what broadcasts to [*rows, N], so that it broadcasts to [*parts, N], in which rows are split.

    None where it is broadcast along some, but not all, of the rows that are split together.
    """
    if not shape:
        return shape
    given = (*[1] * (len(rows) + 1 - len(shape)), *shape)
    result: list[int] = []
    for axes, pieces in _groups(rows, parts):
        dims = [given[axis] for axis in axes]
        if dims == [rows[axis] for axis in axes]:
            result.extend(pieces)
        elif set(dims) <= {1}:
            result.extend([1] * len(pieces))
        else:
            return None
    return (*result, given[-1])


def _groups(rows: tuple[int, ...], parts: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of `rows` and of sizes of `parts` that have as many elements, in order."""
    groups: list[tuple[list[int], list[int]]] = []
    axis = part = 0
    while axis < len(rows) or part < len(parts):
        axes: list[int] = []
        pieces: list[int] = []
        left = right = 1
        while not (axes or pieces) or left != right:
            if axis < len(rows) and (left <= right or part == len(parts)):
                axes.append(axis)
                left *= rows[axis]
                axis += 1
            else:
                pieces.append(parts[part])
                right *= parts[part]
                part += 1
        groups.append((axes, pieces))
    return groups
