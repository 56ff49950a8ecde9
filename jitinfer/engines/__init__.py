"""Engines: what turns a static program into something that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.engines import cuda_needs
from jitinfer.errors import EngineUnavailableError, user_location

if TYPE_CHECKING:
    from jitinfer.engines.protocol import Engine
    from jitinfer.options import Options


def engine_for(options: Options) -> Engine:
    """The engine that `options.engine` names. Raises EngineUnavailableError, naming what is missing."""
    if options.engine == "reference":
        from jitinfer.engines.reference import ReferenceEngine

        return ReferenceEngine()
    lacking = "" if options.engine == "paddle" else cuda_needs.missing()
    if options.engine == "cuda" and lacking:
        raise EngineUnavailableError(f"engine='cuda' at {user_location()} cannot run: {lacking}")
    if options.engine == "paddle" or lacking:
        from jitinfer.engines.paddle import PaddleEngine

        return PaddleEngine()
    # Triton takes its time to import, and need not be installed elsewhere.
    from jitinfer.engines.auto import AutoEngine
    from jitinfer.engines.cuda import CudaEngine

    return CudaEngine() if options.engine == "cuda" else AutoEngine()
