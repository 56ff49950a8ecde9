"""A graph -> a plan: kernels for its nodes, and memory for its values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.node import Constant
from jitinfer.graph.op import Kind
from jitinfer.kernels.assembly import assemble, scratch_bytes
from jitinfer.kernels.family import WORKSPACE, input_name, output_name
from jitinfer.lowering.lanes import one_lane, two_lanes
from jitinfer.lowering.parts import replaced
from jitinfer.lowering.placement import Lifetime, place
from jitinfer.lowering.slots import in_slots, written_by
from jitinfer.lowering.work import copy_node, kernel_nodes
from jitinfer.runtime.plan import Buffer, Cost, Plan, Pointer, Region, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph import Graph
    from jitinfer.graph.node import Node, Value
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice, Chooser
    from jitinfer.lowering.lanes import Lanes
    from jitinfer.runtime.plan import Kernel, Step


@dataclass(frozen=True, eq=False)
class Lowered:
    """A plan, and how it came about.

    work: the nodes in the order of the plan's steps, each with its kernels; lower_bound: bytes that the busiest step,
    or two that may run side by side, need of the arena, to compare `plan.arena_bytes` with; lanes: of the nodes;
    parts: of which nodes were replaced, as `Outline` has it; prologue: the nodes of the plans of a prologue, with their
    kernels, where there is one.
    """

    plan: Plan
    work: tuple[tuple[Node, Choice], ...]
    lower_bound: int
    lanes: Lanes
    parts: Mapping[int, int]
    prologue: tuple[tuple[Node, Choice], ...] = ()


def lower(graph: Graph, target: Target, chooser: Chooser, lanes: int = 1) -> Lowered:
    """The plan of a graph, whose parameters become weights of their names; a prologue is a graph of its own.

    lanes: 1, or 2 for branches of the graph to run side by side where that is estimated to pay (`lowering.lanes`).

    Raises UnsupportedOpError for a node that no family of kernels can compute, KernelError for one of which nothing
    compiles.
    """
    outline = Outline(graph, target)
    return outline.plan(chooser.choose(outline.nodes), lanes)


def located(plan: Plan, graph: Graph, target: Target) -> Plan:
    """A plan that an equal graph was lowered to, with the places and layers of this one: those make no difference."""
    origins = [str(node.origin) for node in Outline(graph, target).nodes]
    steps = (
        step if step.cost is None else dataclasses.replace(step, origin=origins[step.cost.node]) for step in plan.steps
    )
    return dataclasses.replace(plan, steps=tuple(steps))


class Outline:
    """A graph's `nodes` in order, for which kernels are to be chosen, and the buffers of its values, by their names.

    parts: of products that are computed in parts, by their places among the nodes (`lowering.parts`): another node for
    each of some nodes, in its place.
    """

    def __init__(self, graph: Graph, target: Target, parts: Mapping[int, int] | None = None) -> None:
        self._graph = graph
        self._target = target
        self._parts = parts or {}
        self.nodes = replaced(kernel_nodes(graph, target), self._parts)
        self._constants = _constants(graph, self.nodes)
        given = {*graph.inputs, *graph.parameters, *self._constants}
        self._outputs: list[str] = []
        self._results: dict[Value, str] = {}
        names = {value.name for node in self.nodes for value in node.outputs} | {value.name for value in given}
        for number, value in enumerate(graph.outputs):
            if value in given:  # and so is put where the graph gives it back
                copied = type(value)(value.type, _unused(f"result_{number}", names))
                self.nodes.append(copy_node(value, copied))
                value = copied
            self._results[value] = value.name
            self._outputs.append(value.name)

    def plan(self, choices: Sequence[Choice], lanes: int = 1) -> Lowered:
        """choices: one for each of `nodes`; lanes: as `lower` says."""
        assert lanes in (1, 2)
        work = list(zip(self.nodes, choices, strict=True))
        assigned = two_lanes(work, self._target) if lanes == 2 else one_lane(len(work))
        lifetimes, workspaces = self._lifetimes(work)
        sizes = {each.name: each.nbytes for each in lifetimes}
        placement = place(lifetimes, assigned.order)
        buffers = self._interface()
        buffers += [Buffer(each.name, each.nbytes, "arena", offset=placement.offsets[each.name]) for each in lifetimes]
        steps: list[tuple[Step, ...]] = []
        kernels: dict[str, Kernel] = {}
        for position, (node, choice) in enumerate(work):
            places = _places(node)
            if position in workspaces:
                places[WORKSPACE] = Pointer(workspaces[position])
            cost = Cost(position, flops(node), bytes_moved(node))
            steps.append(assemble(node, choice.candidate, choice.kernels, places, cost))
            kernels.update((kernel.digest, kernel) for kernel in choice.kernels)
        written = [written_by(node) for node in self.nodes]
        for position, name in workspaces.items():
            written[position].append(Region(name, 0, sizes[name]))
        placed, slots = in_slots(steps, written, assigned)
        plan = Plan(
            target=self._target.compute_capability,
            arena_bytes=placement.nbytes,
            buffers=tuple(buffers),
            steps=placed,
            kernels=tuple(kernels.values()),
            inputs=tuple(value.name for value in self._graph.inputs),
            outputs=tuple(self._outputs),
            constants=tuple((value.name, constant.little_endian) for value, constant in self._constants.items()),
            slots=slots,
        )
        return Lowered(plan, tuple(work), placement.lower_bound, assigned, self._parts)

    def _interface(self) -> list[Buffer]:
        """What has a place outside of the arena."""
        placed = [(value, "input") for value in self._graph.inputs]
        placed += [(value, "weight") for value in self._graph.parameters]
        placed += [(value, "constant") for value in self._constants]
        placed += [(value, "output") for value in self._results]
        return [Buffer(v.name, v.type.nbytes, where, shape=v.shape, dtype=v.dtype) for v, where in placed]

    def _lifetimes(self, work: list[tuple[Node, Choice]]) -> tuple[list[Lifetime], dict[int, str]]:
        """Those of all values in the arena and of the workspaces, and the latter's names by step."""
        used: dict[Value, list[int]] = {}
        for position, (node, _) in enumerate(work):
            for value in dict.fromkeys((*node.inputs, *node.outputs)):
                if value is not None:
                    used.setdefault(value, []).append(position)
        written = {value for node in self.nodes for value in node.outputs}
        found = [
            Lifetime(value.name, value.type.nbytes, tuple(positions))
            for value, positions in used.items()
            if value in written and value not in self._results
        ]
        names = {value.name for value in used}
        workspaces: dict[int, str] = {}
        for position, (_, choice) in enumerate(work):
            nbytes = aligned(choice.candidate.workspace_bytes) + scratch_bytes(choice.candidate, choice.kernels)
            if nbytes:
                workspaces[position] = _unused(f"workspace_{position}", names)
                found.append(Lifetime(workspaces[position], nbytes, (position,)))
        return found, workspaces


def _places(node: Node) -> dict[str, Pointer]:
    """Where a candidate for `node` finds its operands, and puts its results."""
    places = {input_name(i): Pointer(value.name) for i, value in enumerate(node.inputs) if value is not None}
    places.update((output_name(i), Pointer(value.name)) for i, value in enumerate(node.outputs))
    return places


def _constants(graph: Graph, nodes: Sequence[Node]) -> dict[Value, Constant]:
    """What is read, or given back, of values that are made from attributes alone."""
    read = {value for node in nodes for value in node.inputs} | {*graph.outputs}
    found = {}
    for node in graph.nodes:
        if node.op.kind is Kind.CREATION:
            for value, array in zip(node.outputs, evaluate_node(node, []), strict=True):
                if value in read:
                    found[value] = Constant(numpy.asarray(array))
    return found


def _unused(stem: str, names: set[str]) -> str:
    name = stem
    while name in names:
        name += "_"
    names.add(name)
    return name
