"""The executor over a driver in host memory: what goes in, what comes out, and that all is given back."""

import gc
import threading
from dataclasses import replace

import numpy
import pytest

from jitinfer.errors import ArgumentError, DeviceError
from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Buffer, Copy, Device, Executor, Fill, Plan, Pointer, Weights


def buffer(name, placement, shape, dtype="float32", offset=0):
    return Buffer(name, int(numpy.prod(shape)) * numpy_dtype(dtype).itemsize, placement, offset, shape, dtype)


PLAN = Plan(
    target=90,
    arena_bytes=512,
    buffers=(
        buffer("middle", "arena", (10,), offset=256),
        buffer("a", "input", (10,)),
        buffer("b", "input", (3, 1), "bfloat16"),
        buffer("none", "input", (0, 4)),
        buffer("w", "weight", (10,)),
        buffer("c", "constant", (4,), "int16"),
        buffer("y", "output", (30,)),
        buffer("z", "output", (3,), "bfloat16"),
    ),
    steps=(
        Copy(Pointer("a"), Pointer("middle"), 40, "first"),
        Copy(Pointer("middle"), Pointer("y", 40), 40, "second"),
        Copy(Pointer("w"), Pointer("y"), 40, "third"),
        Fill(Pointer("y", 80), 40, 255, "fourth", "model.py:3"),
        Copy(Pointer("b"), Pointer("z"), 6, "fifth"),
    ),
    kernels=(),
    inputs=("b", "none", "a"),
    outputs=("z", "y", "c", "a", "w", "z"),
    constants=(("c", numpy.arange(4, dtype=numpy.int16).tobytes()),),
)
W = numpy.arange(10, dtype=numpy.float32) + 100


def inputs(seed=0):
    a, b = numpy.random.default_rng(seed).standard_normal((2, 10)).astype(numpy.float32)
    return [b[:3].reshape(3, 1).astype(numpy_dtype("bfloat16")), numpy.zeros((0, 4), numpy.float32), a]


def require_right(outputs, given, w=W):
    z, y, c, a, weight, again = outputs
    assert numpy.array_equal(z, given[0].reshape(3))
    assert numpy.array_equal(z, again)
    assert numpy.array_equal(y[:10], w)
    assert numpy.array_equal(y[10:20], given[2])
    assert (y[20:].view(numpy.int32) == -1).all()
    assert numpy.array_equal(c, range(4))
    assert numpy.array_equal(a, given[2])
    assert numpy.array_equal(weight, w)


@pytest.mark.parametrize("stepwise", [False, True])
def test_arrays_in_and_out(cuda, stepwise):
    executor = Executor(PLAN, {"w": W}, stepwise=stepwise)
    for seed in range(3):
        require_right(executor.run(inputs(seed)), inputs(seed))
    assert cuda.launches == (0 if stepwise else 3)


def test_nothing_is_done_in_python_for_a_step_after_loading(cuda):
    """The steady state: one copy in, one launch, one copy out."""
    calls = []
    for name in ("cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuMemAlloc", "cuMemcpyDtoDAsync"):
        original = getattr(cuda, name)

        def record(*arguments, name=name, original=original):
            calls.append(name)
            return original(*arguments)

        setattr(cuda, name, record)
    executor = Executor(PLAN, {"w": W})
    calls.clear()
    executor.run(inputs())
    assert calls == ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync"]


def test_inputs_on_the_device_and_in_place(cuda):
    given = inputs()
    source = Weights({"a": given[2], "w": W})
    executor = Executor(PLAN, source)
    mixed = [given[0], given[1], source["a"]]
    require_right(executor.run(mixed), given)
    first = executor.inputs
    require_right(executor.run(first), given)
    outputs = executor.enqueue(mixed, stream=5)
    assert [each.shape for each in outputs] == [(3,), (30,), (4,), (10,), (10,), (3,)]
    assert outputs[4].address == source["w"].address


def test_weights_are_shared_and_change_in_place(cuda):
    weights = Weights({"w": W, "more": numpy.zeros(3, numpy.int64)})
    executors = [Executor(PLAN, weights), Executor(PLAN, weights)]
    weights.update("w", W + 1)
    for executor in executors:
        require_right(executor.run(inputs()), inputs(), W + 1)
    with pytest.raises(ArgumentError):
        weights.update("w", W.astype(numpy.float64))


def test_what_does_not_fit_is_refused_before_anything_runs(cuda):
    executor = Executor(PLAN, {"w": W})
    b, none, a = inputs()
    for given in ([b, none], [a, none, b], [b, none, a.astype(numpy.float64)], [b, none, ["x"]]):
        with pytest.raises(ArgumentError):
            executor.run(given)
    assert cuda.launches == 0
    with pytest.raises(DeviceError, match="sm_80"):
        Executor(replace(PLAN, target=80), {"w": W})
    with pytest.raises(ArgumentError, match="'w'"):
        Executor(PLAN)


def test_the_step_that_fails_is_named(cuda):
    cuda.fail = "fill"
    plan = replace(PLAN, arena_bytes=0, buffers=(buffer("y", "output", (4,)),), inputs=(), outputs=("y",), constants=())
    plan = replace(plan, steps=(Fill(Pointer("y"), 16, 1, "fourth", "model.py:3"),))
    cuda.cuMemsetD8 = lambda *_: (cuda.CUresult.CUDA_SUCCESS,)
    with pytest.raises(DeviceError, match=r"step 0, fourth \(model\.py:3\): .*invalid_value"):
        Executor(plan)
    gc.collect()
    assert "executable graph" not in cuda.held.values()


def test_everything_is_given_back(cuda):
    executor = Executor(PLAN, {"w": W})
    executor.run(inputs())
    assert "executable graph" in [each for each in cuda.held.values() if isinstance(each, str)]
    executor.close()
    executor.close()
    with pytest.raises(DeviceError, match="closed"):
        executor.run(inputs())
    del executor
    executor = Executor(PLAN, {"w": W})
    output = executor.enqueue(inputs())[1]
    del executor
    gc.collect()
    assert cuda.held  # the output is still there
    assert output.owner is not None
    del output
    gc.collect()
    held = [each for each in cuda.held.values() if isinstance(each, str)]
    assert held.count("stream") == held.count("event") == held.count("executable graph") == 0
    assert not [each for each in cuda.held.values() if isinstance(each, numpy.ndarray)]


def test_too_much_memory(cuda):
    with pytest.raises(DeviceError, match="bytes for a plan on fake: cuda_error_out_of_memory"):
        Executor(replace(PLAN, arena_bytes=2**40), {"w": W})


def test_another_context_is_current_again_afterwards(cuda):
    cuda.cuCtxPushCurrent(99)
    Executor(PLAN, {"w": W}).run(inputs())
    assert cuda.cuCtxGetCurrent()[1] == 99


def test_threads_take_turns(cuda):
    executor = Executor(PLAN, {"w": W})
    failures = []

    def work(seed):
        try:
            for _ in range(10):
                require_right(executor.run(inputs(seed)), inputs(seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_device_of_another_number(cuda):
    with pytest.raises(DeviceError, match="there is no CUDA device 1"):
        Device.of(1)
