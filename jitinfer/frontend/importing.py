"""A traced program -> a graph. It reads the program's JSON, and needs no Paddle."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.frontend.converters import CONVERTERS, PirOp, UnsupportedForm
from jitinfer.frontend.converters.complex_numbers import Complex, convert_complex, is_complex, whole
from jitinfer.frontend.converters.registry import supported
from jitinfer.frontend.document import free_values, pir_op, type_of, without_origins
from jitinfer.frontend.program import entries
from jitinfer.graph import Builder, Graph, Tensor, TensorType, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.node import NOWHERE
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.program import Program
    from jitinfer.graph.node import Origin, Value

_SMALL = 4096
"""Elements up to which the importer computes a value, to see whether it is a shape."""

_UNKNOWN_FORM = (UnsupportedForm, GraphError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a converter raises on forms of its operator that it says, or nobody thought, that it does not know."""

Array = numpy.ndarray[Any, Any]
logger = logging.getLogger("jitinfer.frontend")


def import_program(
    program: Program, shapes: Sequence[Sequence[int]] | None = None, origins: Sequence[Origin] = ()
) -> Graph:
    """The graph of a program.

    An operator without a converter, or in a form that its converter does not know, becomes an opaque node. So does
    one that reads a result of such a node with dims that depend on data.

    Args:
        shapes: the inputs' shapes; None: as traced, which must be without dynamic dims.
        origins: those of the program's trace, to be those of the nodes.

    Raises GraphError for inputs with dims that nobody knows, and for values that are no tensors, such as arrays of
    tensors.
    """
    importer, _ = imported(program, shapes, origins)
    return importer.builder.build(*(importer.fetched[f"out_{i}"] for i in range(program.outputs)))


def imported(
    program: Program, shapes: Sequence[Sequence[int]] | None = None, origins: Sequence[Origin] = ()
) -> tuple[Importer, Any]:
    """As `import_program`: what has imported the program, and the program's JSON.

    Each entry of the program's block has its origin there, with the number of its operation in that block; those
    inside of an operation have that operation's.
    """
    document = json.loads(program.text)
    block = document["program"]["regions"][0]["blocks"][0]
    given = iter(origins)
    for number, operation in enumerate(block["ops"]):
        for entry in entries({"ops": [operation]}):
            entry["origin"] = dataclasses.replace(next(given, NOWHERE), operation=number)
    importer = Importer(Builder(), {each["%"] for entry in entries(block) for each in entry.get("I", ())})
    shapes = [kind.shape for kind in program.inputs] if shapes is None else [tuple(each) for each in shapes]
    for position, (shape, kind) in enumerate(zip(shapes, program.inputs, strict=True)):
        name = f"in_{position}"
        importer.given[name] = importer.builder.input(name, shape, kind.dtype)
    importer.run(block)
    return importer, document


