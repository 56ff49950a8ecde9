"""Which operations of a program run on the device, and which on the host, in as few pieces as can be.

A piece is a set of operations that run without anything else in between. Pieces run one after the other, device and
host in turn, and each reads only what is given, or what earlier ones have computed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

FLOPS_FOR_A_BYTE = 40
"""Operations that the device must spare the host for each byte that goes there, or comes back, because of them.

A host computes some 5e11 operations a second in products, and copies some 1.2e10 bytes a second to or from a device.
What computes less for each byte than the quotient is done sooner where the data are.
"""


@dataclass(frozen=True)
class Task:
    """One operation. reads, writes: the numbers of values, each written by one task at most; flops: of one evaluation.

    ordered: it must run after the ordered tasks before it, and on the host: random generators are there.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    flops: int = 0
    ordered: bool = False


@dataclass(frozen=True)
class Piece:
    """tasks: by number, in order; reads: values from outside; writes: those that are needed outside."""

    host: bool
    tasks: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def partition(tasks: Sequence[Task], host: Collection[int], results: Collection[int]) -> tuple[Piece, ...]:
    """The pieces, in the order in which they run.

    Each task has the lowest level that lies above what it reads from and is of its own kind, where levels are device
    and host in turn: no partition with the same first kind has fewer levels.

    Args:
        tasks: in an order in which they can run.
        host: the numbers of those that run on the host; those that are ordered must be among them.
        results: the values that are needed in the end.
    """
    found = [_pieces(tasks, host, results, host_first) for host_first in (False, True)]
    return min(found, key=len)


def with_neighbours(
    tasks: Sequence[Task], host: Collection[int], results: Collection[int], nbytes: Mapping[int, int]
) -> frozenset[int]:
    """`host`, and the tasks that had better run there, too: they sit between such tasks, and compute little.

    What hangs together within a piece on the device moves to the host if it reads from, or writes for, a task there,
    and computes less than `FLOPS_FOR_A_BYTE` for each byte of what it reads and writes.

    nbytes: of each value that a task computes or is given.
    """
    chosen = frozenset(host)
    while True:
        made = {value for number in chosen for value in tasks[number].writes}
        read = {value for number in chosen for value in tasks[number].reads}
        moved: set[int] = set()
        for piece in partition(tasks, chosen, results):
            outside = {*piece.reads, *piece.writes}
            for group in [] if piece.host else _connected(tasks, piece.tasks):
                reads = {value for number in group for value in tasks[number].reads} & outside
                writes = {value for number in group for value in tasks[number].writes} & outside
                touches = not made.isdisjoint(reads) or not read.isdisjoint(writes)
                crossing = sum(nbytes[value] for value in (*reads, *writes))
                if touches and sum(tasks[number].flops for number in group) < FLOPS_FOR_A_BYTE * crossing:
                    moved.update(group)
        if not moved:
            return chosen
        chosen |= moved


def _pieces(
    tasks: Sequence[Task], host: Collection[int], results: Collection[int], host_first: bool
) -> tuple[Piece, ...]:
    levels = _levels(tasks, host, host_first)
    maker = {value: level for task, level in zip(tasks, levels, strict=True) for value in task.writes}
    members: dict[int, list[int]] = defaultdict(list)
    reads: dict[int, dict[int, None]] = defaultdict(dict)
    crossing = set(results)
    for number, (task, level) in enumerate(zip(tasks, levels, strict=True)):
        members[level].append(number)
        foreign = [value for value in task.reads if maker.get(value) != level]
        reads[level].update(dict.fromkeys(foreign))
        crossing.update(foreign)
    return tuple(
        Piece(
            (level % 2 == 0) == host_first,
            tuple(members[level]),
            tuple(reads[level]),
            tuple(value for number in members[level] for value in tasks[number].writes if value in crossing),
        )
        for level in sorted(members)
    )


def _levels(tasks: Sequence[Task], host: Collection[int], host_first: bool) -> list[int]:
    """Even levels are of the first kind."""
    levels: list[int] = []
    made: dict[int, int] = {}
    ordered = 0
    for number, task in enumerate(tasks):
        level = max((made[value] for value in task.reads if value in made), default=0)
        if task.ordered:
            level = max(level, ordered)
        if ((level % 2 == 0) == host_first) != (number in host):
            level += 1
        if task.ordered:
            ordered = level
        made.update(dict.fromkeys(task.writes, level))
        levels.append(level)
    return levels


def _connected(tasks: Sequence[Task], numbers: Sequence[int]) -> list[list[int]]:
    """The tasks in groups that read nothing from one another."""
    parent = {number: number for number in numbers}

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    maker = {value: number for number in numbers for value in tasks[number].writes}
    for number in numbers:
        for value in tasks[number].reads:
            if value in maker:
                parent[root(maker[value])] = root(number)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        groups[root(number)].append(number)
    return list(groups.values())
