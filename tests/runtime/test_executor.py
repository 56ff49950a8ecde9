"""Plans on a device: the same results by every way in and out, and memory that comes back."""

import gc
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from gpu import PROBLEM, device_compiler, device_target, needs_gpu
from plans import PLAN

from jitinfer.errors import ArgumentError, DeviceError, PlanError
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels.family import KernelLaunch, TypedPointer
from jitinfer.kernels.triton.specialization import bind, specialize
from jitinfer.runtime import (
    Buffer,
    Copy,
    Device,
    Executor,
    Fill,
    Plan,
    Pointer,
    Scalar,
    TensorMap,
    Weights,
    load,
    save,
)
from jitinfer.runtime.arrays import DeviceArray

COUNT = 5000


def compiled(launch, places, scratch=None):
    """A launch for the device's target, with its kernel."""
    kernel = device_compiler().compile(specialize(launch))
    return bind(launch, kernel, places, scratch, launch.function.__name__), kernel


def buffer(name, placement, shape=(COUNT,), dtype="float32", offset=0):
    nbytes = int(numpy.prod(shape)) * numpy_dtype(dtype).itemsize
    return Buffer(name, nbytes, placement, offset, shape, dtype)


@pytest.fixture(scope="module")
def plan():
    """y = (3 x + w) * 3 + c, by two launches with an arena buffer between them; z = x, by a copy; zeros, by a fill."""
    from triton_functions import scale_and_add

    def launch(x, w, y):
        pointers = {name: TypedPointer(Pointer(each), "float32") for name, each in zip("xwy", (x, w, y), strict=True)}
        arguments = {**pointers, "count": Scalar("i32", COUNT), "factor": Scalar("f32", 3.0)}
        places = {each: Pointer(each) for each in (x, w, y)}
        return compiled(KernelLaunch(scale_and_add, arguments, {"BLOCK": 256}, (20, 1, 1)), places)

    (first, kernel), (second, same) = launch("x", "w", "middle"), launch("middle", "c", "y")
    assert kernel == same
    constant = numpy.arange(COUNT, dtype=numpy.float32)
    return Plan(
        target=device_target().compute_capability,
        arena_bytes=20224,
        buffers=(
            buffer("middle", "arena"),
            buffer("x", "input"),
            buffer("unused", "input", (3,), "bfloat16"),
            buffer("w", "weight"),
            buffer("c", "constant"),
            buffer("y", "output"),
            buffer("z", "output"),
            buffer("zeros", "output", (2, 3), "int64"),
        ),
        steps=(
            first,
            second,
            Copy(Pointer("x"), Pointer("z"), 4 * COUNT, "copy"),
            Fill(Pointer("zeros"), 48, 255, "fill"),
        ),
        kernels=(kernel,),
        inputs=("unused", "x"),
        outputs=("y", "z", "zeros", "x", "c"),
        constants=(("c", constant.tobytes()),),
    )


def arrays(seed=0):
    generator = numpy.random.default_rng(seed)
    x, w = generator.standard_normal((2, COUNT)).astype(numpy.float32)
    return numpy.zeros(3, numpy_dtype("bfloat16")), x, w


def require_right(outputs, x, w):
    y, z, minus, same, constant = (numpy.asarray(each) for each in outputs)
    counting = numpy.arange(COUNT, dtype=numpy.float32)
    numpy.testing.assert_allclose(y, (3 * x.astype(numpy.float64) + w) * 3 + counting, rtol=1e-6, atol=1e-5)
    assert numpy.array_equal(z, x)
    assert numpy.array_equal(same, x)
    assert numpy.array_equal(constant, counting)
    assert (minus == -1).all()
    assert minus.shape == (2, 3)


def fetched(outputs, device=None):
    (device or Device.of(0)).synchronize()
    from jitinfer.runtime.driver import call

    host = []
    with Device.of(0).current():
        for each in outputs:
            array = numpy.empty(each.shape, numpy_dtype(each.dtype))
            call("cuMemcpyDtoH", array.ctypes.data, each.address, array.nbytes)
            host.append(array)
    return host


@needs_gpu
@pytest.mark.parametrize("stepwise", [False, True])
def test_numpy_arrays_in_and_out(plan, stepwise, tmp_path):
    save(plan, tmp_path / "plan")
    for seed in range(3):
        unused, x, w = arrays(seed)
        executor = Executor(load(tmp_path / "plan"), {"w": w}, stepwise=stepwise)
        require_right(executor.run([unused, x]), x, w)
        executor.close()


@needs_gpu
def test_results_are_the_callers_own(plan):
    unused, x, w = arrays()
    executor = Executor(plan, {"w": w})
    first = executor.run([unused, x])
    kept = [each.copy() for each in first]
    executor.run([unused, -x])
    for each, before in zip(first, kept, strict=True):
        assert numpy.array_equal(each, before)


