"""A graph with its prologue -> a model that a device can run."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from jitinfer.errors import KernelError
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import Value
from jitinfer.lowering.lower import Lowered, Outline
from jitinfer.lowering.parts import answered, questions
from jitinfer.lowering.prologue import pieces
from jitinfer.runtime.model import Model, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph.node import Node
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice, Chooser
    from jitinfer.lowering.parts import SequenceTimer
    from jitinfer.lowering.prologue import Pieces

logger = logging.getLogger("jitinfer.lowering")


def compile_graph(
    graph: Graph,
    target: Target,
    chooser: Chooser,
    lanes: int = 1,
    *,
    parts: Mapping[int, int] | None = None,
    timer: SequenceTimer | None = None,
) -> tuple[Model, Lowered]:
    """The model of a graph after its passes, and how its main plan came about.

    lanes: of the main plan, as `lower` says; the prologue runs one step after the other. parts: of the main plan, as
    `Outline` has it; timer: to find out about more of them.

    Raises UnsupportedOpError for a node that no kernel can compute, KernelError for one of which nothing compiles.
    """
    found = pieces(graph)
    outline, alike = Outline(graph, target, parts), _prologue(found, target)
    once = [node for each in alike.values() for node in each.nodes]
    asked = [] if timer is None else questions(outline.nodes, graph.outputs, target, timer.most_parts)
    try:
        own, others, seldom = _chosen(chooser, outline.nodes, [node for each in asked for node in each.nodes], once)
    except KernelError as error:
        if not asked:
            raise
        logger.warning("no product is tried in parts, since there are no kernels for all of them: %s", error)
        asked = []
        own, others, seldom = _chosen(chooser, outline.nodes, [], once)
    if timer is not None and asked:
        known = dict(zip(outline.nodes, own, strict=True)) | others
        won = answered(outline.nodes, asked, known, timer)
        outline = Outline(graph, target, {**(parts or {}), **{each.product: each.parts for each in won}})
        for each in won:
            own[each.product], own[each.norm] = (known[node] for node in each.nodes)
    lowered = outline.plan(own, lanes)
    rest = iter(seldom)
    prologue = [each.plan([next(rest) for _ in each.nodes]) for each in alike.values()]
    assert {buffer.name for buffer in lowered.plan.weights} == {value.name for value in graph.parameters}
    number = {form: i for i, form in enumerate(alike)}
    stages = []
    for piece in found.computed:
        form, results = piece.graph.hash, tuple(graph.parameters[i].name for i in piece.parameters)
        stages.append(Stage(number[form], piece.weights, results, form))
    direct = tuple((weight, graph.parameters[i].name) for weight, i in found.direct)
    types = tuple(value.type for value in graph.weights)
    model = Model(lowered.plan, types, direct, tuple(stages), tuple(each.plan for each in prologue))
    return model, dataclasses.replace(lowered, prologue=tuple(pair for each in prologue for pair in each.work))


def nodes_by_plan(graph: Graph, target: Target, parts: Mapping[int, int] | None = None) -> list[list[Node]]:
    """The nodes for which a model of this graph has kernels: those of its plan, and of each plan of the prologue.

    parts: of the plan, as `Outline` has it.
    """
    return [each.nodes for each in (Outline(graph, target, parts), *_prologue(pieces(graph), target).values())]


def _chosen(
    chooser: Chooser, nodes: Sequence[Node], more: Sequence[Node], once: Sequence[Node]
) -> tuple[list[Choice], dict[Node, Choice], list[Choice]]:
    """For `nodes`, for `more` of them, and for those that run once."""
    choices = chooser.choose([*nodes, *more], once)
    first, second = len(nodes), len(nodes) + len(more)
    return choices[:first], dict(zip(more, choices[first:second], strict=True)), choices[second:]


def _prologue(found: Pieces, target: Target) -> dict[str, Outline]:
    """By the hashes of their graphs, in the order of the plans."""
    alike: dict[str, Outline] = {}
    for piece in found.computed:
        if piece.graph.hash not in alike:
            alike[piece.graph.hash] = Outline(_with_plain_names(piece.graph), target)
    return alike


def _with_plain_names(graph: Graph) -> Graph:
    """The same graph with names of its own: one plan serves all pieces of its form."""
    names: dict[Value, Value] = {}

    def renamed(value: Value) -> Value:
        return names.setdefault(value, Value(value.type, f"v_{len(names)}"))

    inputs = tuple(map(renamed, graph.inputs))
    nodes = tuple(
        dataclasses.replace(
            node,
            inputs=tuple(None if value is None else renamed(value) for value in node.inputs),
            outputs=tuple(map(renamed, node.outputs)),
        )
        for node in graph.nodes
    )
    return Graph(inputs, (), nodes, tuple(map(renamed, graph.outputs)))
