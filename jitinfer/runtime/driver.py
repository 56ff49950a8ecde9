"""The CUDA driver's calls, with their error codes as DeviceError."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from jitinfer.errors import DeviceError

_INSTALL = 'pip install "jitinfer[cuda]"'


@cache
def _initialised(process: int) -> Any:
    """Of one process: CUDA does not survive a fork, and says so itself when a child asks it to initialise again."""
    try:
        import cuda.bindings.driver as module
    except ImportError as error:
        raise DeviceError(f"the package cuda-bindings is missing ({error}): {_INSTALL}") from None
    try:
        (code,) = module.cuInit(0)
    except (RuntimeError, OSError) as error:  # raised where libcuda.so.1 cannot be opened
        raise DeviceError(f"there is no CUDA driver on this machine: {error}") from None
    if code != module.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"the CUDA driver cannot be used: {_describe(module, code)}")
    return module


def driver() -> Any:
    """The module `cuda.bindings.driver`, initialised. Raises DeviceError where there is no driver or no device."""
    return _initialised(os.getpid())


def call(name: str, *arguments: Any, step: str = "") -> Any:
    """`name` of the driver's functions; its result, a tuple of several, or None.

    Raises DeviceError with the driver's words, and those of `step`.
    """
    module = driver()
    code, *results = getattr(module, name)(*arguments)
    if code != module.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"{step or name}: {_describe(module, code)}" + (f" in {name}" if step else ""))
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def _describe(module: Any, code: Any) -> str:
    _, text = module.cuGetErrorString(code)
    words = text.decode() if isinstance(text, bytes) else str(text)
    return f"{words} ({code.name})"
