"""Samples that the device repeats by itself are those that the host makes."""

import numpy
import pytest

from jitinfer.graph.types import TensorType
from jitinfer.runtime import Device, samples
from jitinfer.runtime.driver import call
from jitinfer.runtime.samples import sample, sampled

KINDS = {
    "small": TensorType((3, 5), "float32"),
    "large": TensorType((7, 50), "bfloat16"),
    "again": TensorType((7, 50), "bfloat16"),
    "whole": TensorType((4, 25), "int64"),
    "flags": TensorType((777,), "bool"),
    "none": TensorType((0, 4), "float32"),
    "scalar": TensorType((), "float16"),
}


def on_host(held, kind):
    array = numpy.empty(kind.shape, sample(kind).dtype)
    if array.nbytes:
        with Device.of(0).current():
            call("cuMemcpyDtoH", array.ctypes.data, held.address, array.nbytes)
    return array


@pytest.mark.parametrize("spread", [1.0, 0.25])
def test_on_the_device_as_on_the_host(cuda, monkeypatch, spread):
    monkeypatch.setattr(samples, "_PATTERN", 100)
    weights = sampled(KINDS, Device.of(0), lambda kind: spread)
    for name, kind in KINDS.items():
        assert on_host(weights[name], kind).tobytes() == sample(kind, spread).tobytes()
    weights.close()
    assert not cuda.held


def test_the_spread_is_the_standard_deviation():
    kind = TensorType((200, 300), "float32")
    assert sample(kind, 0.1).std() == pytest.approx(0.1, rel=0.02)
    assert (sample(TensorType((99,), "int32"), 0.1) == sample(TensorType((99,), "int32"))).all()
