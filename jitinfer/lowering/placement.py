"""Where buffers lie in one arena: those that are never needed at the same time share memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.runtime.plan import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` that holds something from step `first` to step `last`, both included."""

    name: str
    nbytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Placement:
    """Offsets by name, bytes of the arena, and the bytes that the busiest step needs: no arena could be smaller."""

    offsets: Mapping[str, int]
    nbytes: int
    lower_bound: int


def place(lifetimes: Sequence[Lifetime]) -> Placement:
    """The largest buffer first, each into the smallest gap that it fits into among those alive with it.

    Greedy by size, Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020.
    """
    placed: list[tuple[int, Lifetime]] = []
    for each in sorted(lifetimes, key=lambda lifetime: (-lifetime.nbytes, lifetime.first, lifetime.name)):
        taken = sorted((offset, offset + aligned(other.nbytes)) for offset, other in placed if other.meets(each))
        placed.append((_gap(taken, aligned(each.nbytes)), each))
    nbytes = max((offset + aligned(each.nbytes) for offset, each in placed), default=0)
    return Placement({each.name: offset for offset, each in placed}, nbytes, _busiest(lifetimes))


def _gap(taken: Sequence[tuple[int, int]], nbytes: int) -> int:
    """The start of the smallest gap of at least `nbytes` between the places taken, which are sorted; else the end."""
    best, start, end = None, 0, 0
    for low, high in taken:
        room = low - end
        if room >= nbytes and (best is None or room < best):
            best, start = room, end
        end = max(end, high)
    return end if best is None else start


def _busiest(lifetimes: Sequence[Lifetime]) -> int:
    changes: dict[int, int] = {}
    for each in lifetimes:
        changes[each.first] = changes.get(each.first, 0) + aligned(each.nbytes)
        changes[each.last + 1] = changes.get(each.last + 1, 0) - aligned(each.nbytes)
    held = most = 0
    for step in sorted(changes):
        held += changes[step]
        most = max(most, held)
    return most