class Importer:
    """One block of a program on its way to a graph: what converters see.

    A block inside of another one takes what it reads from there as inputs of its own graph (`captured`), or computes
    it again where it depends on constants alone.
    """

    def __init__(self, builder: Builder, used: set[int], outer: Importer | None = None) -> None:
        self.builder = builder
        self.used = used
        """The numbers of the values that some operator reads."""
        self.given: dict[str, Tensor] = {}
        self.fetched: dict[str, Tensor] = {}
        self.captured: dict[Value, Tensor] = {}
        """What this block's graph takes from around it, by its own inputs."""
        self._outer = outer
        self._values: dict[int, Any] = {0: None}
        self._known: dict[str, Array | None] = {}
        self._placed = 0
        self._nodes: dict[str, Any] = {}

    def run(self, block: Any) -> list[Any]:
        """Import the operations of a block; what it yields."""
        for entry in block["ops"]:
            self.builder.origin = entry.get("origin", NOWHERE)
            if entry["#"] == "p":
                self._parameter(entry)
                continue
            op = pir_op(entry)
            if op.name == "cf.yield":
                return [self.value(number) for number in op.operands]
            if op.name == "pd_op.data":
                self.bind(op.results[0][0], self.given[op.attributes["name"]])
            elif op.name == "pd_op.fetch":
                self.fetched[op.attributes["name"]] = whole(self.value(op.operands[0]))
            else:
                self._convert(op)
        return []

    def bind(self, number: int, value: Any) -> None:
        self._values[number] = value

    def value(self, number: int) -> Any:
        """What stands for a value of the program: a tensor, a pair of them for a complex one, a list, or None."""
        if number not in self._values:
            if self._outer is None:
                raise GraphError(f"the program's value {number} is not computed by anything that could be imported")
            self._values[number] = self._taken(self._outer.value(number))
        return self._values[number]

    def _taken(self, value: Any) -> Any:
        """A value of the block around this one, for use in this one."""
        assert self._outer is not None
        if isinstance(value, list):
            return [self._taken(each) for each in value]
        if isinstance(value, Complex):
            return Complex(self._taken(value.real), self._taken(value.imag))
        if value is None:
            return None
        known = self._outer.known(value)
        if known is not None:
            return self.builder.constant(known, value.dtype)
        return self.capture(value)

    def capture(self, outer: Tensor) -> Tensor:
        """An input of this block's graph that stands for a tensor of the block around it."""
        for value, tensor in self.captured.items():
            if tensor.value is outer.value:
                return self.builder.tensor(value)
        inner = self.builder.input(f"x_{len(self.captured)}", outer.shape, outer.dtype)
        self.captured[inner.value] = outer
        return inner

    def nested(self) -> Importer:
        """For a block inside of this one, with a graph of its own."""
        return Importer(Builder(), self.used, self)

    def _parameter(self, entry: Any) -> None:
        kind = type_of(entry["O"]["TT"])
        if not isinstance(kind, TensorType):
            raise GraphError(f"the parameter {entry['A'][3]} is no tensor")
        self._values[entry["O"]["%"]] = self.builder.parameter(entry["A"][3], kind.shape, kind.dtype)

    def _convert(self, op: PirOp) -> None:
        operands = [self.value(number) for number in op.operands]
        if op.name == "builtin.combine":
            self._values[op.results[0][0]] = operands
            return
        if op.name in ("builtin.split", "builtin.slice"):
            (tensors,) = operands
            chosen = tensors if op.name == "builtin.split" else [tensors[op.attributes["index"]]]
            for (number, _), tensor in zip(op.results, chosen, strict=True):
                self._values[number] = tensor
            return
        mark = self.mark()
        try:
            results = self._converted(op, operands)
        except _UNKNOWN_FORM as reason:
            logger.debug("%s is left to Paddle: %s: %s", op.name, type(reason).__name__, reason)
            self.forget(mark)
            results = self._opaque(op, operands)
        self._values.update((number, result) for (number, _), result in zip(op.results, results, strict=True))

    def _converted(self, op: PirOp, operands: Sequence[Any]) -> list[Any]:
        """What the operator's converter makes of it, None for results that nobody uses. Raises UnsupportedForm."""
        supported(_known_dims(operands), "dims that depend on data")
        if any(map(is_complex, operands)):
            results = convert_complex(self, op, operands)
        else:
            convert = CONVERTERS.get(op.name.rstrip("_"))
            if convert is None:
                raise UnsupportedForm("there is no converter")
            results = convert(self, op, *operands)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        results += [None] * (len(op.results) - len(results))
        for (number, _), result in zip(op.results, results, strict=True):
            supported(result is not None or number not in self.used, "a result that its converter does not compute")
        return results

    def mark(self) -> tuple[int, Origin]:
        """For `forget`: how far the import has come."""
        return len(self.builder.nodes), self.builder.origin

    def forget(self, mark: tuple[int, Origin]) -> None:
        """Take back what was added since `mark`."""
        added, self.builder.origin = mark
        del self.builder.nodes[added:]
        self._placed = min(self._placed, added)

    def _opaque(self, op: PirOp, operands: Sequence[Any]) -> list[Any]:
        """The operator as it is, for Paddle to run. A list of tensors among its operands is written out.

        What stands inside of it is part of the attributes; what that reads from around it comes as further operands.

        Results that nobody uses, or that are no dense tensors, are left out (caches for the operator's gradient).
        A list of tensors among the results is written out, too.
        """
        captured = free_values(op.blocks)
        operands = [whole(operand) for operand in (*operands, *map(self.value, captured))]
        kinds = [kind if number in self.used else None for number, kind in op.results]
        for (number, kind), _ in zip(op.results, kinds, strict=True):
            if kind is None and number in self.used:
                raise GraphError(f"{op.name} gives something that is no tensor")
        types = tuple((kind.shape, kind.dtype) for kind in _flat(kinds))
        described = {"attributes": op.attributes, "operands": _layout(operands), "results": _layout(kinds)}
        if op.blocks:
            described.update(blocks=without_origins(op.blocks), captured=captured)
        attributes = json.dumps(described, sort_keys=True, default=str)
        given = [each.value for each in _flat(operands)]
        extra = {"operator": op.name, "attributes": attributes, "types": types}
        computed = map(self.builder.tensor, self.builder.add(op_named("paddle"), given, extra))
        return [
            [next(computed) for _ in kind] if isinstance(kind, list) else None if kind is None else next(computed)
            for kind in kinds
        ]

    def apply(self, name: str, **attributes: Any) -> Tensor:
        """An op without operands."""
        return self.builder.tensor(self.builder.add(op_named(name), (), attributes)[0])

    def known(self, tensor: Any) -> Array | None:
        """What a small tensor is, if no input and no parameter has a part in it; else None."""
        if tensor is None:
            return None
        for node in self.builder.nodes[self._placed :]:
            self._nodes.update((value.name, node) for value in node.outputs)
        self._placed = len(self.builder.nodes)
        return self._evaluate(tensor.value)

    def number(self, tensor: Any) -> float | None:
        """The one number that a tensor is, if that does not depend on data."""
        array = self.known(tensor)
        return None if array is None or array.size != 1 else float(array.reshape(-1)[0])

    def _evaluate(self, value: Any) -> Array | None:
        if value.name not in self._known:
            node = self._nodes.get(value.name)
            array = None
            if node is not None and node.op.kind not in (Kind.OPAQUE, Kind.CONTROL) and value.type.size <= _SMALL:
                operands = [self._evaluate(each) for each in node.inputs if each is not None]
                if all(each is not None for each in operands) and None not in node.inputs:
                    array = evaluate_node(node, operands)[node.outputs.index(value)]
            self._known[value.name] = array
        return self._known[value.name]


def _known_dims(operands: Sequence[Any]) -> bool:
    return all(isinstance(each, Complex) or each.type.known for each in _flat(operands))


def _flat(things: Sequence[Any]) -> list[Any]:
    """Without the lists among them, and without what is absent."""
    written_out = [each for thing in things for each in (thing if isinstance(thing, list) else [thing])]
    return [each for each in written_out if each is not None]


def _layout(things: Sequence[Any]) -> list[int]:
    """How many tensors there are in each place: 0 where there is nothing, 1, or those of a list."""
    return [len(thing) if isinstance(thing, list) else int(thing is not None) for thing in things]
