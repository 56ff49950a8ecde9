"""A plan and device pointers -> results. Nothing of CUDA is imported before a device is used."""

from __future__ import annotations

from jitinfer.runtime.device import Device, device_count, device_problem
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.plan import (
    Buffer,
    Copy,
    Cost,
    Fill,
    Gemm,
    Kernel,
    Launch,
    Matrix,
    Plan,
    Pointer,
    Region,
    Scalar,
    Slot,
    TensorMap,
    Tile,
)
from jitinfer.runtime.plan_file import from_parts, load, save, to_parts
from jitinfer.runtime.soundness import check
from jitinfer.runtime.weights import Weights

__all__ = [
    "Buffer",
    "Copy",
    "Cost",
    "Device",
    "Executor",
    "Fill",
    "Gemm",
    "Kernel",
    "Launch",
    "Matrix",
    "Plan",
    "Pointer",
    "Region",
    "Scalar",
    "Slot",
    "TensorMap",
    "Tile",
    "Weights",
    "check",
    "device_count",
    "device_problem",
    "from_parts",
    "load",
    "save",
    "to_parts",
]
