"""How long a plan takes on a device, and what to make of several times."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.runtime.driver import call
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Plan
    from jitinfer.runtime.weights import Weights


def microseconds(plan: Plan, weights: Weights, device: Device, *, seconds: float = 0.01, least: int = 5) -> float:
    """The median time of a replay of a plan without inputs, by events on the device.

    seconds: of measuring, after two replays to warm up, each of which is waited for; at least `least` replays. Raises
    DeviceError; DeviceLostError where the plan loses the device, which had nothing else to do, whatever said so first.
    """
    executor = Executor(plan, weights, device)
    try:
        with device.current():
            return statistics.median(_times(executor, seconds, least))
    except DeviceLostError:
        raise
    except DeviceError:
        device.synchronize()  # libraries have words of their own for a device that is lost
        raise
    finally:
        executor.close()


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: what disturbs a few of them does not count, and clocks of coarse steps average out.

    Raises ValueError for no values.
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _times(executor: Executor, seconds: float, least: int) -> Sequence[float]:
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
            times.append(1e3 * float(call("cuEventElapsedTime", first, second)))
        return times
    finally:
        resources.close()
