"""Times of steps: over a driver in host memory with a clock of its own, and on a device."""

from contextlib import contextmanager

import numpy
import pytest
from compiled_stack import stack
from fake_driver import EVENT
from gpu import needs_gpu
from sessions import LABELS, MODEL, MODEL_BYTES, copying, session_of

from jitinfer.errors import ArgumentError
from jitinfer.runtime.profiler import Profiler
from jitinfer.runtime.timing import interquartile_mean


def test_every_step_has_its_time_and_events_are_taken_off(cuda):
    session = session_of(MODEL)
    before = dict(cuda.held)
    profiler = Profiler(session)
    found = profiler.measure(rounds=5)
    assert [each.in_sequence for each in found.steps] == pytest.approx(MODEL_BYTES)
    assert [each.repeated for each in found.steps] == pytest.approx(MODEL_BYTES)
    assert found.whole == pytest.approx(sum(MODEL_BYTES))
    assert found.overhead == pytest.approx(EVENT)
    assert found.rounds == 5
    profiler.close()
    profiler.close()
    assert {number for number in cuda.held if number not in before} == set()


def test_times_vary_from_round_to_round(cuda):
    session = session_of(MODEL)
    profiler = Profiler(session)
    original, slow = cuda._spend, iter([500, *[0] * 10_000])
    cuda._spend = lambda nbytes, *rest: (setattr(cuda, "now", cuda.now + next(slow)), original(nbytes, *rest))[1]
    found = profiler.measure(rounds=8)
    assert found.whole == pytest.approx(sum(MODEL_BYTES))  # the warm-up was slow


def test_the_session_computes_the_same_meanwhile(cuda):
    session = session_of(MODEL)
    x = numpy.arange(16, dtype=numpy.float32)
    (before,) = session.run([x])
    profiler = Profiler(session)
    profiler.measure(rounds=2)
    (after,) = session.run(session.inputs)
    assert before.tobytes() == after.tobytes()
    assert numpy.array_equal(before[:16], x)


def test_steps_run_once_each_inside_of_what_is_put_around_them(cuda):
    profiler = Profiler(session_of(MODEL))
    seen, clock = [], []

    @contextmanager
    def around(number, step):
        started = cuda.now
        yield
        seen.append((number, step.label))
        clock.append(cuda.now - started)

    profiler.run(around)
    assert seen == list(enumerate(LABELS))
    assert clock == MODEL_BYTES
    before = cuda.now
    profiler.run()
    assert cuda.now - before == sum(MODEL_BYTES)


def test_no_rounds(cuda):
    with pytest.raises(ArgumentError, match="0 rounds"):
        Profiler(session_of(MODEL)).measure(rounds=0)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([3.0], 3.0), ([1.0, 2.0], 1.5), ([1, 2, 3, 1000], 2.5), ([1, 1, 2, 2, 3, 3, 900, -900], 2.0)],
)
def test_the_mean_of_the_middle_half(values, mean):
    assert interquartile_mean(values) == mean


@needs_gpu
def test_a_large_copy_takes_as_long_as_it_takes():
    """256 MB read and written; half of the device's bandwidth at least, and no more than there is anywhere."""
    session = session_of(copying(1 << 26))
    profiler = Profiler(session)
    found = profiler.measure(rounds=10)
    (step,) = found.steps
    rates = [2 * 4 * (1 << 26) / time * 1e-3 for time in (step.in_sequence, step.repeated, found.whole)]
    assert all(500 < rate < 20_000 for rate in rates), rates
    assert step.in_sequence == pytest.approx(found.whole, rel=0.2)
    profiler.close()


@needs_gpu
def test_the_steps_add_up_to_the_whole():
    session = session_of(stack(12))
    profiler = Profiler(session)
    before = session.run(session.inputs)
    found = profiler.measure(rounds=20)
    assert len(found.steps) == len(session.model.plan.steps)
    assert sum(each.in_sequence for each in found.steps) == pytest.approx(found.whole, rel=0.1)
    assert all(each.repeated > 0 for each in found.steps)
    profiler.run()
    for one, other in zip(before, session.run(session.inputs), strict=True):
        assert one.tobytes() == other.tobytes()
    profiler.close()
