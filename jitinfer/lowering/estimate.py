"""How long a node takes with its kernels, and how much of the device they keep busy meanwhile: a guess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.kernels.family import KernelLaunch
from jitinfer.runtime.plan import Gemm

if TYPE_CHECKING:
    from jitinfer.graph.node import Node
    from jitinfer.kernels.family import CandidateStep
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Choice
    from jitinfer.runtime.plan import Kernel

KERNEL_MICROSECONDS = 2.0
"""Of a kernel that has hardly anything to do."""

PRODUCT_TILE = 128
"""Rows and columns of the part of a product that one thread block of cuBLASLt computes, as a rule."""

MOST_BLOCKS = 32
MOST_THREADS = 2048
"""Resident on a multiprocessor at a time."""


@dataclass(frozen=True)
class Estimate:
    """microseconds: alone on the device; share: of the device, on average, from 0 to 1.

    Kernels do not slow down each other that run side by side while their shares add up to no more than 1.
    """

    microseconds: float
    share: float


def estimate(node: Node, choice: Choice, target: Target) -> Estimate:
    """The time as it was measured; else what the work takes of the device, on those multiprocessors that are busy.

    The share is that of the bandwidth or the arithmetic, or that of the multiprocessors with a thread block, whichever
    is larger: a last wave of blocks that leaves some without one counts for what it is.
    """
    ideal = 1e6 * max(flops(node) / target.flops, bytes_moved(node) / target.bandwidth)
    busy = _busy(choice, target)
    if math.isfinite(choice.microseconds):
        microseconds = max(choice.microseconds, ideal)
    else:
        microseconds = ideal / busy + KERNEL_MICROSECONDS * len(choice.candidate.steps)
    return Estimate(microseconds, max(busy, ideal / microseconds if microseconds else 0.0))


def _busy(choice: Choice, target: Target) -> float:
    """The multiprocessors with a thread block, on average over the waves of the largest of its kernels; 1 where there
    are no kernels with a grid."""
    kernels = iter(choice.kernels)
    waves = [
        _waves(step, next(kernels) if isinstance(step, KernelLaunch) else None, target)
        for step in choice.candidate.steps
    ]
    most = max(waves, default=0.0)
    return most / math.ceil(most) if most else 1.0


def _waves(step: CandidateStep, kernel: Kernel | None, target: Target) -> float:
    if kernel is not None and isinstance(step, KernelLaunch):
        fitting = min(MOST_BLOCKS, MOST_THREADS // (32 * kernel.num_warps))
        if kernel.shared_memory:
            fitting = min(fitting, target.shared_memory // kernel.shared_memory)
        blocks = math.prod(step.grid) * math.prod(kernel.cluster)
        return blocks / (target.sm_count * max(fitting, 1))
    if isinstance(step, Gemm):
        rows, columns = (math.ceil(dim / PRODUCT_TILE) for dim in (step.d.rows, step.d.columns))
        return rows * columns * step.batch / target.sm_count
    return 0.0
