"""What a cache tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """What one Cache object has done so far."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    set_aside: int = 0


@dataclass(frozen=True)
class Summary:
    """One line of a listing. size: bytes; created, last_used: seconds since the epoch."""

    digest: str
    kind: str
    size: int
    created: float
    last_used: float


@dataclass(frozen=True)
class Damage:
    """Something that `verify` found. digest: of the entry, or "" for the database itself."""

    digest: str
    kind: str
    reason: str
