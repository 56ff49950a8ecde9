"""What a pass has changed, place by place: the nodes that went, and those that came for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitinfer.graph.graph import Graph
from jitinfer.graph.node import NOWHERE, Node, Origin, Value
from jitinfer.graph.text import node_text, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Line:
    text: str
    origin: Origin = NOWHERE


@dataclass(frozen=True)
class Place:
    """One place that was changed. `inside`: which of the nested graphs it is in, or the prologue; "" for the graph."""

    inside: str
    gone: tuple[Line, ...]
    come: tuple[Line, ...]

    @property
    def origin(self) -> Origin:
        """The model's line and layer of the result: of what came, where that says."""
        known = [line.origin for line in (*reversed(self.come), *reversed(self.gone)) if str(line.origin)]
        return known[0] if known else NOWHERE

    def __str__(self) -> str:
        """The model's line, then what went and came; a node that is of another one says what is different."""
        title = ": ".join(part for part in (self.inside, str(self.origin)) if part)
        lines = [title or "nowhere in the model"]
        for sign, side in (("-", self.gone), ("+", self.come)):
            lines += [f"{sign} {line.text}{_elsewhere(line.origin, self.origin)}" for line in side]
        return "\n".join(lines) + "\n"


def _elsewhere(origin: Origin, title: Origin) -> str:
    """How `origin` differs from the place's, as a comment."""
    file, _, line = origin.place.rpartition(":")
    place = f"line {line}" if file == title.place.rpartition(":")[0] else origin.place
    told = Origin("" if origin.place == title.place else place, "" if origin.layer == title.layer else origin.layer)
    return f"  # {told}" if str(told) else ""


def difference(before: Graph, after: Graph, inside: str = "") -> Iterator[Place]:
    """The places where two graphs differ, one of which was made of the other, in the order of their nodes.

    Values of one name are taken for the same: what replaces a value has its name (`Editor.finish`), so that those who
    read it have not changed.
    """
    if before is after:
        return
    yield from _signature(before, after, inside)
    yield from _Comparison(before, after, inside).places()
    if after.prologue is not None:
        yield from difference(before.prologue or _unwritten(after.prologue), after.prologue, "prologue")


def _unwritten(graph: Graph) -> Graph:
    """A prologue before it had any nodes."""
    return Graph(graph.inputs, (), (), ())


def _signature(before: Graph, after: Graph, inside: str) -> Iterator[Place]:
    """What the graph is given, if that has changed."""
    gone, come = [], []
    computed: Mapping[Value, Value] = {}
    if after.prologue is not None:
        computed = dict(zip(after.parameters, after.prologue.outputs, strict=True))
    for kind in ("inputs", "parameters"):
        old, new = getattr(before, kind), getattr(after, kind)
        was, now = ({repr(value) for value in values} for values in (old, new))
        gone += [Line(f"{kind[:-1]} {value}") for value in old if repr(value) not in now]
        for value in new:
            if repr(value) not in was:
                source = f" = %{written(computed[value].name)} of the prologue" if value in computed else ""
                come.append(Line(f"{kind[:-1]} {value}{source}"))
    if gone or come:
        yield Place(": ".join(part for part in (inside, "what the graph is given") if part), tuple(gone), tuple(come))


@dataclass
class _Side:
    """The changed nodes of one of the two graphs, in order."""

    lines: Mapping[Node, Line]
    producers: dict[Value, Node] = field(init=False)
    taken: set[Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.producers = {value: node for node in self.lines for value in node.outputs}

    def take(self, roots: Iterable[Node], until: set[Node]) -> list[Node]:
        """The nodes `roots`, and the changed ones that they are computed from up to `until`, that nobody has taken."""
        found = []
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node in self.taken:
                continue
            self.taken.add(node)
            found.append(node)
            read = (self.producers.get(value) for value in node.inputs if value is not None)
            waiting += [each for each in read if each is not None and each not in until]
        return found

    def left(self) -> list[Node]:
        """The nodes not taken, such that each comes before those that it is computed from."""
        return [node for node in reversed(list(self.lines)) if node not in self.taken]

    def written(self, nodes: Iterable[Node]) -> tuple[Line, ...]:
        chosen = set(nodes)
        return tuple(line for node, line in self.lines.items() if node in chosen)


class _Comparison:
    """Two graphs, without what is nested in their nodes."""

    def __init__(self, before: Graph, after: Graph, inside: str) -> None:
        self._inside = inside
        self._order = {node: position for position, node in enumerate((*before.nodes, *after.nodes))}
        self._before = {value.name: node for node in before.nodes for value in node.outputs}
        self._after = after
        same = set(before.nodes) & set(after.nodes)
        old, new = ({node: node_text(node) for node in graph.nodes if node not in same} for graph in (before, after))
        unchanged = set(old.values()) & set(new.values())
        self._old, self._new = (
            _Side(
                {node: Line(text, node.origin) for node, text in texts.items() if text not in unchanged},
            )
            for texts in (old, new)
        )

    def places(self) -> Iterator[Place]:
        found = [*self._changes(), *self._nested()]
        for _, place in sorted(found, key=lambda each: each[0]):
            yield place

    def _changes(self) -> Iterator[tuple[int, Place]]:
        """With the position of the first node that went, or else that came."""
        roots = self._roots()
        ends_old = {node for olds in roots.values() for node in olds}
        ends_new = set(roots)
        for root, olds in roots.items():
            yield from self._place(self._old.take(olds, ends_old), self._new.take([root], ends_new))
        for node in self._new.left():
            yield from self._place([], self._new.take([node], ends_new))
        for node in self._old.left():
            yield from self._place(self._old.take([node], ends_old), [])

    def _roots(self) -> dict[Node, list[Node]]:
        """The changed nodes of the new graph whose results are called as some of the old one are, and those."""
        roots: dict[Node, list[Node]] = {}
        for node in self._new.lines:
            olds = dict.fromkeys(self._before[value.name] for value in node.outputs if value.name in self._before)
            found = [old for old in olds if old in self._old.lines]
            if found:
                roots[node] = found
        return roots

    def _place(self, gone: Sequence[Node], come: Sequence[Node]) -> Iterator[tuple[int, Place]]:
        if gone or come:
            place = Place(self._inside, self._old.written(gone), self._new.written(come))
            yield min(self._order[node] for node in (gone or come)), place

    def _nested(self) -> Iterator[tuple[int, Place]]:
        for node in self._after.nodes:
            old = self._before.get(node.outputs[0].name) if node.op.nested and node.outputs else None
            if old is None or old is node or old.op is not node.op:
                continue
            for name, graph in node.attributes.items():
                was = old.attributes.get(name)
                if isinstance(graph, Graph) and isinstance(was, Graph):
                    inside = ", ".join(part for part in (self._inside, f"{name} of %{node.outputs[0].name}") if part)
                    for place in difference(was, graph, inside):
                        yield self._order[old], place
