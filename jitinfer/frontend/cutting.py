"""A traced program taken apart: some of its operations as a graph, or as a program of Paddle's.

Pieces are cut out of the traced program, and not out of a graph after its passes: what Paddle runs is then what Paddle
itself would have computed, operators that only it knows and random generators included, and no op needs a second
implementation. A piece for a device is imported anew, so that passes, lowering and weights treat it as a program.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.errors import GraphError
from jitinfer.frontend.converters import CONVERTERS
from jitinfer.frontend.converters.complex_numbers import Complex
from jitinfer.frontend.document import free_values, pir_op, type_of, without_origins
from jitinfer.frontend.importing import Importer, imported
from jitinfer.frontend.partition import Task
from jitinfer.frontend.program import entries, parameter_name
from jitinfer.frontend.randomness import is_random
from jitinfer.graph import Builder, Tensor
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy

    from jitinfer.frontend.converters import PirOp
    from jitinfer.frontend.partition import Piece
    from jitinfer.frontend.program import Program
    from jitinfer.graph import Graph, Node
    from jitinfer.graph.node import Origin

    Array = numpy.ndarray[Any, Any]

_STRUCTURE = ("builtin.combine", "builtin.split", "builtin.slice")
"""What puts tensors into lists, and takes them out."""


@dataclass(frozen=True)
class Port:
    """A value of the program at the border of a graph: all of it, or one `part` of a complex one, "real" or "imag"."""

    number: int
    part: str = ""


@dataclass(frozen=True)
class GraphCut:
    """Some operations as a graph. parameters: those of the program that are the graph's, in its order."""

    graph: Graph
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True)
class ProgramCut:
    """Some operations as a program in Paddle's form, with canonical names, and the values that it takes and gives."""

    text: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...]


