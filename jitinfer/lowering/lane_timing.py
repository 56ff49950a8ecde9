"""Whether two lanes are faster than one: what `lowering.lanes` estimates, by the device."""

from __future__ import annotations

import logging
import math
import statistics
import time
from typing import TYPE_CHECKING

from jitinfer.errors import DeviceError, DeviceLostError, DeviceMemoryError
from jitinfer.graph.types import TensorType
from jitinfer.lowering.lanes import LEAST_SHARE
from jitinfer.runtime.samples import sampled
from jitinfer.runtime.timing import InTurn

if TYPE_CHECKING:
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Plan

LEAST_ROUNDS = 5

MEASURING_SECONDS = 0.2
"""After which enough has been measured."""

logger = logging.getLogger("jitinfer.lowering")


def faster(laned: Plan, plain: Plan, device: Device, seconds: float = math.inf) -> Plan:
    """`laned` where it takes less time than `plain` on the device, by LEAST_SHARE of that at least, and no more in a
    call that is waited for, since the host takes longer to launch it; else `plain`.

    laned, plain: of the same graph with the same kernels, in two lanes and in one. They run on random numbers; the
    weights are on the device once for both, beside whatever else is there. Where the memory or `seconds` do not
    suffice, and where something fails, it is `plain`, and the log says so. Raises DeviceLostError.
    """
    deadline = time.perf_counter() + seconds
    try:
        with device.telling_loss():
            rounds = _rounds(laned, plain, device, deadline)
    except DeviceLostError:
        raise
    except DeviceMemoryError as error:
        # The text, since whoever keeps the error keeps what its frames hold on the device.
        logger.info("one lane is taken, without comparing two with it: %s", str(error))
        return plain
    except DeviceError as error:
        logger.warning("one lane is taken, since comparing two with it failed: %s", str(error))
        return plain
    if len(rounds) < LEAST_ROUNDS:
        logger.info("one lane is taken: %.1f s are too little to compare two with it", seconds)
        return plain
    two, one, two_called, one_called = (statistics.median(times) for times in zip(*rounds, strict=True))
    gains = two <= (1.0 - LEAST_SHARE) * one and two_called <= one_called
    kept, word = (laned, "two are") if gains else (plain, "one is")
    told = "two lanes take %.1f us, %.1f in a call, one takes %.1f us, %.1f in a call: %s kept"
    logger.info(told, two, two_called, one, one_called, word)
    return kept


def _rounds(laned: Plan, plain: Plan, device: Device, deadline: float) -> list[tuple[float, ...]]:
    """Microseconds of both on the device, and of calls of both: as often as there is time, or as is enough."""
    types = {buffer.name: TensorType(buffer.shape, buffer.dtype) for buffer in laned.weights}
    weights = sampled(types, device, _spread)
    rounds: list[tuple[float, ...]] = []
    try:
        plans = InTurn((laned, plain), (weights, weights), device)
        try:
            enough = time.perf_counter() + MEASURING_SECONDS
            while (now := time.perf_counter()) < deadline and (len(rounds) < LEAST_ROUNDS or now < enough):
                rounds.append((*plans.round(), *plans.calls()))
        finally:
            plans.close()
    finally:
        weights.close()
    return rounds


def _spread(kind: TensorType) -> float:
    """By which products with weights of this type, in whatever order their axes are, grow no numbers that overflow."""
    if len(kind.shape) < 2 or not kind.size:
        return 1.0
    return 1.0 / math.sqrt(max(kind.shape[0], kind.size // kind.shape[0]))
