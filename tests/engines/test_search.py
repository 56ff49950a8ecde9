"""The pass to blame is found, in a model as in Paddle, and a verdict is kept."""

import numpy
import paddle
import pytest
from models import build, dit, vae_decode
from reference import MLP, assert_same

import jitinfer
from jitinfer.cache import Cache, cache_location
from jitinfer.compilation import Call
from jitinfer.engines.blame import Bisection
from jitinfer.engines.candidates import SUSPECTS
from jitinfer.engines.configuration import ONEDNN_PASSES, Configuration
from jitinfer.engines.trial import TrialProcess
from jitinfer.frontend.capture import Reference

START = Configuration(onednn=True)


@pytest.mark.parametrize("guilty", [set(), {ONEDNN_PASSES[0]}, {ONEDNN_PASSES[20]}, {"inplace_pass"}])
def test_one_guilty_pass_is_found_in_few_tries(guilty):
    bisection = Bisection(lambda c: "wrong" if guilty & set(c.passes()) else "", SUSPECTS)
    right = bisection.repair(START, "wrong") if guilty else START
    assert {blame.name for blame in bisection.blamed} == guilty
    assert set(START.passes()) - set(right.passes()) == guilty
    assert bisection.attempts <= 2 * numpy.log2(len(START.passes())) + 5


@pytest.mark.parametrize("seed", range(5))
def test_several_guilty_passes_are_all_found(seed):
    passes = START.passes()
    guilty = set(numpy.random.default_rng(seed).choice(passes, 3, replace=False))
    bisection = Bisection(lambda c: "wrong" if guilty & set(c.passes()) else "", SUSPECTS)
    right = bisection.repair(START, "wrong")
    assert guilty <= {blame.name for blame in bisection.blamed}
    assert not guilty & set(right.passes())


def test_two_passes_that_are_wrong_only_together_lose_one():
    pair = {ONEDNN_PASSES[3], ONEDNN_PASSES[30]}
    bisection = Bisection(lambda c: "wrong" if pair <= set(c.passes()) else "")
    bisection.repair(START, "wrong")
    assert len(bisection.blamed) == 1
    assert {blame.name for blame in bisection.blamed} < pair


def test_a_program_that_is_wrong_without_passes_cannot_be_repaired():
    assert Bisection(lambda c: "wrong").repair(START, "wrong") is None


def test_onednn_with_inplace_pass_is_wrong_and_bisect_says_so():
    """The defect of Paddle 3.3.1 that this library exists to keep from its users."""
    case = build(dit)
    report = jitinfer.bisect(case.layer, **case.tensors)
    assert [blame.name for blame in report.blamed] == ["inplace_pass"]
    assert "of the largest value" in report.failure
    assert report.right is not None
    assert "inplace_pass: result 0: differs by" in str(report)


def test_a_refused_program_is_bisected_in_a_child(capfd):
    case = build(vae_decode)
    report = jitinfer.bisect(jitinfer.inference(case.function), **case.tensors)
    assert "onednn_placement_pass" in [blame.name for blame in report.blamed]
    assert capfd.readouterr().out == ""


def test_bisect_of_what_is_right():
    report = jitinfer.bisect(lambda x: x * 2, paddle.ones([2]))
    assert (report.failure, report.blamed) == ("", ())
    assert "right with all passes" in str(report)


def test_a_crash_costs_the_child_only(tmp_path):
    trial = TrialProcess()
    try:
        broken = tmp_path / "program.txt"  # Paddle 3.3.1 dies of SIGSEGV for a name that does not end in .json
        broken.write_text("{}")
        numpy.savez(tmp_path / "inputs.npz", numpy.ones(2, numpy.float32))
        outcome = trial.attempt(str(broken), "", str(tmp_path / "inputs.npz"), ["float32"], START)
        assert outcome.crashed
        assert "SIGSEGV" in outcome.failure
        missing = trial.attempt(str(tmp_path / "no.json"), "", str(tmp_path / "inputs.npz"), ["float32"], START)
        assert missing.results is None
        assert missing.failure
    finally:
        trial.stop()


@pytest.fixture
def evaluations(monkeypatch):
    """How often a dynamic function was run to compare with."""
    calls = []
    original = Reference.evaluate

    def evaluate(self):
        calls.append(1)
        return original(self)

    monkeypatch.setattr(Reference, "evaluate", evaluate)
    return calls


def test_a_verdict_is_kept_for_the_function_and_state_that_it_was_found_for(tmp_path, evaluations, monkeypatch):
    options = {"save_model_dir": str(tmp_path)}
    x = paddle.randn([2, 8])
    layer = MLP()
    layer.eval()
    for expected in (1, 0, 0):
        evaluations.clear()
        function = jitinfer.inference(layer.forward, **options)
        assert_same(function(x), MLP.forward(layer, x))
        assert len(evaluations) == expected
        assert_same(function(x), MLP.forward(layer, x))
        assert len(evaluations) == expected
    layer.scale = 0.5  # another state: compared again
    evaluations.clear()
    assert_same(jitinfer.inference(layer.forward, **options)(x), MLP.forward(layer, x))
    assert len(evaluations) >= 1


def test_a_trace_that_is_not_the_function_is_caught_although_its_program_is_known(tmp_path, monkeypatch):
    """The verdict on a program says nothing about the next function that is traced to it."""
    options = {"save_model_dir": str(tmp_path)}
    x = paddle.randn([3])
    assert_same(jitinfer.inference(lambda x: x * 2.0, **options)(x), x * 2.0)
    double = Call.run_symbolically
    monkeypatch.setattr(Call, "run_symbolically", lambda self, tensors: tensors[0] * 2.0)
    triple = jitinfer.inference(lambda x: x * 3.0, **options)
    assert_same(triple(x), x * 3.0)
    assert triple.specializations[0].executable is None
    monkeypatch.setattr(Call, "run_symbolically", double)


def kinds_in(folder):
    summaries = Cache(cache_location(folder)).keys()
    return {summary.kind for summary in summaries}


def test_weights_of_zeros_give_no_lasting_verdict(tmp_path, caplog):
    """A model before training hides what goes wrong behind its zeros: it is compared again in the next process."""
    layer = MLP()
    layer.eval()
    layer.second.weight.set_value(numpy.zeros([16, 8], numpy.float32))
    function = jitinfer.inference(layer.forward, save_model_dir=str(tmp_path))
    x = paddle.randn([2, 8])
    assert_same(function(x), MLP.forward(layer, x))
    kinds = kinds_in(tmp_path)
    assert "verdict" not in kinds
    layer.second.weight.set_value(numpy.ones([16, 8], numpy.float32))
    other = jitinfer.inference(layer.forward, save_model_dir=str(tmp_path))
    assert_same(other(x), MLP.forward(layer, x))
    assert "verdict" in kinds_in(tmp_path)
