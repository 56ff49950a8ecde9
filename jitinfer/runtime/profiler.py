"""How long each step of a plan takes on a device."""

from __future__ import annotations

import dataclasses
import itertools
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.runtime.driver import call
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.plan import Launch, step_name
from jitinfer.runtime.recording import recorded
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.timing import interquartile_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from jitinfer.runtime.model import Session
    from jitinfer.runtime.plan import Plan, Step
    from jitinfer.runtime.steps import Enqueue

_REPEATED_MICROSECONDS = 200.0
"""That a step is repeated for, where it is timed back to back."""

_MOST_REPETITIONS = 100
_LAUNCHES = 3
_RECORD_IN_GRAPH = 1  # CU_EVENT_RECORD_EXTERNAL: a node of the graph that records the event at each replay


@dataclass(frozen=True)
class StepTime:
    """in_sequence: behind the step before and ahead of the one after it, as they run in a replay; repeated: once of
    many times back to back, where what it reads is in the second-level cache, if it fits. Microseconds."""

    in_sequence: float
    repeated: float


@dataclass(frozen=True)
class PlanTime:
    """steps: in the plan's order; whole: one replay of many as the session runs it, several lanes side by
    side; overhead: what the events between two steps added to each of them, and has been taken off `in_sequence`.
    Microseconds."""

    steps: tuple[StepTime, ...]
    whole: float
    overhead: float
    rounds: int


class Profiler:
    """Runs the steps of a session's plan one by one, on memory of its own beside it; the weights are shared.

    The inputs are copied from where the session has them. No step starts before the one ahead of it has ended, also
    where the plan allows that. Other work on the device makes the times longer, never the results of the session wrong.
    """

    def __init__(self, session: Session) -> None:
        """Raises DeviceError where the memory does not suffice."""
        session.synchronize()
        self._session = session
        self.plan = _one_after_the_other(session.model.plan)
        self._resources = Resources(session.device)
        self._executor = Executor(self.plan, session.weights, session.device, stepwise=True)
        with session.device.current():
            self._stream = self._resources.stream()
        self._executor.enqueue(session.inputs)  # also: kernels are loaded by their first launch
        session.synchronize()

    def measure(self, rounds: int = 30) -> PlanTime:
        """Times of all steps, by events on the device.

        `in_sequence` comes from one CUDA graph of all steps with an event between every two, in turn with replays of
        the session's own graph. The events cost time: what the first graph takes longer, spread over its steps, is
        `overhead`. A session whose plan has several lanes is not compared with, but a graph of the same steps in turn.
        Each figure is the mean of the middle half of `rounds` rounds.

        `repeated` comes from one graph for each step, which holds nothing but the step, many times.

        Raises ArgumentError for no rounds, DeviceError where the device fails.
        """
        if rounds < 1:
            raise ArgumentError(f"{rounds} rounds measure nothing")
        with self._session.device.current():
            wholes, plain, intervals = self._in_sequence(rounds)
            whole = interquartile_mean(wholes)
            raw = [interquartile_mean(column) for column in zip(*intervals, strict=True)]
            overhead = max(0.0, (sum(raw) - interquartile_mean(plain)) / len(raw)) if raw else 0.0
            steps = [max(0.0, each - overhead) for each in raw]
            repeated = self._repeated(raw)
        times = tuple(StepTime(*each) for each in zip(steps, repeated, strict=True))
        return PlanTime(times, whole, overhead, rounds)

    def run(self, around: Callable[[int, Step], AbstractContextManager[object]] | None = None) -> None:
        """All steps once, each queued by itself inside of `around(number, step)`, for tools that watch the device.

        Raises DeviceError where the device fails.
        """
        entered = around or (lambda number, step: nullcontext())
        with self._session.device.current():
            for number, (enqueue, step) in enumerate(zip(self._executor.steps, self.plan.steps, strict=True)):
                with entered(number, step):
                    enqueue(self._stream)
            call("cuStreamSynchronize", self._stream, step="running the plan")

    def close(self) -> None:
        """Gives its memory back. Idempotent."""
        self._resources.close()
        self._executor.close()

    def _in_sequence(self, rounds: int) -> tuple[list[float], list[float], list[list[float]]]:
        """Of each round, a replay by the session, one of the steps in turn, and the time between every two events."""
        events = [self._resources.event(timing=True) for _ in range(len(self.plan.steps) + 1)]
        first, second, third = (self._resources.event(timing=True) for _ in range(3))
        graph = self._graph(_with_events(self._executor.steps, events))
        in_turn = self._graph(self._executor.steps) if self._session.model.plan.lanes > 1 else None
        wholes, plain, intervals = [], [], []
        for number in range(rounds + 1):
            self._session.enqueue(self._session.inputs, self._stream)  # the device is busy while the rest is queued
            call("cuEventRecord", first, self._stream)
            self._session.enqueue(self._session.inputs, self._stream)
            call("cuEventRecord", second, self._stream)
            if in_turn is not None:
                call("cuGraphLaunch", in_turn, self._stream, step="running the plan")
                call("cuEventRecord", third, self._stream)
            call("cuGraphLaunch", graph, self._stream, step="running the plan")
            call("cuStreamSynchronize", self._stream, step="running the plan")
            if number:  # the first one warms up
                wholes.append(_microseconds(first, second))
                plain.append(wholes[-1] if in_turn is None else _microseconds(second, third))
                intervals.append([_microseconds(*pair) for pair in itertools.pairwise(events)])
        return wholes, plain, intervals

    def _repeated(self, expected: Sequence[float]) -> list[float]:
        """Of each step, in the plan's order, so that it finds the data that it is meant for."""
        first, second = (self._resources.event(timing=True) for _ in range(2))
        found = []
        for number, (enqueue, step) in enumerate(zip(self._executor.steps, self.plan.steps, strict=True)):
            count = max(1, min(_MOST_REPETITIONS, math.ceil(_REPEATED_MICROSECONDS / max(expected[number], 0.1))))
            graph = recorded([enqueue] * count, self._stream)
            try:
                call("cuGraphLaunch", graph, self._stream, step=step_name(number, step))  # busy, and the cache is warm
                call("cuEventRecord", first, self._stream)
                for _ in range(_LAUNCHES):
                    call("cuGraphLaunch", graph, self._stream, step=step_name(number, step))
                call("cuEventRecord", second, self._stream)
                call("cuStreamSynchronize", self._stream, step=step_name(number, step))
            finally:
                call("cuGraphExecDestroy", graph)
            found.append(_microseconds(first, second) / (_LAUNCHES * count))
        return found

    def _graph(self, work: Sequence[Enqueue]) -> Any:
        graph = recorded(work, self._stream)
        self._resources.keep(lambda: call("cuGraphExecDestroy", graph))
        return graph


def _one_after_the_other(plan: Plan) -> Plan:
    steps = (dataclasses.replace(each, programmatic=False) if isinstance(each, Launch) else each for each in plan.steps)
    return dataclasses.replace(plan, steps=tuple(steps), slots=())


def _with_events(steps: Sequence[Enqueue], events: Sequence[Any]) -> list[Enqueue]:
    """The steps with one event ahead of each, and one behind the last."""

    def record(event: Any) -> Enqueue:
        return lambda stream: call("cuEventRecordWithFlags", event, stream, _RECORD_IN_GRAPH)

    work = [each for step, event in zip(steps, events, strict=False) for each in (record(event), step)]
    return [*work, record(events[-1])]


def _microseconds(first: Any, second: Any) -> float:
    return 1e3 * float(call("cuEventElapsedTime", first, second))
