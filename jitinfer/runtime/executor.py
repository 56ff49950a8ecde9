"""Running a plan on a device: loaded once, recorded into one CUDA graph, replayed at each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import ArgumentError, DeviceError
from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime.arrays import DeviceArray, stream_handle
from jitinfer.runtime.device import Device
from jitinfer.runtime.driver import bound, call
from jitinfer.runtime.inputs import Inputs
from jitinfer.runtime.memory import Layout
from jitinfer.runtime.plan import step_name
from jitinfer.runtime.producers import Place
from jitinfer.runtime.recording import in_lanes, recorded
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.soundness import check
from jitinfer.runtime.steps import Binder
from jitinfer.runtime.turns import Turns
from jitinfer.runtime.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.runtime.arena import Arena
    from jitinfer.runtime.plan import Buffer, Plan
    from jitinfer.runtime.steps import Enqueue

    Array = numpy.ndarray[Any, Any]


class Run:
    """A call that was begun on a device, and holds up all others until it is finished or dropped."""

    def __init__(self, finish: Callable[[], list[Array]], release: Callable[[], None]) -> None:
        self._finish: Callable[[], list[Array]] | None = finish
        self._release = release

    def finish(self) -> list[Array]:
        """The results, once. Raises DeviceError where the device fails."""
        assert self._finish is not None
        try:
            return self._finish()
        finally:
            self.drop()

    def drop(self) -> None:
        """Nobody wants the results any more. The device computes them all the same. Idempotent."""
        if self._finish is not None:
            self._finish = None
            self._release()


class Executor:
    """A plan on a device, with its memory and its CUDA graph.

    Calls from several threads take turns. The memory is given back with the object, or by `close`.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Weights | Mapping[str, Any] | None = None,
        device: Device | int = 0,
        *,
        stepwise: bool | Callable[[int], None] = False,
        arena: Arena | None = None,
    ) -> None:
        """Loads and records.

        Args:
            weights: every weight buffer of the plan by name; a `Weights` is shared, other mappings are uploaded.
            stepwise: no graph: each call queues the steps one by one and waits for each, so that a fault on the
                device is reported with the step that caused it. Slow. A function is told the number of each step ahead
                of it.
            arena: of the same device, shared with other executors, whose calls take turns with those of this one.

        Raises PlanError for a plan that does not fit together, ArgumentError for weights that are not the plan's, and
        DeviceError where the device or the driver cannot run it.
        """
        check(plan)
        self.plan = plan
        self.device = device if isinstance(device, Device) else Device.of(device)
        _require_target(plan, self.device)
        self.weights = weights if isinstance(weights, Weights) else Weights(weights or {}, self.device)
        self._arena = arena
        self._resources = Resources(self.device, self.weights, arena)
        self._layout = Layout.of(plan)
        self._results: Array | None = None
        with self.device.current():
            self._turns = Turns(self._resources) if arena is None else arena.turns
            self._before_step = stepwise if callable(stepwise) else None
            self._load(bool(stepwise))

    @property
    def nbytes(self) -> int:
        """Of device memory that is its own; its weights, and an arena that was given, not included."""
        return self._layout.nbytes - self._shared_bytes

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """The outputs, as NumPy arrays, for inputs on the host or on the device, in the order of `plan.inputs`.

        Raises ArgumentError for inputs that are not of the plan's types, DeviceError where the device fails.
        """
        return self.begin(inputs).finish()

    def begin(self, inputs: Sequence[Any]) -> Run:
        """Starts what `run` does, and does not wait for the device. Raises as `run`, but for what fails there.

        Other calls wait until the `Run` is finished or dropped. The inputs are not looked at any more.
        """
        self._turns.lock.acquire()
        try:
            with self.device.current():
                self._start(inputs)
        except BaseException:
            self._turns.lock.release()
            raise
        return Run(self._finish, self._turns.lock.release)

    def _start(self, inputs: Sequence[Any]) -> None:
        stream = self._own_stream
        self._begin(stream)
        self._inputs.give(inputs, stream, settle=True)
        self._replay(stream)
        start, end = self._layout.regions["output"]
        if self._results is None:
            self._results = self._resources.pinned(end - start)
        if end > start:
            call("cuMemcpyDtoHAsync", self._results.ctypes.data, self._base + start, end - start, stream)
        self._turns.ended(stream)

    def _finish(self) -> list[Array]:
        with self.device.current():
            call("cuStreamSynchronize", self._own_stream, step="running the plan")
            return [self._fetched(self.plan.buffer_named[name]) for name in self.plan.outputs]

    def enqueue(self, inputs: Sequence[Any], stream: int = 0) -> list[DeviceArray]:
        """As `run`, queued into `stream` (a CUstream's handle) without waiting; outputs stay on the device.

        The outputs lie in the executor's own memory, where the next call writes: use or copy them before, in the same
        stream or behind `torch.from_dlpack`, which orders its stream behind this call.

        Host inputs are copied before this returns. For tensors of torch, and arrays that name a stream by
        `__cuda_array_interface__`, this call is queued behind that stream's work (torch's current one), and what is
        queued there afterwards behind the reading of them, so they may be overwritten then. Other arrays of the
        `__cuda_array_interface__`, and `DeviceArray`s, have to be ready in `stream`.
        """
        stream = stream_handle(stream)
        with self._turns.lock, self.device.current():
            self._begin(stream)
            origins = self._inputs.give(inputs, stream)
            self._replay(stream)
            self._turns.ended(stream)
            for origin in origins:
                self._turns.before(origin)
        return list(self._outputs)

    @property
    def inputs(self) -> list[DeviceArray]:
        """The memory that the plan reads; an input given to a call that already lies there is not copied."""
        return list(self._placed)

    @property
    def steps(self) -> Sequence[Enqueue]:
        """What queues each step of the plan into a stream, in order, for those who look at one at a time."""
        return tuple(self._steps)

    @property
    def outputs(self) -> list[DeviceArray]:
        """The memory that the plan writes."""
        return list(self._outputs)

    def close(self) -> None:
        """Gives memory and graph back, after the work that is queued; further calls raise DeviceError. Idempotent."""
        with self._turns.lock:
            self._resources.close()
            self._inputs.close()

    def _load(self, stepwise: bool) -> None:
        plan = self.plan
        addresses = self._place()
        addresses.update(_weight_addresses(plan, self.weights))
        self._addresses = addresses
        self._own_stream = self._resources.stream()
        self._clear()
        binder = Binder(plan, addresses, self._resources)
        self._steps = [binder.bind(number, step) for number, step in enumerate(plan.steps)]
        self._graph = None if stepwise else self._record()
        self._launch = bound("cuGraphLaunch", step="running the plan")
        self._placed = [self._on_device(plan.buffer_named[name]) for name in plan.inputs]
        self._outputs = [self._on_device(plan.buffer_named[name]) for name in plan.outputs]
        places = [
            Place(name, array.shape, array.dtype, array.nbytes, array.device, array.address)
            for name, array in zip(plan.inputs, self._placed, strict=True)
        ]
        start, end = (self._base + offset for offset in self._layout.regions["input"])
        self._inputs = Inputs(places, start, end, self._resources, self._turns)

    def _place(self) -> dict[str, int]:
        """The addresses of all buffers but the weights: in one allocation, the arena apart from it if it is shared."""
        layout = self._layout
        self._shared_bytes = 0 if self._arena is None else layout.regions["arena"][1]
        shared = 0 if self._arena is None else self._arena.reserve(self._shared_bytes)
        self._own = self._resources.memory(layout.nbytes - self._shared_bytes, "a plan")
        self._base = self._own - self._shared_bytes  # to which the offsets of all that is not shared are added
        return {
            name: offset + (shared if offset < self._shared_bytes else self._base)
            for name, offset in layout.offsets.items()
        }

    def _clear(self) -> None:
        """Constants in their places, zeros elsewhere: nothing of other programs' memory can come out of a plan."""
        if self.nbytes:
            call("cuMemsetD8", self._own, 0, self.nbytes)
        for name, data in self.plan.constants:
            if data:
                call("cuMemcpyHtoD", self._addresses[name], data, len(data), step=f"uploading {name}")
        call("cuCtxSynchronize")

    def _record(self) -> Any:
        """The steps as an executable graph."""
        executable = recorded(self._steps, self._own_stream) if self.plan.lanes == 1 else self._recorded_in_lanes()
        self._resources.keep(lambda: call("cuGraphExecDestroy", executable))
        return executable

    def _recorded_in_lanes(self) -> Any:
        needed = Resources(self.device)  # for the recording alone
        try:
            streams = [needed.stream() for _ in range(1, self.plan.lanes)]
            return recorded(in_lanes(self._steps, self.plan.slots, streams, needed.event), self._own_stream)
        finally:
            needed.close()

    def _begin(self, stream: int) -> None:
        """Orders this call behind the one before: both use the same memory."""
        if self._resources.closed:
            raise DeviceError("this executor is closed")
        if self._turns.refused:
            raise DeviceError(self._turns.refused)
        self._turns.before(stream)

    def _replay(self, stream: int) -> None:
        if self._graph is not None:
            self._launch(self._graph, stream)
            return
        for number, (enqueue, step) in enumerate(zip(self._steps, self.plan.steps, strict=True)):
            if self._before_step is not None:
                self._before_step(number)
            enqueue(stream)
            call("cuStreamSynchronize", stream, step=step_name(number, step))

    def _fetched(self, buffer: Buffer) -> Array:
        """A copy of its own: the staging is written again by the next call."""
        if buffer.placement != "output":
            array = numpy.empty(buffer.shape, numpy_dtype(buffer.dtype))
            if buffer.nbytes:
                call("cuMemcpyDtoH", array.ctypes.data, self._addresses[buffer.name], buffer.nbytes)
            return array
        start = self._layout.within("output", buffer.name)
        assert self._results is not None
        staged = self._results[start : start + buffer.nbytes].view(numpy_dtype(buffer.dtype))
        return staged.reshape(buffer.shape).copy()

    def _on_device(self, buffer: Buffer) -> DeviceArray:
        address = self._addresses[buffer.name]
        return DeviceArray(address, buffer.shape, buffer.dtype, self.device.index, self._resources, self._turns)


def outputs_of(plan: Plan, weights: Weights | Mapping[str, Any] | None, device: Device) -> list[Array]:
    """What a plan without inputs computes, in memory that held zeros. Raises as `Executor`, and DeviceError."""
    executor = Executor(plan, weights, device)
    try:
        return executor.run([])
    finally:
        executor.close()


def _require_target(plan: Plan, device: Device) -> None:
    if device.compute_capability != plan.target:
        raise DeviceError(f"the plan is for sm_{plan.target}, and {device.name} is sm_{device.compute_capability}")


def _weight_addresses(plan: Plan, weights: Weights) -> dict[str, int]:
    addresses = {}
    for buffer in plan.weights:
        if buffer.name not in weights:
            raise ArgumentError(f"the plan needs the weight {buffer.name!r}")
        given = weights[buffer.name]
        if (given.shape, given.dtype) != (buffer.shape, buffer.dtype):
            raise ArgumentError(
                f"{buffer.name} is {buffer.dtype}{list(buffer.shape)}, not {given.dtype}{list(given.shape)}"
            )
        addresses[buffer.name] = given.address
    return addresses
