"""`jitinfer.bisect`: which pass, or which kernel, makes a compiled function wrong, as a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.engines import engine_for
from jitinfer.engines.blame import Bisection, Blame, Setup
from jitinfer.engines.candidates import SUSPECTS
from jitinfer.engines.configuration import Configuration
from jitinfer.engines.paddle import PaddleSearch, thread_count
from jitinfer.errors import DeviceLostError, EngineError
from jitinfer.progress import progress
from jitinfer.requests import request_of

if TYPE_CHECKING:
    from jitinfer.engines.graph_search import GraphSearch
    from jitinfer.engines.protocol import Request


@dataclass(frozen=True)
class BisectionReport:
    """What came of a bisection.

    `failure`: what is wrong with the engine's own set-up, "" if nothing; `blamed`: the passes and kernels to blame, in
    the order found; `right`: the set-up that is right, None if none is; `attempts`: set-ups tried. `lost`: the device
    was lost on the way, after which nothing more can be tried in this process.
    """

    name: str
    start: Setup
    failure: str
    blamed: tuple[Blame, ...]
    right: Setup | None
    attempts: int
    lost: bool = False

    def __str__(self) -> str:
        if not self.failure:
            return f"{self.name}: right with all passes ({self.start})"
        lines = [f"{self.name}: wrong with all passes ({self.start}): {self.failure}"]
        lines += [f"  {blame.name}: {blame.failure}" for blame in self.blamed]
        if self.lost:
            left_out = ", which leaves that kernel out" if self.blamed else ""
            return "\n".join([*lines, f"  the device is lost to this process: bisect in another one{left_out}"])
        ending = f"right without them: {self.right}" if self.right else "wrong without any pass, too"
        return "\n".join([*lines, f"  {ending}; {self.attempts} configurations tried"])


def bisect(function: Any, *args: Any, **kwargs: Any) -> BisectionReport:
    """Find the passes, and kernels, that make `function(*args, **kwargs)` wrong or make it crash.

    `function`: a Layer, a method, a function, compiled or not; it is left as it is. What is compiled for an engine with
    a graph (`engine="cuda"`, `engine="reference"`) is looked at with its options, in this process. Anything else is run
    by Paddle Inference, with its own list of passes and oneDNN, known defects included; every try in a child process.
    `JITINFER_ENGINE` says the engine of what is not compiled.

    A kernel after which CUDA refuses everything in the process ends the search, and is in the report.

    Raises TraceError if the function cannot be traced, EngineError where the engine cannot run here, and whatever the
    function raises.
    """
    request = request_of(function, args, kwargs)
    with progress(f"jitinfer: bisecting {request.name}"):
        search = getattr(engine_for(request.options), "search", None)
        return _of_paddle(request) if search is None else _of_graph(search(request))


def _of_paddle(request: Request) -> BisectionReport:
    start = Configuration(onednn=True, threads=thread_count(request.options))
    search = PaddleSearch(request, [start])
    bisection = Bisection(search.failure_of, SUSPECTS)
    failure = bisection.ask(start)
    right = bisection.repair(start, failure) if failure else start
    return BisectionReport(request.name, start, failure, tuple(bisection.blamed), right, bisection.attempts)


def _of_graph(search: GraphSearch[Any, Any]) -> BisectionReport:
    failure = ""
    try:
        first = search.tried(search.start)
        failure = "" if first.problem is None else str(first.problem)
        last = search.repaired(first)
    except EngineError as error:
        if not isinstance(error.__cause__, DeviceLostError):
            raise
        blamed = (*search.blamed, *_faulty(error.__cause__))
        failure = failure or str(error)
        return BisectionReport(search.request.name, search.start, failure, blamed, None, search.attempts, lost=True)
    right = last.recipe if last.problem is None else None
    return BisectionReport(search.request.name, search.start, failure, tuple(search.blamed), right, search.attempts)


def _faulty(error: DeviceLostError) -> list[Blame]:
    from jitinfer.lowering.fault import KernelFaultError  # Triton need not be installed where no device is lost

    return [Blame(error.kernel, error.failure)] if isinstance(error, KernelFaultError) else []
