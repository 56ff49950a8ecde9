"""What a pass looks for, written as an expression: `ops.layer_norm(x) * (1 + scale) + shift`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.arithmetic import Arithmetic
from jitinfer.graph.builder import Tensor
from jitinfer.graph.types import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jitinfer.graph.node import Attribute, Node, Value
    from jitinfer.graph.op import Op
    from jitinfer.passes.editor import Editor


@dataclass(frozen=True)
class Bindings:
    """How far a match has come: variables and what they stand for, and the nodes matched, the last one first."""

    values: Mapping[str, Value | None]
    nodes: tuple[Node, ...] = ()
    labels: Mapping[str, Node] = field(default_factory=dict)

    def bind(self, name: str, value: Value | None) -> Bindings | None:
        """None if the name stands for something else already."""
        if name in self.values:
            return self if self.values[name] is value else None
        return Bindings({**self.values, name: value}, self.nodes, self.labels)

    def add(self, node: Node, label: str) -> Bindings:
        return Bindings(self.values, (*self.nodes, node), {**self.labels, label: node})


class Pattern(Arithmetic):
    """Base of all patterns."""

    def apply(self, op: Op, operands: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
        label = attributes.pop("label", op.name)
        return Apply(op, tuple(as_pattern(each) for each in operands), attributes, label)

    @abstractmethod
    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        """All ways in which `value` is what this pattern describes."""


@dataclass(frozen=True)
class Variable(Pattern):
    """Any value that satisfies `predicate`; the same value wherever the name stands."""

    name: str
    predicate: Callable[[Value], bool] | None = None

    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        if value is not None and (self.predicate is None or self.predicate(value)):
            bound = found.bind(self.name, value)
            if bound is not None:
                yield bound


@dataclass(frozen=True)
class Absent(Pattern):
    """An optional operand that is not there."""

    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        if value is None:
            yield found


@dataclass(frozen=True)
class Number(Pattern):
    """A constant all of whose elements are one number, which is `expected`, or satisfies it."""

    expected: float | Callable[[float], bool]
    name: str = ""

    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        number = None if value is None else uniform(editor, value)
        if number is None or value is None:
            return
        fits = self.expected(number) if callable(self.expected) else _equal(number, self.expected, value.dtype)
        if fits:
            bound = found.bind(self.name, value) if self.name else found
            if bound is not None:
                yield bound


@dataclass(frozen=True)
class Either(Pattern):
    """The first alternative that matches; the others are tried where the rest of the pattern does not fit it."""

    alternatives: tuple[Pattern, ...]

    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        for alternative in self.alternatives:
            yield from alternative.match(editor, value, found)


@dataclass(frozen=True)
class Apply(Pattern):
    """A node of `op` whose operands match and whose attributes have the given values, or satisfy them."""

    op: Op
    operands: tuple[Pattern, ...]
    attributes: Mapping[str, Attribute | Callable[[Attribute], bool]]
    label: str
    result: int = 0

    def match(self, editor: Editor, value: Value | None, found: Bindings) -> Iterator[Bindings]:
        node = None if value is None else editor.producer(value)
        if node is None or value is None or node.op is not self.op:
            return
        if node.outputs[self.result] is not editor.resolve(value) or not node.plain:
            return
        for name, wanted in self.attributes.items():
            actual = node.attributes[name]
            if not (wanted(actual) if callable(wanted) else actual == wanted):
                return
        inputs = editor.inputs(node)
        operands = self.operands + (Absent(),) * (len(inputs) - len(self.operands))
        inputs = inputs + (None,) * (len(operands) - len(inputs))
        for ordered in permutations(operands) if self.op.commutative else (operands,):
            yield from self._operands(editor, ordered, inputs, found.add(node, self.label))

    def _operands(
        self, editor: Editor, operands: Sequence[Pattern], inputs: Sequence[Value | None], found: Bindings
    ) -> Iterator[Bindings]:
        if not operands:
            yield found
            return
        for so_far in operands[0].match(editor, inputs[0], found):
            yield from self._operands(editor, operands[1:], inputs[1:], so_far)


def as_pattern(operand: Any) -> Pattern:
    """Numbers stand for constants of that value, None for an absent operand."""
    if isinstance(operand, Pattern):
        return operand
    if operand is None:
        return Absent()
    if isinstance(operand, (bool, int, float)):
        return Number(float(operand))
    raise TypeError(f"{operand!r} cannot be part of a pattern")


def either(*alternatives: Any) -> Either:
    return Either(tuple(as_pattern(each) for each in alternatives))


def maybe(inner: Any, around: Callable[[Any], Any]) -> Either:
    """`around(inner)`, such as `lambda y: y + bias`, or `inner` alone."""
    return either(around(inner), inner)


def optional(operand: Any) -> Either:
    """An operand that need not be there; what it would have bound is None then."""
    return either(operand, None)


def constant(expected: float | Callable[[float], bool] = lambda number: True, name: str = "") -> Number:
    """A constant of one number that satisfies `expected`; `name` makes it readable as `m.<name>`."""
    return Number(expected, name)


def uniform(editor: Editor, value: Value) -> float | None:
    """The number that all elements of a constant are; None for anything else."""
    node = editor.producer(value)
    if node is None or value.type.dtype.startswith("complex"):
        return None
    if node.op.name == "full":
        return float(node.attributes["value"])
    if node.op.name == "constant":
        array = node.attributes["value"].array
        array = array if array.dtype.kind in "biuf" else array.astype(numpy.float64)  # NumPy cannot compare bfloat16
        if array.size and (array == array.flat[0]).all():
            return float(array.flat[0])
    return None


def _equal(number: float, expected: float, dtype: str) -> bool:
    """Equal as far as `dtype` can tell: a constant 1e-6 was rounded when it was made a tensor."""
    rounded = float(numpy.asarray(expected).astype(numpy_dtype(dtype)))
    return number in (expected, rounded)


class Match:
    """A place that a pattern fits: its variables and matched nodes as attributes.

    `m.x`: the tensor that the variable x stands for, ready to be used in new nodes; None for an optional part that is
    absent. `m.layer_norm`: the node matched by `ops.layer_norm` (or labelled so), with its attributes.
    """

    def __init__(self, editor: Editor, found: Bindings) -> None:
        self.editor = editor
        """The graph, to ask what stands around the match."""
        self._values = found.values
        self._labels = found.labels
        self.nodes = found.nodes

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_values", {}):
            value = self._values[name]
            return None if value is None else Tensor(self.editor.builder, self.editor.resolve(value))
        if name in self.__dict__.get("_labels", {}):
            return self._labels[name]
        return None

    def uniform(self, name: str) -> float | None:
        """The number that a matched constant consists of."""
        value = self._values.get(name)
        return None if value is None else uniform(self.editor, value)

    @property
    def values(self) -> list[Value]:
        """What the variables stand for."""
        return [value for value in self._values.values() if value is not None]
