"""What the CUDA engine needs of a machine; found out without what may be missing."""

from __future__ import annotations

import importlib.util

from jitinfer.errors import KernelError
from jitinfer.kernels.triton.assembler import assembler
from jitinfer.runtime import device_problem

_MODULES = {"triton": "triton", "cuda.bindings": "cuda-bindings", "nvmath": "nvmath-python"}
"""And the packages that have them."""


def missing() -> str:
    """Why the engine cannot work here, and what would mend that; "" if it can."""
    for module, package in _MODULES.items():
        if not _installed(module):
            return f'{package} is not installed; pip install "jitinfer[cuda]"'
    try:
        assembler()
    except KernelError as error:
        return str(error)
    return device_problem() or ""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
