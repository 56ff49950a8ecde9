"""The inputs of a call, into the memory that a plan reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import dtype_name, numpy_dtype
from jitinfer.runtime.arrays import host_array
from jitinfer.runtime.device_copies import DeviceCopies
from jitinfer.runtime.driver import bound, call
from jitinfer.runtime.plan import aligned
from jitinfer.runtime.producers import UNKNOWN, Place, producer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitinfer.runtime.device_copies import Move
    from jitinfer.runtime.resources import Resources
    from jitinfer.runtime.turns import Turns

    Array = numpy.ndarray[Any, Any]

_MOST_KEPT = 100
"""Inputs that are kept alive while the device may not have copied them yet."""

_LARGE = 2**22
"""Bytes from which an array goes to the device as it lies: the driver has its own staging, and pages take their time
to be pinned."""


class Inputs:
    """The places of a plan's inputs, side by side from `start` to `end`, and the ways into them.

    Its methods are called while it is the caller's turn, with the device's context current.
    """

    def __init__(self, places: Sequence[Place], start: int, end: int, resources: Resources, turns: Turns) -> None:
        self._places = tuple(places)
        self._start, self._end = start, end
        self._resources = resources
        self._staged: Array | None = None
        self._uploaded = resources.event()
        self._ordered = resources.event()
        self._turns = turns
        self._kept: list[object] = []
        self._record = bound("cuEventRecord")
        self._wait = bound("cuStreamWaitEvent")
        self._copies = DeviceCopies(resources.device.index)

    def give(self, inputs: Sequence[Any], stream: int, *, settle: bool = False) -> list[int]:
        """Queues the copies into `stream`, behind what makes the inputs, once all of them are found to fit.

        An input that lies in its place is not copied. Those of libraries that have a current stream may be overwritten
        or freed by what is queued there afterwards: it waits for the copies. Returns those of these streams that have
        to wait for the end of the call, as their inputs lie in place.

        settle: where nothing is known of what makes an input, waits for all work on the device. Raises ArgumentError.
        """
        places = self._places
        if len(inputs) != len(places):
            raise ArgumentError(f"the plan takes {len(places)} inputs, not {len(inputs)}")
        moves: list[Move] = []
        on_host: list[tuple[Place, Array]] = []
        if self._kept:
            self._release()
        copied_from: set[int] = set()
        in_place: set[int] = set()
        for place, given in zip(places, inputs, strict=True):
            producer = producer_of(type(given))
            found = producer.fitting(given, place)
            if found is not None:
                address, origin = found
            else:
                located = producer.read(given, stream)
                if located is None:
                    on_host.append((place, _checked_host(place, given)))
                    continue
                array, origin = located
                place.require(array)
                address = array.address
                if origin is None:
                    self._kept.append(array.owner)
            if address != place.address and place.nbytes:
                if self._start < address + place.nbytes and address < self._end:
                    raise ArgumentError(f"{place.name} lies where another input goes; copy it first")
                moves.append((place.address, address, place.nbytes))
            if origin is not None and origin != stream:
                (in_place if address == place.address else copied_from).add(origin)
        if copied_from or in_place:
            self._after(copied_from | in_place, stream, settle=settle)
        if moves:
            self._copies.queue(moves, stream)
        copied_from.discard(UNKNOWN)
        in_place.discard(UNKNOWN)
        if copied_from:
            self._record(self._ordered, stream)
            for origin in copied_from:
                self._wait(origin, self._ordered, 0)
        if on_host:
            self._upload(on_host, stream)
        return list(in_place)

    def close(self) -> None:
        """Forgets the inputs of others that it kept."""
        self._kept.clear()

    def _after(self, origins: Iterable[int], stream: int, *, settle: bool) -> None:
        for origin in origins:
            if origin != UNKNOWN:
                self._record(self._ordered, origin)
                self._wait(stream, self._ordered, 0)
            elif settle:
                call("cuCtxSynchronize", step="work on the inputs")

    def _release(self) -> None:
        """The memory of producers whose streams are not known must not be used again before it is copied."""
        if not self._turns.done():
            if len(self._kept) < _MOST_KEPT:
                return
            self._turns.wait()
        self._kept.clear()

    def _upload(self, given: list[tuple[Place, Array]], stream: int) -> None:
        small = [(place, array) for place, array in given if place.nbytes < _LARGE]
        if small:
            self._upload_small(small, stream)
        for place, array in given:
            if place.nbytes >= _LARGE:  # which has left the array when the call returns
                contiguous = numpy.ascontiguousarray(array)
                call("cuMemcpyHtoDAsync", place.address, contiguous.ctypes.data, place.nbytes, stream)

    def _upload_small(self, given: list[tuple[Place, Array]], stream: int) -> None:
        """All in one copy where they are all the inputs."""
        if self._staged is None:
            self._offsets = _side_by_side(self._places)
            self._staged = self._resources.pinned(sum(aligned(place.nbytes) for place in self._offsets))
        call("cuEventSynchronize", self._uploaded, step="the call before this one")  # it may still read the staging
        base = self._staged.ctypes.data
        for place, array in given:
            offset = self._offsets[place]
            staged = self._staged[offset : offset + place.nbytes].view(numpy_dtype(place.dtype))
            numpy.copyto(staged.reshape(place.shape), array)
        if len(given) == len(self._places):
            if self._staged.nbytes:
                call("cuMemcpyHtoDAsync", self._start, base, self._staged.nbytes, stream)
        else:
            for place, _ in given:
                if place.nbytes:
                    call("cuMemcpyHtoDAsync", place.address, base + self._offsets[place], place.nbytes, stream)
        self._record(self._uploaded, stream)


def _side_by_side(places: Sequence[Place]) -> dict[Place, int]:
    """The small ones, at the distances that they have on the device if all are."""
    offsets, end = {}, 0
    for place in places:
        if place.nbytes < _LARGE:
            offsets[place] = end
            end += aligned(place.nbytes)
    return offsets


def _checked_host(place: Place, given: object) -> Array:
    array = host_array(given)
    if (array.shape, dtype_name(array.dtype)) != (place.shape, place.dtype):
        place.refuse(array.shape, dtype_name(array.dtype))
    return array
