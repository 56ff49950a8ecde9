"""Which nodes run beside the others, on a second lane.

The nodes on the longest way through the graph, by their estimated times, stay on lane 0. The others are branches: those
that the same node of that way has to precede, and the same one to follow. A branch moves to lane 1 if its part of the
way ends sooner then, by an estimate of both lanes that share the device.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.lowering.estimate import estimate
from jitinfer.runtime.order import Order

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from jitinfer.graph.node import Node, Value
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice
    from jitinfer.lowering.estimate import Estimate

CHANGE_MICROSECONDS = 2.0
"""What a node begins later by that waits for another lane: no kernel of it is launched before the others have ended."""

LEAST_MICROSECONDS = 4.0
"""That a branch has to gain by the estimate, which is a rough one."""

LEAST_SHARE = 0.03
"""Of the time in one lane that two have to spare, estimated or measured.

They take more memory, and a plan that is loaded twice does not take the same time twice.
On an H100, gains of 1.3% and 1.9% by `lowering.lane_timing` were none in whole runs, and those of 3.9% were there.
"""

ROOM = 4.0
"""How many times as long as a branch takes the longest way is to take beside it, where it takes that long."""


@dataclass(frozen=True)
class Lanes:
    """Of each node its lane, and the numbers of earlier nodes on other lanes that it waits for.

    microseconds: by the estimate, of one node after the other, and of both lanes; zeros where there is none.
    """

    lanes: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]
    microseconds: tuple[float, float]

    @property
    def order(self) -> Order:
        return Order(self.lanes, self.after)


@dataclass(frozen=True)
class Branch:
    """Nodes off the longest way: behind the node `fork` of it, -1 for its beginning, and ahead of `join`, its length
    in the graph for its end."""

    fork: int
    join: int
    nodes: tuple[int, ...]


def one_lane(nodes: int) -> Lanes:
    """All nodes in their order."""
    return Lanes((0,) * nodes, ((),) * nodes, (0.0, 0.0))


def two_lanes(work: Sequence[tuple[Node, Choice]], target: Target) -> Lanes:
    """Nodes in an order that their values allow, with their kernels."""
    return assigned(needs_of([node for node, _ in work]), [estimate(node, choice, target) for node, choice in work])


def needs_of(nodes: Sequence[Node]) -> list[list[int]]:
    """Of each node, the earlier ones that write what it reads: several of them may write parts of a value."""
    writers: dict[Value, list[int]] = defaultdict(list)
    needs: list[list[int]] = []
    for number, node in enumerate(nodes):
        needs.append(sorted({each for value in node.inputs if value is not None for each in writers[value]}))
        for value in dict.fromkeys(node.outputs):
            writers[value].append(number)
    return needs


def assigned(needs: Sequence[Collection[int]], estimates: Sequence[Estimate]) -> Lanes:
    """The lanes of nodes that need earlier ones, and take what is estimated."""
    way, every = longest_way(needs, estimates), range(len(needs))
    lanes = [0] * len(needs)
    before = elapsed(every, lanes, needs, estimates)
    beside = []
    for branch in branches(needs, way):
        window = _window(branch, way, estimates)
        moved = list(lanes)
        for number in branch.nodes:
            moved[number] = 1
        gain = elapsed(window, lanes, needs, estimates) - elapsed(window, moved, needs, estimates)
        if gain >= LEAST_MICROSECONDS:
            lanes = moved
            beside.append(branch)
    late = _begun_late(beside, way, needs, estimates)
    now = elapsed(every, lanes, late, estimates)
    if before - now < max(LEAST_MICROSECONDS, LEAST_SHARE * before):
        return one_lane(len(needs))
    return Lanes(tuple(lanes), waits_of(lanes, late), (before, now))


def waits_of(lanes: Sequence[int], needs: Sequence[Collection[int]]) -> tuple[tuple[int, ...], ...]:
    """Of each node, the nodes on other lanes that it has to wait for: not those that have ended when others have."""
    order = Order(lanes, needs)
    last: dict[int, int] = {}
    after = []
    for number, lane in enumerate(lanes):
        after.append(order.needed((each for each in needs[number] if lanes[each] != lane), last.get(lane)))
        last[lane] = number
    return tuple(after)


def _window(branch: Branch, way: Sequence[int], estimates: Sequence[Estimate]) -> range:
    """The part of the graph in which a branch finds time enough, and all that it has where that is less."""
    begin = _latest(branch, branch.join, way, estimates)
    room = _room(branch, estimates)
    for number in way[bisect_right(way, begin) : bisect_left(way, branch.join)]:
        if room <= 0.0 and number > branch.nodes[-1]:
            return range(begin + 1, number)
        room -= estimates[number].microseconds
    return range(begin + 1, branch.join)


def _begun_late(
    beside: Sequence[Branch], way: Sequence[int], needs: Sequence[Collection[int]], estimates: Sequence[Estimate]
) -> list[Collection[int]]:
    """`needs`, and of branches with time to spare, to wait for a node of the way that leaves them enough.

    What they write takes memory until the way joins them. None of them begins so late that it delays the next one.
    """
    late = list(needs)
    following = len(needs)
    for branch in sorted(beside, key=lambda each: each.nodes[0], reverse=True):
        begin = _latest(branch, min(branch.join, following), way, estimates)
        if begin > branch.fork:
            first = branch.nodes[0]
            late[first] = [*needs[first], begin]
        following = min(following, begin + 1)
    return late


def _latest(branch: Branch, end: int, way: Sequence[int], estimates: Sequence[Estimate]) -> int:
    """The last node of the way, ahead of the branch's own, behind which there is room for it ahead of the node `end`;
    its fork, where there is none."""
    room = _room(branch, estimates)
    for number in reversed(way[bisect_right(way, branch.fork) : bisect_left(way, end)]):
        if room <= 0.0 and number < branch.nodes[0]:
            return number
        room -= estimates[number].microseconds
    return branch.fork


def _room(branch: Branch, estimates: Sequence[Estimate]) -> float:
    """Microseconds of the way that are enough for the branch beside it."""
    return ROOM * sum(estimates[number].microseconds for number in branch.nodes)


def longest_way(needs: Sequence[Collection[int]], estimates: Sequence[Estimate]) -> list[int]:
    """The nodes, in order, of the way through the graph that takes longest."""
    ends: list[float] = []
    for number, each in enumerate(estimates):
        ends.append(each.microseconds + max((ends[need] for need in needs[number]), default=0.0))
    way: list[int] = []
    ahead: Collection[int] = range(len(ends))
    while ahead:
        way.append(max(ahead, key=ends.__getitem__))
        ahead = needs[way[-1]]
    return way[::-1]


def branches(needs: Sequence[Collection[int]], way: Sequence[int]) -> list[Branch]:
    """All that is not on the way, in the order of the nodes."""
    on_way = set(way)
    fork, join = [-1] * len(needs), [len(needs)] * len(needs)
    for number, needed in enumerate(needs):
        fork[number] = max((each if each in on_way else fork[each] for each in needed), default=-1)
    for number in reversed(range(len(needs))):
        for each in needs[number]:
            join[each] = min(join[each], number if number in on_way else join[number])
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in range(len(needs)):
        if number not in on_way:
            found[fork[number], join[number]].append(number)
    return [Branch(*ends, tuple(nodes)) for ends, nodes in found.items()]


def elapsed(
    window: range, lanes: Sequence[int], needs: Sequence[Collection[int]], estimates: Sequence[Estimate]
) -> float:
    """Microseconds until the nodes of a window have ended, each behind those before it on its lane and those it needs.

    Nodes ahead of the window have ended when it begins. Kernels that run at the same time and want more than the
    device, by their shares, all become slower by as much. What comes behind the window on lane 0 waits for all of it.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    for number in reversed(window):
        waiting[lanes[number]].append(number)
    seen = dict.fromkeys(waiting, -1)  # of other lanes: what ended before that is known to have ended
    running: dict[int, float] = {}
    ended: set[int] = set()
    now = 0.0
    while len(ended) < len(window):
        busy = {lanes[number] for number in running}
        for lane, queue in waiting.items():
            if queue and lane not in busy and all(each in ended or each < window.start for each in needs[queue[-1]]):
                number = queue.pop()
                awaited = max((each for each in needs[number] if lanes[each] != lane), default=-1)
                changes = CHANGE_MICROSECONDS if awaited > seen[lane] else 0.0
                seen[lane] = max(seen[lane], awaited)
                running[number] = estimates[number].microseconds + changes
        slowed = max(1.0, sum(estimates[number].share for number in running))
        step = min(running.values())
        now += step * slowed
        running = {number: left - step for number, left in running.items()}
        done = [number for number, left in running.items() if left <= 0.0]
        ended.update(done)
        for number in done:
            del running[number]
    beside = max((number for number in window if lanes[number]), default=-1)
    return now + (CHANGE_MICROSECONDS if beside > seen.get(0, -1) else 0.0)
