"""CUDA devices: what they are, and making one current."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.runtime.driver import bound, call, driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Device:
    """One CUDA device, by its number among those that the process may see. Sizes in bytes.

    compute_capability: such as 90; shared_memory: what one thread block can have, when it asks for it;
    maps_memory: memory can be put behind addresses that were reserved before.
    """

    index: int
    name: str
    compute_capability: int
    sm_count: int
    shared_memory: int
    l2_bytes: int
    memory_bytes: int
    driver_version: int
    maps_memory: bool = False

    @staticmethod
    def of(index: int = 0) -> Device:
        """Raises DeviceError where there is no driver, or no such device."""
        count = device_count()
        if not 0 <= index < count:
            raise DeviceError(f"there is no CUDA device {index}: this process sees {count}")
        return _device(index)

    def current(self) -> AbstractContextManager[None]:
        """This device's primary context, the one that CUDA's runtime and the frameworks use, current in this thread."""
        return _Current(self.index)

    @contextmanager
    def telling_loss(self) -> Iterator[None]:
        """What fails within because the device is lost raises DeviceLostError: libraries have words of their own."""
        try:
            yield
        except DeviceLostError:
            raise
        except DeviceError:
            self.synchronize()
            raise

    def synchronize(self) -> None:
        """Waits for all work on the device. Raises DeviceError where some of it failed."""
        with self.current():
            call("cuCtxSynchronize", step=f"work on {self.name}")


class _Current:
    """Not a generator: it is entered at each call, when most of the time the context is current already."""

    __slots__ = ("_index", "_pushed")

    def __init__(self, index: int) -> None:
        self._index = index

    def __enter__(self) -> None:
        context, handle, current = _primary_context(self._index)
        self._pushed = int(current()) != handle
        if self._pushed:
            call("cuCtxPushCurrent", context)

    def __exit__(self, *_: object) -> None:
        if self._pushed:
            driver().cuCtxPopCurrent()


def device_count() -> int:
    """Raises DeviceError where there is no driver."""
    return int(call("cuDeviceGetCount"))


def device_problem() -> str | None:
    """Why no CUDA device can be used; None where one can."""
    try:
        return None if device_count() else "this process sees no CUDA device"
    except DeviceError as error:
        return str(error)


@cache
def _device(index: int) -> Device:
    kinds = driver().CUdevice_attribute
    handle = call("cuDeviceGet", index)

    def attribute(name: str) -> int:
        return int(call("cuDeviceGetAttribute", getattr(kinds, "CU_DEVICE_ATTRIBUTE_" + name), handle))

    name: bytes = call("cuDeviceGetName", 256, handle)
    return Device(
        index=index,
        name=name.split(b"\0")[0].decode(),
        compute_capability=10 * attribute("COMPUTE_CAPABILITY_MAJOR") + attribute("COMPUTE_CAPABILITY_MINOR"),
        sm_count=attribute("MULTIPROCESSOR_COUNT"),
        shared_memory=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        l2_bytes=attribute("L2_CACHE_SIZE"),
        memory_bytes=int(call("cuDeviceTotalMem", handle)),
        driver_version=int(call("cuDriverGetVersion")),
        maps_memory=bool(attribute("VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED")),
    )


@cache
def _primary_context(index: int) -> tuple[Any, int, Callable[[], Any]]:
    """It, its handle, and what tells the current one; looked up once, for what happens at each call.

    Retained for the life of the process: releasing it would end everyone's work on the device.
    """
    context = call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", index))
    return context, int(context), bound("cuCtxGetCurrent")
