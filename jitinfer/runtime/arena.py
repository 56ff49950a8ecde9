"""Memory between a call's inputs and its results, for all executors of one function."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from jitinfer.runtime.driver import call
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.turns import Turns

if TYPE_CHECKING:
    from jitinfer.runtime.device import Device

PURPOSE = "what is computed within a call"


class Arena:
    """As much memory as the largest plan of several wants, at one address, whatever is added later.

    Executors that share it take turns: what a call leaves there, the next one overwrites. A range of addresses is
    reserved and memory is put behind it as it is wanted, so graphs that were recorded before stay right. On a device
    that cannot do so each executor has memory of its own.
    """

    def __init__(self, device: Device) -> None:
        """Reserves no memory yet. Raises DeviceError where the driver cannot."""
        self.device = device
        self._resources = Resources(device)
        self._lock = threading.Lock()
        self._base = 0
        self._nbytes = 0
        with device.current():
            self.turns = Turns(self._resources)

    @property
    def nbytes(self) -> int:
        """Of device memory that it has now."""
        return self._nbytes

    def reserve(self, nbytes: int) -> int:
        """The address, with at least `nbytes` behind it; zeros where there was nothing before.

        Raises DeviceError where the memory does not suffice.
        """
        if nbytes == 0:
            return 0
        with self._lock, self.device.current():
            if not self.device.maps_memory:
                return self._alone(nbytes)
            if not self._base:
                self._base = self._resources.addresses(self.device.memory_bytes)
            if nbytes > self._nbytes:
                end = self._base + self._nbytes
                added = self._resources.mapped(end, nbytes - self._nbytes, PURPOSE)
                call("cuMemsetD8", end, 0, added)
                call("cuCtxSynchronize")
                self._nbytes += added
            return self._base

    def _alone(self, nbytes: int) -> int:
        address = self._resources.memory(nbytes, PURPOSE)
        call("cuMemsetD8", address, 0, nbytes)
        call("cuCtxSynchronize")
        self._nbytes += nbytes
        return address
