"""Plans of several lanes over a driver in host memory: recorded as they say, right in whatever order that allows."""

import gc
import random
from dataclasses import replace

import numpy
import pytest
from gpu import device_target, needs_gpu
from laned_plans import directly_before, ended_before, launches, random_plan

from jitinfer.errors import DeviceError
from jitinfer.runtime import Buffer, Copy, Executor, Plan, Pointer, Slot, check, executor
from jitinfer.runtime.driver import call
from jitinfer.runtime.model import Model, Session
from jitinfer.runtime.profiler import Profiler
from jitinfer.runtime.recording import in_lanes, recorded
from jitinfer.runtime.resources import Resources

SEEDS = range(25)


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
        recorded = ended_before(len(nodes), [node.after for node in nodes])
        after = directly_before(plan) if plan.slots else [set(range(step)) for step in range(len(plan.steps))]
        assert recorded == ended_before(len(plan.steps), after)
        laned += plan.lanes > 1
    assert laned > 10


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
    cuda.cuMemsetD8 = lambda *_: (cuda.CUresult.CUDA_SUCCESS,)
    with pytest.raises(DeviceError, match="step"):
        Executor(plan)
    gc.collect()
    kinds = [each for each in cuda.held.values() if isinstance(each, str)]
    assert not {"stream", "event", "graph", "executable graph"} & set(kinds)


LAUNCHES = launches(early=())


def test_early_launches_follow_one_kernel(cuda):
    plan = launches(early={1, 4})
    Executor(plan).run([numpy.zeros(64, numpy.uint8)])
    nodes = cuda.graphs[-1]
    assert [node.early for node in nodes] == [False, True, False, False, True]
    assert [set(node.after) for node in nodes] == [set(), {0}, set(), {1, 2}, {2}]
    assert all(nodes[each].kernel for node in nodes if node.early for each in node.after)


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


@needs_gpu
@pytest.mark.parametrize("lanes", [2, 3])
def test_random_plans_on_a_device(lanes):
    """Recorded with streams that join at the beginning, wait, and end in the first one, as CUDA takes them."""
    target = device_target().compute_capability
    for seed in range(60):
        plan, wanted = random_plan(seed, lanes, most=40)
        run = Executor(replace(plan, target=target))
        for _ in range(5):
            for found, each in zip(run.run([]), wanted, strict=True):
                assert numpy.array_equal(found, each)
        run.close()
