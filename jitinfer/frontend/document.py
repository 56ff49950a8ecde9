"""Operations of a program, as they stand in Paddle's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.registry import PirOp
from jitinfer.graph import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def pir_op(entry: Any) -> PirOp:
    code, _, name = entry["#"].partition(".")
    attributes = {each["N"]: _attribute(each["AT"]) for each in entry.get("A", ())}
    results = entry.get("O", [])
    results = results if isinstance(results, list) else [results]
    return PirOp(
        f"{_DIALECTS.get(code, code)}.{name}",
        attributes,
        tuple(each["%"] for each in entry.get("I", ())),
        tuple((each["%"], type_of(each.get("TT"))) for each in results),
        tuple(block for region in entry.get("regions", ()) for block in region["blocks"]),
    )


def free_values(blocks: Sequence[Any]) -> list[int]:
    """The numbers of the values that blocks read and do not define."""
    read: dict[int, None] = {}
    defined: set[int] = {0}
    for block in blocks:
        defined.update(each["#"] for each in block.get("args", ()))
        for op in map(pir_op, block["ops"]):
            read.update(dict.fromkeys((*op.operands, *free_values(op.blocks))))
            defined.update(number for number, _ in op.results)
    return [number for number in read if number not in defined]


def without_origins(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: without_origins(each) for name, each in document.items() if name != "origin"}
    return [without_origins(each) for each in document] if isinstance(document, (list, tuple)) else document


def type_of(document: Any) -> Any:
    """That of a dense tensor, or a list of those of a list; None for anything else."""
    kind = document["#"].partition(".")[2] if document else ""
    if kind == "t_vec":
        kinds = [type_of(each) for each in document["D"]]
        return None if None in kinds else kinds
    if kind != "t_dtensor":
        return None
    element, shape = document["D"][0]["#"].partition(".")[2], document["D"][1]
    return TensorType(tuple(shape), _DTYPES[element]) if element in _DTYPES else None


def _attribute(document: Any) -> Any:
    """An attribute as plain Python. Numbers that are not finite stand there as text, in a place of their own."""
    kind, data = document["#"].partition(".")[2], document.get("D", document.get("VD"))
    if kind == "a_array":
        return [_attribute(each) for each in data]
    if kind == "a_scalar" and isinstance(data, list):
        return data[-1]
    if kind in ("a_f32", "a_f64") and isinstance(data, str):
        return float(data)
    return data
