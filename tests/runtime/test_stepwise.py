"""A model run step by step, here over a driver in host memory, and what is said about it."""

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy
import pytest
from fake_driver import FAULT, TRAP
from runtime.test_weight_store import JOINED, model, values

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.runtime import Copy, Device, Executor, Fill, Pointer, stepwise, timing
from jitinfer.runtime.timing import microseconds
from jitinfer.runtime.weights import Weights

INPUT = numpy.random.default_rng(7).standard_normal(2048).astype("float32")


def test_each_step_is_told_before_it_runs(cuda):
    said = []
    weights = values()
    (y,) = stepwise.run_stepwise(model(2), weights, [INPUT], Device.of(0), lambda *where: said.append(where))
    assert numpy.array_equal(y, numpy.concatenate([INPUT, weights[2], weights[0], weights[1]]))
    whole = (0, None)
    assert said == [(1, 0), (1, 1), (None, None), *((0, step) for step in range(4)), (None, None), whole]


def told(tmp_path, of, weights, inputs):
    stepwise.write(str(tmp_path), of, weights, inputs, 0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)}
    command = [sys.executable, "-m", "fake_child", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_process_of_its_own(tmp_path):
    *_, last_step, nothing, whole, end = told(tmp_path, model(2), values(), [INPUT])
    assert last_step == {"plan": 0, "step": 3}
    assert nothing == {"plan": None, "step": None}
    assert whole == {"plan": 0, "step": None}
    assert end == {"failure": "", "lost": False}


@pytest.mark.parametrize("prologue", [False, True])
def test_the_step_that_loses_the_device_is_the_last_one(tmp_path, prologue):
    of = model(2)
    if prologue:
        stray = (JOINED.steps[0], Fill(Pointer("ab"), 4, FAULT, "stray"), JOINED.steps[1])
        of = replace(of, prologue=(replace(JOINED, steps=stray),))
    else:
        stray = (*of.plan.steps[:2], Fill(Pointer("y"), 4, FAULT, "stray"), *of.plan.steps[2:])
        of = replace(of, plan=replace(of.plan, steps=stray))
    *_, step, end = told(tmp_path, of, values(), [INPUT])
    assert step == ({"plan": 1, "step": 1} if prologue else {"plan": 0, "step": 2})
    assert end["lost"]
    assert end["failure"].startswith(f"step {step['step']}, stray: ")


def test_weights_and_inputs_are_those_that_are_given_or_random(tmp_path):
    trapped = values()
    trapped[2][0] = TRAP[0]
    assert told(tmp_path, model(2), trapped, [INPUT])[-2:-1] == [{"plan": 0, "step": 2}]
    assert told(tmp_path, model(2), None, [INPUT])[-1] == {"failure": "", "lost": False}
    given = INPUT.copy()
    given[0] = TRAP[0]
    assert told(tmp_path, model(2), None, [given])[-2:-1] == [{"plan": 0, "step": 0}]
    assert told(tmp_path, model(2), None, [None])[-1] == {"failure": "", "lost": False}


def test_what_does_not_fit_in_is_said(tmp_path):
    large = model(2)
    large = replace(large, plan=replace(large.plan, arena_bytes=2**40))
    end = told(tmp_path, large, values(), [INPUT])[-1]
    assert not end["lost"]
    assert "out_of_memory" in end["failure"]


PLAN = replace(model(2).plan, buffers=tuple(each for each in model(2).plan.buffers if each.name != "x"))
PLAN = replace(PLAN, steps=(Copy(Pointer("w"), Pointer("y"), 4096),), inputs=())


def test_a_plan_that_is_timed_loses_the_device_in_words_of_its_own(cuda, monkeypatch):
    """As libraries have them."""
    weights = Weights({"w": values()[0], "ab": numpy.zeros(2048, "float32")})
    assert microseconds(PLAN, weights, Device.of(0), seconds=0.0) >= 0

    def refuse(*_):
        cuda.lost = lost
        raise DeviceError("execution failed")

    monkeypatch.setattr(Executor, "enqueue", refuse)
    for lost in (False, True):
        with pytest.raises(DeviceError) as raised:
            microseconds(PLAN, weights, Device.of(0))
        assert isinstance(raised.value, DeviceLostError) == lost


@pytest.mark.parametrize(("limit", "replays"), [(0.0, 5), (math.inf, 5 + 19)])
def test_a_plan_that_takes_too_long_is_not_measured_any_longer(cuda, monkeypatch, limit, replays):
    """After two replays to warm up; from the sixth on, each takes a millisecond by the host's clock."""
    clock = itertools.count(0.0, 0.001)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    weights = Weights({"w": values()[0], "ab": numpy.zeros(2048, "float32")})
    microseconds(PLAN, weights, Device.of(0), seconds=0.0195, least=5, limit=limit)
    assert cuda.launches == 2 + replays
