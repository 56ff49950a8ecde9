"""The CUDA engine: passes, lowering, and a plan that is replayed as one CUDA graph. Paddle may be the CPU build."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from jitinfer.engines.cuda_search import CudaRecipe, CudaSearch, arrangement
from jitinfer.engines.kernel_check import on_device
from jitinfer.engines.stages import Stages
from jitinfer.engines.tensors import array_of, tensor_of
from jitinfer.errors import EngineError, JitinferError
from jitinfer.runtime import Device, device_problem, model_file
from jitinfer.runtime.model import Session, Shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.engines.stages import History
    from jitinfer.runtime.model import Model

logger = logging.getLogger("jitinfer.engines")

Shapes = tuple[tuple[int, ...], ...]


class CudaExecutable:
    """One session for each combination of the inputs' shapes, made when it is first met; they share their weights."""

    def __init__(self, request: Request, recipe: CudaRecipe) -> None:
        self._request = request
        self._recipe = recipe
        self._device = Device.of(0)
        self._stages = Stages(request, arrangement(request.options), recipe.dropped)
        self._weights = [array_of(tensor) for tensor in self._stages.weights(request.parameters)]
        self._shared = Shared(self._device)
        self._sessions: dict[Shapes, Session] = {}
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        steps = ", ".join(str(len(session.model.plan.steps)) for session in self._sessions.values())
        return f"CUDA, {self._recipe.arithmetic}, {self._device.name}, {steps or 'no'} steps"

    @property
    def history(self) -> History:
        return self._stages.history

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        try:
            session = self.session_of(tensors)
            return [tensor_of(array) for array in session.run([array_of(tensor) for tensor in tensors])]
        except EngineError:
            raise
        except JitinferError as error:
            raise EngineError(f"{self._request.name}: {error}") from error

    def session_of(self, tensors: Sequence[Any]) -> Session:
        """What runs for tensors of these shapes. Raises EngineError."""
        return self._session(tuple(tuple(tensor.shape) for tensor in tensors))

    def save(self, path: str) -> None:
        """Raises EngineError where several combinations of shapes were met, or JitinferError as `model_file.save`."""
        with self._lock:
            if len(self._sessions) != 1:
                raise EngineError(
                    f"{self._request.name} has {len(self._sessions)} programs for as many shapes, not one"
                )
            (session,) = self._sessions.values()
            model_file.save(session.model, path, self._weights)

    def refresh(self, parameters: Sequence[Any]) -> None:
        with self._lock:
            self._weights = [array_of(tensor) for tensor in self._stages.weights(parameters)]
            self._shared.refresh(self._weights)

    def _session(self, shapes: Shapes) -> Session:
        with self._lock:
            if shapes not in self._sessions:
                started = time.perf_counter()
                model = self._model(shapes)
                lowered = time.perf_counter()
                self._sessions[shapes] = Session(model, self._weights, self._device, shared=self._shared)
                logger.info(
                    "%s: a plan of %d steps in %.2f s, loaded in %.2f s",
                    self._request.name,
                    len(model.plan.steps),
                    lowered - started,
                    time.perf_counter() - lowered,
                )
            return self._sessions[shapes]

    def _model(self, shapes: Shapes) -> Model:
        from jitinfer.lowering.models import model_of  # Triton takes its time to import

        request, graph = self._request, self._stages.graph(shapes)
        return model_of(graph, self._device, request.cache, request.options.tune, self._recipe.excluded)


class CudaEngine:
    """Refuses what has no kernel: random operators, control flow, and all others that only Paddle knows."""

    name = "cuda"

    def missing(self) -> str:
        for module, package in (("triton", "triton"), ("cuda.bindings", "cuda-bindings"), ("nvmath", "nvmath-python")):
            if not _installed(module):
                return f'{package} is not installed; pip install "jitinfer[cuda]"'
        return device_problem() or ""

    def search(self, request: Request) -> CudaSearch[CudaExecutable]:
        device = Device.of(0)
        return CudaSearch(request, device, CudaExecutable, on_device(device))

    def compile(self, request: Request) -> CudaExecutable:
        search = self.search(request)
        if request.expected is None:
            return search.load(search.start)
        return search.find()[0]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
