"""The CUDA engine: passes, lowering, and a plan that is replayed as one CUDA graph. Paddle may be the CPU build.

What has no kernel goes to Paddle, with its neighbours: such a program runs in pieces (`engines.pieces`).
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jitinfer.engines.cuda_needs import missing
from jitinfer.engines.cuda_search import CudaRecipe, CudaSearch, arrangement
from jitinfer.engines.faults import Faults
from jitinfer.engines.kernel_check import on_device
from jitinfer.engines.lost_device import Suspect, explained
from jitinfer.engines.making import maker_for
from jitinfer.engines.pieces import Composition, divide
from jitinfer.engines.stages import Stages
from jitinfer.engines.tensors import array_of, gpu_of, paddle_device, run_where_they_lie, tensor_of
from jitinfer.errors import DeviceError, DeviceLostError, EngineError, JitinferError, UnsupportedOpError
from jitinfer.lowering.fault import ModelFaultError
from jitinfer.runtime import Device, model_file
from jitinfer.runtime.loss import require_device
from jitinfer.runtime.model import Session, Shared
from jitinfer.runtime.watched import WatchedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from jitinfer.engines.protocol import Request
    from jitinfer.engines.stages import History
    from jitinfer.graph import Graph
    from jitinfer.runtime.executor import Run
    from jitinfer.runtime.model import Model
    from jitinfer.runtime.watched import Explanation

logger = logging.getLogger("jitinfer.engines")

Shapes = tuple[tuple[int, ...], ...]


class Begun:
    """A session's run, its results as tensors, its errors as the engine's."""

    def __init__(self, run: Run, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._run = run
        self._errors = errors

    def finish(self) -> list[Any]:
        with self._errors():
            results = self._run.finish()
        return [tensor_of(array) for array in results]

    def drop(self) -> None:
        self._run.drop()


class CudaExecutable:
    """One session for each combination of the inputs' shapes, or several in pieces, made when it is first met.

    Those that read the same weights share them.
    """

    def __init__(self, request: Request, recipe: CudaRecipe) -> None:
        self._request = request
        self._recipe = recipe
        self._device = _device(request)
        self._stages = Stages(request, arrangement(request.options), recipe.dropped)
        self._weights = [array_of(tensor) for tensor in self._stages.weights(request.parameters)]
        """The present ones: always the same list."""
        self._shared: dict[tuple[int, ...], Shared] = {}
        """By the weights that a session is given."""
        self._sessions: dict[Shapes, Session | Composition] = {}
        self._readers: dict[tuple[int, ...], WatchedSession] = {}
        """One session of those that share the same weights."""
        self._mixed = False
        """Whether a refresh has failed, which leaves old and new weights side by side."""
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        sessions = list(self._sessions.values())
        steps = ", ".join(map(_steps, sessions)) or "no"
        where = f"CUDA, {self._recipe.arithmetic}, {self._device.name}, {steps} steps"
        return where + (", some pieces by Paddle" if any(isinstance(each, Composition) for each in sessions) else "")

    @property
    def history(self) -> History:
        return self._stages.history

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        with self._as_engine_errors():
            session = self._session(_shapes(tensors))
            if gpu_of(tensors) is not None and isinstance(session, Session):
                return run_where_they_lie(session, tensors)
            results = session.run([array_of(tensor) for tensor in tensors])
        return [tensor_of(array) for array in results]

    def begin(self, tensors: Sequence[Any]) -> Begun | None:
        session = self._sessions.get(_shapes(tensors))
        if not isinstance(session, Session) or self._mixed or gpu_of(tensors) is not None:
            return None
        with self._as_engine_errors():
            return Begun(session.begin([array_of(tensor) for tensor in tensors]), self._as_engine_errors)

    def prepare(self, tensors: Sequence[Any]) -> None:
        """Makes what runs for these tensors' shapes, without running it. Raises EngineError."""
        with self._as_engine_errors():
            self._session(_shapes(tensors))

    def session_of(self, tensors: Sequence[Any]) -> Session:
        """What runs for tensors of these shapes. Raises EngineError, also where that is more than one session."""
        with self._as_engine_errors():
            return self._whole(self._session(_shapes(tensors)))

    def save(self, path: str) -> None:
        """Raises EngineError where several combinations of shapes were met, or a part of the program is Paddle's, or
        JitinferError as `model_file.save`.
        """
        with self._lock:
            if len(self._sessions) != 1:
                raise EngineError(
                    f"{self._request.name} has {len(self._sessions)} programs for as many shapes, not one"
                )
            (session,) = self._sessions.values()
            model_file.save(self._whole(session).model, path, self._weights)

    def refresh(self, parameters: Sequence[Any]) -> None:
        """As `Executable.refresh`; where it fails, nothing runs until another one has succeeded."""
        with self._lock, self._as_engine_errors():
            self._mixed = True
            self._weights[:] = [array_of(tensor) for tensor in self._stages.weights(parameters)]
            for positions, shared in self._shared.items():
                self._refresh(positions, shared)
            for session in self._sessions.values():
                if isinstance(session, Composition):
                    session.refresh(self._weights)
            self._mixed = False

    def _refresh(self, positions: tuple[int, ...], shared: Shared) -> None:
        try:
            shared.refresh([self._weights[position] for position in positions])
        except DeviceLostError as error:
            reader = self._readers.get(positions)
            raise (error if reader is None else reader.explained(error)) from error

    def _whole(self, session: Session | Composition) -> Session:
        if isinstance(session, Composition):
            raise EngineError(f"{self._request.name} is no program of the device's alone: {session.division}")
        return session

    @contextmanager
    def _as_engine_errors(self) -> Iterator[None]:
        try:
            yield
        except EngineError:
            raise
        except JitinferError as error:
            raise EngineError(f"{self._request.name}: {error}") from error

    def _session(self, shapes: Shapes) -> Session | Composition:
        with self._lock:
            if self._mixed:
                raise EngineError(
                    f"{self._request.name}: some of its weights are new and some are not, since a refresh failed; "
                    f"refresh_weights() tries it again"
                )
            if shapes not in self._sessions:
                graph = self._stages.graph(shapes)
                try:
                    self._sessions[shapes] = self._loaded(graph, tuple(range(len(self._weights))))
                except UnsupportedOpError as error:
                    if self._request.options.fallback == "error":
                        raise
                    self._sessions[shapes] = self._composition(shapes, graph, error)
            return self._sessions[shapes]

    def _loaded(self, graph: Graph, parameters: tuple[int, ...]) -> Session:
        """A graph after its passes, ready to run; parameters: which of the program's are its weights."""
        request = self._request
        weights = [self._weights[position] for position in parameters]
        started = time.perf_counter()
        try:
            model = maker_for(request, self._device, self._recipe.excluded).model(graph)
            shared = self._shared.get(parameters) or Shared(self._device)
        except DeviceLostError as error:
            suspect = Suspect(graph, error.model, weights) if isinstance(error, ModelFaultError) else None
            raise explained(error, request, self._device, self._recipe.excluded, suspect) from error
        self._note_faults(graph)
        lowered = time.perf_counter()

        shared = self._shared.setdefault(parameters, shared)
        explanation = self._explanation(graph, parameters)
        session = WatchedSession(model, weights, self._device, explanation, shared=shared)
        self._readers.setdefault(parameters, session)
        logger.info(
            "%s: a plan of %d steps in %.2f s, loaded in %.2f s",
            request.name,
            len(model.plan.steps),
            lowered - started,
            time.perf_counter() - lowered,
        )
        return session

    def _explanation(self, graph: Graph, parameters: tuple[int, ...]) -> Explanation:
        """It does not keep this object, whose memory on the device must go with the last who uses it."""
        request, device, excluded, values = self._request, self._device, self._recipe.excluded, self._weights

        def explain(error: DeviceLostError, model: Model, inputs: Sequence[Any] | None) -> DeviceLostError:
            suspect = Suspect(graph, model, [values[position] for position in parameters], inputs)
            return explained(error, request, device, excluded, suspect)

        return explain

    def _note_faults(self, graph: Graph) -> None:
        """What is left out since it lost the device in another process, where it would have been offered."""
        if not self._recipe.excluded:
            return
        request = self._request
        left_out = maker_for(request, self._device, self._recipe.excluded).concerned(graph)
        for fault in Faults(request.cache, self._device).known():
            if fault.exclusion in left_out and str(fault) not in request.notes:
                request.notes.append(str(fault))
                logger.info("%s: %s", request.name, fault)

    def _composition(self, shapes: Shapes, graph: Graph, error: UnsupportedOpError) -> Composition:
        from jitinfer.kernels.target import Target
        from jitinfer.lowering.work import unsupported

        target = Target.of(self._device)
        lacking = unsupported(graph, target)
        if not lacking:
            raise error
        division = divide(self._stages, shapes, lacking, lambda part: unsupported(part, target))
        request = self._request
        if str(division) not in request.notes:
            request.notes.append(str(division))
            logger.warning("%s: %s (fallback='error' forbids that)", request.name, division)
        return Composition(division, self._weights, self._loaded, request.name, request.options)


