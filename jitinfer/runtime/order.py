"""Which steps of several lanes have ended when others begin."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence


@dataclass(frozen=True)
class Span:
    """Of some steps, the first one and the last one on each lane that has any."""

    first: tuple[int, ...]
    last: tuple[int, ...]


class Order:
    """The partial order of steps that run in order on each lane, and wait for some of other lanes.

    A step knows, for each lane, the last step that has ended when it begins, and so all before that one: vector clocks,
    Fidge, Timestamps in Message-Passing Systems That Preserve the Partial Ordering, 1988.
    """

    def __init__(self, lanes: Sequence[int], after: Sequence[Collection[int]]) -> None:
        """Of each step the lane, 0 or more, and the earlier steps that it waits for, of whichever lane."""
        self.lanes = tuple(lanes)
        self._on_lane: list[list[int]] = [[] for _ in range(max(self.lanes, default=0) + 1)]
        self._ended: list[list[int]] = []
        for step, (lane, awaited) in enumerate(zip(lanes, after, strict=True)):
            before = self._on_lane[lane][-1:]
            known = self._seen([*before, *awaited])
            self._on_lane[lane].append(step)
            self._ended.append(known)

    @staticmethod
    def in_turn(steps: int) -> Order:
        """All on one lane."""
        return Order([0] * steps, [()] * steps)

    def precedes(self, one: int, other: int) -> bool:
        """Whether `one` has ended when `other` begins."""
        return self._ended[other][self.lanes[one]] >= one

    def span(self, steps: Iterable[int]) -> Span:
        """Of at least one step."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for step in steps:
            lane = self.lanes[step]
            first[lane] = min(first.get(lane, step), step)
            last[lane] = max(last.get(lane, step), step)
        return Span(tuple(first.values()), tuple(last.values()))

    def meet(self, one: Span, other: Span) -> bool:
        """Whether neither of them has ended, as a whole, before the other begins."""
        return not (self._before(one, other) or self._before(other, one))

    def _before(self, one: Span, other: Span) -> bool:
        return all(self.precedes(last, first) for last in one.last for first in other.first)

    def beside(self) -> Iterator[tuple[int, int]]:
        """All pairs of steps that may run at the same time, the smaller number first."""
        for step, known in enumerate(self._ended):
            for lane, steps in enumerate(self._on_lane):
                if lane != self.lanes[step]:
                    first = bisect_right(steps, known[lane])
                    yield from ((other, step) for other in steps[first : bisect_right(steps, step)])

    def needed(self, steps: Iterable[int], behind: int | None) -> tuple[int, ...]:
        """Those of `steps` that something has to wait for which comes behind the step `behind`, or first, on a lane.

        The others have ended when these have.
        """
        known = self._seen([] if behind is None else [behind])
        found = []
        for step in sorted(steps, reverse=True):
            if known[self.lanes[step]] < step:
                found.append(step)
                known = [max(pair) for pair in zip(known, self._seen([step]), strict=True)]
        return tuple(reversed(found))

    def _seen(self, steps: Iterable[int]) -> list[int]:
        """For each lane the last step that has ended when all of `steps` have; -1 for none."""
        known = [-1] * len(self._on_lane)
        for step in steps:
            known = [max(pair) for pair in zip(known, self._ended[step], strict=True)]
            known[self.lanes[step]] = max(known[self.lanes[step]], step)
        return known
