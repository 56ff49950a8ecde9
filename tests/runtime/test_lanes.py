"""Plans of several lanes over a driver in host memory: recorded as they say, right in whatever order that allows."""

import gc
import itertools
import random
from dataclasses import replace

import numpy
import pytest
from laned_plans import KERNEL, launches, random_plan

from jitinfer.errors import DeviceError, PlanError
from jitinfer.runtime import Buffer, Copy, Executor, Fill, Launch, Plan, Pointer, Region, Slot, check, executor
from jitinfer.runtime.driver import call
from jitinfer.runtime.model import Model, Session
from jitinfer.runtime.profiler import Profiler
from jitinfer.runtime.recording import in_lanes, recorded
from jitinfer.runtime.resources import Resources

SEEDS = range(25)


def before(steps, after):
    """Of each step, all that have ended when it begins; after: those directly before it."""
    found = []
    for step in range(steps):
        found.append(set(after[step]).union(*(found[each] for each in after[step])))
    return found


def direct(plan):
    lanes = [slot.lane for slot in plan.slots]
    return [
        {*slot.after, *(each for each in range(step) if lanes[each] == slot.lane)}
        for step, slot in enumerate(plan.slots)
    ]


def without(plan, step, wait):
    slot = replace(plan.slots[step], after=tuple(each for each in plan.slots[step].after if each != wait))
    return replace(plan, slots=(*plan.slots[:step], slot, *plan.slots[step + 1 :]))


def waits(plan):
    return [(step, wait) for step, slot in enumerate(plan.slots) for wait in slot.after]


@pytest.mark.parametrize("lanes", [2, 3])
def test_random_plans_give_the_same_in_every_order_that_they_allow(cuda, lanes):
    for seed in SEEDS:
        plan, wanted = random_plan(seed, lanes)
        check(plan)
        for stepwise in (True, False):
            run = Executor(plan, stepwise=stepwise)
            for shuffled in range(8):
                cuda.shuffle = random.Random(shuffled)
                for found, each in zip(run.run([]), wanted, strict=True):
                    assert numpy.array_equal(found, each)


def test_what_is_recorded_is_the_order_of_the_plan(cuda):
    laned = 0
    for seed in SEEDS:
        plan, _ = random_plan(seed, 3)
        Executor(plan).run([])
        nodes = cuda.graphs[-1]
        # Each step is one node, in the order in which steps are queued.
        assert len(nodes) == len(plan.steps)
        recorded = before(len(nodes), [node.after for node in nodes])
        after = direct(plan) if plan.slots else [set(range(step)) for step in range(len(plan.steps))]
        assert recorded == before(len(plan.steps), after)
        laned += plan.lanes > 1
    assert laned > 10


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
        known = before(len(plan.steps), direct(plan))
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


