"""Engines: what turns a static program into something that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.errors import EngineUnavailableError, user_location

if TYPE_CHECKING:
    from jitinfer.engines.protocol import Engine
    from jitinfer.options import Options


def engine_for(options: Options) -> Engine:
    """The engine that `options.engine` names. Raises EngineUnavailableError, naming what is missing."""
    if options.engine == "cuda":
        from jitinfer.engines.cuda import CudaEngine

        engine = CudaEngine()
        if engine.missing():
            raise EngineUnavailableError(f"engine='cuda' at {user_location()} cannot run: {engine.missing()}")
        return engine
    if options.engine == "reference":
        from jitinfer.engines.reference import ReferenceEngine

        return ReferenceEngine()
    from jitinfer.engines.paddle import PaddleEngine

    return PaddleEngine()
