"""Passes: a function from a graph to a better graph, most of them as a pattern and its replacement."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from jitinfer.errors import PassError
from jitinfer.graph.builder import Tensor
from jitinfer.graph.cost import flops
from jitinfer.graph.node import NOWHERE
from jitinfer.graph.op import Kind
from jitinfer.passes.editor import Editor
from jitinfer.passes.pattern import Apply, Bindings, Either, Match, Pattern, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Origin


class GraphPass(ABC):
    """One rewriting of graphs, by name."""

    name: ClassVar[str] = ""

    @abstractmethod
    def run(self, graph: Graph) -> tuple[Graph, int]:
        """The new graph, which computes the same, and how many places were changed."""


class RewritePass(GraphPass):
    """A pass of two small functions. The parameters of `pattern` are its variables.

    `pattern` returns what to find: an expression, or a tuple of expressions for several results, the first of which
    contains the others. `replace` gives what to put there, as many results. A match is refused where a value inside of
    it is read from outside, unless `shared_allowed`; then its nodes stay for their other readers.
    """

    shared_allowed: ClassVar[bool] = False
    pattern: Callable[..., Any]

    def where(self, m: Match) -> bool:
        """A condition on a match beyond its shape as a pattern."""
        return True

    @abstractmethod
    def replace(self, m: Match) -> Any:
        """A tensor, or a tuple of them. None: leave this place alone."""

    def results(self) -> tuple[Pattern, ...]:
        variables = [Variable(name) for name in inspect.signature(self.pattern).parameters]
        described = self.pattern(*variables)
        return described if isinstance(described, tuple) else (described,)

    def run(self, graph: Graph) -> tuple[Graph, int]:
        patterns = self.results()
        roots = set(_root_ops(patterns[0]))
        total = 0
        while any(node.op.name in roots for node in graph.nodes):
            editor = Editor(graph)
            count = 0
            for node in reversed(list(editor.nodes())):  # the largest match ends last
                if node.op.name in roots and editor.alive(node) and self._rewrite(editor, node, patterns):
                    count += 1
            if not count:
                break
            graph = editor.finish()
            total += count
            if total > 100 * (len(graph.nodes) + 100):
                raise PassError(f"{self.name} finds its own result again and again")
        return graph, total

    def _rewrite(self, editor: Editor, node: Node, patterns: tuple[Pattern, ...]) -> bool:
        for found in patterns[0].match(editor, node.outputs[0], Bindings({})):
            replaced = [node.outputs[0]]
            for other in patterns[1:]:
                inner = self._inner(editor, other, found)
                if inner is None:
                    break
                replaced.append(inner)
            match = Match(editor, found)
            if len(replaced) < len(patterns) or not self._allowed(editor, match, replaced) or not self.where(match):
                continue
            editor.builder.origin = _origin(node, match.nodes)
            results = self.replace(match)
            if results is None:
                continue
            results = results if isinstance(results, tuple) else (results,)
            for old, new in zip(replaced, results, strict=True):
                if not isinstance(new, Tensor):
                    raise PassError(f"{self.name}: replace gives {new!r}, not a tensor")
                editor.replace(old, new.value)
            return True
        return False

    def _inner(self, editor: Editor, pattern: Pattern, found: Bindings) -> Any:
        """The value inside a match that a further result of the pattern describes."""
        for node in found.nodes:
            for again in pattern.match(editor, node.outputs[0], Bindings(found.values)):
                if set(again.nodes) <= set(found.nodes):
                    return node.outputs[0]
        return None

    def _allowed(self, editor: Editor, match: Match, replaced: list[Any]) -> bool:
        matched = set(match.nodes)
        if not self.shared_allowed:
            inside = {value for node in matched for value in node.outputs}
            if not inside.isdisjoint(map(editor.resolve, match.values)):
                return False  # what is matched would be computed again, for itself
            for node in matched:
                for value in node.outputs:
                    if value in replaced:
                        continue
                    if editor.is_output(value) or any(user not in matched for user in editor.users(value)):
                        return False
        return len(replaced) == 1 or not editor.depends(match.values, matched)


def _origin(root: Node, matched: Sequence[Node]) -> Origin:
    """What takes the place of several nodes comes from where the largest product among them does, else from the last's
    place: an epilogue belongs to its linear layer."""
    products = [node for node in matched if node.op.kind is Kind.CONTRACTION and node.origin != NOWHERE]
    return max(products, key=flops).origin if products else root.origin


def _root_ops(pattern: Pattern) -> Iterator[str]:
    if isinstance(pattern, Apply):
        yield pattern.op.name
    elif isinstance(pattern, Either):
        for alternative in pattern.alternatives:
            yield from _root_ops(alternative)
    else:
        raise PassError("a pattern is an operation, or alternatives of operations")


_PASSES: dict[str, GraphPass] = {}
_Class = TypeVar("_Class", bound=type[GraphPass])


def graph_pass(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: give a pass its name and register it, so that `passes=["default", name]` finds it.

    Raises PassError as `register` does.
    """

    def named(cls: _Class) -> _Class:
        cls.name = name
        register(cls())
        return cls

    return named


def register(new: GraphPass) -> None:
    """Make a pass known by its name. A class that is defined again, in a notebook's cell, takes the place of the first.

    Raises PassError if the name is empty, stands for the whole list, or is another pass's.
    """
    taken = _PASSES.get(new.name)
    if new.name in ("", "default") or (taken is not None and _defined_at(taken) != _defined_at(new)):
        reason = "taken" if new.name else "empty"
        raise PassError(f"a pass cannot be called {new.name!r}: the name is {reason}")
    _PASSES[new.name] = new


def _defined_at(each: GraphPass) -> tuple[str, str]:
    return type(each).__module__, type(each).__qualname__


def is_graph_pass(name: str) -> bool:
    return name in _PASSES


def pass_named(name: str) -> GraphPass:
    """Raises PassError."""
    try:
        return _PASSES[name]
    except KeyError:
        raise PassError(f"there is no graph pass {name!r}; there are {', '.join(sorted(_PASSES))}") from None
