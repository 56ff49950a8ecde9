"""Why an entry is missing: what differs from the nearest one that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jitinfer.cache.key import JSON, Key, canonical

_SHOWN = 60


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """One field that two documents do not share. stored, asked: the values, or ABSENT."""

    path: str
    stored: object
    asked: object

    def __str__(self) -> str:
        stored, asked = _shortened(repr(self.stored), repr(self.asked))
        return f"{self.path}: {stored} -> {asked}"


@dataclass(frozen=True)
class Explanation:
    """How a key relates to the entries of its kind. found: the key itself is there; nearest: the digest of another."""

    kind: str
    digest: str
    found: bool
    nearest: str | None
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        name = f"{self.kind} {self.digest[:12]}"
        state = "is in the cache" if self.found else "is not in the cache"
        if self.nearest is None:
            return f"{name} {state}; there is no other entry of its kind"
        lines = [f"{name} {state}; it differs from the nearest entry, {self.nearest[:12]}, in"]
        return "\n  ".join([*lines, *map(str, self.differences)])


def explain(key: Key, found: bool, others: Iterable[Key]) -> Explanation:
    """Compares a key with the others of its kind; of equally near ones the first wins."""
    best: tuple[Difference, ...] | None = None
    nearest = None
    for other in others:
        if other.kind != key.kind or other == key:
            continue
        different = tuple(differences(other.document, key.document))
        if best is None or len(different) < len(best):
            best, nearest = different, other.digest
    return Explanation(key.kind, key.digest, found, nearest, best or ())


def differences(stored: JSON | Mapping[str, JSON], asked: JSON | Mapping[str, JSON]) -> Iterator[Difference]:
    """The fields in which two JSON values differ, by dotted path, in order of the paths."""
    return _walk(stored, asked, "")


def _walk(stored: object, asked: object, path: str) -> Iterator[Difference]:
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        for name in sorted(stored.keys() | asked.keys()):
            inner = f"{path}.{name}" if path else name
            yield from _walk(stored.get(name, ABSENT), asked.get(name, ABSENT), inner)
    elif isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        for index, (one, other) in enumerate(zip(stored, asked, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]")
    elif stored is ABSENT or asked is ABSENT or canonical(stored, path) != canonical(asked, path):
        yield Difference(path, stored, asked)


def _shortened(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before where they part, at most _SHOWN characters of each."""
    parting = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = 0 if max(len(one), len(other)) <= _SHOWN else max(0, parting - _SHOWN // 3)
    return _excerpt(one, start), _excerpt(other, start)


def _excerpt(text: str, start: int) -> str:
    cut = text[start : start + _SHOWN]
    return f"{'…' if start else ''}{cut}{'…' if start + _SHOWN < len(text) else ''}"
