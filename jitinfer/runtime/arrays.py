"""Arrays as callers have them: NumPy's, or anyone's on a device, through DLPack or `__cuda_array_interface__`."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import contiguous_strides, dtype_name, itemsize

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
_DLPACK_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


@dataclass(frozen=True)
class DeviceArray:
    """Row-major elements on a device. `owner` keeps the memory alive as long as this object lives."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int = 0
    owner: object = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * itemsize(self.dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Raises AttributeError for a dtype that the protocol cannot say, such as bfloat16."""
        if self.dtype.startswith(("bfloat16", "float8")):
            raise AttributeError(f"__cuda_array_interface__ has no {self.dtype}")
        return {
            "shape": self.shape,
            "typestr": numpy.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


def device_array(given: object, stream: int) -> DeviceArray | None:
    """What lies on a device, as it is after the work queued by its owner, in `stream`'s order; None for a host array.

    Raises ArgumentError for what is not row-major and for dtypes that graphs do not have.
    """
    if isinstance(given, DeviceArray):
        return given
    locate = getattr(given, "__dlpack_device__", None)
    if locate is not None:
        kind, index = locate()
        return _from_dlpack(given, int(index), stream) if int(kind) in _DLPACK_CUDA else None
    interface = getattr(given, "__cuda_array_interface__", None)
    return None if interface is None else _from_interface(interface, given)


def unordered(given: object) -> bool:
    """Whether it lies on a device without a word on the stream in which it is being made."""
    return isinstance(given, DeviceArray) or (
        not hasattr(given, "__dlpack__") and hasattr(given, "__cuda_array_interface__")
    )


def host_array(given: object) -> numpy.ndarray[Any, Any]:
    """Raises ArgumentError for what is no array of numbers."""
    array = numpy.asarray(given)
    try:
        dtype_name(array.dtype)
    except KeyError:
        raise ArgumentError(f"{type(given).__name__} is no array of numbers, but of {array.dtype}") from None
    return array


class _Tensor(ctypes.Structure):
    """DLTensor of DLPack's header."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def _from_dlpack(given: Any, index: int, stream: int) -> DeviceArray:
    # The capsule is not consumed: it keeps the memory, and gives it back when it is forgotten with the result.
    # The protocol has 1 for the legacy default stream, whose handle is 0.
    capsule = given.__dlpack__(stream=stream or 1)
    tensor = ctypes.cast(_capsule_pointer(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides:
        _require_row_major(shape, tuple(tensor.strides[axis] for axis in range(tensor.ndim)))
    stem = _DLPACK_CODES.get(tensor.code)
    if stem is None or tensor.lanes != 1:
        raise ArgumentError(f"a DLPack tensor of type code {tensor.code}, {tensor.lanes} lanes, is not supported")
    dtype = "bool" if stem == "bool" else f"{stem}{tensor.bits}"
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, index, owner=(capsule, given))


def _from_interface(interface: dict[str, Any], given: object) -> DeviceArray:
    dtype = numpy.dtype(interface["typestr"])
    shape: tuple[int, ...] = tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is not None:
        _require_row_major(shape, tuple(stride // dtype.itemsize for stride in strides))
    index = getattr(getattr(given, "device", None), "id", 0)
    return DeviceArray(int(interface["data"][0]), shape, dtype_name(dtype), int(index), owner=given)


def _require_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    wanted = contiguous_strides(shape)
    fits = all(dim == 1 or stride == want for dim, stride, want in zip(shape, strides, wanted, strict=True))
    if not fits and 0 not in shape:
        raise ArgumentError(f"an array of {list(shape)} with strides {list(strides)} is not contiguous; copy it first")