@needs_gpu
def test_host_arrays_that_are_not_contiguous(plan):
    unused, x, w = arrays()
    strided = numpy.repeat(x, 2)[::2]
    assert not strided.flags.c_contiguous
    require_right(Executor(plan, {"w": numpy.repeat(w, 2)[::2]}).run([unused, strided]), x, w)


@needs_gpu
def test_device_pointers_and_other_streams(plan):
    unused, x, w = arrays()
    source = Weights({"x": x, "unused": unused, "w": w})
    executor = Executor(plan, source)
    outputs = executor.enqueue([source["unused"], source["x"]], stream=0)
    require_right(fetched(outputs), x, w)
    assert executor.weights is source
    require_right(executor.run([source["unused"], x]), x, w)
    require_right(fetched(executor.enqueue([unused, source["x"]], stream=2)), x, w)  # the per-thread default stream


@needs_gpu
def test_inputs_in_place(plan):
    unused, x, w = arrays()
    executor = Executor(plan, {"w": w})
    executor.run([unused, x])
    require_right(fetched(executor.enqueue(executor.inputs)), x, w)


@needs_gpu
def test_torch_tensors(plan):
    torch = pytest.importorskip("torch")
    _, x, w = arrays()
    on_device = torch.tensor(x).cuda()
    stream = torch.cuda.Stream()
    executor = Executor(plan, {"w": torch.tensor(w).cuda()})
    nothing = torch.zeros(3, dtype=torch.bfloat16, device="cuda")
    require_right(executor.run([nothing, on_device]), x, w)
    with torch.cuda.stream(stream):
        slow = torch.zeros(4096, 4096, device="cuda")
        for _ in range(8):
            slow = slow @ slow
        late = on_device * 2 + slow.flatten()[:COUNT]
        outputs = executor.enqueue([nothing, late], stream.cuda_stream)
        y = torch.as_tensor(outputs[0], device="cuda").clone()
    require_right([y.cpu(), *fetched(outputs)[1:]], 2 * x, w)
    with pytest.raises(ArgumentError, match="not contiguous"):
        executor.run([nothing, torch.zeros(2 * COUNT, device="cuda")[::2]])


@needs_gpu
def test_calls_that_do_not_fit(plan):
    unused, x, w = arrays()
    executor = Executor(plan, {"w": w})
    for inputs in ([x], [unused, x[:-1]], [unused, x.astype(numpy.float64)], [x, unused], [unused, "x"]):
        with pytest.raises(ArgumentError):
            executor.run(inputs)
    with pytest.raises(ArgumentError, match="device 7"):
        executor.run([unused, replace(executor.inputs[1], device=7)])
    require_right(executor.run([unused, x]), x, w)
    with pytest.raises(ArgumentError, match="needs the weight 'w'"):
        Executor(plan, {})
    with pytest.raises(ArgumentError, match="w is float32"):
        Executor(plan, {"w": w[:-1]})
    with pytest.raises(DeviceError, match="the plan is for sm_"):
        Executor(replace(plan, target=70, steps=(), kernels=()), {"w": w})
    with pytest.raises(PlanError):
        Executor(replace(plan, outputs=("w", "middle")), {"w": w})


@needs_gpu
def test_weights_change_in_place(plan):
    unused, x, w = arrays()
    weights = Weights({"w": w, "other": numpy.zeros((0, 3), numpy.float32)})
    executors = [Executor(plan, weights), Executor(plan, weights)]
    for factor in (2, 3):
        weights.update("w", w * factor)
        for executor in executors:
            require_right(executor.run([unused, x]), x, w * factor)
    with pytest.raises(ArgumentError):
        weights.update("w", w[:-1])
    with pytest.raises(KeyError):
        weights.update("v", w)


@needs_gpu
def test_many_threads(plan):
    unused, _, w = arrays()
    executor = Executor(plan, {"w": w})
    failures = []

    def work(seed):
        x = arrays(seed)[1]
        try:
            for _ in range(20):
                require_right(executor.run([unused, x]), x, w)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def free_memory():
    from jitinfer.runtime.driver import call

    with Device.of(0).current():
        return int(call("cuMemGetInfo")[0])


@needs_gpu
@pytest.mark.parametrize("by_hand", [True, False])
def test_memory_comes_back(plan, by_hand):
    large = replace(plan, arena_bytes=512 * 2**20)
    w = arrays()[2]
    Executor(plan, {"w": w}).close()
    for last in (False, False, False, True):  # other processes take and return memory of the device meanwhile
        before = free_memory()
        executor = Executor(large, {"w": w})
        taken = before - free_memory()
        assert executor.nbytes >= 512 * 2**20
        if by_hand:
            executor.close()
            executor.close()
            with pytest.raises(DeviceError, match="closed"):
                executor.run(arrays()[:2])
        del executor
        gc.collect()
        kept = before - free_memory()
        if taken >= 512 * 2**20 and kept <= 16 * 2**20:
            break
        assert not last, f"{taken:,} bytes were taken, {kept:,} did not come back"


