"""How long plans take on a device, and what to make of several times."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any

from jitinfer.runtime.arena import Arena
from jitinfer.runtime.driver import call
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.samples import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Plan
    from jitinfer.runtime.weights import Weights


def microseconds(
    plan: Plan, weights: Weights, device: Device, *, seconds: float = 0.01, least: int = 5, limit: float = math.inf
) -> float:
    """The median time of a replay of a plan without inputs, by events on the device.

    seconds: of measuring, after two replays to warm up, each of which is waited for; at least `least` replays, and no
    more where all of these took longer than `limit` microseconds. Raises DeviceError; DeviceLostError where the plan
    loses the device, which had nothing else to do, whatever said so first.
    """
    with device.telling_loss():
        executor = Executor(plan, weights, device)
        try:
            with device.current():
                return statistics.median(_times(executor, seconds, least, limit))
        finally:
            executor.close()


class InTurn:
    """Several plans with weights for each, on memory that they share, ready to be timed one after the other.

    Their inputs hold samples.
    """

    def __init__(self, plans: Sequence[Plan], weights: Sequence[Weights], device: Device) -> None:
        """Loads them and replays each twice. Raises DeviceError."""
        self._device = device
        self._executors: list[Executor] = []
        self._resources = Resources(device)
        self._load(plans, weights)

    def round(self) -> tuple[float, ...]:
        """Microseconds of a replay of each plan, by events on the device, which is busy with another replay of the same
        plan when it is queued: how long the host takes to launch it does not count. Raises DeviceError.
        """
        return tuple(map(self._replay, self._executors))

    def calls(self) -> tuple[float, ...]:
        """Microseconds of a call of each plan by the host's clock, while the device has nothing else to do: from
        when it is queued until it has ended. Raises DeviceError.
        """
        return tuple(map(self._call, self._executors))

    def close(self) -> None:
        """Gives the memory back, but for the weights. Idempotent."""
        for executor in self._executors:
            executor.close()
        self._executors.clear()
        self._resources.close()

    def _load(self, plans: Sequence[Plan], weights: Sequence[Weights]) -> None:
        arena = Arena(self._device)
        for plan, its_weights in zip(plans, weights, strict=True):
            executor = Executor(plan, its_weights, self._device, arena=arena)
            self._executors.append(executor)
            for held in executor.inputs:
                fill(held)
        with self._device.current():
            self._stream = self._resources.stream()
            self._events = [self._resources.event(timing=True) for _ in range(2)]
        self.round()

    def _replay(self, executor: Executor) -> float:
        first, second = self._events
        with self._device.current():
            executor.enqueue(executor.inputs, self._stream)
            call("cuEventRecord", first, self._stream)
            executor.enqueue(executor.inputs, self._stream)
            call("cuEventRecord", second, self._stream)
            call("cuEventSynchronize", second, step="measuring")
            return _elapsed(first, second)

    def _call(self, executor: Executor) -> float:
        with self._device.current():
            call("cuStreamSynchronize", self._stream, step="measuring")
            began = time.perf_counter()
            executor.enqueue(executor.inputs, self._stream)
            call("cuStreamSynchronize", self._stream, step="measuring")
            return 1e6 * (time.perf_counter() - began)


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: what disturbs a few of them does not count, and clocks of coarse steps average out.

    Raises ValueError for no values.
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _times(executor: Executor, seconds: float, least: int, limit: float) -> Sequence[float]:
    resources = Resources(executor.device)
    try:
        stream, first, second = resources.stream(), resources.event(timing=True), resources.event(timing=True)
        for _ in range(2):
            executor.enqueue([], stream)
            call("cuStreamSynchronize", stream, step="warming up")
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            call("cuEventRecord", first, stream)
            executor.enqueue([], stream)
            call("cuEventRecord", second, stream)
            call("cuEventSynchronize", second, step="measuring")
            times.append(_elapsed(first, second))
            if len(times) == least and min(times) > limit:
                break
        return times
    finally:
        resources.close()


def _elapsed(first: Any, second: Any) -> float:
    return 1e3 * float(call("cuEventElapsedTime", first, second))
