"""`jitinfer.benchmark` and `jitinfer.compare_speed`: how long calls take, one function or several side by side."""

from __future__ import annotations

import functools
import html
import io
import random
import statistics
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy
from rich.console import Console
from rich.table import Table

from jitinfer.errors import ArgumentError
from jitinfer.tools.arguments import require_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SECONDS = 1.0
WARMUP = 3
_LEAST_ROUNDS = 5
_BLOCK_SECONDS = 1e-4
"""Shorter calls are timed several at once: a clock, and waiting for a device, take their time too."""

_LONGEST_BLOCK = 1 << 14


@dataclass(frozen=True, repr=False)
class Measurement:
    """Seconds a call of one function. times: one for each sample; calls: how many there were in all samples."""

    name: str
    times: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.times)

    @property
    def fastest(self) -> float:
        return min(self.times)

    @property
    def slowest(self) -> float:
        return max(self.times)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which the middle half of the samples lies."""
        return _quartiles(self.times)

    @property
    def spread(self) -> float:
        """The interquartile range."""
        low, high = self.quartiles
        return high - low

    def __str__(self) -> str:
        low, high = (duration(each) for each in self.quartiles)
        limits = f"{duration(self.fastest)} to {duration(self.slowest)}"
        return f"{self.name}: {duration(self.median)} (middle half {low} to {high}, all {limits}; {self.calls} calls)"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return Comparison((self,))._repr_html_()


@dataclass(frozen=True, repr=False)
class Comparison:
    """Functions measured in turn: sample i of one was taken beside sample i of the others."""

    measurements: tuple[Measurement, ...]

    def __getitem__(self, name: str) -> Measurement:
        """Raises KeyError."""
        for each in self.measurements:
            if each.name == name:
                return each
        raise KeyError(name)

    def ratio(self, name: str) -> float:
        """How many times as fast as the first function it is: the median of the rounds' own ratios."""
        return statistics.median(self._ratios(self[name]))

    def _ratios(self, of: Measurement) -> list[float]:
        pairs = zip(self.measurements[0].times, of.times, strict=True)
        return [first / other if other else float("inf") for first, other in pairs]

    def __str__(self) -> str:
        head, cells = self._table()
        table = Table(head[0], box=None, pad_edge=False)
        for name in head[1:]:
            table.add_column(name, justify="right")
        for line in cells:
            table.add_row(*line)
        written = io.StringIO()
        Console(file=written, width=1000, markup=False, highlight=False, color_system=None).print(table)
        return "\n".join(line.rstrip() for line in written.getvalue().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, cells = self._table()
        rows = [f"<tr>{''.join(f'<th>{html.escape(each)}</th>' for each in head)}</tr>"]
        rows += [f"<tr>{''.join(f'<td>{html.escape(each)}</td>' for each in line)}</tr>" for line in cells]
        return f"<table>{''.join(rows)}</table>"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = ["", "median", "middle half", "fastest", "slowest", "calls", "ratio"]
        cells = []
        for each in self.measurements:
            low, high = (duration(quartile) for quartile in each.quartiles)
            times = [duration(each.median), f"{low} to {high}", duration(each.fastest), duration(each.slowest)]
            ratios = self._ratios(each)
            cells.append([each.name, *times, str(each.calls), f"{statistics.median(ratios):.2f}x"])
        return (head, cells) if len(cells) > 1 else (head[:-1], [line[:-1] for line in cells])


def benchmark(
    function: Callable[..., Any],
    *args: Any,
    seconds: float | None = None,
    calls: int | None = None,
    warmup: int | None = None,
    synchronize: Callable[[], object] | None = None,
    **kwargs: Any,
) -> Measurement:
    """How long `function(*args, **kwargs)` takes, from the call until its work is done.

    Calls of less than a tenth of a millisecond are timed several at once. Random generators are left as they were.

    Args:
        seconds: of measuring; at least five samples. Default: 1.
        calls: how many calls to time, each by itself, instead of `seconds`.
        warmup: calls ahead of that, which count for nothing: the first one of a compiled function compiles. Default: 3.
        synchronize: waits until the function's work is done. Default: the method `synchronize` of the function or of
            the object that it is a method of; else Paddle's, where its device is no CPU; else nothing. Functions that
            return before their work is done, and have no such method, need it: `torch.cuda.synchronize`.

    Raises ArgumentError for options that make no sense, or are parameters of `function` too, and what it raises.
    """
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    compared = compare_speed(
        {name: function}, *args, seconds=seconds, calls=calls, warmup=warmup, synchronize=synchronize, **kwargs
    )
    return compared.measurements[0]


def compare_speed(
    functions: Mapping[str, Callable[..., Any]],
    *args: Any,
    seconds: float | None = None,
    calls: int | None = None,
    warmup: int | None = None,
    synchronize: Callable[[], object] | None = None,
    **kwargs: Any,
) -> Comparison:
    """As `benchmark`, for several functions by name, each called with the same arguments.

    They take turns, one sample of each in a round, and each round begins with another one: what slows the machine down
    for a while slows down all of them. `seconds` and `calls` are those of each function. The first function is what
    ratios refer to.
    """
    _check(seconds, calls, warmup)
    if not functions:
        raise ArgumentError("there is no function to measure")
    given = {"seconds": seconds, "calls": calls, "warmup": warmup, "synchronize": synchronize}
    subjects = []
    for name, function in functions.items():
        require_own(function, **{option: value for option, value in given.items() if value is not None})
        run = functools.partial(function, *args, **kwargs)
        subjects.append(_Subject(name, run, synchronize or _synchronizer(function)))
    with _randomness_kept():
        for subject in subjects:
            subject.warm_up(WARMUP if warmup is None else warmup, grow=calls is None)
        if calls is None:
            _measure(subjects, SECONDS if seconds is None else seconds)
        else:
            for number in range(calls):
                _round(subjects, number)
    return Comparison(tuple(Measurement(s.name, tuple(s.times), s.block * len(s.times)) for s in subjects))


@dataclass
class _Subject:
    """block: calls in one sample."""

    name: str
    run: Callable[[], object]
    synchronize: Callable[[], object]
    block: int = 1
    times: list[float] = field(default_factory=list)

    def warm_up(self, calls: int, *, grow: bool) -> None:
        for _ in range(calls):
            self.run()
        self.synchronize()
        while grow and self.sample() < _BLOCK_SECONDS and self.block < _LONGEST_BLOCK:
            self.block *= 2
        self.times.clear()

    def sample(self) -> float:
        """Seconds that it took."""
        started = perf_counter()
        for _ in range(self.block):
            self.run()
        self.synchronize()
        elapsed = perf_counter() - started
        self.times.append(elapsed / self.block)
        return elapsed


def _measure(subjects: Sequence[_Subject], seconds: float) -> None:
    spent, number = 0.0, 0
    while number < _LEAST_ROUNDS or spent < seconds * len(subjects):
        spent += _round(subjects, number)
        number += 1


def _round(subjects: Sequence[_Subject], number: int) -> float:
    first = number % len(subjects)
    return sum(subject.sample() for subject in (*subjects[first:], *subjects[:first]))


def _check(seconds: float | None, calls: int | None, warmup: int | None) -> None:
    if seconds is not None and calls is not None:
        raise ArgumentError("give seconds or calls, not both")
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise ArgumentError(f"{seconds} is no number of seconds to measure for")
    if calls is not None and calls < 1:
        raise ArgumentError(f"{calls} calls measure nothing")
    if warmup is not None and warmup < 0:
        raise ArgumentError(f"there cannot be {warmup} calls to warm up")


def _synchronizer(function: Any) -> Callable[[], object]:
    while isinstance(function, functools.partial):
        function = function.func
    for owner in (function, getattr(function, "__self__", None)):
        hook = getattr(owner, "synchronize", None)
        if callable(hook):
            found: Callable[[], object] = hook
            return found
    paddle = sys.modules.get("paddle")
    if paddle is not None and paddle.device.get_device() != "cpu":
        waits: Callable[[], object] = paddle.device.synchronize
        return waits
    return _nothing


def _nothing() -> None:
    """There is nothing to wait for."""


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """The generators of Python, NumPy and Paddle are afterwards as they were."""
    python, legacy = random.getstate(), numpy.random.get_state()
    paddle = sys.modules.get("paddle")
    state = None if paddle is None else paddle.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(legacy)
        if paddle is not None:
            paddle.set_rng_state(state)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def duration(seconds: float) -> str:
    """Such as "12.3 us": three digits, in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