class Operations:
    """The operations of a program, for one combination of its inputs' shapes.

    tasks: the operations, without what is put into every piece that needs it: constants, lists of tensors. What an
    operation takes as a list is glued to it. inputs: values by the position of the input; results: the values that are
    fetched; constants: values that depend on shapes and constants alone.

    Raises GraphError for what cannot be imported, and for programs that hand values around that are no tensors.
    """

    def __init__(self, program: Program, shapes: Sequence[Sequence[int]], origins: Sequence[Origin]) -> None:
        self._whole, self._document = imported(program, shapes, origins)
        self._entries: list[Any] = self._document["program"]["regions"][0]["blocks"][0]["ops"]
        self._ops: dict[int, PirOp] = {}
        self._parameters: dict[int, int] = {}
        """The position of a parameter by the number of its entry."""
        self._maker: dict[int, int] = {}
        """The number of the entry that gives a value."""
        self._types: dict[int, Any] = {}
        self._free: set[int] = set()
        self._task_of: dict[int, int] = {}
        self.inputs: dict[int, int] = {}
        self.constants: dict[int, Array] = {}
        fetched: dict[str, int] = {}
        for number, entry in enumerate(self._entries):
            if entry["#"] == "p":
                self._parameters[number] = len(self._parameters)
                self._made(number, [entry["O"]])
                continue
            op = self._ops[number] = pir_op(entry)
            self._made(number, entry.get("O", ()))
            if op.name == "pd_op.data":
                self.inputs[int(op.attributes["name"].removeprefix("in_"))] = op.results[0][0]
            elif op.name == "pd_op.fetch":
                fetched[op.attributes["name"]] = op.operands[0]
        self.results = tuple(fetched[f"out_{position}"] for position in range(program.outputs))
        if any(self._maker[number] in self._parameters for number in self.results):
            raise GraphError("a weight as it is is one of the results")
        members = self._members()
        costs = self._costs()
        self.tasks = tuple(self._task(numbers, costs) for numbers in members)

    def nbytes(self) -> dict[int, int]:
        """Of each value that may stand at the border of a piece; 0 where that depends on data."""
        given = {*self.inputs.values(), *(value for task in self.tasks for value in (*task.reads, *task.writes))}
        return {number: sum(kind.nbytes for kind in self._kinds(number) if kind.known) for number in given}

    def task_of(self, node: Node) -> int | None:
        """The task that a node of an imported graph, or what passes made of it, comes from."""
        operation = node.origin.operation
        return None if operation is None else self._task_of.get(operation)

    def graph(self, piece: Piece) -> GraphCut:
        """Raises GraphError where a value at its border is no tensor of a known shape."""
        numbers, borders = self._closure(piece.tasks)
        inner = Importer(Builder(), self._whole.used)
        inputs: list[Port] = []
        for number in borders:
            if number in self.constants:
                inner.bind(number, inner.builder.constant(self.constants[number]))
                continue
            parts = self._parts(number)
            given = {
                part: inner.builder.input(f"x_{len(inputs) + i}", kind.shape, kind.dtype)
                for i, (part, kind) in enumerate(parts.items())
            }
            inputs += [Port(number, part) for part in parts]
            inner.bind(number, given[""] if "" in given else Complex(given["real"], given.get("imag")))
        chosen, parameters = self._with_own_names(numbers)
        inner.run({"ops": chosen})
        outputs: list[Port] = []
        values: list[Tensor] = []
        for number in piece.writes:
            found = _parts_of(inner.value(number))
            outputs += [Port(number, part) for part in found]
            values += found.values()
        return GraphCut(inner.builder.build(*values), tuple(inputs), tuple(outputs), parameters)

    def program(self, piece: Piece) -> ProgramCut:
        """Raises GraphError where a value at its border is no tensor."""
        numbers, borders = self._closure(piece.tasks)
        free = 1 + max(each["%"] for entry in entries({"ops": self._entries}) for each in _results(entry))
        ops = [_data(f"in_{i}", number, self._types[number]) for i, number in enumerate(borders)]
        chosen, parameters = self._with_own_names(numbers)
        ops += map(without_origins, chosen)
        for i, number in enumerate(piece.writes):
            ops.append(_fetch(f"out_{i}", i, number, free + i, self._types[number]))
        block = {**self._document["program"]["regions"][0]["blocks"][0], "ops": ops}
        regions = [{**self._document["program"]["regions"][0], "blocks": [block]}]
        document = {**self._document, "program": {**self._document["program"], "regions": regions}}
        text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        return ProgramCut(text, tuple(borders), piece.writes, parameters)

    def _with_own_names(self, numbers: Sequence[int]) -> tuple[list[Any], tuple[int, ...]]:
        """Entries whose parameters are named as if there were no others, and which of the program's they are.

        Pieces that are alike, such as those of a model's layers, are equal then, and are compiled once.
        """
        chosen: list[Any] = []
        parameters: list[int] = []
        for number in numbers:
            entry = self._entries[number]
            if number in self._parameters:
                before, after = entry["A"][:3], entry["A"][4:]
                entry = {**entry, "A": [*before, parameter_name(len(parameters)), *after]}
                parameters.append(self._parameters[number])
            chosen.append(entry)
        return chosen, tuple(parameters)

    def _made(self, number: int, results: Iterable[Any]) -> None:
        for each in results:
            self._maker[each["%"]] = number
            self._types[each["%"]] = each.get("TT")

    def _members(self) -> list[list[int]]:
        """The entries of each task. Fills in what is in every piece that needs it, and what is constant."""
        members: list[list[int]] = []
        for number, op in self._ops.items():
            if op.name in ("pd_op.data", "pd_op.fetch"):
                continue
            if op.name in ("builtin.split", "builtin.slice") and self._maker[op.operands[0]] in self._task_of:
                self._task_of[number] = self._task_of[self._maker[op.operands[0]]]
                members[self._task_of[number]].append(number)
                continue
            if op.name in _STRUCTURE:
                self._free.add(number)
                continue
            known = {value: self._known(value) for value, _ in op.results}
            self.constants.update((value, array) for value, array in known.items() if array is not None)
            fetched = not self._unknown(known).isdisjoint(self.results)
            plain = not op.operands and not op.blocks and op.name in CONVERTERS and not self._random(op)
            if plain and not fetched:
                self._free.add(number)
            elif not known or self._unknown(known):
                self._task_of[number] = len(members)
                members.append([number])
        return members

    @staticmethod
    def _unknown(known: Mapping[int, Array | None]) -> set[int]:
        return {value for value, array in known.items() if array is None}

    def _known(self, number: int) -> Array | None:
        value = self._whole.value(number)
        return self._whole.known(value) if isinstance(value, Tensor) else None

    def _task(self, numbers: Sequence[int], costs: Mapping[int, int]) -> Task:
        ops = [self._ops[number] for number in numbers]
        writes = [value for op in ops for value, _ in op.results]
        _, borders = self._closure_of(numbers)
        reads = tuple(value for value in borders if value not in self.constants)
        ordered = any(self._random(op) or not op.name.startswith(("pd_op.", "builtin.")) for op in ops)
        flops = sum(costs.get(number, 0) for number in numbers)
        return Task(reads, tuple(value for value in writes if value not in self.constants), flops, ordered)

    def _random(self, op: PirOp) -> bool:
        inside = (pir_op(entry) for block in op.blocks for entry in entries(block) if entry["#"] != "p")
        return any(is_random(each.name, lambda each=each: each.attributes) for each in (op, *inside))  # type: ignore[misc]

    def _costs(self) -> Counter[int]:
        """FLOPs by the number of the entry, those of an opaque one as if it multiplied each row by its weights."""
        builder = self._whole.builder
        parameters = set(builder.parameters)
        found: Counter[int] = Counter()
        for node in builder.nodes:
            types = node.input_types()
            flops = node.op.flops(types, [value.type for value in node.outputs], **node.attributes)
            if node.op.kind is Kind.OPAQUE:
                given = {value for value in node.inputs if value is not None and value.type.known}
                rows = (each.type.size // max(each.shape[-1], 1) for each in given - parameters if each.shape)
                flops += 2 * max(rows, default=1) * sum(each.type.size for each in given & parameters)
            if node.origin.operation is not None:
                found[node.origin.operation] += flops
        return found

    def _closure(self, tasks: Sequence[int]) -> tuple[list[int], list[int]]:
        chosen = set(tasks)
        return self._closure_of([number for number, task in self._task_of.items() if task in chosen])

    def _closure_of(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        """The entries with those that each piece has for itself, and the values that they need from elsewhere."""
        inside = set(numbers)
        borders: dict[int, None] = {}
        waiting = list(numbers)
        while waiting:
            for value in self._reads(waiting.pop()):
                maker = self._maker[value]
                if maker in inside:
                    continue
                if maker in self._parameters or maker in self._free:
                    inside.add(maker)
                    waiting.append(maker)
                else:
                    borders[value] = None
        return sorted(inside), sorted(borders)

    def _reads(self, number: int) -> list[int]:
        if number in self._parameters:
            return []
        op = self._ops[number]
        return [value for value in dict.fromkeys((*op.operands, *free_values(op.blocks))) if value]

    def _parts(self, number: int) -> dict[str, Any]:
        return {part: tensor.type for part, tensor in _parts_of(self._whole.value(number)).items()}

    def _kinds(self, number: int) -> list[Any]:
        value = self._whole.value(number)
        return [] if value is None or isinstance(value, list) else list(self._parts(number).values())


def _parts_of(value: Any) -> dict[str, Tensor]:
    """Raises GraphError for what is no tensor."""
    if isinstance(value, Complex):
        both = {"real": value.real, "imag": value.imag}
        return {part: tensor for part, tensor in both.items() if tensor is not None}
    if not isinstance(value, Tensor):
        raise GraphError("something that is no tensor goes from one piece of the program to another")
    return {"": value}


def _results(entry: Any) -> list[Any]:
    results = entry.get("O", [])
    return results if isinstance(results, list) else [results]


def _data(name: str, number: int, kind: Any) -> Any:
    found = _tensor_type(kind)
    attributes = {
        "name": {"#": "0.a_str", "D": name},
        "shape": {"#": "1.a_intarray", "D": list(found.shape)},
        "dtype": {"#": "1.a_dtype", "D": found.dtype},
        "place": {"#": "1.a_place", "D": [0, 0, ""]},
    }
    return {
        "#": "1.data",
        "A": [{"AT": value, "N": each} for each, value in attributes.items()],
        "I": [],
        "O": [{"%": number, "TT": kind}],
        "OA": [_flag("stop_gradient")],
    }


def _fetch(name: str, column: int, number: int, result: int, kind: Any) -> Any:
    _tensor_type(kind)
    attributes = {"name": {"#": "0.a_str", "D": name}, "col": {"#": "0.a_i32", "D": column}}
    return {
        "#": "1.fetch",
        "A": [{"AT": value, "N": each} for each, value in attributes.items()],
        "I": [{"%": number}],
        "O": [{"%": result, "TT": kind}],
        "OA": [_flag("persistable"), _flag("stop_gradient")],
    }


def _flag(name: str) -> Any:
    return {"AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": True}]}, "N": name}


def _tensor_type(kind: Any) -> Any:
    found = type_of(kind)
    if found is None or isinstance(found, list):
        raise GraphError("something that is no tensor goes from one piece of the program to another")
    return found
