"""Where a program spends its time on a device: its steps, and tables of them."""

from __future__ import annotations

import html
import io
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jitinfer.errors import ArgumentError
from jitinfer.tools import trace_events

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.graph.node import Origin
    from jitinfer.runtime.plan import Cost

_NUMBER = re.compile(r"_\d+(?=/|$)")
_LIMIT = 40


@dataclass(frozen=True)
class ProfiledStep:
    """One step of a program.

    operation: the op of the graph's node, with the ops of a group in parentheses; kernel: the name of the machine code,
    "cuBLASLt", "copy" or "fill"; grid: in thread blocks, None for what is no kernel of ours; microseconds: in sequence;
    repeated: microseconds once of many times back to back; cost: what the node takes.
    """

    number: int
    operation: str
    kernel: str
    origin: Origin
    grid: tuple[int, int, int] | None
    microseconds: float
    repeated: float
    cost: Cost | None


@dataclass(frozen=True)
class Row:
    """Steps that a table shows as one. share: of the time of all steps; flops, nbytes: None where unknown."""

    names: tuple[str, ...]
    count: int
    microseconds: float
    repeated: float
    share: float
    flops: int | None
    nbytes: int | None

    @property
    def teraflops(self) -> float | None:
        """TFLOP/s."""
        return None if self.flops is None or not self.microseconds else self.flops / self.microseconds * 1e-6

    @property
    def gigabytes(self) -> float | None:
        """GB/s of what has to be read and written at least."""
        return None if self.nbytes is None or not self.microseconds else self.nbytes / self.microseconds * 1e-3


