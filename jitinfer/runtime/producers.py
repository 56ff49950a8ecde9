"""Whose arrays callers give: reading them where they lie, and in which stream they are being made.

A library's arrays are read by its own attributes where that is known here, since this happens at each call; all others
by DLPack or `__cuda_array_interface__`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

import numpy

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import DTYPES, dtype_name, numpy_dtype
from jitinfer.runtime import dlpack
from jitinfer.runtime.arrays import DeviceArray, stream_handle
from jitinfer.runtime.driver import call, driver

if TYPE_CHECKING:
    from collections.abc import Callable

_DLPACK_CUDA = (dlpack.CUDA, 13)  # and kDLCUDAManaged

Origin: TypeAlias = int | None
"""The stream in which an array is being made; None where its producer has seen to the order; UNKNOWN."""

UNKNOWN = -1
"""Nothing is said about the stream: the caller has seen to the order."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an input goes, and what it has to be."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    device: int
    address: int

    def require(self, array: DeviceArray) -> None:
        """Raises ArgumentError for one of another type, or on another device."""
        if (array.shape, array.dtype) != (self.shape, self.dtype):
            self.refuse(array.shape, array.dtype)
        if array.device != self.device:
            raise ArgumentError(f"{self.name} lies on device {array.device}, the plan on {self.device}")

    def refuse(self, shape: tuple[int, ...], dtype: str) -> NoReturn:
        raise ArgumentError(f"{self.name} is {self.dtype}{list(self.shape)}, not {dtype}{list(shape)}")


class Producer(Protocol):
    """One kind of arrays. The device's context has to be current."""

    def fitting(self, given: Any, place: Place) -> tuple[int, Origin] | None:
        """The address of an array that can go to `place` as it is; None for all that takes longer to find out."""
        ...

    def read(self, given: Any, stream: int) -> tuple[DeviceArray, Origin] | None:
        """What lies on a device, for use in `stream`; None for a host array.

        Raises ArgumentError for what is not row-major and for dtypes that graphs do not have.
        """
        ...


def _producer_of(kind: type) -> Producer:
    if issubclass(kind, numpy.ndarray | numpy.generic):
        return _OnHost()
    if kind is DeviceArray:
        return _Own()
    torch = sys.modules.get("torch")
    if torch is not None and kind in (torch.Tensor, torch.nn.Parameter):  # subclasses may be anything
        return _Torch(torch)
    cupy = sys.modules.get("cupy")
    if cupy is not None and kind is cupy.ndarray:
        return _CuPy(cupy)
    return _Other(prefers_interface=kind.__module__.partition(".")[0] == "cupy")


producer_of: Callable[[type], Producer] = lru_cache(maxsize=256)(_producer_of)
"""The producer of arrays of a type."""


def device_array(given: object, stream: int) -> DeviceArray | None:
    """What lies on a device, as its producer's queued work leaves it, in `stream`'s order; None for a host array.

    The device's context has to be current. Raises ArgumentError as `Producer.read`.
    """
    found = producer_of(type(given)).read(given, stream)
    if found is None:
        return None
    array, origin = found
    if origin is not None and origin not in (UNKNOWN, stream):
        event = call("cuEventCreate", 2)  # CU_EVENT_DISABLE_TIMING
        call("cuEventRecord", event, origin)
        call("cuStreamWaitEvent", stream, event, 0)
        call("cuEventDestroy", event)  # as soon as it is no longer waited for
    return array


class _OnHost:
    def fitting(self, given: Any, place: Place) -> None:
        return None

    def read(self, given: Any, stream: int) -> None:
        return None


class _Own:
    """Arrays of this package."""

    def fitting(self, given: DeviceArray, place: Place) -> tuple[int, Origin] | None:
        in_place = given.address == place.address or given.turns is None
        fits = given.shape == place.shape and given.dtype == place.dtype and given.device == place.device
        return (given.address, UNKNOWN) if in_place and fits else None

    def read(self, given: DeviceArray, stream: int) -> tuple[DeviceArray, Origin]:
        if given.turns is not None:
            given.turns.before(stream)
        return given, UNKNOWN


