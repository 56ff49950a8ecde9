"""Measuring calls: by a clock that only the functions move, and some real ones."""

import functools
import random
import re
import statistics
import subprocess
import sys
import time

import numpy
import pytest

import jitinfer
from jitinfer.errors import ArgumentError
from jitinfer.tools import benchmarking
from jitinfer.tools.benchmarking import Comparison, Measurement, duration


class Clock:
    """Stands still but for what functions take."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def taking(self, name, seconds):
        """A function that takes as long as the next of `seconds` says, the last one forever."""
        left = list(seconds)

        def function():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return function


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(benchmarking, "perf_counter", lambda: made.now)
    return made


def test_exactly_as_many_calls_as_asked_for(clock):
    found = jitinfer.benchmark(clock.taking("f", [50, 1, 2, 3, 4, 5]), calls=5, warmup=1)
    assert found.times == (1, 2, 3, 4, 5)
    assert (found.median, found.mean, found.fastest, found.slowest) == (3, 3, 1, 5)
    assert (found.quartiles, found.spread, found.calls) == ((2, 4), 2, 5)
    assert len(clock.log) == 6


def test_the_warm_up_counts_for_nothing(clock):
    found = jitinfer.benchmark(clock.taking("f", [100, 100, 100, 0.01]), seconds=0.1)
    assert {round(each, 9) for each in found.times} == {0.01}


def test_as_long_as_asked_for_but_five_samples_at_least(clock):
    found = jitinfer.benchmark(clock.taking("f", [0.01]), seconds=0.5)
    assert found.calls in (50, 51)  # fifty hundredths may not be a half
    assert len(jitinfer.benchmark(clock.taking("f", [10.0]), seconds=0.5).times) == 5
    assert jitinfer.benchmark(clock.taking("f", [0.01])).calls in (100, 101)


def test_short_calls_are_timed_several_at_once(clock):
    found = jitinfer.benchmark(clock.taking("f", [2e-6]), seconds=0.01)
    assert found.median == pytest.approx(2e-6)
    assert found.calls == 64 * len(found.times)  # the least power of two that takes 100 us


def test_what_is_queued_counts_until_it_is_done(clock):
    queued = []

    def wait():
        clock.now += sum(queued)
        queued.clear()

    found = jitinfer.benchmark(lambda: queued.append(0.5), calls=3, synchronize=wait)
    assert found.times == (0.5, 0.5, 0.5)


class Stream:
    def __init__(self, clock):
        self._clock, self._queued = clock, 0

    def run(self):
        self._queued += 1

    def synchronize(self):
        self._clock.now += 0.25 * self._queued
        self._queued = 0


def test_the_objects_own_way_to_wait_is_found(clock):
    stream = Stream(clock)
    assert jitinfer.benchmark(stream.run, calls=2).times == (0.25, 0.25)
    assert jitinfer.benchmark(functools.partial(functools.partial(stream.run)), calls=2).times == (0.25, 0.25)


def test_functions_take_turns(clock):
    functions = {name: clock.taking(name, [1.0]) for name in "abc"}
    jitinfer.compare_speed(functions, calls=4, warmup=0)
    assert "".join(clock.log) == "abc" + "bca" + "cab" + "abc"


def test_a_slow_spell_hits_all_alike(clock):
    """b takes twice as long as a, while the machine becomes slower and slower."""

    def function(factor):
        def run():
            clock.now += factor * (1 + clock.now)

        return run

    found = jitinfer.compare_speed({"a": function(1e-3), "b": function(2e-3)}, calls=500, warmup=0)
    assert found["a"].slowest > 2 * found["a"].fastest
    assert found.ratio("b") == pytest.approx(0.5, rel=0.01)
    assert found.ratio("a") == 1


def test_each_function_gets_its_time(clock):
    functions = {"short": clock.taking("short", [0.01]), "long": clock.taking("long", [0.03])}
    found = jitinfer.compare_speed(functions, seconds=0.2)
    assert len(found["short"].times) == len(found["long"].times) == pytest.approx(0.4 / 0.04, abs=1)


def test_arguments_reach_the_function():
    seen = []
    jitinfer.benchmark(lambda *args, **kwargs: seen.append((args, kwargs)), 1, 2, calls=1, warmup=0, scale=3)
    assert seen == [((1, 2), {"scale": 3})]


@pytest.mark.parametrize("option", ["seconds", "calls", "warmup", "synchronize"])
def test_an_option_that_is_a_parameter_too_is_refused(option):
    scope = {}
    exec(f"def function({option}): return {option}", scope)
    value = {"synchronize": print, "seconds": 0.5}.get(option, benchmarking.WARMUP)
    with pytest.raises(ArgumentError, match=rf"{option} is an option here.*functools\.partial"):
        jitinfer.benchmark(scope["function"], **{option: value})
    assert jitinfer.benchmark(functools.partial(scope["function"], value), seconds=0).times


@pytest.mark.parametrize(
    "options",
    [{"seconds": 1, "calls": 1}, {"calls": 0}, {"warmup": -1}, {"seconds": -1}, {"seconds": float("nan")}],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ArgumentError):
        jitinfer.benchmark(lambda: None, **options)
    with pytest.raises(ArgumentError, match="no function"):
        jitinfer.compare_speed({})


def test_random_generators_are_left_as_they_were():
    import paddle

    def draw():
        return random.random(), float(numpy.random.rand()), float(paddle.rand([]))

    paddle.seed(7)
    random.seed(7)
    numpy.random.seed(7)
    expected = [draw(), draw()]
    paddle.seed(7)
    random.seed(7)
    numpy.random.seed(7)
    first = draw()
    jitinfer.benchmark(draw, calls=3)
    assert [first, draw()] == expected


def test_an_error_leaves_the_generators_too():
    state = random.getstate()

    def fail():
        random.random()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        jitinfer.benchmark(fail)
    assert random.getstate() == state


def test_it_reads_well():
    one = Measurement("f", (1e-3, 2e-3, 3e-3, 4e-3, 5e-3), 5)
    assert str(one) == "f: 3.00 ms (middle half 2.00 ms to 4.00 ms, all 1.00 ms to 5.00 ms; 5 calls)" == repr(one)
    two = Comparison((one, Measurement("<g>", (1e-3, 1e-3, 1e-3, 1e-3, 1e-3), 5)))
    lines = str(two).splitlines()
    assert lines[0].split() == ["median", "middle", "half", "fastest", "slowest", "calls", "ratio"]
    assert lines[2].split()[-2:] == ["5", "3.00x"]
    assert two["<g>"].median == 1e-3
    with pytest.raises(KeyError):
        two["h"]
    assert "<td>&lt;g&gt;</td>" in two._repr_html_()
    assert "ratio" not in one._repr_html_()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 ns"),
        (1.5e-9, "1.50 ns"),
        (9.996e-6, "10.0 us"),
        (99.96e-3, "100 ms"),
        (999.6e-6, "1.00 ms"),
        (12, "12.0 s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_real_function():
    found = jitinfer.benchmark(time.sleep, 0.005, calls=5)
    assert 0.005 <= found.fastest <= found.median == statistics.median(found.times) < 0.5
    assert re.fullmatch(r"sleep: \d.* ms \(.*; 5 calls\)", str(found))


def test_measuring_needs_neither_paddle_nor_triton_nor_cuda():
    program = (
        "import sys, jitinfer; jitinfer.benchmark(len, [], calls=1); "
        "print(sorted({'paddle', 'triton', 'cuda', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
