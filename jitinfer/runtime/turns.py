"""Calls that use the same memory take turns."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from jitinfer.runtime.driver import bound, call, driver

if TYPE_CHECKING:
    from jitinfer.runtime.resources import Resources


class Turns:
    """One call after the other: on the host by `lock`, on the device by an event behind the last one.

    The device's context has to be current. Each call waits for the one before in its own stream too, since one
    handle may stand for several streams: that of the per-thread default stream does, and that of a stream that was
    destroyed comes back.
    """

    def __init__(self, resources: Resources) -> None:
        """The event lives as long as `resources`."""
        self.lock = threading.Lock()
        self.stream: int | None = None
        self.refused = ""
        """Why nothing may run with what the memory holds; "" where all may. Changed while `lock` is held."""
        self._event = resources.event()
        self._record = bound("cuEventRecord")
        self._wait = bound("cuStreamWaitEvent")

    def before(self, stream: int) -> None:
        """What is queued into `stream` from now on runs after the last call."""
        self._wait(stream, self._event, 0)

    def ended(self, stream: int) -> None:
        """The last call is what was queued into `stream` so far."""
        self._record(self._event, stream)
        self.stream = stream

    def done(self) -> bool:
        """Whether the last call has ended, or there was none."""
        return not driver().cuEventQuery(self._event)[0]

    def wait(self) -> None:
        """Until the last call has ended."""
        call("cuEventSynchronize", self._event, step="the call before this one")
