"""What the driver gave and must get back: memory, modules, graphs, streams, events."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import DeviceError
from jitinfer.runtime.driver import call, driver

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

    def addresses(self, nbytes: int) -> int:
        """The first of a range of device addresses, aligned to 256 bytes, without memory behind them."""
        size = _multiple(nbytes, self._granularity())
        base = call("cuMemAddressReserve", size, 0, 0, 0, step=f"{size:,} addresses on {self.device.name}")
        self._undo.append(lambda: call("cuMemAddressFree", base, size))
        return int(base)

    def mapped(self, address: int, nbytes: int, purpose: str) -> int:
        """Puts memory behind an address of such a range, at which earlier memory ends; how many bytes that were."""
        size = _multiple(nbytes, self._granularity())
        step = f"{size:,} bytes for {purpose} on {self.device.name}"
        handle = call("cuMemCreate", size, self._allocation(), 0, step=step)
        self._undo.append(lambda: call("cuMemRelease", handle))
        call("cuMemMap", address, size, 0, handle, 0, step=step)
        self._undo.append(lambda: call("cuMemUnmap", address, size))
        access = driver().CUmemAccessDesc()
        access.location = self._allocation().location
        access.flags = driver().CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        call("cuMemSetAccess", address, size, [access], 1, step=step)
        return size

    def _granularity(self) -> int:
        kind = driver().CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        return int(call("cuMemGetAllocationGranularity", self._allocation(), kind))

    def _allocation(self) -> Any:
        module = driver()
        wanted = module.CUmemAllocationProp()
        wanted.type = module.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        wanted.location.type = module.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        wanted.location.id = self.device.index
        return wanted

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


def _multiple(nbytes: int, of: int) -> int:
    return -(-nbytes // of) * of


def _give_back(device: Device, undo: list[Callable[[], object]]) -> None:
    # After a fault on the device every call fails; the memory is gone with the context then.
    with contextlib.suppress(DeviceError), device.current():
        with contextlib.suppress(DeviceError):
            call("cuCtxSynchronize")
        while undo:
            step = undo.pop()
            with contextlib.suppress(DeviceError):
                step()
