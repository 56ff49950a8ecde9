"""What is to be compiled, as JSON that another process understands: functions by where they stand, or by their text."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from triton.runtime.jit import JITFunction

from jitinfer.kernels.triton.generated.source import function_of, text_of
from jitinfer.kernels.triton.specialization import Specialization

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.cache import JSON

_PACKAGE = __name__.partition(".")[0] + "."
_PLAIN = (bool, int, float, str, type(None))


def described(source: Specialization) -> dict[str, JSON] | None:
    """None for what has no meaning in another process: importing a user's module there could do anything."""
    function = _described(source.function)
    constants = [_described(value) for _, value in source.constants]
    if function is None or None in constants:
        return None
    return {
        "function": function,
        "signature": [list(pair) for pair in source.signature],
        "constants": [[name, value] for (name, _), value in zip(source.constants, constants, strict=True)],
        "divisible": list(source.divisible),
        "options": [list(pair) for pair in source.options],
    }


def restored(document: Mapping[str, Any]) -> Specialization:
    """The inverse of `described`."""
    return Specialization(
        _restored(document["function"]),
        tuple((name, kind) for name, kind in document["signature"]),
        tuple((name, _restored(value)) for name, value in document["constants"]),
        tuple(document["divisible"]),
        tuple((name, value) for name, value in document["options"]),
    )


def _described(value: Any) -> dict[str, JSON] | None:
    if type(value) in _PLAIN:
        return {"plain": value}
    if type(value) is tuple:
        items = [_described(item) for item in value]
        return None if None in items else {"tuple": items}
    if not isinstance(value, JITFunction):
        return None
    text = text_of(value)
    if text is not None:
        return {"text": text}
    module, name = value.__module__, value.__qualname__
    return {"module": module, "name": name} if module.startswith(_PACKAGE) and name.isidentifier() else None


def _restored(document: Mapping[str, Any]) -> Any:
    if "plain" in document:
        return document["plain"]
    if "tuple" in document:
        return tuple(_restored(item) for item in document["tuple"])
    if "text" in document:
        return function_of(document["text"])
    return getattr(importlib.import_module(document["module"]), document["name"])
