"""Changing a graph: replace values, drop what nobody uses, and get a graph in good order again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jitinfer.errors import PassError
from jitinfer.graph.builder import Builder
from jitinfer.graph.node import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node


_UNKNOWN = 2**60
"""The rank of a node that was dropped, should it be read again after all, and of those that read from it."""


class Editor:
    """A graph while a pass rewrites it. The graph it was made from stays as it is.

    Nodes are never changed in place: an input is looked up through `resolve`, which knows what has replaced it.
    New nodes are added through `builder`.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        given = (*graph.inputs, *graph.parameters)
        names = [value.name for value in given]
        names += [value.name for node in graph.nodes for value in node.outputs]
        self.builder = Builder(names)
        self.parameters: list[Value] = list(graph.parameters)
        self._nodes: list[Node] = []
        self._position: dict[Node, int] = {}
        self._replaced: dict[Value, Value] = {}
        self._producers: dict[Value, Node] = {}
        self._users: dict[Value, dict[Node, None]] = {value: {} for value in given}
        self._dead: set[Node] = set()
        self._rank: dict[Node, int] = {}  # that of a node is no lower than those of the nodes that it reads from
        for node in graph.nodes:
            self._insert(node)
            self._rank[node] = self._position[node]

    def _insert(self, node: Node) -> None:
        self._position[node] = len(self._nodes)
        self._nodes.append(node)
        for value in node.outputs:
            self._producers[value] = node
            self._users[value] = {}
        for operand in node.inputs:
            if operand is not None:
                self._users[self.resolve(operand)][node] = None

    def resolve(self, value: Value) -> Value:
        """What stands for `value` now."""
        while value in self._replaced:
            value = self._replaced[value]
        return value

    def nodes(self) -> Iterator[Node]:
        """The nodes that are alive when their turn comes, in order; not those added meanwhile."""
        for node in list(self._nodes):
            if node not in self._dead:
                yield node

    def alive(self, node: Node) -> bool:
        """Whether somebody still reads a result of `node`, as far as replacements have told."""
        return node not in self._dead

    def inputs(self, node: Node) -> tuple[Value | None, ...]:
        return tuple(None if value is None else self.resolve(value) for value in node.inputs)

    def producer(self, value: Value) -> Node | None:
        """The node that computes `value`; None for an input or a parameter."""
        return self._producers.get(self.resolve(value))

    def users(self, value: Value) -> list[Node]:
        """The nodes that read `value`, each once."""
        return list(self._users[self.resolve(value)])

    def is_output(self, value: Value) -> bool:
        value = self.resolve(value)
        return any(self.resolve(output) is value for output in self._graph.outputs)

    def depends(self, values: Iterable[Value], on: Iterable[Node]) -> bool:
        """Whether one of `values` is computed from a result of one of the nodes `on`."""
        targets = set(on)
        least = min((self._rank.get(node, 0) for node in targets), default=0)
        seen: set[Node] = set()
        waiting = [self.producer(value) for value in values]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen or self._rank.get(node, least) < least:
                continue
            if node in targets:
                return True
            seen.add(node)
            waiting.extend(self.producer(value) for value in node.inputs if value is not None)
        return False

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old` read `new`. Raises PassError if their types differ."""
        self.adopt()
        old, new = self.resolve(old), self.resolve(new)
        if old is new:
            return
        if old.type != new.type:
            raise PassError(f"{old} cannot be replaced by {new}: the types differ")
        self._replaced[old] = new
        users = self._users.pop(old)
        self._users[new].update(users)
        self._raise(users, self._rank_of(new))
        node = self._producers.get(old)
        if node is not None:
            self._release(node)

    def adopt(self) -> None:
        """Take over the nodes that the builder has added."""
        added, self.builder.nodes = self.builder.nodes, []
        for node in added:
            self._insert(node)
            self._rank[node] = max((self._rank_of(value) for value in node.inputs if value is not None), default=-1)

    def _rank_of(self, value: Value) -> int:
        """Of the node that computes it; -1 for an input or a parameter."""
        node = self.producer(value)
        return -1 if node is None else self._rank.get(node, _UNKNOWN)

    def _raise(self, nodes: Iterable[Node], rank: int) -> None:
        """Let `nodes`, and all that read from them, have this rank at least."""
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if self._rank.get(node, _UNKNOWN) < rank:
                self._rank[node] = rank
                for value in node.outputs:
                    waiting.extend(self._users.get(value, ()))

    def _release(self, node: Node) -> None:
        """Drop `node`, and what only it needed, if nobody reads its results."""
        waiting = [node]
        while waiting:
            unread = waiting.pop()
            if unread in self._dead or any(self._read(value) for value in unread.outputs):
                continue
            self._dead.add(unread)
            self._rank.pop(unread, None)
            for value in self.inputs(unread):
                if value is not None:
                    self._users[value].pop(unread, None)
                    if value in self._producers:
                        waiting.append(self._producers[value])

    def _read(self, value: Value) -> bool:
        return value not in self._replaced and (bool(self._users[value]) or self.is_output(value))

    def finish(self) -> Graph:
        """The graph as it is now, in an order in which it can be evaluated, without what no output needs.

        A new value that has replaced one that is gone takes over its name, so that names last from pass to pass.

        Raises PassError if the replacements have made a circle.
        """
        self.adopt()
        ordered = self._ordered()
        heirs = self._heirs(ordered)
        outputs = tuple(self.resolve(value) for value in self._graph.outputs)
        return dataclasses.replace(
            self._graph,
            parameters=tuple(self.parameters),
            nodes=tuple(self._resolved(node, heirs) for node in ordered),
            outputs=tuple(heirs.get(value, value) for value in outputs),
        )

    def _ordered(self) -> list[Node]:
        """What outputs need, each behind what it reads from. Raises PassError where there is no such order."""
        ordered: list[Node] = []
        state: dict[Node, bool] = {}  # False: its inputs are being placed; True: placed
        for first in self._roots():
            waiting = [first]
            while waiting:
                node = waiting[-1]
                if state.get(node):
                    waiting.pop()
                    continue
                needed = [
                    each
                    for each in (self.producer(value) for value in node.inputs if value is not None)
                    if each is not None and not state.get(each)
                ]
                if not needed:
                    state[node] = True
                    ordered.append(node)
                    waiting.pop()
                elif node in state:
                    raise PassError(f"{node.op.name} at {node.origin} would depend on its own result")
                else:
                    state[node] = False
                    waiting.extend(reversed(needed))
        return ordered

    def _heirs(self, nodes: Iterable[Node]) -> dict[Value, Value]:
        """The new values that have replaced one of the first graph that is gone, and what they are under its name."""
        left = {*self._graph.inputs, *self.parameters, *(value for node in nodes for value in node.outputs)}
        first = {value for node in self._graph.nodes for value in node.outputs}
        heirs: dict[Value, Value] = {}
        for old in self._replaced:
            new = self.resolve(old)
            if old in first and old not in left and new not in heirs and new in self._producers and new not in first:
                heirs[new] = Value(new.type, old.name)
        return heirs

    def _roots(self) -> list[Node]:
        """The nodes that outputs depend on, in their first order, so that what was not touched stays in its place."""
        needed: set[Node] = set()
        waiting = [self.producer(value) for value in self._graph.outputs]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in needed:
                needed.add(node)
                waiting.extend(self.producer(value) for value in node.inputs if value is not None)
        return sorted(needed, key=self._position.__getitem__)

    def _resolved(self, node: Node, heirs: Mapping[Value, Value]) -> Node:
        inputs = tuple(None if value is None else heirs.get(value, value) for value in self.inputs(node))
        outputs = tuple(heirs.get(value, value) for value in node.outputs)
        same = inputs == node.inputs and outputs == node.outputs
        return node if same else dataclasses.replace(node, inputs=inputs, outputs=outputs)
