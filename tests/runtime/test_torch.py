"""Tensors of torch in and out of a plan on a device: in the right order, whatever the streams."""

from dataclasses import replace

import numpy
import pytest
from copies import PLAN, arrays
from gpu import device_target, needs_gpu

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Device, Executor
from jitinfer.runtime.model import Session, Shared

LONG = 1_000_000_000  # cycles: about half a second


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.cuda.synchronize()
    return module


@pytest.fixture
def executor():
    made = Executor(replace(PLAN, target=device_target().compute_capability))
    yield made
    made.close()


def on_device(torch, array):
    if array.dtype == numpy_dtype("bfloat16"):
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16).cuda()
    return torch.from_numpy(array).cuda()


def on_host(torch, tensor):
    if tensor.dtype is torch.bfloat16:
        return tensor.cpu().view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return tensor.cpu().numpy()


def require_same(torch, outputs, given):
    for one, other in zip(outputs, given, strict=True):
        assert numpy.array_equal(on_host(torch, one), other)


@needs_gpu
@pytest.mark.parametrize("stream", ["default", "same", "other"])
def test_tensors_in_and_out(torch, executor, stream):
    current = torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()
    ours = torch.cuda.Stream() if stream == "other" else current
    with torch.cuda.stream(current):
        for seed in range(5):
            given = [on_device(torch, each) for each in arrays(seed)]
            outputs = [torch.from_dlpack(each) for each in executor.enqueue(given, ours.cuda_stream)]
            assert [each.dtype for each in outputs] == [torch.float32, torch.int64, torch.bfloat16]
            require_same(torch, outputs, arrays(seed))
            require_same(torch, [torch.from_numpy(each) for each in executor.run(given)[:2]], arrays(seed)[:2])


@needs_gpu
@pytest.mark.parametrize("same", [True, False])
def test_the_call_waits_for_what_makes_the_inputs(torch, executor, same):
    given = [on_device(torch, each) for each in arrays(1)]
    late = [torch.zeros_like(each) for each in given]
    executor.enqueue(late)
    torch.cuda.synchronize()
    current = torch.cuda.Stream()
    ours = current if same else torch.cuda.Stream()
    with torch.cuda.stream(current):
        torch.cuda._sleep(LONG)
        for one, other in zip(late, given, strict=True):
            one.copy_(other)
        outputs = executor.enqueue(late, ours.cuda_stream)
        assert not current.query()  # the test has shown something
        require_same(torch, [torch.from_dlpack(each) for each in outputs], arrays(1))


@needs_gpu
def test_inputs_may_be_overwritten_and_freed_afterwards(torch, executor):
    given = [on_device(torch, each) for each in arrays(2)]
    for each in [*given, torch.zeros(1 << 16, device="cuda")]:
        each.clone().zero_()  # loads torch's kernels, which may take longer than the sleep
    torch.cuda.synchronize()
    ours = torch.cuda.Stream()
    with torch.cuda.stream(ours):
        torch.cuda._sleep(LONG)
    outputs = executor.enqueue(given, ours.cuda_stream)
    for each in given:
        each.zero_()
    del given, each
    torch.zeros(1 << 16, device="cuda")
    assert not ours.query()
    require_same(torch, [torch.from_dlpack(each) for each in outputs], arrays(2))


@needs_gpu
def test_inputs_written_in_place_wait_for_the_call_that_reads_them(torch, executor):
    places = [torch.from_dlpack(each) for each in executor.inputs]
    assert [each.data_ptr() for each in places] == [each.address for each in executor.inputs]
    ours = torch.cuda.Stream()
    for seed in range(3):
        for place, array in zip(places, arrays(seed), strict=True):
            place.copy_(on_device(torch, array))
        with torch.cuda.stream(ours):
            torch.cuda._sleep(LONG // 10)
        outputs = executor.enqueue(places, ours.cuda_stream)
        for place in places:
            place.zero_()
        require_same(torch, [torch.from_dlpack(each) for each in outputs], arrays(seed))


@needs_gpu
def test_what_does_not_fit_is_refused(torch, executor):
    x, t, h = (on_device(torch, each) for each in arrays())
    wrong = {
        "not contiguous": x.t().contiguous().t(),
        r"not float64\[4, 6\]": x.double(),
        r"not float32\[2, 6\]": x[:2],
        r"give tensor\.detach\(\)": x.clone().requires_grad_(),
        "no memory of its own": x.to_sparse(),
        r"not float32\[3, 6\]": x[:3].cpu(),
    }
    for message, given in wrong.items():
        with pytest.raises(ArgumentError, match=message):
            executor.enqueue([given, t, h])
    if torch.cuda.device_count() > 1:
        with pytest.raises(ArgumentError, match="device 1"):
            executor.enqueue([x.to("cuda:1"), t, h])
    part = torch.cat([x, x])[4:]  # contiguous, from the middle of its storage
    require_same(torch, [torch.from_dlpack(each) for each in executor.enqueue([part, t, h])], arrays())


@needs_gpu
def test_a_result_keeps_its_memory(torch):
    made = Executor(replace(PLAN, target=device_target().compute_capability))
    outputs = [torch.from_dlpack(each) for each in made.enqueue(arrays(3))]
    del made
    torch.zeros(1 << 20, device="cuda")
    require_same(torch, outputs, arrays(3))
    with pytest.raises(ZeroDivisionError):
        print(outputs.pop(), 1 / 0)


@needs_gpu
def test_arrays_that_name_their_stream(torch, executor):
    class Interface:
        def __init__(self, tensor, stream):
            self.tensor = tensor
            self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, "version": 3, "stream": stream}

    x, t, h = (on_device(torch, each) for each in arrays(4))
    late = torch.zeros_like(x)
    executor.enqueue([late, t, h])
    torch.cuda.synchronize()
    current = torch.cuda.Stream()
    with torch.cuda.stream(current):
        torch.cuda._sleep(LONG)
        late.copy_(x)
    outputs = executor.enqueue([Interface(late, current.cuda_stream), t, h], torch.cuda.Stream().cuda_stream)
    assert not current.query()
    require_same(torch, [torch.from_dlpack(each) for each in outputs], arrays(4))


@needs_gpu
def test_sessions_of_several_shapes_share_weights_and_arena(torch):
    from test_weight_store import ROW, model, require_right, values

    def of(rows):
        found, capability = model(rows), device_target().compute_capability
        plans = (replace(plan, target=capability) for plan in (found.plan, *found.prologue))
        return replace(found, plan=next(plans), prologue=tuple(plans))

    shared = Shared(Device.of(0))
    sessions = [Session(of(rows), values(), shared=shared) for rows in (2, 500, 3)]
    assert shared.weights.nbytes == 3 * ROW.nbytes
    assert shared.arena.nbytes >= 500 * ROW.nbytes
    for seed in range(2):
        shared.refresh([torch.from_numpy(each).cuda() for each in values(seed)])
        for session in (*sessions, sessions[0]):
            require_right(session, values(seed))
    streams = [torch.cuda.Stream() for _ in sessions]
    given = [torch.randn(session.inputs[0].shape, device="cuda") for session in sessions]
    for _ in range(20):  # in turns, each in its own stream
        results = [
            session.enqueue([x], stream.cuda_stream)
            for session, x, stream in zip(sessions, given, streams, strict=True)
        ]
    for x, (result,) in zip(given, results, strict=True):
        assert torch.equal(torch.from_dlpack(result)[: x.numel()], x)
    for session in sessions:
        session.close()
