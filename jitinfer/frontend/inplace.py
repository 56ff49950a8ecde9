"""Operators that write into an operand's memory."""

from __future__ import annotations

import paddle

from jitinfer.frontend.serialising import all_ops, deserialise


def overwritten(text: bytes) -> str:
    """The operator of a program that writes over a value which is read after it, as "pd_op.add_"; "" if none does."""
    if b'_"' not in text:
        return ""
    program = deserialise(text)  # operations do not keep it alive
    ops = list(all_ops(program.global_block()))
    order = {op.id(): position for position, op in enumerate(ops)}
    for position, op in enumerate(ops):
        if not op.name().endswith("_"):
            continue
        for operand in paddle.core.pir.get_op_inplace_info(op).values():
            users = op.operand_source(operand).all_used_ops()
            if any(order[user.id()] > position for user in users):
                return str(op.name())
    return ""
