"""Running a plan on a device: loaded once, recorded into one CUDA graph, replayed at each call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import ArgumentError, DeviceError
from jitinfer.graph.types import dtype_name, numpy_dtype
from jitinfer.runtime.arrays import DeviceArray, device_array, host_array, unordered
from jitinfer.runtime.device import Device
from jitinfer.runtime.driver import call
from jitinfer.runtime.memory import Layout
from jitinfer.runtime.recording import recorded
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.soundness import check, step_name
from jitinfer.runtime.steps import Binder
from jitinfer.runtime.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.runtime.plan import Buffer, Plan
    from jitinfer.runtime.steps import Enqueue

    Array = numpy.ndarray[Any, Any]


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
        stepwise: bool = False,
    ) -> None:
        """Loads and records.

        Args:
            weights: every weight buffer of the plan by name; a `Weights` is shared, other mappings are uploaded.
            stepwise: no graph: each call queues the steps one by one and waits for each, so that a fault on the
                device is reported with the step that caused it. Slow.

        Raises PlanError for a plan that does not fit together, ArgumentError for weights that are not the plan's, and
        DeviceError where the device or the driver cannot run it.
        """
        check(plan)
        self.plan = plan
        self.device = device if isinstance(device, Device) else Device.of(device)
        _require_target(plan, self.device)
        self.weights = weights if isinstance(weights, Weights) else Weights(weights or {}, self.device)
        self._lock = threading.Lock()
        self._resources = Resources(self.device, self.weights)
        self._layout = Layout.of(plan)
        with self.device.current():
            self._load(stepwise)

    @property
    def nbytes(self) -> int:
        """Of device memory that is its own; its weights not included."""
        return self._layout.nbytes

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """The outputs, as NumPy arrays, for inputs on the host or on the device, in the order of `plan.inputs`.

        Raises ArgumentError for inputs that are not of the plan's types, DeviceError where the device fails.
        """
        with self._lock, self.device.current():
            stream = self._own_stream
            self._after_previous(stream)
            if any(unordered(given) for given in inputs):
                call("cuCtxSynchronize", step="work on the inputs")
            self._give(inputs, stream)
            self._replay(stream)
            start, end = self._layout.regions["output"]
            if end > start:
                call("cuMemcpyDtoHAsync", self._results.ctypes.data, self._base + start, end - start, stream)
            call("cuStreamSynchronize", stream, step="running the plan")
            self._last_stream = stream
            return [self._fetched(self.plan.buffer_named[name]) for name in self.plan.outputs]

    def enqueue(self, inputs: Sequence[Any], stream: int = 0) -> list[DeviceArray]:
        """As `run`, queued into `stream` (a CUstream's handle) without waiting; outputs stay on the device.

        The outputs lie in the executor's own memory, where the next call writes: use or copy them in the same stream
        before. Host inputs are copied before this returns.
        """
        with self._lock, self.device.current():
            self._after_previous(stream)
            self._give(inputs, stream)
            self._replay(stream)
            call("cuEventRecord", self._finished, stream)
            self._last_stream = stream
        return list(self._outputs)

    @property
    def inputs(self) -> list[DeviceArray]:
        """The memory that the plan reads; an input given to a call that already lies there is not copied."""
        return list(self._inputs)

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
        with self._lock:
            self._resources.close()

    def _load(self, stepwise: bool) -> None:
        plan = self.plan
        self._base = self._resources.memory(self._layout.nbytes, "a plan")
        addresses = {name: self._base + offset for name, offset in self._layout.offsets.items()}
        addresses.update(_weight_addresses(plan, self.weights))
        self._addresses = addresses
        self._staged = self._resources.pinned(self._region_size("input"))
        self._results = self._resources.pinned(self._region_size("output"))
        self._own_stream = self._resources.stream()
        self._last_stream = self._own_stream
        self._finished = self._resources.event()
        self._copied = self._resources.event()
        self._clear()
        binder = Binder(plan, addresses, self._resources)
        self._steps = [binder.bind(number, step) for number, step in enumerate(plan.steps)]
        self._graph = None if stepwise else self._record()
        self._inputs = [self._on_device(plan.buffer_named[name]) for name in plan.inputs]
        self._outputs = [self._on_device(plan.buffer_named[name]) for name in plan.outputs]

    def _region_size(self, placement: str) -> int:
        start, end = self._layout.regions[placement]
        return end - start

    def _clear(self) -> None:
        """Constants in their places, zeros elsewhere: nothing of other programs' memory can come out of a plan."""
        if self._layout.nbytes:
            call("cuMemsetD8", self._base, 0, self._layout.nbytes)
        for name, data in self.plan.constants:
            if data:
                call("cuMemcpyHtoD", self._addresses[name], data, len(data), step=f"uploading {name}")
        call("cuCtxSynchronize")

    def _record(self) -> Any:
        """The steps as an executable graph."""
        executable = recorded(self._steps, self._own_stream)
        self._resources.keep(lambda: call("cuGraphExecDestroy", executable))
        return executable

    def _after_previous(self, stream: int) -> None:
        """Orders this call behind the one before, which may be in another stream: both use the same memory."""
        if self._resources.closed:
            raise DeviceError("this executor is closed")
        if stream != self._last_stream:
            call("cuStreamWaitEvent", stream, self._finished, 0)

    def _replay(self, stream: int) -> None:
        if self._graph is not None:
            call("cuGraphLaunch", self._graph, stream, step="running the plan")
            return
        for number, (enqueue, step) in enumerate(zip(self._steps, self.plan.steps, strict=True)):
            enqueue(stream)
            call("cuStreamSynchronize", stream, step=step_name(number, step))

    def _give(self, inputs: Sequence[Any], stream: int) -> None:
        """The inputs into the buffers of the plan, in `stream`."""
        if len(inputs) != len(self.plan.inputs):
            raise ArgumentError(f"the plan takes {len(self.plan.inputs)} inputs, not {len(inputs)}")
        on_host = []
        for name, given in zip(self.plan.inputs, inputs, strict=True):
            buffer = self.plan.buffer_named[name]
            placed = device_array(given, stream)
            if placed is None:
                on_host.append((buffer, _checked_host(buffer, given)))
            else:
                self._give_from_device(buffer, placed, stream)
        if on_host:
            self._give_from_host(on_host, stream)

    def _give_from_device(self, buffer: Buffer, given: DeviceArray, stream: int) -> None:
        if (given.shape, given.dtype) != (buffer.shape, buffer.dtype):
            raise _mismatch(buffer, given.shape, given.dtype)
        if given.device != self.device.index:
            raise ArgumentError(f"{buffer.name} lies on device {given.device}, the plan on {self.device.index}")
        address = self._addresses[buffer.name]
        if buffer.nbytes and given.address != address:
            call("cuMemcpyDtoDAsync", address, given.address, buffer.nbytes, stream, step=f"copying {buffer.name}")

    def _give_from_host(self, given: list[tuple[Buffer, Array]], stream: int) -> None:
        call("cuEventSynchronize", self._copied, step="the call before this one")  # it may still read the staging
        for buffer, array in given:
            start = self._layout.within("input", buffer.name)
            staged = self._staged[start : start + buffer.nbytes].view(numpy_dtype(buffer.dtype))
            numpy.copyto(staged.reshape(buffer.shape), array)
        first = self._layout.regions["input"][0]
        if len(given) == len(self.plan.inputs):
            if self._staged.nbytes:
                call("cuMemcpyHtoDAsync", self._base + first, self._staged.ctypes.data, self._staged.nbytes, stream)
        else:
            for buffer, _ in given:
                offset = self._layout.within("input", buffer.name)
                source = self._staged.ctypes.data + offset
                if buffer.nbytes:
                    call("cuMemcpyHtoDAsync", self._base + first + offset, source, buffer.nbytes, stream)
        call("cuEventRecord", self._copied, stream)

    def _fetched(self, buffer: Buffer) -> Array:
        """A copy of its own: the staging is written again by the next call."""
        if buffer.placement != "output":
            array = numpy.empty(buffer.shape, numpy_dtype(buffer.dtype))
            if buffer.nbytes:
                call("cuMemcpyDtoH", array.ctypes.data, self._addresses[buffer.name], buffer.nbytes)
            return array
        start = self._layout.within("output", buffer.name)
        staged = self._results[start : start + buffer.nbytes].view(numpy_dtype(buffer.dtype))
        return staged.reshape(buffer.shape).copy()

    def _on_device(self, buffer: Buffer) -> DeviceArray:
        address = self._addresses[buffer.name]
        return DeviceArray(address, buffer.shape, buffer.dtype, self.device.index, owner=self._resources)


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
            raise _mismatch(buffer, given.shape, given.dtype)
        addresses[buffer.name] = given.address
    return addresses


def _checked_host(buffer: Buffer, given: object) -> Array:
    array = host_array(given)
    if (array.shape, dtype_name(array.dtype)) != (buffer.shape, buffer.dtype):
        raise _mismatch(buffer, array.shape, dtype_name(array.dtype))
    return array


def _mismatch(buffer: Buffer, shape: tuple[int, ...], dtype: str) -> ArgumentError:
    return ArgumentError(f"{buffer.name} is {buffer.dtype}{list(buffer.shape)}, not {dtype}{list(shape)}")
