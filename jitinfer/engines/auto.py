"""The engine of those who name none: CUDA where it works, Paddle's otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jitinfer.engines.cuda import CudaEngine
from jitinfer.engines.paddle import PaddleEngine
from jitinfer.errors import EngineError, VerificationError

if TYPE_CHECKING:
    from jitinfer.engines.protocol import Executable, Request

logger = logging.getLogger("jitinfer.engines")


class AutoEngine:
    """CUDA, where there is a device. What it cannot run, or runs wrong whatever is tried, is Paddle's."""

    name = "auto"

    def __init__(self) -> None:
        self._cuda = CudaEngine()
        self.search = self._cuda.search

    def missing(self) -> str:
        return self._cuda.missing()

    def compile(self, request: Request) -> Executable:
        """As `Engine.compile`."""
        try:
            return self._cuda.compile(request)
        except (EngineError, VerificationError) as error:
            logger.warning("%s: not on the device, but by Paddle Inference: %s", request.name, error)
            request.notes.append(f"not on the device: {error}")
            return PaddleEngine().compile(request)
