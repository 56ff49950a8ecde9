"""jitinfer: PaddlePaddle models fast at inference, and never wrong.

import jitinfer

pipe.transformer = jitinfer.inference(pipe.transformer)      # a Layer, a bound method, a function: all the same
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from jitinfer.errors import (
    ArgumentError,
    CacheError,
    EngineError,
    EngineUnavailableError,
    JitinferError,
    OptionError,
    TraceError,
    VerificationError,
)
from jitinfer.version import __version__

if logging.getLogger("jitinfer").level == logging.NOTSET:  # importing Paddle sets the root logger to INFO
    logging.getLogger("jitinfer").setLevel(logging.WARNING)

if TYPE_CHECKING:
    from jitinfer import graph, passes, testing
    from jitinfer.bisection import bisect
    from jitinfer.exporting import export
    from jitinfer.inference import CompiledFunction, inference, is_inference_mode
    from jitinfer.loading import load
    from jitinfer.tools.benchmarking import benchmark, compare_speed
    from jitinfer.tools.profiling import profile

_LAZY = {
    "inference": "jitinfer.inference",
    "is_inference_mode": "jitinfer.inference",
    "CompiledFunction": "jitinfer.inference",
    "bisect": "jitinfer.bisection",
    "export": "jitinfer.exporting",
    "load": "jitinfer.loading",
    "benchmark": "jitinfer.tools.benchmarking",
    "compare_speed": "jitinfer.tools.benchmarking",
    "profile": "jitinfer.tools.profiling",
}
_MODULES = frozenset({"graph", "passes", "testing"})
"""Modules that `import jitinfer` alone makes reachable; none of them needs Paddle."""

__all__ = [
    "ArgumentError",
    "CacheError",
    "CompiledFunction",
    "EngineError",
    "EngineUnavailableError",
    "JitinferError",
    "OptionError",
    "TraceError",
    "VerificationError",
    "__version__",
    "benchmark",
    "bisect",
    "compare_speed",
    "export",
    "graph",
    "inference",
    "is_inference_mode",
    "load",
    "passes",
    "profile",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Paddle is imported by the first use of what needs it: the rest works where it is not installed."""
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"jitinfer.{name}")
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'jitinfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
