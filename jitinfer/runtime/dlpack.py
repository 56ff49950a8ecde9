"""DLPack's capsules: reading those of others, and making our own."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import contiguous_strides, itemsize

if TYPE_CHECKING:
    from jitinfer.runtime.arrays import DeviceArray

CUDA = 2
"""kDLCUDA"""

_DTYPES = {
    "bool": (6, 8),
    **{f"int{bits}": (0, bits) for bits in (8, 16, 32, 64)},
    "uint8": (1, 8),
    **{f"float{bits}": (2, bits) for bits in (16, 32, 64)},
    "bfloat16": (4, 16),
    **{f"complex{bits}": (5, bits) for bits in (64, 128)},
    "float8_e4m3fn": (10, 8),
    "float8_e5m2": (12, 8),
}
_NAMES = {pair: name for name, pair in _DTYPES.items()}


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


def _tensor(capsule: object) -> _Tensor:
    address = _capsule_pointer(capsule, b"dltensor")
    assert address is not None
    return _Tensor.from_address(address)


def read(capsule: object) -> tuple[int, tuple[int, ...], str]:
    """Address, shape and dtype of row-major elements. The capsule is not consumed: it has to be kept as long as they.

    Raises ArgumentError for what is not row-major and for dtypes that graphs do not have.
    """
    tensor = _tensor(capsule)
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        require_row_major(shape, tuple(tensor.strides[: tensor.ndim]))
    dtype = _NAMES.get((tensor.code, tensor.bits))
    if dtype is None or tensor.lanes != 1:
        kind = f"type code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes"
        raise ArgumentError(f"a DLPack tensor of {kind} is not supported")
    return (tensor.data or 0) + tensor.byte_offset, shape, dtype


class _AsOnHost:
    """Memory of a device, described to NumPy, which does not look at it."""

    def __init__(self, array: DeviceArray) -> None:
        size = itemsize(array.dtype)
        self.array = array
        self.__array_interface__ = {
            "shape": array.shape,
            "typestr": f"<u{size}" if size <= 8 else f"<c{size}",
            "data": (array.address, False),
            "version": 3,
        }


def capsule_of(array: DeviceArray) -> Any:
    """A capsule that keeps `array` and, once it is consumed, as long as its consumer wants.

    NumPy makes it, of an array that says to lie on the host, and device and dtype are set afterwards. For its
    destructor must be native code: it runs in threads that do not hold Python's lock, and while exceptions are on
    their way, which a callback of ctypes would lose.
    """
    capsule = numpy.asarray(_AsOnHost(array)).__dlpack__()
    tensor = _tensor(capsule)
    tensor.device_type, tensor.device_id = CUDA, array.device
    tensor.code, tensor.bits = _DTYPES[array.dtype]
    return capsule


def require_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """strides in elements. Raises ArgumentError."""
    wanted = contiguous_strides(shape)
    fits = all(dim == 1 or stride == want for dim, stride, want in zip(shape, strides, wanted, strict=True))
    if not fits and 0 not in shape:
        raise ArgumentError(f"an array of {list(shape)} with strides {list(strides)} is not contiguous; copy it first")
