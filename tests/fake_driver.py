"""A CUDA driver in host memory: copies and fills, streams and graphs. Kernels load, and do nothing when they run.

Work runs when it is queued; between the beginning and the end of a capture it is recorded instead, as a graph: what is
queued into a stream follows what was there before, and what the events say that the stream waits for. Graphs run in the
order in which they were recorded or, with `shuffle`, in any that they allow. Every handle that was given out and not
given back is in `held`. The device has a clock: a copy or a fill takes a microsecond a byte, an event inside of a graph
takes EVENT microseconds, and everything else takes no time; what a graph does not put in order takes its time side by
side.

A fill with FAULT, a copy within the device of what begins with TRAP, and a kernel that strays by its name lose the
device: they succeed, and all that is asked of the driver afterwards fails, until it is another one.
"""

import contextlib
import ctypes
import enum
import functools
import gc
import itertools
import sys
import types
from dataclasses import dataclass, field

import numpy

from jitinfer.runtime import device, device_copies, driver, loss

EVENT = 2.0
FAULT = 0xEE
TRAP = numpy.array([0x7FC0DEAD], numpy.uint32).view(numpy.float32)
"""NaN, with something to know it by."""
_ANSWERED = ("cuInit", "cuGetErrorString", "cuDeviceGetCount", "cuDriverGetVersion")
"""Also where the device is lost."""


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904


class Attributes:
    def __getattr__(self, name):
        return name


