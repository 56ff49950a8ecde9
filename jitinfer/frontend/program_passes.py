"""One of Paddle's passes on a traced program: text -> text, and what has become of its operations and parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle

from jitinfer.frontend.program import parameter_name
from jitinfer.frontend.serialising import all_ops, deserialise, serialise

if TYPE_CHECKING:
    from collections.abc import Sequence

_POSITION = "jitinfer_position"
"""The attribute that an operation carries through a pass; Paddle leaves it out of the text."""
_PARAMETER = "builtin.parameter"
_DIALECTS = frozenset({"builtin", "pd_op", "cf", "py_op", "custom_op"})
"""Those of the operators that a trace can have."""


@dataclass(frozen=True)
class Rewritten:
    """`parameters`: for each parameter that is left, which one of the program before it is, in the new order.

    `operations`: for each operation of the text, in its order, which one of the text before it is; None for a new one,
    and for a parameter.
    """

    text: bytes
    parameters: tuple[int, ...]
    operations: tuple[int | None, ...]

    @staticmethod
    def nothing(text: bytes, parameters: int, operations: int) -> Rewritten:
        """A program as it is."""
        return Rewritten(text, tuple(range(parameters)), tuple(range(operations)))

    def after(self, other: Rewritten) -> Rewritten:
        """`other` and then this, as one."""
        return Rewritten(
            self.text,
            tuple(other.parameters[position] for position in self.parameters),
            tuple(None if position is None else other.operations[position] for position in self.operations),
        )


def run_program_pass(text: bytes, name: str, inputs: int, outputs: int) -> Rewritten:
    """Run the pass `name` on a program with so many inputs and outputs. A pass may crash: call it in a child process.

    Parameters are named anew, in the order of the new text. Raises what Paddle raises, and ValueError where the
    program afterwards is none that could be imported: it has a parameter that the pass made up, lacks a result, or
    holds operators of oneDNN.
    """
    program = deserialise(text)
    for position, op in enumerate(all_ops(program.global_block())):
        if op.name() != _PARAMETER:  # which Paddle would not write with another attribute
            op.set_str_attr(_POSITION, str(position))
    passes = paddle.pir.PassManager()
    passes.add_pass(name, {})
    passes.run(program)
    ops = list(all_ops(program.global_block()))
    left = _rename_parameters([op for op in ops if op.name() == _PARAMETER])
    _check(ops, inputs, outputs)
    positions = tuple(_position(op) for op in ops)
    rewritten, _ = serialise(program)
    return Rewritten(rewritten, left, positions)


def _rename_parameters(ops: Sequence[Any]) -> tuple[int, ...]:
    names = [op.attrs()["parameter_name"] for op in ops]
    for name in names:
        if not re.fullmatch(r"p_\d{6,}", name):
            raise ValueError(f"it adds a parameter, {name!r}, whose values only Paddle's own engine could compute")
    for position, op in enumerate(ops):
        op.set_str_attr("parameter_name", parameter_name(position))
    return tuple(int(name[2:]) for name in names)


def _check(ops: Sequence[Any], inputs: int, outputs: int) -> None:
    named: dict[str, set[str]] = {"pd_op.data": set(), "pd_op.fetch": set()}
    for op in ops:
        if op.name().partition(".")[0] not in _DIALECTS:  # nameless where oneDNN has not been used; writing it crashes
            raise ValueError("it makes operators of oneDNN, which only Paddle's own engine has")
        if op.name() in named:
            named[op.name()].add(op.attrs()["name"])
    if named["pd_op.fetch"] != {f"out_{position}" for position in range(outputs)}:
        raise ValueError("the program has other results afterwards")
    if not named["pd_op.data"] <= {f"in_{position}" for position in range(inputs)}:
        raise ValueError("the program has other inputs afterwards")


def _position(op: Any) -> int | None:
    position = op.attrs().get(_POSITION)
    return None if position is None else int(position)
