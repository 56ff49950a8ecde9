"""A kernel that loses the device is found, named, and left out by the next process: over a driver in host memory.

Both this process and the one in which the plan is run again have such a driver; each `process()` has a new one.
"""

import contextlib
import dataclasses
import gc
import importlib
import re
import threading

import numpy
import paddle
import pytest
from copies import Moves
from fake_driver import FAULT, TRAP, installed
from reference import assert_same
from sessions import MODEL, session_of

import jitinfer
from jitinfer.cache import Cache, cache_location
from jitinfer.engines import cuda, pieces
from jitinfer.engines.faults import Faults
from jitinfer.errors import DeviceLostError, EngineError
from jitinfer.frontend import partition
from jitinfer.kernels import catalogue
from jitinfer.kernels.family import Candidate, Config
from jitinfer.lowering import models
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.lowering.lanes import Lanes
from jitinfer.runtime import Copy, Device, Fill, Pointer, retracing
from jitinfer.runtime.model_file import from_parts
from jitinfer.runtime.retracing import retrace


class Stray(Moves):
    """Loses the device, by all its configurations but the last. It asks the device what to do, as libraries do."""

    name = "stray"

    def configs(self, node, target):
        return [Config.of(way=way) for way in range(3)]

    def launches(self, node, config, target):
        Device.of(0).synchronize()
        (copy,) = super().launches(node, config, target).steps
        return Candidate((copy, *[Fill(Pointer("output_0"), 1, FAULT)] * (config["way"] < 2)))


@pytest.fixture(autouse=True)
def _offers(monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (Stray(), Moves()))
    monkeypatch.setattr(retracing, "COMMAND", ("-m", "fake_child"))


@contextlib.contextmanager
def process():
    """A driver that has lost nothing yet, for what is made meanwhile."""
    gc.collect()
    with pytest.MonkeyPatch.context() as patch, installed(patch) as fake:
        yield fake


def function(x):
    return paddle.reshape(x, [-1])


def compiled(folder, of=function, **options):
    chosen = {"engine": "cuda", "tune": "off", "save_model_dir": str(folder), **options}
    return jitinfer.inference(of, **chosen)


def called(folder, *inputs, of=function, **options):
    """What `explain` and `description` tell after calls that were all right."""
    fast = compiled(folder, of, **options)
    for x in inputs or (paddle.randn([4, 6]),) * 2:
        assert_same(fast(x), of(x))
    (found,) = fast.specializations
    return fast.explain(), found.description


KERNEL = r"the kernel stray \(way={}\) for reshape\(float32\[4, 6\]\) at \S+test_lost_device\.py:\d+"


@pytest.mark.parametrize("verify", ["auto", "never"])
def test_the_kernel_is_named_and_the_next_process_leaves_it_out(tmp_path, warnings_of, verify):
    with process():
        _, description = called(tmp_path, verify=verify)
    assert description.startswith("dynamic: ")
    (warning,) = warnings_of()
    assert "function (" in warning
    assert "runs dynamically: " in warning
    assert re.search(KERNEL.format(0) + " loses the device: step 1, reshape .*CUDA_ERROR_ILLEGAL_ADDRESS", warning)
    assert warning.endswith("CUDA serves this process no more. The next process leaves it out")
    with process():
        assert "(way=1)" in called(tmp_path, verify=verify)[1]
    with process():  # the family has lost it twice
        told, description = called(tmp_path, verify=verify, fallback="error")
    assert description == "CUDA, float32, fake, 1 steps"
    assert re.search(KERNEL.format(0) + " is left out: it lost the device once: ", told)
    assert len(warnings_of()) == 2


def test_exactly_one_configuration_is_left_out_for_one_form_of_nodes(tmp_path):
    with process():
        called(tmp_path)
        (fault,) = Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()
    assert (fault.exclusion.family, fault.exclusion.config) == ("stray", Config.of(way=0))
    with process():
        assert "(way=0)" in called(tmp_path, paddle.randn([5, 6]))[1]


def models_in(cache):
    summaries = cache.keys()
    return {each.digest for each in summaries if each.kind == "model"}


