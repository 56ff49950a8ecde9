"""A graph as text: one node a line, made to be read and compared; and the canonical text that its hash is of."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import Constant, Node, Value
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]+")

INLINE = 16
"""Elements up to which a constant stands in its line; a larger one stands at the end, under its digest."""


def to_text(graph: Graph, *, constants: bool = True) -> str:
    """The graph as text. `constants=False` leaves out the bytes of the large constants, and parses no more."""
    writer = _Writer(name=lambda value: written(value.name), digits=12, origins=True)
    lines = writer.whole(graph)
    if constants and writer.large:
        lines.append("constants {")
        for digest, constant in sorted(writer.large.items()):
            lines.append(f'  #{digest} = {constant.type} "{base64.b64encode(constant.little_endian).decode()}"')
        lines.append("}")
    return "\n".join(lines) + "\n"


def canonical_text(graph: Graph) -> str:
    """Text that is equal for graphs that mean the same: values numbered as they come, no origins, whole digests."""
    numbers: dict[Value, str] = {}
    writer = _Writer(name=lambda value: numbers.setdefault(value, str(len(numbers))), digits=64, origins=False)
    return "\n".join(writer.whole(graph))


def node_text(node: Node) -> str:
    """A node's line without its origin and its nested graphs."""
    plain = {key: value for key, value in node.attributes.items() if not isinstance(value, Graph)}
    writer = _Writer(name=lambda value: written(value.name), digits=12, origins=False)
    return writer.node(dataclasses.replace(node, attributes=plain), "")[0]


def call_text(node: Node) -> str:
    """What a node computes, of what, and where in the model: "conv2d(float32[1, 3, 8, 8]) at model.py:41"."""
    name = node.operator if node.op.kind is Kind.OPAQUE else node.op.name
    types = ", ".join("none" if kind is None else str(kind) for kind in node.input_types())
    return f"{name}({types}) at {str(node.origin) or 'an unknown place'}"


def written(name: str) -> str:
    """A value's name as it stands after "%": in quotes where it has other characters than words and dots."""
    return name if PLAIN_NAME.fullmatch(name) else json.dumps(name)


@dataclass
class _Writer:
    name: Callable[[Value], str]
    digits: int
    origins: bool
    large: dict[str, Constant] = field(default_factory=dict)

    def whole(self, graph: Graph) -> list[str]:
        lines = self.graph(graph, "")
        if graph.prologue is not None:
            lines += ["prologue {", *self.graph(graph.prologue, "  "), "}"]
        return lines

    def graph(self, graph: Graph, indent: str) -> list[str]:
        inputs, parameters = (", ".join(map(self.typed, values)) for values in (graph.inputs, graph.parameters))
        lines = [f"{indent}graph({inputs}) parameters({parameters}) {{"]
        for node in graph.nodes:
            lines += self.node(node, indent + "  ")
        outputs = ", ".join("%" + self.name(value) for value in graph.outputs)
        return [*lines, f"{indent}  return {outputs}".rstrip(), indent + "}"]

    def typed(self, value: Value) -> str:
        return f"%{self.name(value)}: {value.type}"

    def node(self, node: Node, indent: str) -> list[str]:
        operands = []
        gap = False
        for position, value in enumerate(node.inputs):
            if value is None:
                gap = True
                continue
            text = f"%{self.name(value)}{node.view(position) or ''}"
            operands.append(f"{node.op.operands[position].name}={text}" if gap else text)
        nested = [item for item in node.attributes.items() if isinstance(item[1], Graph)]
        plain = [item for item in node.attributes.items() if not isinstance(item[1], Graph)]
        defaults = node.op.attributes
        operands += [f"{name}={self.attribute(value)}" for name, value in plain if not same(value, defaults[name])]
        results = ", ".join(
            f"%{self.name(value)}{node.store(position) or ''}: {value.type}"
            for position, value in enumerate(node.outputs)
        )
        line = f"{indent}{results} = {node.op.name}({', '.join(operands)}"
        origin = f"  # {node.origin}" if self.origins and str(node.origin) else ""
        if not nested:
            return [f"{line}){origin}"]
        lines = [line + ("," if operands else "") + origin]
        for name, graph in nested:
            body = self.graph(graph, indent + "  ")
            lines += [f"{indent}  {name}={body[0].strip()}", *body[1:-1], body[-1] + ","]
        return [*lines, indent + ")"]

    def attribute(self, value: Any) -> str:
        if isinstance(value, Constant):
            return self.constant(value)
        if isinstance(value, tuple):
            inside = ", ".join(self.attribute(each) for each in value)
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        if value is None or isinstance(value, bool):
            return {None: "none", True: "true", False: "false"}[value]
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, (int, float)):
            return repr(value)
        raise GraphError(f"{value!r} cannot be an attribute")

    def constant(self, constant: Constant) -> str:
        array = constant.array
        if array.size <= INLINE and not numpy.iscomplexobj(array) and not numpy.isnan(array.astype("float64")).any():
            return f"{constant.type}{self.attribute(tuple(numbers(array)))}"
        digest = constant.digest[: self.digits]
        self.large[digest] = constant
        return "#" + digest


def numbers(array: numpy.ndarray[Any, Any]) -> list[Any]:
    """The elements as Python numbers, exactly."""
    flat = array.reshape(-1)
    if array.dtype == numpy.bool_ or numpy.issubdtype(array.dtype, numpy.integer):
        return list(flat.tolist())
    return list(flat.astype(numpy.float64).tolist())


def same(value: Any, default: Any) -> bool:
    """Equal and of one type, with 0.0 and -0.0 told apart."""
    return type(value) is type(default) and repr(value) == repr(default)
