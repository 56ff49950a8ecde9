"""What a kernel is compiled for: known from a table where no device is present, or read from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.errors import KernelError

if TYPE_CHECKING:
    from jitinfer.runtime.device import Device


@dataclass(frozen=True)
class Target:
    """A kind of device. compute_capability: such as 90; shared_memory and l2_bytes in bytes, the former per block.

    bandwidth (bytes per second) and flops (dense bfloat16 per second) are ceilings to rank candidates by, from data
    sheets and measurements of products of that architecture: leads, never promises.
    """

    compute_capability: int
    sm_count: int
    shared_memory: int
    l2_bytes: int
    bandwidth: float
    flops: float

    @staticmethod
    def named(compute_capability: int) -> Target:
        """A typical device of this compute capability. Raises KernelError for one that is not in the table."""
        try:
            return _TABLE[compute_capability]
        except KeyError:
            known = ", ".join(f"sm_{each}" for each in _TABLE)
            raise KernelError(f"nothing is known of sm_{compute_capability}; known are {known}") from None

    @staticmethod
    def of(device: Device) -> Target:
        """The device as it is; its ceilings are those of the nearest older entry of the table, by the number of SMs."""
        older = [each for each in _TABLE.values() if each.compute_capability <= device.compute_capability]
        if not older:
            raise KernelError(f"{device.name} is sm_{device.compute_capability}; kernels need sm_80 or later")
        kin = older[-1]
        scale = device.sm_count / kin.sm_count
        return Target(
            device.compute_capability,
            device.sm_count,
            device.shared_memory,
            device.l2_bytes,
            kin.bandwidth,
            kin.flops * scale,
        )

    @property
    def has_tma(self) -> bool:
        """Tensor maps, and the bulk copies that use them."""
        return self.compute_capability >= 90

    @property
    def has_programmatic_launch(self) -> bool:
        return self.compute_capability >= 90


_KIB, _MIB = 2**10, 2**20
_TABLE = {
    each.compute_capability: each
    for each in (
        Target(80, 108, 163 * _KIB, 40 * _MIB, 2.0e12, 312e12),  # A100
        Target(89, 142, 99 * _KIB, 96 * _MIB, 0.86e12, 362e12),  # L40S
        Target(90, 132, 227 * _KIB, 50 * _MIB, 4.3e12, 790e12),  # H100 and H200; bandwidth of the latter
        Target(100, 148, 227 * _KIB, 126 * _MIB, 8.0e12, 2250e12),  # B200
    )
}
