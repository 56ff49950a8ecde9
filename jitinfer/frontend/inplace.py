"""Operators that write into an operand's memory."""

from __future__ import annotations

import paddle

from jitinfer.frontend.serialising import all_ops, deserialise


def overwritten(text: bytes) -> str:
    """The operator of a program that writes over a value which is read after it, as "pd_op.add_"; "" if none does."""
    order = {}
    ops = list(all_ops(deserialise(text).global_block())) if b'_"' in text else []
    for position, op in enumerate(ops):
        order[op.id()] = position
    for position, op in enumerate(ops):
        if not op.name().endswith("_"):
            continue
        for operand in paddle.core.pir.get_op_inplace_info(op).values():
            users = op.operand_source(operand).all_used_ops()
            if any(order.get(user.id(), position) > position for user in users):
                return str(op.name())
    return ""
