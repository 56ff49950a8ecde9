"""What an artifact depends on, as one canonical document, and the digest of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

JSON: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

# Exact types on purpose: a numpy.float64 is a float, and an IntEnum an int, whose text may change between versions.
_SCALARS = (bool, int, str, type(None))


def canonical(value: object, path: str) -> str:
    """The one text of a JSON value: keys sorted, no spaces, ASCII; `1`, `1.0`, `True` and `"1"` all differ.

    Raises TypeError (a type that is not JSON) or ValueError (NaN, infinity), naming the place inside `path`.
    """
    _check(value, path)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check(value: object, path: str) -> None:
    kind = type(value)
    if kind in _SCALARS:
        return
    if isinstance(value, float) and kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}; NaN and infinities have no JSON form")
    elif isinstance(value, list) and kind is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
    elif isinstance(value, dict) and kind is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise TypeError(f"{path} has the key {name!r} of type {type(name).__name__}; keys are str")
            _check(item, f"{path}.{name}")
    else:
        raise TypeError(
            f"{path} is {_article(kind.__qualname__)}; only None, bool, int, float, str, list and dict are JSON"
        )


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


@dataclass(frozen=True, eq=False)
class Key:
    """Names one artifact by everything that it depends on.

    kind: a short word ("trace", "verdict"); document: JSON. The document is copied, so changing the original later
    changes nothing here. Keys are equal when their digests are. Raises TypeError or ValueError for a document that is
    not JSON, naming the place inside the document.
    """

    kind: str
    document: Mapping[str, JSON]
    text: str = field(init=False, repr=False)
    _digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.kind) is not str or not self.kind:
            raise TypeError(f"the kind of a key is a short word, not {self.kind!r}")
        if not isinstance(self.document, Mapping):
            raise TypeError(f"the document of a key is a mapping, not {_article(type(self.document).__name__)}")
        text = canonical({"kind": self.kind, "document": dict(self.document)}, "key")
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "document", json.loads(text)["document"])
        object.__setattr__(self, "_digest", hashlib.sha256(text.encode("ascii")).hexdigest())

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical text, 64 hexadecimal digits; the same in every process and on every machine."""
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)