def test_what_is_excluded_leaves_other_programs_as_they_were(tmp_path, monkeypatch):
    def image(x):
        return paddle.reshape(x, [2, -1])

    monkeypatch.setattr(catalogue, "BUILT_IN", (Moves(),))
    with process():
        called(tmp_path, of=image)
        cache = Cache(cache_location(str(tmp_path)))
        before = models_in(cache)
        faults = Faults(cache, Device.of(0))
        assert faults.add(KernelFaultError(Exclusion("another form", "moves", Config.of()), "a kernel", "it failed"))
    with process():
        told, description = called(tmp_path, of=image, fallback="error")
    assert "left out" not in told
    assert description == "CUDA, float32, fake, 1 steps"
    assert models_in(cache) == before


def test_an_offer_that_is_timed_is_named_and_the_next_process_leaves_it_out(tmp_path, warnings_of, monkeypatch):
    monkeypatch.setattr(retracing, "COMMAND", ("-c", "raise SystemExit('it is known already')"))
    left_out = []
    for way in (0, 1):
        with process():
            assert "dynamic" in called(tmp_path, tune="max")[1]
            left_out = [each.exclusion for each in Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()]
        assert re.search(
            KERNEL.format(way) + " loses the device: .*_ADDRESS.*The next process leaves it out$", warnings_of()[-1]
        )
    assert [each.config for each in left_out] == [Config.of(way=0), None]
    with process():
        told, description = called(tmp_path, tune="max", fallback="error")
    assert description == "CUDA, float32, fake, 1 steps"
    assert told.count("is left out: it lost the device once: ") == 2


class StrayAlone(Stray):
    """The only offer, which nobody times by itself."""

    def configs(self, node, target):
        return super().configs(node, target)[:1]


def test_a_plan_of_two_lanes_that_is_timed(tmp_path, warnings_of, monkeypatch):
    """It is run again step by step at once; the kernel is left out by the next process."""

    def side_by_side(x):
        return paddle.reshape(x, [-1]), paddle.reshape(x, [6, 4])

    lower = importlib.import_module("jitinfer.lowering.lower")
    monkeypatch.setattr(lower, "two_lanes", lambda work, target: Lanes((0, 1), ((), ()), (9.0, 1.0)))
    monkeypatch.setattr(catalogue, "BUILT_IN", (StrayAlone(),))
    x = paddle.randn([4, 6])
    with process():
        fast = compiled(tmp_path, side_by_side, tune="max")
        for got, expected in zip(fast(x), side_by_side(x), strict=True):
            assert_same(got, expected)
        (fault,) = Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()
        del fast
    assert fault.exclusion.family == "stray"
    (warning,) = warnings_of()
    assert re.search(KERNEL.format(0) + " loses the device: step 1, reshape .*CUDA_ERROR_ILLEGAL_ADDRESS", warning)
    assert warning.endswith("The next process leaves it out")


def test_ranks_that_find_the_same_at_once_leave_out_no_more_than_that(tmp_path):
    with process():
        faults = Faults(Cache(tmp_path), Device.of(0))
        for way in (0, 0, 1, 1, 2):
            assert faults.add(KernelFaultError(Exclusion("form", "stray", Config.of(way=way)), "a kernel", "it failed"))
            assert len(faults.known()) == min(way + 1, 2)
        assert [each.exclusion.config for each in faults.known()] == [Config.of(way=0), None]