@dataclass(frozen=True, repr=False)
class Profile:
    """Times of a program's steps on one device, in microseconds; prints as a table.

    steps: in their order; whole: one replay of the program, as calls do it; overhead: what measuring added to each
    step, and has been taken off again; rounds: of which each figure is a mean.
    """

    device: str
    steps: tuple[ProfiledStep, ...]
    whole: float
    overhead: float
    rounds: int

    @property
    def total(self) -> float:
        """Of all steps in sequence."""
        return sum(step.microseconds for step in self.steps)

    @cached_property
    def layers(self) -> Mapping[str, str]:
        """The path of each step's layer as tables show it: without the numbers of the layers that hold others, so that
        blocks of a kind are one."""
        paths = {step.origin.layer for step in self.steps}
        holders = {path[: match.start()] for path in paths for match in re.finditer("/", path)}
        return {path: _without_numbers(path, holders) for path in paths}

    def rows(self, by: str = "layer") -> list[Row]:
        """The steps in groups, those that take longest first.

        by: "layer" (with the operation), "operation", "kernel", or "step": each by itself, in order. Raises
        ArgumentError for another word.
        """
        if by not in _GROUPINGS:
            raise ArgumentError(f"a profile has no rows by {by!r}, but by {', '.join(_GROUPINGS)}")
        groups: dict[tuple[str, ...], list[ProfiledStep]] = defaultdict(list)
        for step in self.steps:
            groups[_GROUPINGS[by].names(self, step)].append(step)
        rows = [self._row(names, steps) for names, steps in groups.items()]
        return rows if by == "step" else sorted(rows, key=lambda row: -row.microseconds)

    def table(self, by: str = "layer", limit: int | None = _LIMIT) -> str:
        """The first `limit` rows as text."""
        head, cells, title = self._table(by, limit)
        made = Table(*head[:-_FIGURES], box=None, pad_edge=False)
        for name in head[-_FIGURES:]:
            made.add_column(name, justify="right")
        for line in cells:
            made.add_row(*line)
        console = Console(file=io.StringIO(), width=1000, markup=False, highlight=False, color_system=None)
        console.print(made)
        written = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
        return "\n".join([title, "", *(line.rstrip() for line in written.splitlines())]) + "\n"

    def trace(self) -> dict[str, Any]:
        """The steps in sequence as trace events, which Perfetto and chrome://tracing read."""
        return trace_events.document(self)

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes `trace` as JSON. Raises OSError."""
        Path(path).write_text(json.dumps(self.trace()))

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, cells, title = self._table("layer", _LIMIT)
        lines = [f"<tr>{''.join(f'<th>{html.escape(each)}</th>' for each in head)}</tr>"]
        lines += [f"<tr>{''.join(f'<td>{html.escape(each)}</td>' for each in line)}</tr>" for line in cells]
        return f"<p>{html.escape(title)}</p><table>{''.join(lines)}</table>"

    def _row(self, names: tuple[str, ...], steps: Sequence[ProfiledStep]) -> Row:
        costs = {step.cost.node: step.cost for step in steps if step.cost is not None}
        # A rate needs all steps that a node's work is done in.
        needed = sum(self._together[node] for node in costs)
        known = len(steps) == needed and all(step.cost is not None for step in steps)
        microseconds = sum(step.microseconds for step in steps)
        return Row(
            names,
            len(steps),
            microseconds,
            sum(step.repeated for step in steps),
            microseconds / self.total if self.total else 0.0,
            sum(cost.flops for cost in costs.values()) if known else None,
            sum(cost.nbytes for cost in costs.values()) if known else None,
        )

    @cached_property
    def _together(self) -> Mapping[int, int]:
        """How many steps work on each node."""
        found: dict[int, int] = defaultdict(int)
        for step in self.steps:
            if step.cost is not None:
                found[step.cost.node] += 1
        return found

    def _table(self, by: str, limit: int | None) -> tuple[list[str], list[list[str]], str]:
        rows = self.rows(by)
        shown = rows if limit is None else rows[:limit]
        head = [*_GROUPINGS[by].columns, "count", "us", "share", "repeated", "TFLOP/s", "GB/s"]
        cells = [_cells(row) for row in shown]
        rest = rows[len(shown) :]
        if rest:
            blank = [""] * (len(_GROUPINGS[by].columns) - 1)
            counted = sum(row.count for row in rest)
            time = sum(row.microseconds for row in rest)
            share = sum(row.share for row in rest)
            cells.append([f"{len(rest)} more", *blank, str(counted), f"{time:.1f}", f"{share:.1%}", "", "", ""])
        title = (
            f"{self.device}: {len(self.steps)} steps, {self.total:.1f} us in sequence; one replay {self.whole:.1f} us"
            f" ({self.rounds} rounds; events added {self.overhead:.2f} us a step, taken off)"
        )
        return head, cells, title


_FIGURES = 6
"""Columns of numbers, behind those of names."""


@dataclass(frozen=True)
class _Grouping:
    columns: tuple[str, ...]
    names: Callable[[Profile, ProfiledStep], tuple[str, ...]]


_GROUPINGS = {
    "layer": _Grouping(("layer", "operation"), lambda p, s: (p.layers[s.origin.layer], s.operation)),
    "operation": _Grouping(("operation",), lambda p, s: (s.operation,)),
    "kernel": _Grouping(("kernel", "operation"), lambda p, s: (s.kernel, s.operation)),
    "step": _Grouping(
        ("step", "operation", "kernel", "layer", "place"),
        lambda p, s: (str(s.number), s.operation, s.kernel, s.origin.layer, "/".join(s.origin.place.split("/")[-2:])),
    ),
}
GROUPINGS = tuple(_GROUPINGS)


def _without_numbers(path: str, holders: set[str]) -> str:
    """Of all layers of the path but the last; of the last, too, where it holds others."""
    outer, _, _ = path.rpartition("/")
    return _NUMBER.sub("", path) if path in holders else _NUMBER.sub("", outer) + path[len(outer) :]


def _cells(row: Row) -> list[str]:
    rates = ["" if rate is None else f"{rate:,.1f}" for rate in (row.teraflops, row.gigabytes)]
    times = [f"{row.microseconds:.1f}", f"{row.share:.1%}", f"{row.repeated:.1f}"]
    return [*(name or "-" for name in row.names), str(row.count), *times, *rates]
