"""Whether the steps of a plan that may run side by side leave each other's memory alone."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.errors import PlanError
from jitinfer.runtime.order import Order
from jitinfer.runtime.plan import Copy, Gemm, Launch, Region, step_name
from jitinfer.runtime.regions import end, matrix_region, overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitinfer.runtime.plan import Buffer, Plan, Slot, Step


_MOST_BYTES = 1 << 62
"""Of memory; more than that is no size, and too much for arithmetic in 64 bits."""


@dataclass(frozen=True)
class Use:
    """What a step does with a part of a buffer: it reads it or, `written`, writes it and may read it."""

    region: Region
    written: bool


def check_slots(plan: Plan) -> None:
    """Raises PlanError where the slots are not those of the steps, or do not say what there is to wait for.

    Lanes are numbered from 0 on, none without a step. Each step waits for earlier ones of other lanes alone, so that
    one after the other is an order that all lanes allow, and none that does so starts early.
    """
    if len(plan.slots) != len(plan.steps):
        raise PlanError(f"{len(plan.slots)} slots for {len(plan.steps)} steps")
    if max((buffer.nbytes for buffer in plan.buffers), default=0) > _MOST_BYTES:
        raise PlanError("a buffer is larger than any memory")
    lanes = {slot.lane for slot in plan.slots}
    if lanes != set(range(len(lanes))):
        raise PlanError("the lanes are not numbered from 0 on")
    for number, (slot, step) in enumerate(zip(plan.slots, plan.steps, strict=True)):
        try:
            _check_slot(plan, number, slot, step)
        except PlanError as error:  # noqa: PERF203 (at loading, once a step)
            raise PlanError(f"{step_name(number, step)}: {error}") from None


def check_races(plan: Plan) -> None:
    """Raises PlanError where two steps that may run at the same time touch the same memory, and one of them writes it.

    So it is for a part of one buffer, as far as is known, and for buffers of the arena that lie in one place: all that
    use one of them must have ended before any step uses the other. Expects slots and steps that are sound.
    """
    order = Order([slot.lane for slot in plan.slots], [slot.after for slot in plan.slots])
    uses = [uses_of(plan, step, slot) for step, slot in zip(plan.steps, plan.slots, strict=True)]
    for earlier, later in order.beside():
        for one in uses[earlier]:
            for other in uses[later]:
                if (one.written or other.written) and overlap(one.region, other.region):
                    names = " and ".join(step_name(number, plan.steps[number]) for number in (earlier, later))
                    text = f"may run at the same time, and both use {one.region.buffer!r}, which one of them writes"
                    raise PlanError(f"{names} {text}")
    _check_arena(plan, order, uses)


def uses_of(plan: Plan, step: Step, slot: Slot) -> list[Use]:
    """What a step does with memory that any step writes."""
    found = [Use(region, written=True) for region in _written(plan, step, slot)]
    found += [Use(region, written=False) for region in _read(plan, step, slot)]
    return [use for use in found if plan.buffer_named[use.region.buffer].placement in ("arena", "output")]


def _written(plan: Plan, step: Step, slot: Slot) -> Iterator[Region]:
    if isinstance(step, Launch):
        yield from slot.writes
        if step.scratch is not None:
            nbytes = plan.kernel_of[step.kernel].scratch_bytes * math.prod(step.grid)
            yield Region(step.scratch.buffer, step.scratch.offset, nbytes)
    elif isinstance(step, Gemm):
        yield matrix_region(step.d, step.batch)
        if step.workspace is not None:
            yield Region(step.workspace.buffer, step.workspace.offset, step.workspace_bytes)
    else:
        yield Region(step.destination.buffer, step.destination.offset, step.nbytes)


def _read(plan: Plan, step: Step, slot: Slot) -> Iterator[Region]:
    if isinstance(step, Launch):
        written = {region.buffer for region in slot.writes}
        for name in step.buffers:
            if name not in written:
                yield Region(name, 0, plan.buffer_named[name].nbytes)
    elif isinstance(step, Gemm):
        for matrix in (step.a, step.b, *(() if step.c is None else (step.c,))):
            yield matrix_region(matrix, step.batch)
        if step.bias is not None:
            buffer = plan.buffer_named[step.bias.buffer]
            yield Region(buffer.name, 0, buffer.nbytes)
    elif isinstance(step, Copy):
        yield Region(step.source.buffer, step.source.offset, step.nbytes)


def _check_slot(plan: Plan, number: int, slot: Slot, step: Step) -> None:
    awaited = slot.after
    if list(awaited) != sorted(set(awaited)) or not all(0 <= each < number for each in awaited):
        raise PlanError(f"it waits for {awaited}, which are not earlier steps in order")
    if any(plan.slots[each].lane == slot.lane for each in awaited):
        raise PlanError("it waits for a step of its own lane")
    if not isinstance(step, Launch):
        if slot.writes:
            raise PlanError("it is no launch, and says itself what it writes")
        return
    if step.programmatic and awaited:
        raise PlanError("it waits for other lanes, and so cannot start before they have ended")
    if not slot.writes:
        raise PlanError("it does not say what it writes")
    for region in slot.writes:
        _check_written(plan, step, region)


def _check_written(plan: Plan, launch: Launch, region: Region) -> None:
    buffer = plan.buffer_named[region.buffer] if region.buffer in launch.buffers else None
    if buffer is None or buffer.placement not in ("arena", "output"):
        raise PlanError(f"it writes {region.buffer!r}, which it is not given, or must not write")
    numbers = (region.offset, region.nbytes, *(each for repeat in region.repeats for each in repeat))
    if min(numbers) < 0 or max(numbers) > _MOST_BYTES or end(region) > buffer.nbytes:
        raise PlanError(f"it writes beyond {region.buffer!r}")


def _check_arena(plan: Plan, order: Order, uses: Sequence[Sequence[Use]]) -> None:
    users: dict[str, list[int]] = defaultdict(list)
    for number, each in enumerate(uses):
        for name in dict.fromkeys(use.region.buffer for use in each):
            users[name].append(number)
    placed = [each for each in plan.buffers if each.placement == "arena" and each.nbytes and users[each.name]]
    spans = {buffer.name: order.span(users[buffer.name]) for buffer in placed}
    placed.sort(key=lambda buffer: buffer.offset)
    open_: list[Buffer] = []
    for buffer in placed:
        open_ = [each for each in open_ if each.offset + each.nbytes > buffer.offset]
        for other in open_:
            if order.meet(spans[buffer.name], spans[other.name]):
                text = f"{other.name!r} and {buffer.name!r} lie in one place"
                raise PlanError(f"{text}, and a step may use one while another uses the other")
        open_.append(buffer)
