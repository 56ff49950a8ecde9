"""Arrays on a device, and arrays as callers have them on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import dtype_name, itemsize
from jitinfer.runtime import dlpack
from jitinfer.runtime.device import Device

if TYPE_CHECKING:
    from jitinfer.runtime.turns import Turns

LEGACY_STREAM = 1
"""The protocols' number for the legacy default stream, whose handle is 0."""


@dataclass(frozen=True)
class DeviceArray:
    """Row-major elements on a device.

    owner: keeps the memory alive as long as this object lives; turns: of the calls that use the memory, if it is an
    executor's. Other libraries take it without a copy: `torch.from_dlpack(array)`, of any dtype, orders torch's stream
    behind the last call; `cupy.asarray(array)` and others go by `__cuda_array_interface__`.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int = 0
    owner: object = field(default=None, repr=False, compare=False)
    turns: Turns | None = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * itemsize(self.dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """An unversioned capsule, whatever `max_version` is. Raises BufferError for a copy or another device."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("an array of jitinfer is given as it is and where it is")
        if stream != -1 and self.turns is not None:
            with Device.of(self.device).current():
                self.turns.before(stream_handle(stream))
        return dlpack.capsule_of(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Raises AttributeError for a dtype that the protocol cannot say, such as bfloat16."""
        if self.dtype.startswith(("bfloat16", "float8")):
            raise AttributeError(f"__cuda_array_interface__ has no {self.dtype}")
        stream = None if self.turns is None else self.turns.stream
        return {
            "shape": self.shape,
            "typestr": numpy.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": LEGACY_STREAM if stream == 0 else stream,
        }


def stream_handle(number: int | None) -> int:
    """The driver's handle of a stream that the protocols call by `number`."""
    return 0 if number is None or number == LEGACY_STREAM else number


def host_array(given: object) -> numpy.ndarray[Any, Any]:
    """Raises ArgumentError for what is no array of numbers."""
    try:
        array = numpy.asarray(given)
        dtype_name(array.dtype)
    except KeyError:
        raise ArgumentError(f"{type(given).__name__} is no array of numbers, but of {array.dtype}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{type(given).__name__} is no array that NumPy can read: {error}") from None
    return array
