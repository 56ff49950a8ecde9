"""Every exception that jitinfer raises on purpose, in one tree.

Each message names what the user can do, and where it can, the user's own file and line.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent)


class JitinferError(Exception):
    """Base of all errors of this library."""


class OptionError(JitinferError, ValueError):
    """An option that does not exist, a value it cannot take, or one that this build of Paddle cannot honour."""


class ArgumentError(JitinferError, TypeError):
    """A call's argument that does not fit the signature, or that cannot be guarded."""


class TraceError(JitinferError):
    """The function cannot be turned into a static program."""


class GraphError(JitinferError):
    """A graph that does not fit together: an op's operands, a name, its text; the message names op and shapes."""


class PassError(JitinferError):
    """A pass that is not known, or that broke the graph it was given."""


class EngineError(JitinferError):
    """An engine cannot compile or run a program."""


class EngineUnavailableError(EngineError):
    """The requested engine cannot run on this machine; the message names what is missing."""


class KernelError(JitinferError):
    """A kernel that cannot be compiled, or arguments that it cannot take; the message names kernel and target."""


class UnsupportedOpError(KernelError):
    """An op that no kernel can compute in this form; the message names the op, its types and the model's line."""


class PlanError(JitinferError):
    """A plan that does not fit together, or a file that is not a whole, undamaged plan."""


class DeviceError(JitinferError):
    """No usable CUDA device, or the driver refused or failed a call; the message names the step of the plan."""


class DeviceMemoryError(DeviceError):
    """The device, or the driver for it, has not as much memory left as was asked for."""


class DeviceLostError(DeviceError):
    """A fault on the device after which CUDA serves this process no more: nothing but a new process helps."""


class VerificationError(JitinferError):
    """A compiled program's results differ from the dynamic function's."""


class CacheError(JitinferError):
    """The cache folder cannot be used; raised by the cache's tools, never by a compiled function."""


def user_location() -> str:
    """The innermost `file:line` on the call stack that is neither this library nor Paddle; "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGE) and "/paddle/" not in name and "functools" not in name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