def test_threads_tell_the_same(tmp_path, trapped, warnings_of):
    """The warning of a function is its first one, whoever gets there first."""
    x, trap = trapped
    with process():
        fast = compiled(tmp_path)
        fast(x)
        threads = [threading.Thread(target=fast, args=(trap,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
            assert not thread.is_alive()
        del fast, threads, thread
    (warning,) = warnings_of()
    assert "the kernel moves for reshape(" in warning


class StrayOfWeights(Stray):
    def supports(self, node, target):
        return super().supports(node, target) and node.inputs[0].shape == (4, 6)


class OfWeights(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([4, 6])

    def forward(self, x):
        return paddle.reshape(x, [-1]), paddle.reshape(self.w, [-1])


def test_a_kernel_that_computes_weights(tmp_path, warnings_of, monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (StrayOfWeights(), Moves()))
    layer, x = OfWeights(), paddle.randn([5, 7])
    layer.eval()
    plain = layer.forward
    for way in range(3):
        with process():
            fast = compiled(tmp_path, plain)
            for got, expected in zip(fast(x), plain(x), strict=True):
                assert_same(got, expected)
            if way < 2:
                assert re.search(KERNEL.format(way) + " loses the device: step 1, ", warnings_of()[-1])
            else:
                assert fast.specializations[0].description.startswith("CUDA")
            del fast
    assert len(warnings_of()) == 2


def test_new_weights_with_which_the_device_is_lost(tmp_path, warnings_of, monkeypatch):
    """By what is computed of them: those are the weights that the plan is run on again."""
    monkeypatch.setattr(catalogue, "BUILT_IN", (Moves(),))
    layer, x = OfWeights(), paddle.randn([5, 7])
    layer.eval()
    plain = layer.forward
    with process():
        fast = compiled(tmp_path, plain)
        fast(x)
        weights = layer.w.numpy()
        weights[0, 0] = TRAP[0]
        layer.w.set_value(weights)
        _, moved = fast(x)
        assert_same(moved, plain(x)[1])
        (warning,) = warnings_of()
        assert "the kernel moves for reshape(float32[4, 6])" in warning
        assert "runs dynamically" in warning
        del fast


@pytest.fixture
def trapped(monkeypatch):
    """A program, and inputs for which it loses the device."""
    monkeypatch.setattr(catalogue, "BUILT_IN", (Moves(),))
    x = paddle.randn([4, 6])
    nan = x.numpy()
    nan[0, 0] = TRAP[0]
    assert nan[0, 0].tobytes() == TRAP.tobytes()
    return x, paddle.to_tensor(nan)


def test_it_is_run_again_on_the_same_inputs(tmp_path, trapped, warnings_of):
    with process():
        assert "the kernel moves for reshape(" in called(tmp_path, *trapped)[1]
    assert "The next process leaves it out" in warnings_of()[-1]
    with process():  # there is no other
        assert "has no CUDA kernel left that is right" in called(tmp_path, *trapped)[1]


class StrayOnce(Stray):
    def configs(self, node, target):
        return super().configs(node, target)[1:]


def test_a_piece_of_a_program(tmp_path, monkeypatch, warnings_of):
    """Of which another piece runs by Paddle; its inputs may lie on the device, which is lost."""

    def in_pieces(x):
        return paddle.reshape(paddle.tanh(paddle.reshape(x, [-1])), [3, 8])

    monkeypatch.setattr(partition, "FLOPS_FOR_A_BYTE", 0)
    monkeypatch.setattr(pieces, "_require_worth", lambda *_: None)
    monkeypatch.setattr(cuda, "divide", lambda *given: cut.append(divide(*given)) or cut[-1])
    monkeypatch.setattr(catalogue, "BUILT_IN", (StrayOnce(), Moves()))
    divide, cut = pieces.divide, []
    for shape in ("4, 6", "24"):
        with process():
            assert f"the kernel stray (way=1) for reshape(float32[{shape}])" in called(tmp_path, of=in_pieces)[1]
            assert len(cut[-1].pieces) == 3
            assert f"the kernel stray (way=1) for reshape(float32[{shape}])" in warnings_of()[-1]
    with process():
        assert "some pieces by Paddle" in called(tmp_path, of=in_pieces)[1]


def test_what_was_right_before_and_is_not_searched_again(tmp_path, trapped, warnings_of):
    x, trap = trapped
    for given in (x, trap):
        with process():
            description = called(tmp_path, given)[1]
    assert "the kernel moves for reshape(" in description
    assert len(warnings_of()) == 1


def test_inputs_that_are_lost_with_the_device_are_random(trapped):
    arrays = [numpy.full(16, TRAP[0], "float32")]
    weights = [numpy.ones(16, "float32")]
    found = retrace(MODEL, weights, arrays, 0)
    assert (found.lost, found.plan, found.step, found.random) == (True, 0, 0, "")
    assert found.failure.startswith("step 0, gather (model.py:3 in /Net_0): ")
    for inputs in (None, [object()]):
        found = retrace(MODEL, weights, inputs, 0)
        assert (found.failure, found.random) == ("", "random inputs")


def test_many_weights_are_random(monkeypatch):
    monkeypatch.setattr(retracing, "MOST_BYTES", 63)
    found = retrace(MODEL, [numpy.full(16, TRAP[0], "float32")], [numpy.ones(16, "float32")], 0)
    assert (found.failure, found.random) == ("", "random weights")


OTHER_CHILDREN = {
    "No kernel of function is known to have done it: run again in another process, step by step, none does": None,
    "had not come to its end after 1 s": "import time; time.sleep(60)",
    "the process died of SIGABRT": "import os; os.abort()",
    "the process ended with code 0": "print('hello'); print([1])",
    "the process ended with code 1: ImportError: not here": "raise ImportError('not here')",
    "there is no CUDA driver": "import sys; from jitinfer.runtime.stepwise import main; main(sys.argv[1])",
    "none does, but all of them one right after the other do: it failed": "import json; "
    "[print(json.dumps(each)) for each in ({'plan': 0, 'step': None}, {'failure': 'it failed', 'lost': True})]",
    "step by step, no memory": 'print(\'{"failure": "no memory", "lost": false}\')',
}


@pytest.mark.parametrize("words", OTHER_CHILDREN)
def test_what_is_not_found_is_said(tmp_path, trapped, warnings_of, monkeypatch, words):
    """And nothing is left out for it."""
    if OTHER_CHILDREN[words] is not None:
        monkeypatch.setattr(retracing, "COMMAND", ("-c", OTHER_CHILDREN[words]))
    if "1 s" in words:
        monkeypatch.setattr(retracing, "SECONDS", 1.0)
    x, _ = trapped
    with process() as fake:
        fast = compiled(tmp_path)
        assert_same(fast(x), function(x))
        fake.lost = True
        assert_same(fast(x), function(x))
        assert not Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()
        del fast
    (warning,) = warnings_of()
    assert "CUDA serves this process no more" in warning
    assert words in warning


def test_other_functions_say_who_it_was(tmp_path, trapped, warnings_of):
    def second(x):
        return paddle.reshape(x, [-1])

    def third(x):
        return paddle.reshape(x, [6, -1])

    def fourth(x):
        return paddle.reshape(x, [2, -1])

    x, trap = trapped
    with process():
        fast, other = compiled(tmp_path), compiled(tmp_path, second)
        strict = compiled(tmp_path, third, fallback="error")
        for each in (fast, other, strict):
            each(x)
        assert_same(fast(trap), function(trap))
        for _ in range(2):
            assert_same(other(x), second(x))
        with pytest.raises(
            EngineError, match="the device was lost to this process when function ran: the kernel moves"
        ):
            strict(x)
        late = compiled(tmp_path, fourth)
        for _ in range(2):
            assert_same(late(x), fourth(x))
        del fast, other, strict, each, late
    first, *others = warnings_of()
    assert "the kernel moves for " in first
    said = "the device was lost to this process when function ran: the kernel moves for "
    assert [said in each and "runs dynamically" in each for each in others] == [True, True]
    assert [each.partition(" (")[0].rpartition(".")[2] for each in others] == ["second", "fourth"]


def test_saved_programs_and_functions_tell_each_other(tmp_path, trapped):
    x, trap = trapped
    path = str(tmp_path / "program")
    with process():
        fast = compiled(tmp_path)
        fast(x)
        fast.save(path)
        loaded = jitinfer.load(path)
        fast(trap)
        with pytest.raises(DeviceLostError, match=r"this process when function ran: the kernel moves for .* did it"):
            loaded.run([x.numpy()])
        del fast, loaded
    with process():
        loaded = jitinfer.load(path)
        with pytest.raises(DeviceLostError, match=r"^step 0, reshape \(\S+_device\.py:\d+.*\) loses the device: "):
            loaded.run([trap.numpy()])
        description = called(tmp_path / "other", x, of=lambda x: paddle.reshape(x, [6, 4]))[1]
        assert f"the device was lost to this process when {path} ran: step 0, reshape (" in description
        del loaded


def test_the_engine_auto(tmp_path, warnings_of):
    x = paddle.randn([4, 6])
    with process():
        fast = compiled(tmp_path, engine="auto")
        for _ in range(2):
            assert_same(fast(x), function(x))
        assert fast.specializations[0].description.startswith("Paddle Inference")
        assert "not on the device: function: the kernel stray (way=0)" in fast.explain()
        del fast
    assert len(warnings_of()) == 1
    assert "not on the device, but by Paddle Inference: function: the kernel stray (way=0)" in warnings_of()[0]


def test_the_engine_auto_later(tmp_path, trapped, warnings_of):
    with process():
        _, description = called(tmp_path, *trapped, engine="auto")
    assert description.startswith("dynamic: function: the kernel moves for reshape(")
    assert len(warnings_of()) == 1


def test_bisect(tmp_path):
    reports = []
    for _ in range(3):
        with process():
            reports.append(jitinfer.bisect(compiled(tmp_path), paddle.randn([4, 6])))
            if len(reports) == 1:
                with pytest.raises(EngineError, match="the device was lost to this process when function ran"):
                    jitinfer.bisect(compiled(tmp_path), paddle.randn([4, 6]))
    first, _, last = reports
    assert first.lost
    assert re.fullmatch(KERNEL.format(0), first.blamed[0].name)
    assert str(first).endswith(
        "the device is lost to this process: bisect in another one, which leaves that kernel out"
    )
    assert (last.lost, last.failure, last.blamed) == (False, "", ())


class HalfOfIt(Moves):
    """Wrong on purpose, so that kernels are looked at one by one."""

    name = "half"

    def launches(self, node, config, target):
        nbytes = node.output.type.nbytes
        return Candidate((Copy(Pointer("input_0"), Pointer("output_0"), nbytes // 2),))


def test_a_kernel_that_is_looked_at_by_itself(tmp_path, monkeypatch, warnings_of):
    monkeypatch.setattr(catalogue, "BUILT_IN", (HalfOfIt(), Moves()))
    with process() as fake, pytest.MonkeyPatch.context() as patch:

        def run(*_):
            fake.lost = True
            Device.of(0).synchronize()

        patch.setattr(cuda, "on_device", lambda device: run)
        called(tmp_path)
    assert re.search(
        r"the kernel half for reshape\(.* loses the device: .*_ADDRESS.*The next process leaves it out$",
        warnings_of()[-1],
    )
    with process():
        told, description = called(tmp_path, fallback="error")
    assert description == "CUDA, float32, fake, 1 steps"
    assert "the kernel half for reshape(float32[4, 6])" in told


class Mended(Moves):
    name = "stray"

    def configs(self, node, target):
        return [Config.of(way=way) for way in range(3)]


def test_a_family_of_others_is_offered_again_once_its_code_is_another(tmp_path, monkeypatch):
    with process():
        called(tmp_path)
        faults = Faults(Cache(cache_location(str(tmp_path))), Device.of(0))
        assert len(faults.known()) == 1
        monkeypatch.setattr(catalogue, "BUILT_IN", (Mended(), Moves()))
        assert not faults.known()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, warnings_of):
    monkeypatch.setattr(Faults, "_kept", lambda self: [])
    with process():
        called(tmp_path)
    assert re.search(
        r"That cannot be noted in the cache \S+, so the next process may choose it again$", warnings_of()[-1]
    )


def test_a_kernel_that_the_cache_does_not_know_is_not_blamed(tmp_path, monkeypatch, warnings_of):
    put = Cache.put
    monkeypatch.setattr(Cache, "put", lambda self, key, *rest: key.kind != "model" and put(self, key, *rest))
    with process():
        called(tmp_path)
        assert not Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()
    assert re.search(r"step 1, reshape \(\S+test_lost_device.py:\d+.*\) loses the device: ", warnings_of()[-1])
    assert re.search(r"The next process may choose its kernel again, as the cache \S+ does not say", warnings_of()[-1])


@pytest.mark.parametrize("steps_kept", [2, 0])
def test_a_model_that_another_process_made_otherwise_says_nothing(tmp_path, monkeypatch, warnings_of, steps_kept):
    def otherwise(*given):
        model = from_parts(*given)
        steps = tuple(dataclasses.replace(each, label="another") for each in model.plan.steps[:steps_kept])
        return dataclasses.replace(model, plan=dataclasses.replace(model.plan, steps=steps))

    monkeypatch.setattr(models, "from_parts", otherwise)
    with process():
        called(tmp_path)
        assert not Faults(Cache(cache_location(str(tmp_path))), Device.of(0)).known()
    assert "step 1, reshape (" in warnings_of()[-1]


def test_everything_is_given_back_in_silence(tmp_path, trapped, capsys):
    """What is left of a lost device is nobody's."""
    with process() as fake:
        session = session_of(MODEL)
        fake.lost = True
        with pytest.raises(DeviceLostError):
            session.run([numpy.ones(16, "float32")])
        with pytest.raises(DeviceLostError):
            session.synchronize()
        session.close()
        del session
        gc.collect()
    assert capsys.readouterr().err == ""
