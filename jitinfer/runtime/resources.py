"""What the driver gave and must get back: memory, modules, graphs, streams, events."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import DeviceError
from jitinfer.runtime.driver import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitinfer.runtime.device import Device

    Array = numpy.ndarray[Any, Any]


class Resources:
    """Everything that an executor, or a set of weights, holds on a device.

    It is given back in reverse order, once: by `close`, or when nobody has this object any more, which the arrays that
    lie in the memory have too. Its methods raise DeviceError where the driver has nothing to give.
    """

    def __init__(self, device: Device, *others: object) -> None:
        """others: objects that have to live as long."""
        self.device = device
        self._others = others
        self._undo: list[Callable[[], object]] = []
        self._finalizer = weakref.finalize(self, _give_back, device, self._undo)

    def memory(self, nbytes: int, purpose: str) -> int:
        """The address of device memory, aligned to 256 bytes; 0 for none of it."""
        if nbytes == 0:
            return 0
        pointer = call("cuMemAlloc", nbytes, step=f"{nbytes:,} bytes for {purpose} on {self.device.name}")
        self._undo.append(lambda: call("cuMemFree", pointer))
        return int(pointer)

    def pinned(self, nbytes: int) -> Array:
        """Host memory from which the device copies by itself, as an array of bytes."""
        if nbytes == 0:
            return numpy.empty(0, numpy.uint8)
        address = int(call("cuMemHostAlloc", nbytes, 0, step=f"{nbytes:,} bytes of pinned host memory"))
        self._undo.append(lambda: call("cuMemFreeHost", address))
        return numpy.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def module(self, code: bytes, what: str) -> Any:
        module = call("cuModuleLoadData", code, step=f"loading {what}")
        self._undo.append(lambda: call("cuModuleUnload", module))
        return module

    def stream(self) -> int:
        stream = call("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream
        self._undo.append(lambda: call("cuStreamDestroy", stream))
        return int(stream)

    def event(self, *, timing: bool = False) -> Any:
        """timing: whether it keeps the time at which it was reached."""
        event = call("cuEventCreate", 0 if timing else 2)  # CU_EVENT_DISABLE_TIMING
        self._undo.append(lambda: call("cuEventDestroy", event))
        return event

    def keep(self, undo: Callable[[], object]) -> None:
        """`undo` is called when all is given back."""
        self._undo.append(undo)

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """Gives everything back. Idempotent."""
        self._finalizer()


def _give_back(device: Device, undo: list[Callable[[], object]]) -> None:
    # After a fault on the device every call fails; the memory is gone with the context then.
    with contextlib.suppress(DeviceError), device.current():
        with contextlib.suppress(DeviceError):
            call("cuCtxSynchronize")
        while undo:
            step = undo.pop()
            with contextlib.suppress(DeviceError):
                step()
