"""The inverse of `jitinfer.graph.text.to_text`: text -> a graph of equal hash, names and origins."""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import NOWHERE, Attribute, Constant, Node, Origin, Value
from jitinfer.graph.op import op_named
from jitinfer.graph.types import DTYPES, TensorType, numpy_dtype
from jitinfer.graph.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN = re.compile(
    r"""(?P<space>[ \n]+)|(?P<comment>\#[ ][^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<value>%(?:[A-Za-z0-9_.]+|"(?:[^"\\\n]|\\.)*"))|(?P<digest>\#[0-9a-f]{12})"""
    r"""|(?P<number>-?(?:inf|[0-9][0-9.]*(?:e[+-]?[0-9]+)?)\b|nan\b)"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[()\[\]{}:;,=?])"""
)


def parse(text: str) -> Graph:
    """The graph that `text` is of. Raises GraphError, naming the line and what was expected there."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._origins: dict[int, Origin] = {}
        position, line = 0, 1
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise GraphError(f"line {line}: {text[position : position + 20]!r} is nothing that a graph is made of")
            kind = found.lastgroup or ""
            if kind == "comment":
                self._origins[line] = _origin(found.group()[2:])
            elif kind != "space":
                self._tokens.append((kind, found.group(), line))
            line += found.group().count("\n")
            position = found.end()
        self._tokens.append(("end", "the end", line))
        self._next = 0
        self._constants: dict[str, Constant] = {}

    # -- tokens --------------------------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> str:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)][1]

    @property
    def _line(self) -> int:
        return self._tokens[self._next][2]

    def _take(self, kind: str, what: str) -> str:
        found, text, line = self._tokens[self._next]
        if found != kind:
            raise GraphError(f"line {line}: expected {what}, not {text!r}")
        self._next += 1
        return text

    def _name(self, what: str) -> str:
        name = self._take("value", what)[1:]
        return str(json.loads(name)) if name.startswith('"') else name

    def _expect(self, *marks: str) -> None:
        for mark in marks:
            if self._peek() != mark:
                raise GraphError(f"line {self._line}: expected {mark!r}, not {self._peek()!r}")
            self._next += 1

    def _accept(self, mark: str) -> bool:
        if self._peek() == mark:
            self._next += 1
            return True
        return False

    # -- the parts of a graph ------------------------------------------------------------------------------------

    def whole(self) -> Graph:
        self._constants = self._read_constants()
        self._next = 0
        graph = self._graph()
        if self._accept("prologue"):
            self._expect("{")
            graph = replace(graph, prologue=self._graph())
            self._expect("}")
        if self._peek() != "constants" and self._tokens[self._next][0] != "end":
            raise GraphError(f"line {self._line}: expected the end, not {self._peek()!r}")
        graph.check()
        return graph

    def _read_constants(self) -> dict[str, Constant]:
        """The last section, which nodes refer to."""
        starts = [i for i, token in enumerate(self._tokens) if token[:2] == ("word", "constants")]
        found: dict[str, Constant] = {}
        if not starts:
            return found
        self._next = starts[-1] + 1
        self._expect("{")
        while not self._accept("}"):
            line = self._line
            digest = self._take("digest", "a digest")
            self._expect("=")
            kind = self._type()
            try:
                data = base64.b64decode(json.loads(self._take("string", "bytes in base64")), validate=True)
                array = numpy.frombuffer(data, numpy_dtype(kind.dtype).newbyteorder("<")).reshape(kind.shape)
            except (ValueError, binascii.Error) as error:
                raise GraphError(f"line {line}: these are not the bytes of {kind}: {error}") from None
            constant = Constant(array)
            if constant.digest[:12] != digest[1:]:
                raise GraphError(f"line {line}: the bytes are not those that {digest} was made from")
            found[digest] = constant
        return found

    def _graph(self) -> Graph:
        self._expect("graph")
        scope: dict[str, Value] = {}
        inputs = self._typed_list(scope)
        self._expect("parameters")
        parameters = self._typed_list(scope)
        self._expect("{")
        nodes = []
        while not self._accept("return"):
            nodes.append(self._node(scope))
        outputs = []
        if self._peek() != "}":
            outputs.append(self._value(scope))
            while self._accept(","):
                outputs.append(self._value(scope))
        self._expect("}")
        return Graph(tuple(inputs), tuple(parameters), tuple(nodes), tuple(outputs))

    def _typed_list(self, scope: dict[str, Value]) -> list[Value]:
        self._expect("(")
        values: list[Value] = []
        while not self._accept(")"):
            if values:
                self._expect(",")
            name = self._name("a value")
            self._expect(":")
            values.append(Value(self._type(), name))
        scope.update((value.name, value) for value in values)
        return values

    def _type(self) -> TensorType:
        line, dtype = self._line, self._take("word", "a dtype")
        if dtype not in DTYPES:
            raise GraphError(f"line {line}: there is no dtype {dtype!r}")
        self._expect("[")
        shape: list[int] = []
        while not self._accept("]"):
            if shape:
                self._expect(",")
            shape.append(-1 if self._accept("?") else self._integer())
        return TensorType(tuple(shape), dtype)

    def _integers(self, end: str) -> tuple[int, ...]:
        numbers: list[int] = []
        while not self._accept(end):
            if numbers:
                self._expect(",")
            numbers.append(self._integer())
        return tuple(numbers)

    def _integer(self) -> int:
        line, text = self._line, self._take("number", "an integer")
        try:
            return int(text)
        except ValueError:
            raise GraphError(f"line {line}: expected an integer, not {text!r}") from None

    def _view(self) -> View | None:
        if not self._accept("["):
            return None
        shape, strides = self._integers(";"), self._integers(";")
        view = View(shape, strides, self._integer())
        self._expect("]")
        return view

    def _value(self, scope: Mapping[str, Value]) -> Value:
        line, name = self._line, self._name("a value")
        if name not in scope:
            raise GraphError(f"line {line}: %{name} is not computed before")
        return scope[name]

    def _node(self, scope: dict[str, Value]) -> Node:
        line = self._line
        outputs, stores = [], []
        while True:
            name = self._name("a value, or 'return'")
            stores.append(self._view())
            self._expect(":")
            outputs.append(Value(self._type(), name))
            if not self._accept(","):
                break
        self._expect("=")
        try:
            op = op_named(self._take("word", "an op"))
            self._expect("(")
            inputs: list[Value | None] = []
            views: list[View | None] = []
            attributes: dict[str, Attribute] = {}
            while not self._accept(")"):
                name = self._peek() if self._peek(1) == "=" else ""
                self._next += 2 if name else 0
                if self._peek().startswith("%"):
                    position = op.position(name) if name else len(inputs)
                    inputs.extend([None] * (position - len(inputs)))
                    views.extend([None] * (position - len(views)))
                    inputs.append(self._value(scope))
                    views.append(self._view())
                else:
                    attributes[name] = self._graph() if self._peek() == "graph" else self._attribute()
                if not self._accept(","):
                    self._expect(")")
                    break
            node = Node(
                op,
                tuple(inputs),
                op.complete(attributes),
                tuple(outputs),
                self._origins.get(line, NOWHERE),
                tuple(views) if any(views) else (),
                tuple(stores) if any(stores) else (),
            )
        except (GraphError, KeyError) as error:
            text = str(error)
            raise error if text.startswith("line ") else GraphError(f"line {line}: {text}") from None
        scope.update((value.name, value) for value in outputs)
        return node

    def _attribute(self) -> Attribute:
        kind, text, line = self._tokens[self._next]
        if kind == "word" and text in DTYPES and self._peek(1) == "[":
            return self._inline_constant()
        self._next += 1
        if kind == "digest":
            if text not in self._constants:
                raise GraphError(f"line {line}: the constant {text} does not stand in the text")
            return self._constants[text]
        if kind == "string":
            return json.loads(text)
        if kind == "number":
            return float(text) if text.lstrip("-") in ("inf", "nan") else ast.literal_eval(text)
        if text in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[text]
        if text == "(":
            return self._rest_of_tuple()
        raise GraphError(f"line {line}: expected an attribute, not {text!r}")

    def _rest_of_tuple(self) -> tuple[Any, ...]:
        items: list[Any] = []
        while not self._accept(")"):
            items.append(self._attribute())
            if not self._accept(","):
                self._expect(")")
                break
        return tuple(items)

    def _inline_constant(self) -> Constant:
        line, kind = self._line, self._type()
        self._expect("(")
        items = self._rest_of_tuple()
        if len(items) != kind.size:
            raise GraphError(f"line {line}: {len(items)} numbers are not a {kind}")
        integral = kind.dtype == "bool" or "int" in kind.dtype
        wide = numpy.array(items, dtype=object if integral else numpy.float64)
        return Constant(wide.astype(numpy_dtype(kind.dtype)).reshape(kind.shape))


def _origin(text: str) -> Origin:
    """The inverse of `str(origin)`: a place ends in a line's number, and may itself hold the word that joins them."""
    both = re.fullmatch(r"(.*:\d+)(?: in (.*))?", text)
    if both:
        return Origin(both[1], both[2] or "")
    return Origin(layer=text) if text.startswith("/") else Origin(place=text)