@needs_gpu
def test_more_memory_than_there_is(plan):
    with pytest.raises(DeviceError, match="for a plan"):
        Executor(replace(plan, arena_bytes=2**50), {"w": arrays()[2]})


@needs_gpu
def test_outputs_keep_the_executor(plan):
    unused, x, w = arrays()
    outputs = Executor(plan, {"w": w}).enqueue([unused, x])
    gc.collect()
    require_right(fetched(outputs), x, w)


@needs_gpu
def test_scratch_memory_of_descriptors():
    from triton_functions import copy_tiles

    if not device_target().has_tma:
        pytest.skip("descriptors in scratch memory need sm_90")
    rows, columns, block = 128, 192, 64
    arguments = {
        "x": TypedPointer(Pointer("x"), "bfloat16"),
        "y": TypedPointer(Pointer("y"), "bfloat16"),
        "rows": Scalar("i32", rows),
        "columns": Scalar("i32", columns),
    }
    launch = KernelLaunch(copy_tiles, arguments, {"BLOCK": block}, (rows // block, columns // block, 1))
    step, kernel = compiled(launch, {"x": Pointer("x"), "y": Pointer("y")}, Pointer("work"))
    assert kernel.scratch_bytes > 0
    check_matrices(step, kernel, (rows, columns), (rows, columns), lambda x: x)


@needs_gpu
def test_descriptors_made_on_the_host():
    from triton_functions import transpose_tiles

    if not device_target().has_tma:
        pytest.skip("tensor maps need sm_90")
    rows, columns, block = 128, 192, 64
    arguments = {
        "source": TensorMap(Pointer("x"), "bfloat16", (rows, columns), (columns, 1), (block, block), 3),
        "target": TensorMap(Pointer("y"), "bfloat16", (columns, rows), (rows, 1), (block, block), 3),
    }
    launch = KernelLaunch(transpose_tiles, arguments, {"BLOCK": block}, (rows // block, columns // block, 1))
    step, kernel = compiled(launch, {"x": Pointer("x"), "y": Pointer("y")})
    check_matrices(step, kernel, (rows, columns), (columns, rows), numpy.transpose)


def check_matrices(step, kernel, shape, result, reference):
    plan = Plan(
        target=device_target().compute_capability,
        arena_bytes=65536,
        buffers=(
            Buffer("work", 65536, "arena"),
            buffer("x", "input", shape, "bfloat16"),
            buffer("y", "output", result, "bfloat16"),
        ),
        steps=(step,),
        kernels=(kernel,),
        inputs=("x",),
        outputs=("y",),
    )
    x = numpy.random.default_rng(0).standard_normal(shape).astype(numpy_dtype("bfloat16"))
    (y,) = Executor(plan).run([x])
    assert numpy.array_equal(y, reference(x))


_FAULT = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_executor import fault
fault()
"""


def fault():
    """A kernel that writes where nothing is, in a process that is lost by it."""
    from triton_functions import write_far_away

    arguments = {"y": TypedPointer(Pointer("y"), "float32"), "distance": Scalar("i32", 2**20)}
    step, kernel = compiled(KernelLaunch(write_far_away, arguments, {}, (1, 1, 1)), {"y": Pointer("y")})
    plan = Plan(
        target=device_target().compute_capability,
        arena_bytes=0,
        buffers=(buffer("y", "output", (4,)),),
        steps=(Fill(Pointer("y"), 16, 0, "fill"), replace(step, label="far", origin="model.py:7")),
        kernels=(kernel,),
        inputs=(),
        outputs=("y",),
    )
    with pytest.raises(DeviceError, match=r"step 1, far \(model\.py:7\)"):
        Executor(plan, stepwise=True).run([])


@needs_gpu
def test_a_fault_is_reported_with_its_step():
    subprocess.run([sys.executable, "-c", _FAULT], check=True, timeout=120)


@pytest.mark.skipif(PROBLEM is None, reason="there is a CUDA device")
def test_without_a_device_the_error_is_ours():
    with pytest.raises(DeviceError):
        Executor(PLAN, {})


def test_device_arrays_that_the_array_interface_cannot_say():
    assert DeviceArray(4096, (2, 3), "float16").__cuda_array_interface__["typestr"] == "<f2"
    assert not hasattr(DeviceArray(4096, (2, 3), "bfloat16"), "__cuda_array_interface__")
