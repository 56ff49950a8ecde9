"""Frozen dataclasses as JSON and back: nothing of it is executed, and what does not fit raises PlanError."""

from __future__ import annotations

import dataclasses
import types
from functools import cache
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from jitinfer.errors import PlanError

if TYPE_CHECKING:
    from jitinfer.cache import JSON


def to_document(value: Any) -> JSON:
    """JSON of dataclasses, tuples, str, int, bool, float and None; a float as its exact hexadecimal text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {spec.name: to_document(getattr(value, spec.name)) for spec in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_document(each) for each in value]
    if type(value) is float:
        return {"is": "float", "hex": value.hex()}
    if value is None or type(value) in (str, int, bool):
        return value  # type: ignore[no-any-return]
    raise PlanError(f"{value!r} has no place in a plan")


def from_document(kind: Any, value: JSON, path: str) -> Any:
    """The value of type `kind` that `value` describes. Raises PlanError, naming the place by `path`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return from_document(_alternative(arguments, value, path), value, path)
    if origin is tuple:
        return _sequence(arguments, value, path)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    if kind is float:
        return _floating(value, path)
    if kind is type(None) and value is None:
        return None
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise PlanError(f"{path} is {_brief(value)}, which is no {getattr(kind, '__name__', kind)}")


def _alternative(kinds: tuple[Any, ...], value: JSON, path: str) -> Any:
    name = value.get("is") if isinstance(value, dict) else type(value).__name__
    for kind in kinds:
        if kind.__name__ == name:
            return kind
    raise PlanError(f"{path} is {_brief(value)}, which is none of {', '.join(kind.__name__ for kind in kinds)}")


def _sequence(kinds: tuple[Any, ...], value: JSON, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise PlanError(f"{path} is {_brief(value)}, not a list")
    repeated = len(kinds) == 2 and kinds[1] is ...
    if not repeated and len(kinds) != len(value):
        raise PlanError(f"{path} has {len(value)} elements, not {len(kinds)}")
    wanted = [kinds[0]] * len(value) if repeated else kinds
    return tuple(
        from_document(kind, each, f"{path}[{i}]") for i, (kind, each) in enumerate(zip(wanted, value, strict=True))
    )


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _dataclass(kind: Any, value: JSON, path: str) -> Any:
    if not isinstance(value, dict) or value.get("is") != kind.__name__:
        raise PlanError(f"{path} is {_brief(value)}, which is no {kind.__name__}")
    names = [spec.name for spec in dataclasses.fields(kind)]
    if set(value) != {"is", *names}:
        raise PlanError(f"{path} has not exactly the fields of a {kind.__name__}")
    hints = _hints(kind)
    return kind(**{name: from_document(hints[name], value[name], f"{path}.{name}") for name in names})


def _floating(value: JSON, path: str) -> float:
    if isinstance(value, dict) and value.get("is") == "float" and type(value.get("hex")) is str:
        try:
            return float.fromhex(value["hex"])
        except (ValueError, OverflowError):
            pass
    raise PlanError(f"{path} is {_brief(value)}, which is no float")


def _brief(value: JSON) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
