"""The CUDA driver's calls, with their error codes as DeviceError."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from jitinfer.errors import DeviceError, DeviceLostError, DeviceMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable

_FATAL = frozenset(
    {
        "ILLEGAL_ADDRESS",
        "MISALIGNED_ADDRESS",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "ILLEGAL_INSTRUCTION",
        "HARDWARE_STACK_ERROR",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "ASSERT",
        "TENSOR_MEMORY_LEAK",
        "ECC_UNCORRECTABLE",
        "CONTAINED",
        "EXTERNAL_DEVICE",
    }
)
"""Errors after which, by the driver's documentation, the process must be ended before CUDA can be used again."""

_INSTALL = 'pip install "jitinfer[cuda]"'


@cache
def driver() -> Any:
    """The module `cuda.bindings.driver`, initialised. Raises DeviceError where there is no driver or no device."""
    try:
        import cuda.bindings.driver as module
    except ImportError as error:
        raise DeviceError(f"the package cuda-bindings is missing ({error}): {_INSTALL}") from None
    try:
        (code,) = module.cuInit(0)
    except (RuntimeError, OSError) as error:  # raised where libcuda.so.1 cannot be opened
        raise DeviceError(f"there is no CUDA driver on this machine: {error}") from None
    if code:
        raise DeviceError(f"the CUDA driver cannot be used: {_describe(module, code)}")
    return module


# CUDA does not survive a fork, and says so itself when a child asks it to initialise again.
os.register_at_fork(after_in_child=driver.cache_clear)


def call(name: str, *arguments: Any, step: str = "") -> Any:
    """`name` of the driver's functions; its result, a tuple of several, or None.

    Raises DeviceError with the driver's words, and those of `step`.
    """
    code, *results = getattr(driver(), name)(*arguments)
    if code:  # codes are integers, and 0 is success
        raise _failure(name, step, code)
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def bound(name: str, step: str = "") -> Callable[..., Any]:
    """`name` of the driver's functions, of one result or none, looked up once: for what happens at each call.

    It raises DeviceError as `call` does.
    """
    function = getattr(driver(), name)

    def invoke(*arguments: Any) -> Any:
        found = function(*arguments)
        if found[0]:
            raise _failure(name, step, found[0])
        return found[1] if len(found) > 1 else None

    return invoke


def _failure(name: str, step: str, code: Any) -> DeviceError:
    message = f"{step or name}: {_describe(driver(), code)}" + (f" in {name}" if step else "")
    error = code.name.removeprefix("CUDA_ERROR_")
    if error in _FATAL:
        return DeviceLostError(f"{message}; CUDA serves this process no more")
    return DeviceMemoryError(message) if error == "OUT_OF_MEMORY" else DeviceError(message)


def _describe(module: Any, code: Any) -> str:
    _, text = module.cuGetErrorString(code)
    words = text.decode() if isinstance(text, bytes) else str(text)
    return f"{words} ({code.name})"
