"""Paddle's programs as text and back, less what differs between processes that trace the same function."""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import paddle
from paddle.base import core

from jitinfer.frontend.origins import layers_in

if TYPE_CHECKING:
    from collections.abc import Iterator

_PER_PROCESS = ("struct_name", "op_callstack")


def serialise(program: Any) -> tuple[bytes, list[str]]:
    """Paddle's JSON for `program`, without the layers' paths; and those, in the order of the text's operations.

    One program has one text, also when it was read from its text and is written again.
    """
    with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:  # Paddle writes programs to files only
        path = os.path.join(folder, "program.json")
        core.serialize_pir_program(program, path)
        with open(path, "rb") as file:
            document = json.load(file)
    layers = layers_in(document)
    _make_canonical(document)
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode(), layers


def deserialise(text: bytes) -> Any:
    """The inverse of `serialise`, as a `paddle.pir.Program`; operations have no callstack and no layers."""
    with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:
        path = os.path.join(folder, "program.json")
        with open(path, "wb") as file:
            file.write(text)
        program = paddle.pir.Program()
        core.deserialize_pir_program(path, program)
    return program


def all_ops(block: Any) -> Iterator[Any]:
    """The operations of a block in the order of the text: each followed by those inside of it."""
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from all_ops(inner)


def _make_canonical(node: Any) -> None:
    """Remove the layers' paths, which Paddle numbers by a counter of the process, wherever attributes are listed.

    Put the attributes of results in order: they come in that of a hash table, which depends on its history.
    """
    if isinstance(node, dict):
        results = node.get("OA")
        if isinstance(results, list) and all(isinstance(each, dict) and "N" in each for each in results):
            results.sort(key=lambda each: str(each["N"]))
        for child in node.values():
            _make_canonical(child)
    elif isinstance(node, list):
        node[:] = [each for each in node if not (isinstance(each, dict) and each.get("N") in _PER_PROCESS)]
        for child in node:
            _make_canonical(child)