class _Torch:
    """Tensors of torch, which is not imported here but was, by whoever made the tensor."""

    def __init__(self, torch: Any) -> None:
        self._names = {getattr(torch, name): name for name in DTYPES if hasattr(torch, name)}
        # A complex tensor may be conjugated when it is read.
        self._dtypes = {name: dtype for dtype, name in self._names.items() if not name.startswith("complex")}
        self._current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None) or (
            lambda device: torch.cuda.current_stream(device).cuda_stream
        )

    def fitting(self, given: Any, place: Place) -> tuple[int, Origin] | None:
        try:
            if (
                given.dtype is self._dtypes.get(place.dtype)
                and given.shape == place.shape
                and given.is_cuda
                and given.get_device() == place.device
                and given.is_contiguous()
                and not given.requires_grad
                and not given.is_neg()
            ):
                return given.data_ptr(), self._current_stream(place.device)
        except RuntimeError:  # what has no memory of its own: sparse, nested, transformed
            pass
        return None

    def read(self, given: Any, stream: int) -> tuple[DeviceArray, Origin] | None:
        if not given.is_cuda:
            return None
        if given.requires_grad:
            raise ArgumentError("a tensor that requires a gradient was given; give tensor.detach()")
        if given.dtype not in self._names:
            raise ArgumentError(f"a tensor of {given.dtype} is not supported")
        try:
            altered = given.is_neg() or given.is_conj()
            shape, strides, address = tuple(given.shape), tuple(given.stride()), given.data_ptr()
        except RuntimeError as error:
            raise ArgumentError(f"a tensor was given that has no memory of its own: {error}") from None
        if altered:
            raise ArgumentError("a tensor was given that is negated or conjugated when it is read; give a clone of it")
        dlpack.require_row_major(shape, strides)
        device = given.get_device()
        array = DeviceArray(address, shape, self._names[given.dtype], device, owner=given)
        return array, self._current_stream(device)


class _Other:
    """Arrays of other libraries, by what the protocols say of them."""

    def __init__(self, *, prefers_interface: bool) -> None:
        """prefers_interface: it names the stream, and takes less time than DLPack."""
        self._prefers_interface = prefers_interface

    def fitting(self, given: Any, place: Place) -> tuple[int, Origin] | None:
        return None

    def read(self, given: Any, stream: int) -> tuple[DeviceArray, Origin] | None:
        locate = getattr(given, "__dlpack_device__", None)
        if locate is None or self._prefers_interface:
            interface = getattr(given, "__cuda_array_interface__", None)
            if interface is None and locate is None:
                return None
            dtype = None if interface is None else _dtype_of(interface["typestr"])
            if locate is None or dtype is not None:  # there is no bfloat16 there
                return _from_interface(interface, dtype, given)
        kind, index = locate()
        if int(kind) not in _DLPACK_CUDA:
            return None
        try:
            # The protocol has the producer see to the order.
            capsule = given.__dlpack__(stream=stream or 1)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ArgumentError(f"{type(given).__name__} does not give what it holds: {error}") from None
        address, shape, name = dlpack.read(capsule)
        return DeviceArray(address, shape, name, int(index), owner=(capsule, given)), None


class _CuPy(_Other):
    """Arrays of CuPy, which was imported by whoever made them."""

    def __init__(self, cupy: Any) -> None:
        super().__init__(prefers_interface=True)
        self._current_stream = cupy.cuda.get_current_stream

    def fitting(self, given: Any, place: Place) -> tuple[int, Origin] | None:
        data = given.data
        if (
            given.dtype == numpy_dtype(place.dtype)
            and given.shape == place.shape
            and given.flags.c_contiguous
            and data.device_id == place.device
        ):
            return data.ptr, self._current_stream(place.device).ptr
        return None


def _from_interface(interface: Any, dtype: str | None, given: Any) -> tuple[DeviceArray, Origin]:
    if dtype is None or interface.get("mask") is not None:
        raise ArgumentError(f"an array of type {interface['typestr']}, or with a mask, is not supported")
    shape, strides, address = tuple(interface["shape"]), interface.get("strides"), int(interface["data"][0])
    if strides is not None:
        size = numpy.dtype(interface["typestr"]).itemsize
        dlpack.require_row_major(shape, tuple(stride // size for stride in strides))
    stream = interface.get("stream")
    origin = UNKNOWN if stream is None else stream_handle(stream)
    return DeviceArray(address, shape, dtype, _device_of(address, given), owner=given), origin


@lru_cache(maxsize=64)
def _dtype_of(typestr: str) -> str | None:
    try:
        return dtype_name(numpy.dtype(typestr))
    except (KeyError, TypeError):
        return None


def _device_of(address: int, given: Any) -> int:
    stated = getattr(getattr(given, "device", None), "id", None)
    if stated is not None or not address:
        return int(stated or 0)
    attribute = driver().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(call("cuPointerGetAttribute", attribute, address))
