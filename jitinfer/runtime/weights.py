"""The weights of one model on one device, shared by all the plans that were made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import dtype_name
from jitinfer.runtime.arrays import DeviceArray, host_array
from jitinfer.runtime.device import Device
from jitinfer.runtime.driver import call
from jitinfer.runtime.plan import ALIGNMENT, aligned
from jitinfer.runtime.producers import device_array
from jitinfer.runtime.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jitinfer.graph.types import TensorType


class Weights:
    """Arrays by name, on a device.

    Host arrays are uploaded, all into one allocation. An array that lies on the device already is used where it lies,
    and kept alive, if its address is a multiple of 256; otherwise it is copied. The memory is given back with this
    object.
    """

    def __init__(self, arrays: Mapping[str, Any], device: Device | int = 0) -> None:
        """Raises ArgumentError for what is no array, DeviceError where the memory does not suffice."""
        self.device = device if isinstance(device, Device) else Device.of(device)
        self._resources = Resources(self.device)
        self._arrays: dict[str, DeviceArray] = {}
        with self.device.current():
            self._place({name: _located(name, array, self.device) for name, array in arrays.items()})

    @staticmethod
    def reserved(types: Mapping[str, TensorType], device: Device | int = 0) -> Weights:
        """Memory for tensors of these types, to be filled by `update`. Raises DeviceError where it does not suffice."""
        weights = Weights({}, device)
        with weights.device.current():
            base = weights._resources.memory(sum(aligned(kind.nbytes) for kind in types.values()), "weights")
        for name, kind in types.items():
            weights._arrays[name] = DeviceArray(base, kind.shape, kind.dtype, weights.device.index, weights._resources)
            base += aligned(kind.nbytes)
        return weights

    def __getitem__(self, name: str) -> DeviceArray:
        """Raises KeyError."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def update(self, name: str, array: Any) -> None:
        """New values in place of the old ones, for every executor that uses them, when the device has nothing to do.

        Raises ArgumentError unless shape and dtype are those of before, KeyError for an unknown name.
        """
        upload(self._arrays[name], array, name)

    def close(self) -> None:
        """Gives the memory back now; executors that use it must not run any more. Idempotent."""
        self._arrays.clear()
        self._resources.close()

    def _place(self, given: Mapping[str, DeviceArray]) -> None:
        moved = {name: array for name, array in given.items() if array.device < 0 or array.address % ALIGNMENT}
        base = self._resources.memory(sum(aligned(array.nbytes) for array in moved.values()), "weights")
        for name, array in given.items():
            self._arrays[name] = array
            if name in moved:
                self._arrays[name] = DeviceArray(base, array.shape, array.dtype, self.device.index, self._resources)
                _copy(base, array)
                base += aligned(array.nbytes)


def upload(held: DeviceArray, given: Any, name: str) -> None:
    """New values in place of the old ones, when the device has nothing to do.

    Raises ArgumentError, saying `name`, unless shape and dtype are those of before.
    """
    device = Device.of(held.device)
    with device.current():
        found = _located(name, given, device)
        if (found.shape, found.dtype) != (held.shape, held.dtype):
            raise ArgumentError(f"{name} is {held.dtype}{list(held.shape)}, not {found.dtype}{list(found.shape)}")
        call("cuCtxSynchronize")
        _copy(held.address, found)


_HOST = -1


def _located(name: str, given: Any, device: Device) -> DeviceArray:
    """On the device, or on the host as device -1."""
    placed = device_array(given, 0)
    if placed is None:
        array = host_array(given)
        array = array if array.flags.c_contiguous else array.copy()
        return DeviceArray(array.ctypes.data, array.shape, dtype_name(array.dtype), _HOST, owner=array)
    if placed.device != device.index:
        raise ArgumentError(f"{name} lies on device {placed.device}, not on {device.index}")
    return placed


def _copy(address: int, source: DeviceArray) -> None:
    if source.nbytes:
        name = "cuMemcpyHtoD" if source.device == _HOST else "cuMemcpyDtoD"
        call(name, address, source.address, source.nbytes, step="uploading weights")
        if source.device != _HOST:  # between two places on the device, it does not wait for the end of the copy
            call("cuCtxSynchronize", step="uploading weights")
