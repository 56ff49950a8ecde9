"""What a Triton function's meaning depends on beside its own text: functions that it calls, and global constants."""

from __future__ import annotations

import hashlib
import inspect
import types
from typing import TYPE_CHECKING, Any

from triton.language import constexpr
from triton.runtime.jit import JITCallable

if TYPE_CHECKING:
    from collections.abc import Iterator


def dependencies(function: Any) -> dict[str, str]:
    """By name, the text's SHA-256 of each function that can be reached, itself included, or a constant's value.

    It is read anew at each call: a global that was assigned again gives another answer. Triton's own functions are
    left out, since its version says which they are. Names are looked up by their text alone, so what a function
    mentions but does not use may be among them.
    """
    found: dict[str, str] = {}
    waiting = [function]
    while waiting:
        each = waiting.pop()
        name = f"{each.__module__}.{each.__qualname__}"
        digest = hashlib.sha256(f"{each.src}\n{each.fn.__defaults__!r}".encode()).hexdigest()
        if found.get(name) == digest:
            continue
        while name in found:  # two functions of one name, made by one factory
            name += "'"
        found[name] = digest
        for label, value in _mentioned(each.fn):
            if isinstance(value, JITCallable):
                waiting.append(value)
            else:
                found[f"{each.__module__}.{label}"] = repr(value)
    return dict(sorted(found.items()))


def _mentioned(function: Any) -> Iterator[tuple[str, Any]]:
    """Names in the code of a Python function that mean functions or constants of Triton programs."""
    scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    names = sorted(set(_names(function.__code__)))
    for name in names:
        value = scope.get(name)
        if _own(value):
            yield name, value
        elif isinstance(value, types.ModuleType) and not value.__name__.startswith("triton"):
            for attribute in names:
                inner = getattr(value, attribute, None)
                if _own(inner):
                    yield f"{name}.{attribute}", inner
        for inner in getattr(value, "hash_attrs", ()):  # classes whose methods are Triton functions
            if _own(inner):
                yield f"{name}.{getattr(inner, '__name__', inner)}", inner


def _own(value: object) -> bool:
    if isinstance(value, JITCallable):
        return not str(value.__module__).startswith("triton.")
    return isinstance(value, constexpr)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
