"""Arrays of ours as DLPack's capsules, and others' capsules read."""

import ctypes
import gc
import sys
import weakref

import numpy
import pytest

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import DTYPES, numpy_dtype
from jitinfer.runtime import dlpack
from jitinfer.runtime.arrays import DeviceArray


class Owner:
    pass


class Managed(ctypes.Structure):
    _fields_ = (("tensor", dlpack._Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


set_name = ctypes.pythonapi.PyCapsule_SetName
set_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
get_name = ctypes.pythonapi.PyCapsule_GetName
get_name.argtypes, get_name.restype = (ctypes.py_object,), ctypes.c_char_p
USED = b"used_dltensor"


def consumed(capsule):
    """What a consumer does; it ends with the deleter."""
    assert get_name(capsule) == b"dltensor"
    managed = Managed.from_address(ctypes.addressof(dlpack._tensor(capsule)))
    set_name(capsule, USED)
    return managed, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 5), (0, 4)])
def test_what_is_exported_reads_back(dtype, shape):
    array = DeviceArray(2**40 + 256, shape, dtype, 3)
    assert array.__dlpack_device__() == (2, 3)
    capsule = array.__dlpack__(stream=5, max_version=(1, 1), dl_device=(2, 3), copy=False)
    address, found, name = dlpack.read(capsule)
    assert (found, name) == (shape, dtype)
    assert address == array.address or 0 in shape
    tensor = dlpack._tensor(capsule)
    assert (tensor.device_type, tensor.device_id, tensor.lanes) == (2, 3, 1)
    assert tensor.bits == 8 * numpy_dtype(dtype).itemsize


@pytest.mark.parametrize("consume", [True, False])
def test_the_owner_lives_until_the_consumer_is_done(consume):
    owner = Owner()
    alive = weakref.ref(owner)
    array = DeviceArray(2**40, (4,), "bfloat16", 0, owner)
    capsule = array.__dlpack__()
    del array, owner
    gc.collect()
    assert alive()
    if consume:
        managed, deleter = consumed(capsule)
        del capsule
        gc.collect()
        assert alive()
        deleter(ctypes.addressof(managed))
    else:
        del capsule
    gc.collect()
    assert alive() is None


def test_an_exception_on_its_way_passes_a_capsule_that_is_forgotten():
    array = DeviceArray(2**40, (4,), "float32")
    with pytest.raises(ZeroDivisionError):
        print(array.__dlpack__(), 1 / 0)
    assert sys.getrefcount(array) == 2


def test_no_copy_and_no_other_device():
    array = DeviceArray(2**40, (4,), "float32")
    for wanted in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            array.__dlpack__(**wanted)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numpy.zeros((4, 6), "float32").T, "not contiguous"),
        (numpy.zeros((4, 6), "float32")[:, ::2], "not contiguous"),
        (numpy.zeros(3, "uint32"), "is not supported"),
    ],
)
def test_what_is_refused(array, message):
    with pytest.raises(ArgumentError, match=message):
        dlpack.read(array.__dlpack__())


def test_reading_others():
    array = numpy.arange(24, dtype="float16").reshape(2, 3, 4)
    assert dlpack.read(array[1:].__dlpack__()) == (array.ctypes.data + 24, (1, 3, 4), "float16")
    dlpack.read(numpy.zeros((4, 0, 6), "float32").T.__dlpack__())
