"""What the slots of a plan must not say."""

import itertools
from dataclasses import replace

import pytest
from laned_plans import KERNEL, directly_before, ended_before, launches, random_plan

from jitinfer.errors import PlanError
from jitinfer.runtime import Buffer, Copy, Fill, Launch, Pointer, Region, Slot, check

SEEDS = range(25)


def without(plan, step, wait):
    slot = replace(plan.slots[step], after=tuple(each for each in plan.slots[step].after if each != wait))
    return replace(plan, slots=(*plan.slots[:step], slot, *plan.slots[step + 1 :]))


def waits(plan):
    return [(step, wait) for step, slot in enumerate(plan.slots) for wait in slot.after]


def test_a_plan_without_any_one_of_its_waits_is_refused():
    tried = 0
    for seed in SEEDS:
        plan, _ = random_plan(seed, 3)
        for step, wait in waits(plan):
            with pytest.raises(PlanError, match=r"at the same time|while another"):
                check(without(plan, step, wait))
            tried += 1
    assert tried > 50


def test_buffers_that_may_be_used_at_the_same_time_are_refused_in_one_place():
    tried = 0
    for seed in SEEDS:
        plan, _ = random_plan(seed, 2)
        if not plan.slots:
            continue
        known = ended_before(len(plan.steps), directly_before(plan))
        arena = [buffer for buffer in plan.buffers if buffer.placement == "arena"]
        for one, other in itertools.combinations(arena, 2):
            users = [[i for i, step in enumerate(plan.steps) if each.name in named(step)] for each in (one, other)]
            ordered = any(all(a in known[b] for a in these for b in those) for these, those in (users, users[::-1]))
            if not ordered and one.offset + other.nbytes <= plan.arena_bytes:
                moved = replace(other, offset=one.offset)
                buffers = tuple(moved if each is other else each for each in plan.buffers)
                with pytest.raises(PlanError):
                    check(replace(plan, buffers=buffers))
                tried += 1
    assert tried > 50


def named(step):
    return {step.destination.buffer} | ({step.source.buffer} if isinstance(step, Copy) else set())


def test_a_step_that_waits_for_another_lane_is_not_launched_early():
    with pytest.raises(PlanError, match="step 3, launch_3: it waits for other lanes"):
        check(launches(early={3}))


LAUNCHES = launches(early=())


def slot(step, **changes):
    changed = replace(LAUNCHES.slots[step], **changes)
    return replace(LAUNCHES, slots=(*LAUNCHES.slots[:step], changed, *LAUNCHES.slots[step + 1 :]))


def offsets(**changes):
    buffers = (replace(each, offset=changes.get(each.name, each.offset)) for each in LAUNCHES.buffers)
    return replace(LAUNCHES, buffers=tuple(buffers))


UNSOUND = {
    "a slot too few": ("4 slots for 5 steps", replace(LAUNCHES, slots=LAUNCHES.slots[:-1])),
    "a lane without a step": (
        "not numbered",
        replace(LAUNCHES, slots=tuple(replace(s, lane=2 * s.lane) for s in LAUNCHES.slots)),
    ),
    "a lane before the first": ("not numbered", slot(2, lane=-1)),
    "a wait for a later step": ("not earlier", slot(1, after=(2,))),
    "a wait for itself": ("not earlier", slot(1, after=(1,))),
    "a wait for no step": ("not earlier", slot(3, after=(-1,))),
    "a wait twice": ("not earlier", slot(3, after=(2, 2))),
    "a wait for its own lane": ("its own lane", slot(3, after=(1, 2))),
    "no wait": ("step 2, launch_2 and step 3, launch_3 may run at the same time", slot(3, after=())),
    "nothing written": ("step 3, launch_3: it does not say", slot(3, writes=())),
    "an input written": ("must not write", slot(0, writes=(Region("x", 0, 64),))),
    "something written that it is not given": ("not given", slot(0, writes=(Region("b", 0, 64),))),
    "no buffer written": ("not given", slot(0, writes=(Region("d", 0, 64),))),
    "more written than there is": ("beyond", slot(0, writes=(Region("a", 0, 65),))),
    "something before the buffer written": ("beyond", slot(0, writes=(Region("a", -1, 64),))),
    "rows beyond the buffer written": ("beyond", slot(0, writes=(Region("a", 0, 16, ((5, 16),)),))),
    "a stride without a limit": ("beyond", slot(0, writes=(Region("a", 0, 16, ((1, 2**63),)),))),
    "one place for what two lanes use": ("'a' and 'c' lie in one place", offsets(a=256 * 3, c=256 * 3)),
    "one place for what a step reads and writes": ("'a' and 'b' lie in one place", offsets(a=256 * 2, b=256 * 2)),
    "two lanes that write the same": (
        "both use 'a'",
        replace(
            LAUNCHES,
            steps=tuple(
                replace(s, arguments=(Pointer("x"), Pointer("a"))) if i == 2 else s
                for i, s in enumerate(LAUNCHES.steps)
            ),
            slots=tuple(
                replace(s, writes=(Region("a", 0, 64),)) if i == 2 else s for i, s in enumerate(LAUNCHES.slots)
            ),
        ),
    ),
    "a fill that says what it writes": (
        "no launch",
        replace(LAUNCHES, steps=(Fill(Pointer("a"), 64), *LAUNCHES.steps[1:]), slots=LAUNCHES.slots),
    ),
    "more memory than there is": (
        "any memory",
        replace(LAUNCHES, buffers=(*LAUNCHES.buffers, Buffer("huge", 2**63, "arena", 0)), arena_bytes=2**63),
    ),
}


def test_the_launches_themselves_are_sound():
    check(LAUNCHES)
    check(slot(2, writes=(Region("c", 0, 1, ((64, 1),)),)))


@pytest.mark.parametrize(("message", "plan"), UNSOUND.values(), ids=UNSOUND)
def test_what_slots_must_not_say(message, plan):
    with pytest.raises(PlanError, match=message):
        check(plan)


def test_parts_of_one_buffer_may_be_written_side_by_side():
    """Halves of the rows, as two streams of tokens are put together."""
    left, right = (Region("y", first, 8, ((4, 16),)) for first in (0, 8))
    names = ("x", "y")
    steps = tuple(Launch(KERNEL.digest, (1, 1, 1), tuple(map(Pointer, names))) for _ in range(2))
    plan = replace(
        LAUNCHES,
        buffers=tuple(each for each in LAUNCHES.buffers if each.name in names),
        outputs=("y",),
        steps=steps,
        slots=(Slot(0, (), (left,)), Slot(1, (), (right,))),
    )
    check(plan)
    for other in (left, Region("y", 0, 64), Region("y", 15, 2)):
        with pytest.raises(PlanError, match="'y', which one of them writes"):
            check(replace(plan, slots=(plan.slots[0], Slot(1, (), (other,)))))
