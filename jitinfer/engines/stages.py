"""From a program to graphs in two stages: Paddle's passes on the program, graph passes on what is imported of it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import paddle

from jitinfer.cache import Key
from jitinfer.engines.configuration import program_passes
from jitinfer.engines.trial import trial_process
from jitinfer.frontend.cutting import Operations
from jitinfer.frontend.importing import import_program
from jitinfer.frontend.program_passes import Rewritten
from jitinfer.graph.node import NOWHERE
from jitinfer.passes import chosen, run_passes
from jitinfer.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.graph import Graph
    from jitinfer.options import Options
    from jitinfer.passes import Report

Shapes = tuple[tuple[int, ...], ...]
"""Those of a call's tensors."""

Arrangement: TypeAlias = "Callable[[list[str]], list[str]]"

logger = logging.getLogger("jitinfer.engines")


@dataclass(frozen=True)
class ProgramStep:
    """What one of Paddle's passes did to the program: `before` and `after` count its operations."""

    name: str
    before: int
    after: int
    seconds: float


@dataclass(frozen=True)
class GraphSteps:
    """What the graph passes did for the tensors' `shapes`, and the graphs as imported and after them.

    piece: which part of the program it is, in words; "" for all of it.
    """

    shapes: Shapes
    imported: Graph
    graph: Graph
    report: Report
    piece: str = ""


@dataclass(frozen=True)
class History:
    """What the passes of both stages did; those on graphs for each combination of shapes, and each piece."""

    program: tuple[ProgramStep, ...]
    graphs: tuple[GraphSteps, ...]


class Stages:
    """The graphs of one request, each made when its shapes are first met. Safe to use from several threads.

    Raises EngineError, naming the pass, where one of Paddle's passes throws or crashes.
    """

    def __init__(self, request: Request, arrange: Arrangement = list, without: Collection[str] = ()) -> None:
        """arrange: what an engine makes of the list of graph passes that the options give; without: passes of either
        stage that do not run."""
        of_program, of_graph = passes_of(request.options, arrange)
        rewritten, self._program_steps = _rewritten(request, [name for name in of_program if name not in without])
        given = request.program.parameters
        self._parameters = rewritten.parameters
        self._program = dataclasses.replace(
            request.program,
            text=rewritten.text,
            parameters=tuple(given[position] for position in rewritten.parameters),
            operations=len(rewritten.operations) - len(rewritten.parameters),
        )
        if rewritten.text is request.program.text:
            self._origins = tuple(request.origins)
        else:
            origins = dict(enumerate(request.origins))
            self._origins = tuple(NOWHERE if at is None else origins.get(at, NOWHERE) for at in rewritten.operations)
        self._passes = [name for name in of_graph if name not in without]
        self._graphs: dict[Shapes, GraphSteps] = {}
        self._parts: dict[Shapes, tuple[GraphSteps, ...]] = {}
        self._lock = threading.Lock()

    def weights(self, parameters: Sequence[Any]) -> list[Any]:
        """Those of the traced program's parameters that the graphs take as weights, in their order."""
        return [parameters[position] for position in self._parameters]

    def graph(self, shapes: Shapes) -> Graph:
        """That of the whole program. Raises GraphError and PassError."""
        with self._lock:
            if shapes not in self._graphs:
                self._graphs[shapes] = self.run(import_program(self._program, shapes, self._origins), shapes)
            return self._graphs[shapes].graph

    def operations(self, shapes: Shapes) -> Operations:
        """The program taken apart. Raises GraphError."""
        return Operations(self._program, shapes, self._origins)

    def run(self, imported: Graph, shapes: Shapes, piece: str = "") -> GraphSteps:
        """The graph passes on a part of the program. Raises PassError."""
        graph, report = run_passes(imported, self._passes)
        return GraphSteps(shapes, imported, graph, report, piece)

    def record(self, shapes: Shapes, steps: Sequence[GraphSteps]) -> None:
        """That the program runs in these parts, and not as one graph."""
        with self._lock:
            self._parts[shapes] = tuple(steps)

    @property
    def history(self) -> History:
        with self._lock:
            graphs = [self._parts.get(shapes, (whole,)) for shapes, whole in self._graphs.items()]
            return History(self._program_steps, tuple(steps for parts in graphs for steps in parts))


def passes_of(options: Options, arrange: Arrangement = list) -> tuple[list[str], list[str]]:
    """The passes of both stages that the options ask for, in order: Paddle's on the program, and those on the graph."""
    names = chosen(options.passes, options.delete_pass_lists) if options.switch_ir_optim else []
    return list(program_passes(options)), arrange(names)


def _rewritten(request: Request, names: Sequence[str]) -> tuple[Rewritten, tuple[ProgramStep, ...]]:
    """The program after these of Paddle's passes, from the cache if it has them."""
    program = request.program
    nothing = Rewritten.nothing(program.text, len(program.parameters), program.operations + len(program.parameters))
    if not names:
        return nothing, ()
    key = Key(
        "program",
        {
            "program": program.digest,
            "passes": list(names),
            "device": paddle.get_device(),
            "paddle": paddle.__version__ + " " + paddle.version.commit,
            "jitinfer": __version__,
        },
    )

    def build() -> tuple[dict[str, bytes], dict[str, Any]]:
        rewritten, steps = _run(nothing, names, len(program.inputs), program.outputs)
        metadata = {
            "parameters": list(rewritten.parameters),
            "operations": list(rewritten.operations),
            "steps": [[step.name, step.before, step.after, step.seconds] for step in steps],
        }
        return {"program": rewritten.text}, metadata

    entry, _ = request.cache.get_or_build(key, build)
    metadata: Any = entry.metadata
    rewritten = Rewritten(entry.blobs["program"], tuple(metadata["parameters"]), tuple(metadata["operations"]))
    return rewritten, tuple(ProgramStep(*step) for step in metadata["steps"])


def _run(
    program: Rewritten, names: Sequence[str], inputs: int, outputs: int
) -> tuple[Rewritten, tuple[ProgramStep, ...]]:
    """In a child process, one pass after the other, so that a crash has a name. Raises EngineError."""
    steps = []
    for name in names:
        found, seconds = trial_process().run_pass(program.text, name, inputs, outputs)
        before, after = (len(each.operations) - len(each.parameters) for each in (program, found))
        steps.append(ProgramStep(name, before, after, seconds))
        logger.info("%s: %d -> %d operations in %.2f s", name, before, after, seconds)
        program = found.after(program)
    return program, tuple(steps)
