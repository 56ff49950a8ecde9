"""channels_last: images lie in memory as [N, H, W, C] between convolutions, and weights as [O, h, w, C]."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jitinfer.graph.arithmetic import ops
from jitinfer.graph.builder import Builder, Tensor
from jitinfer.graph.node import Value
from jitinfer.graph.op import Kind
from jitinfer.graph.view import View
from jitinfer.passes.rewrite import GraphPass, graph_pass
from jitinfer.passes.weight_prologue import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node

_CONVOLUTIONS = ("conv2d", "conv2d_transpose")
_OF_IMAGES = frozenset(
    {*_CONVOLUTIONS, "group_norm", "average_pool2d", "max_pool2d", "resize_nearest", "pad", "concat", "group"}
)
"""Ops that give an image of the layout of the one that they read, beside the pointwise ones."""


@graph_pass("channels_last")
class ChannelsLast(GraphPass):
    """An image between convolutions is stored with its channels side by side, as matrix units want to read them.

    No node comes or goes: what an op computes stays [N, C, H, W], the views through which it reads, and the stores
    through which it writes, say where the elements lie. So are images turned that go through pointwise ops, norms,
    pooling, resizing and concatenation from and to convolutions; not the graph's own inputs and outputs. Weights that
    only convolutions read are turned in the prologue. Belongs behind all passes that look at views.
    """

    def run(self, graph: Graph) -> tuple[Graph, int]:
        turned = {value: _turned(value) for value in _images(graph)}
        graph, weights = _with_turned_weights(graph)
        turned.update(weights)
        if not turned:
            return graph, 0
        nodes = tuple(_moved(node, turned) for node in graph.nodes)
        return dataclasses.replace(graph, nodes=nodes), len(turned)


@dataclasses.dataclass(frozen=True)
class _Turned:
    """A value in another order of its axes, and the view through which that is read as the value was."""

    value: Value
    view: View


def _reordered(value: Value, order: tuple[int, ...]) -> _Turned:
    """Axis order[i] of the value as axis i of what is stored."""
    shape = tuple(value.shape[axis] for axis in order)
    back = tuple(order.index(axis) for axis in range(len(order)))
    return _Turned(Value(value.type.with_shape(shape), value.name), View.of(shape).transpose(back))


def _turned(value: Value) -> _Turned:
    """[N, C, ...] with the channels last."""
    return _reordered(value, (0, *range(2, len(value.shape)), 1))


def _through(turned: _Turned, inner: View | None, value: Value) -> View | None:
    """A view of `value` as one of what is stored; None where strides cannot say that."""
    return turned.view if inner is None else turned.view.compose(inner, value.shape)


def _moved(node: Node, turned: Mapping[Value, _Turned]) -> Node:
    """The node, reading and writing what is turned."""
    if turned.keys().isdisjoint((*node.inputs, *node.outputs)):
        return node
    inputs, views = list(node.inputs), [node.view(i) for i in range(len(node.inputs))]
    for i, value in enumerate(node.inputs):
        if value is not None and value in turned:
            inputs[i], views[i] = turned[value].value, _through(turned[value], views[i], value)
    outputs, stores = list(node.outputs), [node.store(i) for i in range(len(node.outputs))]
    for i, value in enumerate(node.outputs):
        if value in turned:
            outputs[i], stores[i] = turned[value].value, _through(turned[value], stores[i], value)
    return dataclasses.replace(
        node,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        views=tuple(views) if any(views) else (),
        stores=tuple(stores) if any(stores) else (),
    )


def _images(graph: Graph) -> list[Value]:
    """The images that are to be turned, from convolutions on along the ops that keep the layout."""
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            if value is not None:
                readers.setdefault(value, []).append(node)
    outputs = set(graph.outputs)
    found: dict[Value, None] = {}
    waiting = [node for node in graph.nodes if node.op.name in _CONVOLUTIONS]
    while waiting:
        for value in _images_of(waiting.pop()):
            producer = graph.producers.get(value)
            if value in found or value in outputs or producer is None:
                continue
            around = [producer, *readers.get(value, [])]
            if not all(_can_move(node, value) for node in around):
                continue
            found[value] = None
            waiting += [node for node in around if _keeps_layout(node)]
    return list(found)


def _keeps_layout(node: Node) -> bool:
    return node.op.name in _OF_IMAGES or node.op.kind is Kind.POINTWISE


def _images_of(node: Node) -> Iterator[Value]:
    """What the node reads or writes as [N, C, ...] with several channels and several pixels."""
    read = [(value, node.view(i)) for i, value in enumerate(node.inputs)]
    if node.op.name in _CONVOLUTIONS or node.op.name == "group_norm":
        read = [read[0], *read[3:]]  # without weights
    written = [(value, node.store(i)) for i, value in enumerate(node.outputs)]
    for value, view in (*read, *written):
        if value is None or len(value.shape) not in (3, 4) or not value.type.floating:
            continue
        batch, channels = value.shape[:2]
        whole = view is None or (view.whole(view.shape) and view.size == value.type.size)
        as_it_is = whole and (view is None or view.shape[:2] == (batch, channels))
        if as_it_is and channels > 1 and value.type.size > batch * channels:
            yield value


def _can_move(node: Node, value: Value) -> bool:
    """Whether `node` can read or write `value` where it will lie."""
    if not node.op.strided or node.op.kind is Kind.CREATION:
        return False
    turned = _turned(value)
    views = [node.view(i) for i, each in enumerate(node.inputs) if each is value]
    views += [node.store(i) for i, each in enumerate(node.outputs) if each is value]
    return all(_through(turned, view, value) is not None for view in views)


def _with_turned_weights(graph: Graph) -> tuple[Graph, dict[Value, _Turned]]:
    """The graph, whose prologue turns what only convolutions read as weights, and what there was turned."""
    orders = {"conv2d": (0, 2, 3, 1), "conv2d_transpose": (1, 2, 3, 0)}
    wanted: dict[Value, set[tuple[int, ...] | None]] = {}
    readers: dict[Value, Node] = {}
    for node in graph.nodes:
        for i, value in enumerate(node.inputs):
            if value is not None:
                fits = i == 1 and node.op.name in orders and node.view(1) is None
                readers[value] = node
                wanted.setdefault(value, set()).add(orders[node.op.name] if fits else None)
    chosen: dict[Value, tuple[int, ...]] = {}
    for value in graph.parameters:
        (order, *others) = wanted.get(value, {None})
        if order is not None and not others and value not in graph.outputs and _worth_it(value, order):
            chosen[value] = order
    if not chosen:
        return graph, {}
    prologue = graph.prologue or identity(graph.parameters)
    computed = [value for node in prologue.nodes for value in node.outputs]
    builder = Builder([value.name for value in (*prologue.inputs, *computed)])
    results = list(prologue.outputs)
    turned = {value: _reordered(value, order) for value, order in chosen.items()}
    for number, value in enumerate(graph.parameters):
        if value in chosen:
            builder.origin = readers[value].origin
            results[number] = ops.transpose(Tensor(builder, results[number]), permutation=chosen[value]).value
    prologue = dataclasses.replace(prologue, nodes=(*prologue.nodes, *builder.nodes), outputs=tuple(results))
    parameters = tuple(turned[value].value if value in turned else value for value in graph.parameters)
    return dataclasses.replace(graph, parameters=parameters, prologue=prologue), turned


def _worth_it(value: Value, order: tuple[int, ...]) -> bool:
    """Whether the order is another one."""
    moved = [axis for axis in order if value.shape[axis] > 1]
    return moved != sorted(moved)
