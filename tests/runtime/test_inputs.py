"""Inputs of every origin: what is copied, what is refused, and which stream waits for which."""

import ctypes
import gc
import sys
import types
import weakref

import numpy
import pytest
from copies import PLAN, arrays, plan_of

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Executor
from jitinfer.runtime.arrays import DeviceArray

TORCH_STREAM, OURS = 77, 55


class Tensor:
    """As torch's, on a device, over a NumPy array."""

    __module__ = "torch"

    def __init__(self, array, dtype=None, **attributes):
        self.array = array
        self.shape = types.SimpleNamespace() if array is None else array.shape
        self.dtype = getattr(sys.modules["torch"], dtype or str(array.dtype))
        self.requires_grad, self.is_cuda, self.device = False, True, 0
        self.negated = False
        vars(self).update(attributes)

    def get_device(self):
        return self.device

    def is_contiguous(self):
        return self.array.flags.c_contiguous

    def is_neg(self):
        return self.negated

    def is_conj(self):
        return False

    def stride(self):
        return [each // self.array.itemsize for each in self.array.strides]

    def data_ptr(self):
        return self.array.ctypes.data

    def __array__(self, *_, **__):
        return self.array


@pytest.fixture
def torch(monkeypatch):
    module = types.ModuleType("torch")
    for name in ("float32", "float64", "int64", "bfloat16", "uint16"):
        setattr(module, name, f"torch.{name}")
    module.Tensor = type("Tensor", (Tensor,), {})
    module.nn = types.SimpleNamespace(Parameter=type("Parameter", (module.Tensor,), {}))
    module.current = TORCH_STREAM
    module._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda device: module.current)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


class Interface:
    """As CuPy's arrays, without DLPack."""

    def __init__(self, array, stream=None, **changes):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "stream": stream,
            "version": 3,
            **changes,
        }


class CuPyArray(Interface):
    """As CuPy's, on a device, over a NumPy array."""

    __module__ = "cupy"

    def __init__(self, array, device=0):
        super().__init__(array, stream=TORCH_STREAM)
        self.dtype, self.shape, self.flags = array.dtype, array.shape, array.flags
        self.data = types.SimpleNamespace(ptr=array.ctypes.data, device_id=device)
        self.device = types.SimpleNamespace(id=device)


