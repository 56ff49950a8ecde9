"""Two lanes or one, whichever the device runs faster: over a driver in host memory, whose clock is exact."""

import logging
import math
import statistics
from dataclasses import replace

import numpy
import pytest
from fake_driver import FAULT, LIMIT, installed
from gpu import device_target, needs_gpu

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.graph import Builder, ops
from jitinfer.graph.types import TensorType, numpy_dtype
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, lane_timing
from jitinfer.lowering.lane_timing import LEAST_ROUNDS, faster
from jitinfer.lowering.lanes import LEAST_SHARE
from jitinfer.lowering.lower import Outline
from jitinfer.runtime import Buffer, Copy, Device, Fill, Plan, Pointer, Slot, timing
from jitinfer.runtime.driver import call
from jitinfer.runtime.plan import aligned
from jitinfer.runtime.samples import sampled
from jitinfer.runtime.timing import InTurn

NBYTES = 40000


def buffer(name, placement, dtype="float32", offset=0):
    size = NBYTES // numpy_dtype(dtype).itemsize
    return Buffer(name, NBYTES, placement, offset, (100, size // 100), dtype)


def laned(longer=0):
    """Two copies beside a third one, which begins `longer` bytes late: one after the other, they take 120 ms, side by
    side 80 at least."""
    return Plan(
        target=90,
        arena_bytes=aligned(2 * NBYTES),
        buffers=(
            buffer("x", "input"),
            buffer("i", "input", "int64"),
            buffer("v", "weight"),
            buffer("w", "weight"),
            buffer("h", "weight", "bfloat16"),
            Buffer("late", 2 * NBYTES, "arena"),
            *(buffer(name, "output") for name in "abc"),
        ),
        steps=(
            *[Fill(Pointer("late"), longer)] * (longer > 0),
            Copy(Pointer("x"), Pointer("a"), NBYTES),
            Copy(Pointer("w"), Pointer("b"), NBYTES),
            Copy(Pointer("v"), Pointer("c"), NBYTES),
        ),
        kernels=(),
        inputs=("x", "i"),
        outputs=("a", "b", "c"),
        slots=(*[Slot()] * (longer > 0), Slot(), Slot(lane=1), Slot()),
    )


LANED = laned()
PLAIN = replace(LANED, slots=())


class Host:
    """Waits for the device, and takes its time to launch a graph: the microseconds of one in lanes, and of others."""

    def __init__(self, driver):
        self.driver = driver
        self.launching = 0.0
        self.in_lanes, self.others = 50.0, 10.0
        self.launch = driver.cuGraphLaunch

    def cuGraphLaunch(self, graph, stream):
        beginnings = sum(not node.after for node in self.driver._graphs[graph])
        self.launching += self.in_lanes if beginnings > 1 else self.others
        return self.launch(graph, stream)

    def perf_counter(self):
        return 1e-6 * (self.driver.now + self.launching)


@pytest.fixture
def fake(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "jitinfer")
    with installed(monkeypatch) as driver:
        driver.host = Host(driver)
        monkeypatch.setattr(driver, "cuGraphLaunch", driver.host.cuGraphLaunch)
        monkeypatch.setattr(timing, "time", driver.host)
        yield driver


def told(caplog, level=logging.INFO):
    (record,) = caplog.records
    assert record.levelno == level
    return record.getMessage()


def test_two_lanes_stay_where_they_are_faster(fake, caplog):
    assert faster(LANED, PLAIN, Device.of(0)) is LANED
    assert told(caplog) == (
        "two lanes take 80000.0 us, 80050.0 in a call, one takes 120000.0 us, 120010.0 in a call: two are kept"
    )
    assert not fake.held


def test_one_lane_takes_the_place_of_two_where_they_are_slower(fake, caplog):
    assert faster(laned(longer=60000), PLAIN, Device.of(0)) is PLAIN
    assert told(caplog) == (
        "two lanes take 140000.0 us, 140050.0 in a call, one takes 120000.0 us, 120010.0 in a call: one is kept"
    )
    assert not fake.held


@pytest.mark.parametrize(("more", "kept"), [(-1, 2), (1, 1)])
def test_what_the_host_takes_longer_to_launch_counts(fake, more, kept):
    fake.host.in_lanes = fake.host.others + 40000 + more
    assert faster(LANED, PLAIN, Device.of(0)).lanes == kept


@pytest.mark.parametrize(("more", "kept"), [(-1, 2), (1, 1)])
def test_a_gain_that_is_too_small_is_none(fake, more, kept):
    longer = round(40000 - LEAST_SHARE * 120000) + more
    assert faster(laned(longer), PLAIN, Device.of(0)).lanes == kept


@pytest.mark.parametrize("large", ["weights", "arena"])
def test_memory_that_does_not_suffice(fake, caplog, large):
    if large == "weights":
        more = Buffer("large", 4 * LIMIT, "weight", 0, (4, LIMIT // 4), "float32")
        one, other = (replace(each, buffers=(*each.buffers, more)) for each in (LANED, PLAIN))
    else:
        one, other = (replace(each, arena_bytes=2 * LIMIT) for each in (LANED, PLAIN))
    assert faster(one, other, Device.of(0)) is other
    assert "one lane is taken, without comparing two with it: " in told(caplog)
    assert "bytes for" in told(caplog)
    assert not fake.held


def test_whatever_call_of_the_driver_fails_nothing_is_lost(fake, caplog):
    """One lane is kept, a warning says why, and all memory is given back. Only where a call fails that
    gives something back the comparison goes on."""
    device = Device.of(0)
    warned = 0
    for number in range(1, 150):
        caplog.clear()
        held = set(fake.held)
        fake.failing_call = fake.calls + number
        kept = faster(LANED, PLAIN, device)
        if "two lanes take " in caplog.text:
            assert kept is LANED
        else:
            assert kept is PLAIN
            assert "comparing two with it failed: " in told(caplog, logging.WARNING)
            assert set(fake.held) == held
            warned += 1
    assert warned > 100


def test_a_device_that_is_lost_is_told(fake, caplog):
    stray = replace(LANED, steps=(*LANED.steps[:2], Fill(Pointer("c"), NBYTES, FAULT)))
    with pytest.raises(DeviceLostError):
        faster(stray, replace(stray, slots=()), Device.of(0))
    assert not caplog.records


def test_a_library_has_words_of_its_own_for_a_device_that_is_lost(fake, monkeypatch):
    def refuse(*_):
        fake.lost = True
        raise DeviceError("execution failed")

    monkeypatch.setattr(InTurn, "round", refuse)
    with pytest.raises(DeviceLostError):
        faster(LANED, PLAIN, Device.of(0))


class Ticking:
    """A clock that goes on by so much whenever it is read."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds

    def perf_counter(self):
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize(("seconds", "kept"), [(LEAST_ROUNDS + 0.5, 1), (LEAST_ROUNDS + 1.5, 2), (math.inf, 2)])
def test_too_few_rounds_until_the_deadline_say_nothing(fake, caplog, monkeypatch, seconds, kept):
    """Each takes a second, and so does loading."""
    monkeypatch.setattr(lane_timing, "time", Ticking(1.0))
    assert faster(LANED, PLAIN, Device.of(0), seconds).lanes == kept
    assert ("s are too little to compare two with it" in told(caplog)) == (kept == 1)
    assert not fake.held


def test_both_plans_read_the_same_random_weights(fake, monkeypatch):
    """Finite ones, which products do not let overflow."""
    seen = []

    class Looked(InTurn):
        def __init__(self, plans, weights, device):
            super().__init__(plans, weights, device)
            assert weights[0] is weights[1]
            weights = weights[0]
            assert all(executor.weights is weights for executor in self._executors)
            held = [*(weights[name] for name in "vwh"), *(each for e in self._executors for each in e.inputs)]
            for each in held:
                array = numpy.empty(each.shape, numpy_dtype(each.dtype))
                call("cuMemcpyDtoH", array.ctypes.data, each.address, array.nbytes)
                seen.append(array.astype("float64"))

    monkeypatch.setattr(lane_timing, "InTurn", Looked)
    faster(LANED, PLAIN, Device.of(0))
    assert len(seen) == 3 + 2 * 2
    for weight in seen[:3]:
        assert weight.std() == pytest.approx(1.0 / max(weight.shape) ** 0.5, rel=0.05)
    for x, i in (seen[3:5], seen[5:]):
        assert x.std() == pytest.approx(1.0, rel=0.05)
        assert set(i.flat) == {0.0, 1.0}


def chains(names, length, rows):
    """Each chain: products of [rows, 2048] by as many [2048, 2048], in bfloat16."""
    builder = Builder()
    results = []
    for name in names:
        y = builder.input(name, (rows, 2048), "bfloat16")
        for number in range(length):
            y = ops.matmul(y, builder.parameter(f"{name}{number}", (2048, 2048), "bfloat16"))
        results.append(y)
    return builder.build(*results)


@needs_gpu
@pytest.mark.parametrize(("rows", "lanes"), [(128, {2}), (1024, {1, 2})])
def test_on_a_device_the_slower_one_is_not_kept(rows, lanes):
    """Of 128 rows, a product leaves most multiprocessors idle; 1024 rows occupy them all, or nearly.

    One plan loaded twice has taken 632 and 703 us on an H100: 0.9 of the other's time says nothing.
    """
    target, device = device_target(), Device.of(0)
    outline = Outline(chains("ab", 24, rows), target)
    with Compiler(target) as compiler:
        choices = FirstThatCompiles(compiler).choose(outline.nodes)
    plain = outline.plan(choices).plan
    two = outline.plan(choices, 2).plan
    if two.lanes == 1:
        pytest.skip("no lanes are estimated to pay here")
    kept = faster(two, plain, device)
    assert kept.lanes in lanes
    types = {each.name: TensorType(each.shape, each.dtype) for each in two.weights}
    weights = sampled(types, device, lambda kind: kind.shape[0] ** -0.5)
    plans = InTurn((kept, plain if kept is two else two), (weights, weights), device)
    mine, other = (statistics.median(times) for times in zip(*[plans.round() for _ in range(30)], strict=True))
    plans.close()
    weights.close()
    assert mine <= other / 0.9
