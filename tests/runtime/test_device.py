"""Devices, and their absence."""

import subprocess
import sys

import pytest
from gpu import PROBLEM, needs_gpu

from jitinfer.errors import DeviceError, JitinferError
from jitinfer.runtime import Device, device_count, device_problem


def test_nothing_of_cuda_or_triton_is_imported_before_it_is_used():
    code = (
        "import sys, jitinfer.runtime, jitinfer.kernels, jitinfer.loading\n"
        "assert not {'cuda', 'nvmath', 'triton', 'torch', 'paddle'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(PROBLEM is None, reason="there is a CUDA device")
def test_without_a_device_the_error_says_what_is_missing():
    assert device_problem() == PROBLEM
    with pytest.raises(DeviceError) as caught:
        Device.of(0)
    assert isinstance(caught.value, JitinferError)
    assert any(word in str(caught.value) for word in ("driver", "device", "cuda-bindings"))


@needs_gpu
def test_the_device_says_what_it_is():
    device = Device.of(0)
    assert device.compute_capability >= 70
    assert device.sm_count > 0
    assert device.shared_memory >= 48 * 1024
    assert device.memory_bytes > device.l2_bytes > 0
    assert device.name


@needs_gpu
def test_there_is_no_device_beyond_the_count():
    for index in (-1, device_count()):
        with pytest.raises(DeviceError, match="there is no CUDA device"):
            Device.of(index)