@pytest.fixture
def cupy(monkeypatch):
    module = types.ModuleType("cupy")
    module.ndarray = type("ndarray", (CuPyArray,), {"__module__": "cupy"})
    module.streams = {0: TORCH_STREAM}
    module.cuda = types.SimpleNamespace(
        get_current_stream=lambda device: types.SimpleNamespace(ptr=module.streams[device])
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


class Packed:
    """Of a library that knows DLPack alone."""

    def __init__(self, array):
        self.array = array
        self.streams = []

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return self.array.__dlpack__()


def found(outputs):
    host = []
    for each in outputs:
        raw = (ctypes.c_uint8 * each.nbytes).from_address(each.address)
        host.append(numpy.frombuffer(raw, numpy_dtype(each.dtype)).reshape(each.shape).copy())
    return host


def require_same(outputs, given):
    for one, other in zip(outputs, given, strict=True):
        assert one.dtype == other.dtype
        assert numpy.array_equal(one, other)


@pytest.fixture
def executor(cuda):
    made = Executor(PLAN)
    cuda.recorded.clear()
    cuda.waited.clear()
    return made


KINDS = {
    "torch": lambda torch, array: torch.Tensor(array),
    "interface": lambda torch, array: Interface(array, stream=TORCH_STREAM),
    "packed": lambda torch, array: Packed(array),
    "ours": lambda torch, array: DeviceArray(array.ctypes.data, array.shape, str(array.dtype)),
    "host": lambda torch, array: array,
}


@pytest.mark.parametrize("kinds", [*((name,) * 2 for name in KINDS), ("torch", "packed"), ("host", "torch")])
@pytest.mark.parametrize("run", [True, False])
def test_every_origin(executor, torch, kinds, run):
    for seed in range(3):
        given = arrays(seed)
        inputs = [KINDS[kind](torch, array) for kind, array in zip(kinds, given[:2], strict=True)]
        inputs.append(torch.Tensor(given[2]))
        require_same(executor.run(inputs) if run else found(executor.enqueue(inputs, OURS)), given)


@pytest.mark.parametrize("kind", ["torch", "interface"])
def test_the_producer_s_stream_goes_first_and_waits_for_the_copies(cuda, executor, torch, kind):
    finished = executor._turns._event
    given = [torch.Tensor(each) for each in arrays()]
    given[0] = KINDS[kind](torch, arrays()[0])
    executor.enqueue(given, OURS)
    ordered = executor._inputs._ordered
    assert cuda.waited == [(OURS, finished), (OURS, ordered), (TORCH_STREAM, ordered)]
    assert cuda.recorded == [(ordered, TORCH_STREAM), (ordered, OURS), (finished, OURS)]


def test_arrays_of_cupy_are_read_where_they_lie(cuda, executor, cupy, monkeypatch):
    """Without the protocols, which take longer; what does not fit is refused by what these say."""
    x, t, h = arrays()
    given = [cupy.ndarray(x), cupy.ndarray(t), cupy.ndarray(h)]
    for each in given:
        del each.__cuda_array_interface__
    require_same(found(executor.enqueue(given, TORCH_STREAM)), [x, t, h])
    finished, ordered = executor._turns._event, executor._inputs._ordered
    assert cuda.waited == [(TORCH_STREAM, finished)]
    cuda.waited.clear()
    require_same(found(executor.enqueue(given, OURS)), [x, t, h])
    assert cuda.waited == [(OURS, finished), (OURS, ordered), (TORCH_STREAM, ordered)]
    launches = cuda.launches
    for wrong, message in {
        "shape": (cupy.ndarray(x[:2]), r"not float32\[2, 6\]"),
        "dtype": (cupy.ndarray(x.astype("float64")), r"not float64\[4, 6\]"),
        "strides": (cupy.ndarray(x.T.copy().T), "not contiguous"),
        "device": (cupy.ndarray(x, device=1), "device 1"),
    }.values():
        with pytest.raises(ArgumentError, match=message):
            executor.enqueue([wrong, *given[1:]], OURS)
    assert cuda.launches == launches


def test_in_the_producer_s_stream_nothing_is_ordered(cuda, executor, torch):
    given = [torch.Tensor(each) for each in arrays()]
    executor.enqueue(given, TORCH_STREAM)
    torch.current = 0
    executor.enqueue(given, 0)
    executor.enqueue(given, 1)  # the same stream by the protocols' name
    finished = executor._turns._event
    assert cuda.waited == [(stream, finished) for stream in (TORCH_STREAM, 0, 0)]
    assert cuda.recorded == [(finished, stream) for stream in (TORCH_STREAM, 0, 0)]


def test_what_lies_in_place_is_not_copied_and_its_stream_waits_for_the_end(cuda, executor, torch, monkeypatch):
    given = arrays()
    executor.run(given)
    places = [at.address for at in executor.inputs]
    tensors = [torch.Tensor(each, data_ptr=lambda at=at: at) for each, at in zip(given, places, strict=True)]
    cuda.recorded.clear()
    cuda.waited.clear()
    monkeypatch.setattr(executor._inputs._copies, "queue", lambda *_: pytest.fail("copied"))
    require_same(found(executor.enqueue(tensors, OURS)), given)
    finished, ordered = executor._turns._event, executor._inputs._ordered
    assert cuda.waited == [(OURS, finished), (OURS, ordered), (TORCH_STREAM, finished)]
    assert cuda.recorded == [(ordered, TORCH_STREAM), (finished, OURS)]
    require_same(found(executor.enqueue(executor.inputs, OURS)), given)


def test_the_legacy_stream_has_two_names(cuda, executor, torch):
    given = arrays()
    executor.enqueue([Interface(given[0], stream=1), Packed(given[1]), given[2]], 0)
    assert {stream for stream, _ in cuda.waited} == {0}
    packed = Packed(given[1])
    for stream in (0, 1, 2, OURS):
        executor.enqueue([given[0], packed, given[2]], stream)
    assert packed.streams == [1, 1, 2, OURS]


def test_results_given_to_another_plan_are_waited_for(cuda, executor):
    other = Executor(PLAN)
    outputs = other.enqueue(arrays(), 33)
    cuda.waited.clear()
    require_same(found(executor.enqueue(outputs, OURS)), arrays())
    assert set(cuda.waited) == {(OURS, executor._turns._event), (OURS, other._turns._event)}
    outputs[0].__dlpack__(stream=TORCH_STREAM)
    assert cuda.waited[-1] == (TORCH_STREAM, other._turns._event)
    assert outputs[0].__cuda_array_interface__["stream"] == 33


def test_results_of_a_call_are_inputs_of_the_next(executor):
    outputs = executor.enqueue(arrays(), OURS)
    require_same(found(executor.enqueue(outputs, OURS)), arrays())


def test_what_others_made_is_kept_until_it_is_copied(cuda, executor):
    given = arrays()
    packed = Packed(given[0])
    alive = weakref.ref(packed)
    cuda.fail = "query"
    executor.enqueue([packed, *given[1:]], OURS)
    del packed
    gc.collect()
    assert alive()
    executor.enqueue(given, OURS)
    assert alive()
    cuda.fail = None
    executor.enqueue(given, OURS)
    gc.collect()
    assert alive() is None
    cuda.fail = "query"
    for _ in range(120):
        executor.enqueue([Packed(given[0]), *given[1:]], OURS)
    assert 0 < len(executor._inputs._kept) <= 100


WRONG = {
    "shape": (lambda t, x: t.Tensor(x[:2]), r"x is float32\[4, 6\], not float32\[2, 6\]"),
    "dtype": (lambda t, x: t.Tensor(x.astype("float64")), r"not float64\[4, 6\]"),
    "strides": (lambda t, x: t.Tensor(x.T.copy().T), r"strides \[1, 4\] is not contiguous"),
    "gradient": (lambda t, x: t.nn.Parameter(x, requires_grad=True), r"give tensor\.detach\(\)"),
    "negative": (lambda t, x: t.Tensor(x, negated=True), "negated or conjugated"),
    "device": (lambda t, x: t.Tensor(x, device=1), "x lies on device 1, the plan on 0"),
    "unknown dtype": (lambda t, x: t.Tensor(x, "uint16"), "torch.uint16 is not supported"),
    "on the host": (lambda t, x: t.Tensor(x[:2], is_cuda=False), r"not float32\[2, 6\]"),
    "interface strides": (lambda t, x: Interface(x.T.copy().T), "not contiguous"),
    "interface shape": (lambda t, x: Interface(x[:2]), r"not float32\[2, 6\]"),
    "interface dtype": (lambda t, x: Interface(x, typestr="<V2"), "<V2, or with a mask, is not supported"),
    "mask": (lambda t, x: Interface(x, mask=x), "with a mask, is not supported"),
    "packed strides": (lambda t, x: Packed(x.T.copy().T), "not contiguous"),
    "ours": (lambda t, x: DeviceArray(x.ctypes.data, (4, 5), "float32"), r"not float32\[4, 5\]"),
    "our device": (lambda t, x: DeviceArray(x.ctypes.data, (4, 6), "float32", 7), "device 7"),
    "no array": (lambda t, x: [["x"]], "no array"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused(cuda, executor, torch, kind):
    x, t, h = arrays()
    make, message = WRONG[kind]
    for _ in range(2):
        with pytest.raises(ArgumentError, match=message):
            executor.enqueue([make(torch, x), torch.Tensor(t), torch.Tensor(h)], OURS)
    assert cuda.launches == 0
    require_same(found(executor.enqueue([torch.Tensor(each) for each in (x, t, h)], OURS)), (x, t, h))


def test_a_tensor_without_memory_is_refused(executor, torch):
    def fails():
        raise RuntimeError("sparse")

    x, t, h = arrays()
    with pytest.raises(ArgumentError, match="no memory of its own: sparse"):
        executor.enqueue([torch.Tensor(x, data_ptr=fails), t, h])


def test_an_input_in_the_place_of_another_is_refused(cuda, executor):
    x, t, h = executor.inputs
    for given in (DeviceArray(t.address, x.shape, x.dtype), DeviceArray(x.address + 8, x.shape, x.dtype)):
        with pytest.raises(ArgumentError, match="x lies where another input goes"):
            executor.enqueue([given, t, h])
    assert cuda.launches == 0


def test_nothing_is_allocated_in_the_steady_state(cuda, executor, torch, monkeypatch):
    given = [torch.Tensor(each) for each in arrays()]
    executor.enqueue(given, OURS)
    held = dict(cuda.held)
    for stream in (OURS, TORCH_STREAM):
        executor.enqueue(given, stream)
    assert cuda.held.keys() == held.keys()


def test_large_arrays_go_as_they_lie_and_small_ones_by_pinned_memory(cuda, monkeypatch):
    """In one call, in any order, more than once; pinned memory is taken when it is needed, for what is small."""
    shapes = {"a": (5,), "b": (3, 1_000_001), "c": (7, 3)}
    executor = Executor(plan_of({name: (shape, "float32") for name, shape in shapes.items()}))
    pinned = []
    monkeypatch.setattr(cuda, "cuMemHostAlloc", lambda nbytes, flags: pinned.append(nbytes) or cuda.cuMemAlloc(nbytes))
    generator = numpy.random.default_rng(0)
    for _ in range(2):
        given = [generator.standard_normal(shape).astype("float32") for shape in shapes.values()]
        given[1] = numpy.asfortranarray(given[1])
        executor.enqueue(given)
        for output, wanted in zip(executor.outputs, given, strict=True):
            numpy.testing.assert_array_equal(found([output])[0], wanted)
    assert pinned == [2 * 256]
