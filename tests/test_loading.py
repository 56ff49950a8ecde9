"""Saved programs that lose the device say by which step: over a driver in host memory, in the other process too."""

from dataclasses import replace

import numpy
import pytest
from fake_driver import FAULT, TRAP, installed
from laned_plans import KERNEL
from runtime.test_weight_store import JOINED, model, values
from sessions import MODEL

import jitinfer
from jitinfer.errors import DeviceLostError
from jitinfer.runtime import Buffer, Fill, Launch, Plan, Pointer, model_file, retracing
from jitinfer.runtime.model import Model

X = numpy.arange(16, dtype="float32")
W = numpy.ones(16, "float32")
TRAPPED = numpy.full(16, TRAP[0], "float32")
LOST = "loses the device: "


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(retracing, "COMMAND", ("-m", "fake_child"))
    with installed(monkeypatch) as driver:
        yield driver


@pytest.fixture
def saved(tmp_path):
    def save(of=MODEL, weights=(W,)):
        model_file.save(of, tmp_path / "program", list(weights))
        return str(tmp_path / "program")

    return save


def lost(function, *given):
    """In which words."""
    with pytest.raises(DeviceLostError) as raised:
        function(*given)
    return str(raised.value)


@pytest.mark.parametrize("how", ["run", "enqueue"])
def test_the_step_is_named_with_its_layer_and_line(fake, saved, how):
    session = jitinfer.load(saved())
    (y,) = session.run([X])
    assert (y[:16] == X).all()
    step = "step 0, gather (model.py:3 in /Net_0)"
    said = lost(getattr(session, how), [TRAPPED])
    assert said.startswith(f"{step} {LOST}{step}: ")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in said
    assert said.endswith("CUDA serves this process no more")


def test_a_run_that_was_begun(fake, saved):
    session = jitinfer.load(saved())
    run = session.begin([X])
    fake.lost = True
    assert "No kernel of " in lost(run.finish)


def test_the_saved_weights_are_those_that_it_is_run_on_again(fake, saved):
    session = jitinfer.load(saved(weights=[TRAPPED]))
    assert lost(session.run, [X]).startswith(
        f"step 2, linear (model.py:7 in /Net_0/Block_1/Linear_0) {LOST}step 2, linear "
    )


@pytest.mark.parametrize("given", ["at first", "later"])
def test_other_weights_are_not_kept_and_random_ones_take_their_place(fake, saved, given):
    session = jitinfer.load(saved(), weights=[TRAPPED] if given == "at first" else None)
    if given == "later":
        session.refresh([TRAPPED])
    said = lost(session.run, [X])
    assert "run again in another process, step by step and on random weights, none does" in said
    assert "No kernel of " in said
    assert "illegal_address" in said


def test_what_waits_for_the_device(fake, saved):
    """Of which work it was is not known any more, nor its inputs."""
    path = saved()
    session = jitinfer.load(path)
    session.enqueue([X])
    fake.lost = True
    said = lost(session.synchronize)
    assert f"No kernel of {path} is known to have done it: run again in another process, step by step" in said
    assert "on random inputs, none does; whatever else this process ran on the device may have" in said


def stray_prologue():
    steps = (JOINED.steps[0], Fill(Pointer("ab"), 4, FAULT, "stray", "model.py:9"), JOINED.steps[1])
    return replace(model(2), prologue=(replace(JOINED, steps=steps),))


def test_what_computes_weights_when_it_is_loaded(fake, saved):
    path = saved(stray_prologue(), values())
    assert lost(jitinfer.load, path).startswith(f"step 1, stray (model.py:9) {LOST}step 1, stray ")


def test_what_computes_weights_when_they_are_refreshed(fake, saved):
    session = jitinfer.load(saved(model(2), values()))
    weights = values()
    fake.lost = True
    assert "on random inputs and weights, none does" in lost(session.refresh, weights)


def test_a_kernel_is_named(fake, saved):
    kernel = replace(KERNEL, entry="stray_rows")
    buffers = [Buffer(name, 64, where, 0, (16,), "float32") for name, where in (("x", "input"), ("y", "output"))]
    launch = Launch(kernel.digest, (1, 1, 1), (Pointer("x"), Pointer("y")), label="silu", origin="model.py:5 in /Net_0")
    plan = Plan(90, 0, tuple(buffers), (launch,), (kernel,), ("x",), ("y",))
    session = jitinfer.load(saved(Model(plan, (), (), (), ()), ()))
    said = lost(session.run, [X])
    assert said.startswith(f"the kernel stray_rows of step 0, silu (model.py:5 in /Net_0) {LOST}")


def test_it_is_looked_for_once_in_a_process_and_told_by_all(fake, saved, monkeypatch):
    retraced = []
    retrace = retracing.retrace
    monkeypatch.setattr(retracing, "retrace", lambda *given: retraced.append(given) or retrace(*given))
    path = saved()
    sessions = [jitinfer.load(path) for _ in range(2)]
    lost(sessions[0].run, [TRAPPED])
    did = "step 0, gather (model.py:3 in /Net_0) did it"
    for again in (sessions[0].run, sessions[1].run, sessions[1].enqueue, lambda _: jitinfer.load(path)):
        said = lost(again, [X])
        assert said == f"the device was lost to this process when {path} ran: {did}; CUDA serves this process no more"
    assert len(retraced) == 1


def test_the_search_has_an_end(fake, saved, monkeypatch):
    """A step that does not come to its end in time is not known to be the one."""
    child = """import time; print('{"plan": 0, "step": 1}', flush=True); time.sleep(60)"""
    monkeypatch.setattr(retracing, "COMMAND", ("-c", child))
    monkeypatch.setattr(retracing, "SECONDS", 2.0)
    session = jitinfer.load(saved())
    said = lost(session.run, [TRAPPED])
    assert (
        "Which kernel did it is not known: run again in another process, step by step, it had not come to its" in said
    )


def test_memory_goes_with_the_session(fake, saved):
    session = jitinfer.load(saved())
    session.run([X])
    assert fake.held
    del session
    assert not fake.held


def test_programs_without_weights(fake, saved):
    """Nothing of theirs is random."""
    step = replace(MODEL.plan.steps[0], destination=Pointer("y"))
    buffers = tuple(each for each in MODEL.plan.buffers if each.name in "xy")
    plan = replace(MODEL.plan, buffers=buffers, steps=(step,), arena_bytes=0)
    session = jitinfer.load(saved(Model(plan, (), (), (), ()), ()))
    fake.lost = True
    assert "step by step, none does" in lost(session.run, [X])