def test_the_driver_shows_what_a_wait_is_for(cuda, monkeypatch):
    """Without its waits, and unchecked, a plan gives something else in some order."""
    monkeypatch.setattr(executor, "check", lambda plan: None)
    wrong = 0
    for seed in SEEDS:
        plan, wanted = random_plan(seed)
        run = Executor(replace(plan, slots=tuple(replace(slot, after=()) for slot in plan.slots)))
        for shuffled in range(20):
            cuda.shuffle = random.Random(shuffled)
            found = run.run([])
            wrong += any(not numpy.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    assert wrong > 50


def test_streams_and_events_of_a_recording_are_given_back(cuda):
    plan = next(plan for plan, _ in map(random_plan, SEEDS) if plan.lanes > 1)
    run = Executor(plan)
    held = [each for each in cuda.held.values() if isinstance(each, str)]
    single = Executor(replace(plan, slots=()))
    more = [each for each in cuda.held.values() if isinstance(each, str)]
    assert sorted(more) == sorted(held * 2)
    run.close()
    single.close()


def test_a_lane_that_does_not_end_in_the_first_one_is_noticed(cuda):
    run = Executor(LAUNCHES)
    resources = Resources(run.device)
    streams = [resources.stream() for _ in range(2)]
    work = in_lanes(run.steps, LAUNCHES.slots, streams[1:], resources.event)
    call("cuGraphExecDestroy", recorded(work, streams[0]))
    with pytest.raises(DeviceError, match="unjoined"):
        recorded(work[:-1], streams[0])


def test_a_recording_that_fails_gives_everything_back(cuda):
    plan = next(plan for plan, _ in map(random_plan, SEEDS) if plan.lanes > 1)
    cuda.fail = "fill"
    original = cuda.cuMemsetD8
    cuda.cuMemsetD8 = lambda *arguments: (original.__self__.CUresult.CUDA_SUCCESS,)
    with pytest.raises(DeviceError, match="step"):
        Executor(plan)
    gc.collect()
    kinds = [each for each in cuda.held.values() if isinstance(each, str)]
    assert not {"stream", "event", "graph", "executable graph"} & set(kinds)


def test_early_launches_follow_one_kernel(cuda):
    plan = launches(early={1, 4})
    Executor(plan).run([numpy.zeros(64, numpy.uint8)])
    nodes = cuda.graphs[-1]
    assert [node.early for node in nodes] == [False, True, False, False, True]
    assert [set(node.after) for node in nodes] == [set(), {0}, set(), {1, 2}, {2}]
    assert all(nodes[each].kernel for node in nodes if node.early for each in node.after)


def test_a_step_that_waits_for_another_lane_is_not_launched_early():
    with pytest.raises(PlanError, match="step 3 waits for other lanes"):
        check(launches(early={3}))


LAUNCHES = launches(early=())


def slot(step, **changes):
    changed = replace(LAUNCHES.slots[step], **changes)
    return replace(LAUNCHES, slots=(*LAUNCHES.slots[:step], changed, *LAUNCHES.slots[step + 1 :]))


def offsets(**changes):
    buffers = (replace(each, offset=changes.get(each.name, each.offset)) for each in LAUNCHES.buffers)
    return replace(LAUNCHES, buffers=tuple(buffers))


UNSOUND = {
    "a slot too few": replace(LAUNCHES, slots=LAUNCHES.slots[:-1]),
    "a lane without a step": replace(LAUNCHES, slots=tuple(replace(s, lane=2 * s.lane) for s in LAUNCHES.slots)),
    "a lane before the first": slot(2, lane=-1),
    "a wait for a later step": slot(1, after=(2,)),
    "a wait for itself": slot(1, after=(1,)),
    "a wait for no step": slot(3, after=(-1,)),
    "a wait twice": slot(3, after=(2, 2)),
    "a wait for its own lane": slot(3, after=(1, 2)),
    "no wait": slot(3, after=()),
    "nothing written": slot(3, writes=()),
    "an input written": slot(0, writes=(Region("x", 0, 64),)),
    "something written that it is not given": slot(0, writes=(Region("b", 0, 64),)),
    "no buffer written": slot(0, writes=(Region("d", 0, 64),)),
    "more written than there is": slot(0, writes=(Region("a", 0, 65),)),
    "something before the buffer written": slot(0, writes=(Region("a", -1, 64),)),
    "rows beyond the buffer written": slot(0, writes=(Region("a", 0, 16, ((5, 16),)),)),
    "a stride without a limit": slot(0, writes=(Region("a", 0, 16, ((1, 2**63),)),)),
    "one place for what two lanes use": offsets(a=256 * 3, c=256 * 3),
    "one place for what a step reads and writes": offsets(a=256 * 2, b=256 * 2),
    "two lanes that write the same": replace(
        LAUNCHES,
        steps=tuple(
            replace(s, arguments=(Pointer("x"), Pointer("a"))) if i == 2 else s for i, s in enumerate(LAUNCHES.steps)
        ),
        slots=tuple(replace(s, writes=(Region("a", 0, 64),)) if i == 2 else s for i, s in enumerate(LAUNCHES.slots)),
    ),
    "a fill that says what it writes": replace(
        LAUNCHES, steps=(Fill(Pointer("a"), 64), *LAUNCHES.steps[1:]), slots=LAUNCHES.slots
    ),
    "more memory than there is": replace(
        LAUNCHES, buffers=(*LAUNCHES.buffers, Buffer("huge", 2**63, "arena", 0)), arena_bytes=2**63
    ),
}


def test_the_launches_themselves_are_sound():
    check(LAUNCHES)
    check(slot(2, writes=(Region("c", 0, 1, ((64, 1),)),)))


@pytest.mark.parametrize("plan", UNSOUND.values(), ids=UNSOUND)
def test_what_slots_must_not_say(plan):
    with pytest.raises(PlanError):
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


def test_lanes_take_their_time_side_by_side_and_steps_are_timed_one_by_one(cuda):
    def buffer(name, placement, offset=0):
        return Buffer(name, 64, placement, offset, (16,), "float32")

    steps = (
        Copy(Pointer("x"), Pointer("a"), 64),
        Copy(Pointer("x"), Pointer("b"), 48),
        Copy(Pointer("a"), Pointer("y"), 16),
    )
    steps = (*steps, Copy(Pointer("b"), Pointer("y", 16), 32))
    buffers = (buffer("x", "input"), buffer("a", "arena"), buffer("b", "arena", 256), buffer("y", "output"))
    slots = (Slot(0), Slot(1), Slot(0), Slot(0, (1,)))
    plan = Plan(90, 512, buffers, steps, (), ("x",), ("y",), slots=slots)
    session = Session(Model(plan, (), (), (), ()), [])
    profiler = Profiler(session)
    found = profiler.measure(rounds=3)
    assert found.whole == pytest.approx(64 + 16 + 32)
    assert [each.in_sequence for each in found.steps] == pytest.approx([64, 48, 16, 32])
    assert [each.repeated for each in found.steps] == pytest.approx([64, 48, 16, 32])
    profiler.close()