class CudaEngine:
    """Refuses programs in which most of the work, with what is next to it, has no kernel."""

    name = "cuda"

    def missing(self) -> str:
        return missing()

    def search(self, request: Request) -> CudaSearch[CudaExecutable]:
        device = _device(request)
        return CudaSearch(request, device, _prepared, on_device(device))

    def compile(self, request: Request) -> CudaExecutable:
        search = self.search(request)
        if request.expected is None:
            return search.load(search.start)
        return search.find()[0]


def _device(request: Request) -> Device:
    """The one that the options name, or where the tensors lie, or that Paddle is set to.

    Raises EngineError, also where this process has lost its device.
    """
    given = request.options.device
    if given is None:
        given = gpu_of(request.inputs)
    try:
        require_device()
        return Device.of(paddle_device() if given is None else given)
    except DeviceError as error:
        raise EngineError(f"{request.name}: {error}") from error


def _prepared(request: Request, recipe: CudaRecipe) -> CudaExecutable:
    """Ready for the request's inputs: what has no kernel is found now."""
    executable = CudaExecutable(request, recipe)
    executable.prepare(request.inputs)
    return executable


def _shapes(tensors: Sequence[Any]) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _steps(session: Session | Composition) -> str:
    if isinstance(session, Session):
        return str(len(session.model.plan.steps))
    return " + ".join(_steps(runner) for runner in session.runners if isinstance(runner, Session))
