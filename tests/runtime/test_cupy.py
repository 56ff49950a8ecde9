"""CuPy's arrays in and out of a plan on a device, in its own streams."""

from dataclasses import replace

import numpy
import pytest
from copies import arrays, plan_of
from gpu import device_target, needs_gpu

from jitinfer.errors import ArgumentError
from jitinfer.runtime import Executor

SHAPES = {"x": ((4, 6), "float32"), "t": ((2,), "int64"), "h": ((3, 1, 2), "float16")}  # CuPy has no bfloat16


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def executor():
    made = Executor(replace(plan_of(SHAPES), target=device_target().compute_capability))
    yield made
    made.close()


def given(seed=0):
    x, t, h = arrays(seed)
    return [x, t, h.astype("float16")]


def require_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert numpy.array_equal(one.get(), other)


@needs_gpu
@pytest.mark.parametrize("stream", ["default", "same", "other"])
def test_arrays_in_and_out(cupy, executor, stream):
    current = cupy.cuda.Stream.null if stream == "default" else cupy.cuda.Stream(non_blocking=True)
    ours = cupy.cuda.Stream(non_blocking=True) if stream == "other" else current
    with current:
        for seed in range(5):
            inputs = [cupy.asarray(each) for each in given(seed)]
            outputs = executor.enqueue(inputs, ours.ptr)
            require_same([cupy.asarray(each) for each in outputs], given(seed))
            require_same([cupy.from_dlpack(each) for each in outputs], given(seed))
            for one, other in zip(executor.run(inputs), given(seed), strict=True):
                assert numpy.array_equal(one, other)


@needs_gpu
def test_the_call_waits_for_what_makes_the_inputs(cupy, executor):
    late = [cupy.zeros_like(cupy.asarray(each)) for each in given(1)]
    cupy.cuda.Device().synchronize()
    current, ours = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    long = cupy.RawKernel(
        'extern "C" __global__ void wait() { long long end = clock64() + 1000000000; while (clock64() < end); }', "wait"
    )
    with current:
        ready = [cupy.asarray(each) for each in given(1)]
        for one in late:
            one[...] = one.copy()  # CuPy compiles this kernel, which may take longer than the one that waits
        long.compile()
        current.synchronize()
        long((1,), (1,), ())
        for one, other in zip(late, ready, strict=True):
            one[...] = other
        outputs = executor.enqueue(late, ours.ptr)
        assert not current.done  # the test has shown something
        require_same([cupy.asarray(each) for each in outputs], given(1))


@needs_gpu
def test_what_does_not_fit_is_refused(cupy, executor):
    x, t, h = (cupy.asarray(each) for each in given())
    for message, wrong in {
        r"not float64\[4, 6\]": x.astype("float64"),
        "not contiguous": cupy.asfortranarray(x),
    }.items():
        with pytest.raises(ArgumentError, match=message):
            executor.enqueue([wrong, t, h])
