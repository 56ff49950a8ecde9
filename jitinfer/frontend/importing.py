"""A traced program -> a graph. It reads the program's JSON, and needs no Paddle."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.frontend.converters import CONVERTERS, PirOp, UnsupportedForm
from jitinfer.frontend.converters.complex_numbers import convert_complex, is_complex, whole
from jitinfer.graph import Builder, Graph, Tensor, TensorType, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.program import Program

_DTYPES = {
    "t_bool": "bool",
    "t_i8": "int8",
    "t_ui8": "uint8",
    "t_i16": "int16",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_f16": "float16",
    "t_bf16": "bfloat16",
    "t_f32": "float32",
    "t_f64": "float64",
    "t_c64": "complex64",
    "t_c128": "complex128",
}
_DIALECTS = {"0": "builtin", "1": "pd_op", "2": "cf"}
_SMALL = 4096
"""Elements up to which the importer computes a value, to see whether it is a shape."""

Array = numpy.ndarray[Any, Any]
logger = logging.getLogger("jitinfer.frontend")


def import_program(program: Program, shapes: Sequence[Sequence[int]] | None = None) -> Graph:
    """The graph of a program whose inputs have `shapes` (None: as traced, which must be without dynamic dims).

    An operator without a converter, or in a form that its converter does not know, becomes an opaque node.
    Raises GraphError for dynamic dims that nobody fills in, and for control flow.
    """
    return Importer(program, shapes).graph()


class Importer:
    """What converters see of a program on its way to a graph."""

    def __init__(self, program: Program, shapes: Sequence[Sequence[int]] | None) -> None:
        self.builder = Builder()
        self._program = program
        self._shapes = [kind.shape for kind in program.inputs] if shapes is None else [tuple(each) for each in shapes]
        self._values: dict[int, Any] = {0: None}
        self._known: dict[str, Array | None] = {}
        self._placed = 0
        self.used: set[int] = set()
        """The numbers of the values that some operator reads."""
        self._nodes: dict[str, Any] = {}

    def graph(self) -> Graph:
        document = json.loads(self._program.text)
        (block,) = document["program"]["regions"][0]["blocks"]
        inputs = [
            self.builder.input(f"in_{i}", shape, kind.dtype)
            for i, (shape, kind) in enumerate(zip(self._shapes, self._program.inputs, strict=True))
        ]
        fetched: dict[str, Tensor] = {}
        self.used = {each["%"] for entry in block["ops"] if entry["#"] != "p" for each in entry.get("I", ())}
        for entry in block["ops"]:
            if entry["#"] == "p":
                self._parameter(entry)
                continue
            op = _op(entry)
            if op.name == "pd_op.data":
                self._values[op.results[0][0]] = inputs[int(op.attributes["name"].removeprefix("in_"))]
            elif op.name == "pd_op.fetch":
                fetched[op.attributes["name"]] = whole(self._values[op.operands[0]])
            else:
                self._convert(op)
        outputs = [fetched[f"out_{i}"] for i in range(self._program.outputs)]
        return self.builder.build(*outputs)

    def _parameter(self, entry: Any) -> None:
        kind = _type(entry["O"]["TT"])
        if not isinstance(kind, TensorType):
            raise GraphError(f"the parameter {entry['A'][3]} is no tensor")
        self._values[entry["O"]["%"]] = self.builder.parameter(entry["A"][3], kind.shape, kind.dtype)

    def _convert(self, op: PirOp) -> None:
        operands = [self._values[number] for number in op.operands]
        if op.name == "builtin.combine":
            self._values[op.results[0][0]] = operands
            return
        if op.name in ("builtin.split", "builtin.slice"):
            (tensors,) = operands
            chosen = tensors if op.name == "builtin.split" else [tensors[op.attributes["index"]]]
            for (number, _), tensor in zip(op.results, chosen, strict=True):
                self._values[number] = tensor
            return
        convert = CONVERTERS.get(op.name.rstrip("_"))
        added = len(self.builder.nodes)
        try:
            if any(map(is_complex, operands)):
                results = convert_complex(self, op, operands)
            elif convert is None:
                raise UnsupportedForm(op.name)
            else:
                results = convert(self, op, *operands)
        except (UnsupportedForm, GraphError, KeyError, TypeError, ValueError) as reason:
            logger.debug("%s is left to Paddle: %s: %s", op.name, type(reason).__name__, reason)
            del self.builder.nodes[added:]
            self._placed = min(self._placed, added)
            results = self._opaque(op, operands)
        results = results if isinstance(results, (list, tuple)) else [results]
        for (number, _), result in zip(op.results, results, strict=False):
            self._values[number] = result

    def _opaque(self, op: PirOp, operands: Sequence[Any]) -> list[Any]:
        """The operator as it is, for Paddle to run. A list of tensors among its operands is written out.

        Results that nobody uses, or that are no dense tensors, are left out (caches for the operator's gradient).
        """
        operands = [whole(operand) for operand in operands]
        flat = [each for operand in operands for each in (operand if isinstance(operand, list) else [operand])]
        kinds = [kind if number in self.used else None for number, kind in op.results]
        if any(kind is not None and min((*kind.shape, 0)) < 0 for kind in kinds):
            raise GraphError(f"{op.name} has results with dims that nobody knows")
        types = tuple((kind.shape, kind.dtype) for kind in kinds if kind is not None)
        layout = [len(operand) if isinstance(operand, list) else int(operand is not None) for operand in operands]
        attributes = json.dumps({"attributes": op.attributes, "operands": layout}, sort_keys=True, default=str)
        given = [each.value for each in flat if each is not None]
        extra = {"operator": op.name, "attributes": attributes, "types": types}
        computed = iter(self.builder.add(op_named("paddle"), given, extra))
        return [None if kind is None else self.builder.tensor(next(computed)) for kind in kinds]

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
            if node is not None and value.type.size <= _SMALL and node.op.kind not in (Kind.OPAQUE, Kind.CONTROL):
                operands = [self._evaluate(each) for each in node.inputs if each is not None]
                if all(each is not None for each in operands) and None not in node.inputs:
                    array = evaluate_node(node, operands)[node.outputs.index(value)]
            self._known[value.name] = array
        return self._known[value.name]


def _op(entry: Any) -> PirOp:
    code, _, name = entry["#"].partition(".")
    attributes = {each["N"]: _attribute(each["AT"]) for each in entry.get("A", ())}
    results = entry.get("O", [])
    results = results if isinstance(results, list) else [results]
    return PirOp(
        f"{_DIALECTS.get(code, code)}.{name}",
        attributes,
        tuple(each["%"] for each in entry.get("I", ())),
        tuple((each["%"], _type(each.get("TT"))) for each in results),
    )


def _type(document: Any) -> TensorType | None:
    """None for what is not one dense tensor."""
    if not document or document["#"].partition(".")[2] != "t_dtensor":
        return None
    element, shape = document["D"][0]["#"].partition(".")[2], document["D"][1]
    return TensorType(tuple(shape), _DTYPES[element]) if element in _DTYPES else None


def _attribute(document: Any) -> Any:
    """An attribute as plain Python."""
    kind, data = document["#"].partition(".")[2], document.get("D")
    if kind == "a_array":
        return [_attribute(each) for each in data]
    if kind == "a_scalar" and isinstance(data, list):
        return data[-1]
    if kind in ("a_f32", "a_f64") and isinstance(data, str):
        return float(data)
    return data
