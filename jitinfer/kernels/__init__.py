"""An op and its shapes -> candidate kernels. `jitinfer.kernels.families()` lists who offers what."""

from __future__ import annotations

from jitinfer.kernels.family import Candidate, Config, Family, KernelLaunch, families, families_for, register
from jitinfer.kernels.target import Target

__all__ = ["Candidate", "Config", "Family", "KernelLaunch", "Target", "families", "families_for", "register"]
