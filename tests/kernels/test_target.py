"""What is known of devices without one, and of the one that is there."""

import pytest
from gpu import device_target, needs_gpu

from jitinfer.errors import KernelError
from jitinfer.kernels import Target
from jitinfer.runtime import Device


def device(capability, sm_count=100):
    return Device(0, "some device", capability, sm_count, 101376, 2**20, 2**30, 13000)


def test_the_table():
    assert [Target.named(each).compute_capability for each in (80, 89, 90, 100)] == [80, 89, 90, 100]
    assert not Target.named(89).has_tma
    assert Target.named(90).has_tma
    with pytest.raises(KernelError, match="sm_35"):
        Target.named(35)


def test_a_device_that_is_not_in_the_table_has_the_ceilings_of_the_one_before():
    target = Target.of(device(86, 54))
    assert (target.compute_capability, target.sm_count, target.shared_memory) == (86, 54, 101376)
    assert target.flops == Target.named(80).flops / 2
    with pytest.raises(KernelError, match="sm_80 or later"):
        Target.of(device(75))


@needs_gpu
def test_the_device_that_is_there():
    found = Device.of(0)
    target = device_target()
    assert target.sm_count == found.sm_count
    assert target.shared_memory == found.shared_memory