class Modes(enum.Enum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class Properties(types.SimpleNamespace):
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        setattr(self, name, Properties())
        return getattr(self, name)


@dataclass(frozen=True)
class GraphNode:
    """What a graph does, and the nodes that have ended before, by number; early: it may begin while the one ends."""

    work: object
    after: frozenset
    kernel: bool = False
    early: bool = False


@dataclass
class Capture:
    """What is recorded of several streams: `front`, the nodes that the next one of a stream follows; `events` likewise
    for those who wait for them."""

    origin: int
    nodes: list = field(default_factory=list)
    front: dict = field(default_factory=dict)
    events: dict = field(default_factory=dict)

    def add(self, stream, **node):
        self.nodes.append(GraphNode(after=self.front[stream], **node))
        self.front[stream] = frozenset({len(self.nodes) - 1})

    def before(self, nodes):
        """These nodes and all that they follow."""
        found, waiting = set(), list(nodes)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += self.nodes[number].after
        return found

    @property
    def joined(self):
        """Whether the first stream follows all that was recorded in others."""
        ended = self.before(self.front[self.origin])
        return all(front <= ended for front in self.front.values())


OK = Result.CUDA_SUCCESS
LIMIT = 2**30
GRANULARITY = 2**12


class FakeDriver:
    CUresult = Result
    CUdevice_attribute = Attributes()
    CUstreamCaptureMode = Modes
    CUmemAllocationType = CUmemLocationType = CUmemAllocationGranularity_flags = CUmemAccess_flags = Attributes()
    CUpointer_attribute = CUfunction_attribute = CUlaunchAttributeID = Attributes()
    CUlaunchConfig = CUlaunchAttribute = Properties
    CUmemAllocationProp = CUmemAccessDesc = Properties

    def __init__(self):
        self.held = {}
        self.launches = 0
        self.fail = None
        self.lost = False
        self.calls = 0
        """Of all functions but those that describe errors."""
        self.failing_call = None
        """The number of the call that fails, and does nothing."""
        self.maps_memory = 1
        self.mapped = 0
        self.recorded = []
        self.waited = []
        self.graphs = []  # as they were launched
        self.shuffle = None
        self.now = 0.0
        self._reached = {}
        self._events = {}
        self._capture = None
        self._graphs = {}
        self._ranges = {}
        self._numbers = itertools.count(1000)
        self._contexts = []

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        return functools.partial(self._answer, name, found) if name.startswith("cu") else found

    def _answer(self, name, function, *arguments):
        if name != "cuGetErrorString":
            self.calls += 1
            if self.calls == self.failing_call:
                if name == "cuStreamEndCapture":
                    self._capture = None  # it ends in any case
                return (Result.CUDA_ERROR_INVALID_VALUE,)
        if self.lost and name not in _ANSWERED:
            return (Result.CUDA_ERROR_ILLEGAL_ADDRESS,)
        return function(*arguments)

    def _give(self, kind, number=None):
        number = number or next(self._numbers)
        self.held[number] = kind
        return number

    def _take(self, number):
        del self.held[int(number)]
        return (OK,)

    def _do(self, work, stream, **node):
        if self._capture is None:
            work()
        else:
            self._capture.add(int(stream), work=work, **node)
        return (OK,)

    def _spend(self, nbytes, work, destination, given):
        self.now += nbytes
        if work is ctypes.memset and given == FAULT:
            self.lost = True
        if not self.lost:
            work(destination, given, nbytes)

    def cuGetErrorString(self, code):
        return OK, code.name.lower().encode()

    def cuInit(self, flags):
        return (OK,)

    def cuDeviceGetCount(self):
        return OK, 1

    def cuDeviceGet(self, index):
        return OK, index

    def cuDeviceGetName(self, length, device):
        return OK, b"fake\0\0"

    def cuDeviceGetAttribute(self, name, device):
        values = {
            "COMPUTE_CAPABILITY_MAJOR": 9,
            "COMPUTE_CAPABILITY_MINOR": 0,
            "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED": self.maps_memory,
        }
        return OK, values.get(name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 100000)

    def cuDeviceTotalMem(self, device):
        return OK, LIMIT

    def cuDriverGetVersion(self):
        return OK, 13000

    def cuDevicePrimaryCtxRetain(self, device):
        return OK, 7

    def cuCtxGetCurrent(self):
        return OK, self._contexts[-1] if self._contexts else 0

    def cuCtxPushCurrent(self, context):
        self._contexts.append(context)
        return (OK,)

    def cuCtxPopCurrent(self):
        return OK, self._contexts.pop()

    def cuCtxSynchronize(self):
        return (OK,)

    def _memory(self, nbytes):
        if nbytes > LIMIT:
            return Result.CUDA_ERROR_OUT_OF_MEMORY, None
        array = numpy.full(nbytes + 256, 0xA5, numpy.uint8)
        address = -(-array.ctypes.data // 256) * 256
        self._give(array, address)
        return OK, address

    def cuMemAlloc(self, nbytes):
        return self._memory(nbytes)

    def cuMemHostAlloc(self, nbytes, flags):
        return self._memory(nbytes)

    cuMemFree = cuMemFreeHost = cuStreamDestroy = cuEventDestroy = cuGraphDestroy = cuGraphExecDestroy = _take

    def cuMemGetAllocationGranularity(self, wanted, kind):
        return OK, GRANULARITY

    def cuMemAddressReserve(self, size, alignment, address, flags):
        """Memory that is not touched before it is mapped takes none of the host's."""
        array = numpy.empty(size + 256, numpy.uint8)
        base = -(-array.ctypes.data // 256) * 256
        self._ranges[base] = array
        return OK, self._give("addresses", base)

    def cuMemAddressFree(self, address, size):
        del self._ranges[address]
        return self._take(address)

    def cuMemCreate(self, size, wanted, flags):
        if size > LIMIT or size % GRANULARITY:
            return Result.CUDA_ERROR_OUT_OF_MEMORY, None
        return OK, self._give("physical memory")

    cuMemRelease = _take

    def cuMemMap(self, address, size, offset, handle, flags):
        ctypes.memset(address, 0xA5, size)
        self.mapped += size
        return (OK,)

    def cuMemSetAccess(self, address, size, access, count):
        return (OK,)

    def cuMemUnmap(self, address, size):
        self.mapped -= size
        return (OK,)

    def cuModuleLoadData(self, code):
        return OK, self._give("module")

    cuModuleUnload = _take

    def cuModuleGetFunction(self, module, name):
        return OK, name

    def cuFuncSetAttribute(self, function, attribute, value):
        return (OK,)

    def cuLaunchKernelEx(self, config, function, arguments, extra):
        early = any(each.id == "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION" for each in config.attrs)

        def run():
            self.lost |= b"stray" in function

        return self._do(run, config.hStream, kernel=True, early=early)

    def cuLaunchKernel(self, function, *launch):
        """Of the kernel that copies: moves of three numbers, one for each block of the grid's second dimension."""
        assert function == b"copy_moves"
        (blocks, count, *_), (threads, *_), (_, stream, arguments, _) = launch[:3], launch[3:6], launch[6:]
        assert blocks > 0
        assert 0 < threads <= 1024
        moves = ctypes.c_uint64.from_address(arguments).value
        numbers = (ctypes.c_uint64 * (3 * count)).from_address(moves)
        for at in range(0, 3 * count, 3):
            self._move_within(*numbers[at : at + 3], stream)
        return (OK,)

    def cuPointerGetAttribute(self, attribute, address):
        return OK, 0

    def cuStreamCreate(self, flags):
        return OK, self._give("stream")

    def cuEventCreate(self, flags):
        event = self._give("event")
        self._events[event] = flags
        return OK, event

    def cuEventRecord(self, event, stream):
        if self._capture is not None and stream in self._capture.front:
            self._capture.events[event] = self._capture.front[stream]
            return (OK,)
        self.recorded.append((event, stream))
        self._reached[event] = self.now
        return (OK,)

    def cuEventRecordWithFlags(self, event, stream, flags):
        assert flags == 1
        assert self._capture is not None

        def reach():
            self._reached[event] = self.now
            self.now += EVENT

        return self._do(reach, stream)

    def cuEventElapsedTime(self, first, second):
        assert not {self._events[first], self._events[second]} & {2}
        return OK, (self._reached[second] - self._reached[first]) / 1e3

    def cuEventQuery(self, event):
        return (Result.CUDA_ERROR_NOT_READY if self.fail == "query" else OK,)

    def cuEventSynchronize(self, event):
        return (OK,)

    def cuStreamWaitEvent(self, stream, event, flags):
        if self._capture is not None and event in self._capture.events:
            front = self._capture.front
            front[stream] = front.get(stream, frozenset()) | self._capture.events[event]
            return (OK,)
        self.waited.append((stream, event))
        return (OK,)

    def cuStreamSynchronize(self, stream):
        return (Result.CUDA_ERROR_INVALID_VALUE if self.fail == "synchronize" else OK,)

    def _move(self, destination, source, nbytes, stream=0):
        return self._do(lambda: self._spend(nbytes, ctypes.memmove, destination, source), stream)

    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoH = cuMemcpyDtoD = cuMemcpyHtoD = _move

    def _move_within(self, destination, source, nbytes, stream=0):
        def copy():
            self.lost |= ctypes.string_at(source, min(nbytes, TRAP.nbytes)) == TRAP.tobytes()
            self._spend(nbytes, ctypes.memmove, destination, source)

        return self._do(copy, stream)

    cuMemcpyDtoDAsync = _move_within

    def cuMemsetD8Async(self, destination, value, nbytes, stream=0):
        if self.fail == "fill":
            return (Result.CUDA_ERROR_INVALID_VALUE,)
        return self._do(lambda: self._spend(nbytes, ctypes.memset, destination, value), stream)

    cuMemsetD8 = cuMemsetD8Async

    def cuStreamBeginCapture(self, stream, mode):
        self._capture = Capture(stream, front={stream: frozenset()})
        return (OK,)

    def cuStreamEndCapture(self, stream):
        capture, self._capture = self._capture, None
        if not capture.joined:
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNJOINED, None
        graph = self._give("graph")
        self._graphs[graph] = capture.nodes
        return OK, graph

    def cuGraphInstantiate(self, graph, flags):
        executable = self._give("executable graph")
        self._graphs[executable] = self._graphs[graph]
        return OK, executable

    def cuGraphUpload(self, graph, stream):
        return (OK,)

    def cuGraphLaunch(self, graph, stream):
        self.launches += 1
        nodes = self._graphs[graph]
        self.graphs.append(nodes)
        begun, ended = self.now, {}
        while len(ended) < len(nodes):
            ready = (number for number, node in enumerate(nodes) if number not in ended and node.after <= ended.keys())
            number = next(ready) if self.shuffle is None else self.shuffle.choice(list(ready))
            self.now = max((ended[each] for each in nodes[number].after), default=begun)
            nodes[number].work()
            ended[number] = self.now
        self.now = max(ended.values(), default=begun)
        return (OK,)


@contextlib.contextmanager
def installed(monkeypatch):
    """A fake driver in place of the real one, wherever it is used: a process of its own, as far as CUDA knows."""
    fake, real = FakeDriver(), driver.driver
    for name, module in list(sys.modules.items()):
        if name.startswith("jitinfer.") and getattr(module, "driver", None) is real:
            monkeypatch.setattr(module, "driver", lambda: fake)
    _forget()
    yield fake
    gc.collect()
    _forget()


def _forget():
    for cached in (device._device, device._primary_context, device_copies._kernel):
        cached.cache_clear()
    loss.forget()
