"""Where buffers lie in one arena: those that are never needed at the same time share memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.runtime.order import Order
from jitinfer.runtime.plan import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.runtime.order import Span


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `nbytes` that these steps write and read: at least one, in order."""

    name: str
    nbytes: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Offsets by name, bytes of the arena, and the bytes that the busiest step needs, or two steps that may run side by
    side: no arena could be smaller."""

    offsets: Mapping[str, int]
    nbytes: int
    lower_bound: int


def place(lifetimes: Sequence[Lifetime], order: Order | None = None) -> Placement:
    """The largest buffer first, each into the smallest gap that it fits into among those needed beside it.

    Two buffers share memory where all steps of one have ended before any step of the other begins. order: of the steps
    on their lanes, None for one after the other. Greedy by size, Pisarchyk and Lee, Efficient Memory Management for
    Deep Neural Net Inference, 2020.
    """
    if order is None:
        order = Order.in_turn(1 + max((each.steps[-1] for each in lifetimes), default=-1))
    placed: list[tuple[int, int, Span]] = []
    offsets: dict[str, int] = {}
    for each in sorted(lifetimes, key=lambda lifetime: (-lifetime.nbytes, lifetime.steps[0], lifetime.name)):
        span = order.span(each.steps)
        taken = sorted((start, end) for start, end, other in placed if order.meet(span, other))
        offset = offsets[each.name] = _gap(taken, aligned(each.nbytes))
        placed.append((offset, offset + aligned(each.nbytes), span))
    return Placement(offsets, max((end for _, end, _ in placed), default=0), _busiest(lifetimes, order))


def _gap(taken: Sequence[tuple[int, int]], nbytes: int) -> int:
    """The start of the smallest gap of at least `nbytes` between the places taken, which are sorted; else the end."""
    best, start, end = None, 0, 0
    for low, high in taken:
        room = low - end
        if room >= nbytes and (best is None or room < best):
            best, start = room, end
        end = max(end, high)
    return end if best is None else start


def _busiest(lifetimes: Sequence[Lifetime], order: Order) -> int:
    """A buffer is held at a step if one of its own has not begun later, and one has not ended before."""
    held: dict[int, set[int]] = defaultdict(set)
    for number, each in enumerate(lifetimes):
        span = order.span(each.steps)
        for step in range(each.steps[0], each.steps[-1] + 1):
            begun = any(first == step or order.precedes(first, step) for first in span.first)
            if begun and any(last == step or order.precedes(step, last) for last in span.last):
                held[step].add(number)
    nbytes = [aligned(each.nbytes) for each in lifetimes]
    most = max((sum(nbytes[each] for each in numbers) for numbers in held.values()), default=0)
    for one, other in order.beside():
        most = max(most, sum(nbytes[each] for each in held[one] | held[other]))
    return most
