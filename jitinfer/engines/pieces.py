"""A program in pieces: what a device can run runs there, the rest by Paddle, one after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy
import paddle

from jitinfer.engines.configuration import Configuration
from jitinfer.engines.paddle import PaddleExecutable, thread_count
from jitinfer.engines.tensors import array_of, tensor_of
from jitinfer.errors import EngineError
from jitinfer.frontend.cutting import GraphCut, ProgramCut
from jitinfer.frontend.inplace import overwritten
from jitinfer.frontend.partition import partition, with_neighbours
from jitinfer.graph.text import call_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from jitinfer.engines.stages import GraphSteps, Shapes, Stages
    from jitinfer.frontend.cutting import Operations, Port
    from jitinfer.frontend.partition import Piece
    from jitinfer.graph import Graph, Node
    from jitinfer.options import Options

    Array = numpy.ndarray[Any, Any]

_MOST_NAMED = 4
"""Kinds of operators that a sentence names."""


class OnDevice(Protocol):
    """A piece that a device runs: what a `runtime.model.Session` is."""

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The results on the host, for inputs there or on the device."""
        ...

    @property
    def outputs(self) -> Sequence[Any]:
        """Where the results lie on the device until the next run."""
        ...


@dataclass(frozen=True)
class Division:
    """The pieces of a program for one combination of shapes; graphs of those on the device are after their passes.

    reasons: for each operation that no kernel can run, what it is and where it stands; neighbours: how many others go
    to Paddle with them.
    """

    operations: Operations
    pieces: tuple[GraphCut | ProgramCut, ...]
    reasons: tuple[str, ...]
    neighbours: int

    def __str__(self) -> str:
        on_paddle = sum(isinstance(piece, ProgramCut) for piece in self.pieces)
        lack = f"{_listed(self.reasons)} {'has' if len(self.reasons) == 1 else 'have'} no CUDA kernel"
        along = f", and with them {_counted(self.neighbours, 'operation')} next to them" if self.neighbours else ""
        return f"{on_paddle} of {len(self.pieces)} pieces run on Paddle: {lack}{along}"


def divide(
    stages: Stages, shapes: Shapes, lacking: Sequence[Node], without_kernel: Callable[[Graph], Sequence[Node]]
) -> Division:
    """The pieces of the program of `stages`.

    Which operations have kernels is known only after passes, which depend on the pieces: so a piece whose graph has
    nodes without one gives the operations that these come from to Paddle, and all is divided again.

    Args:
        lacking: nodes of the graph of the whole program that have no kernel.
        without_kernel: those of a graph after passes.

    Raises EngineError where nothing worth it is left for the device, GraphError for programs that cannot be divided,
    and PassError.
    """
    operations = stages.operations(shapes)
    tasks, nbytes = operations.tasks, operations.nbytes()
    reasons = _reasons(operations, lacking)
    done: dict[tuple[int, ...], tuple[GraphCut, GraphSteps]] = {}
    while True:
        ordered = [number for number, task in enumerate(tasks) if task.ordered]
        host = with_neighbours(tasks, {*reasons, *ordered}, operations.results, nbytes)
        found = partition(tasks, host, operations.results)
        _require_worth(operations, host, reasons)
        lacking = []
        for piece in found:
            if not piece.host and piece.tasks not in done:
                cut, steps = _compiled(stages, shapes, operations, piece)
                lacking += without_kernel(steps.graph)
                done[piece.tasks] = cut, steps
        if not lacking:
            break
        reasons.update(_reasons(operations, lacking, reasons))
    stages.record(shapes, [done[piece.tasks][1] for piece in found if not piece.host])
    pieces = tuple(operations.program(piece) if piece.host else done[piece.tasks][0] for piece in found)
    return Division(operations, pieces, tuple(reasons.values()), len(host) - len(reasons))


def _reasons(operations: Operations, lacking: Sequence[Node], before: Collection[int] = ()) -> dict[int, str]:
    """Why tasks cannot run on the device. Raises EngineError for a node that comes from none."""
    found: dict[int, str] = {}
    for node in lacking:
        task = operations.task_of(node)
        if task is None or task in before:
            raise EngineError(f"{call_text(node)} has no CUDA kernel, and no operation of the program is to blame")
        found.setdefault(task, call_text(node))
    return found


def _listed(reasons: Sequence[str]) -> str:
    """Each kind of operator with the first place where it stands."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(reason.partition("(")[0], []).append(reason)
    named = [
        same[0] + (f" and at {_counted(len(same) - 1, 'other place')}" if len(same) > 1 else "")
        for same in kinds.values()
    ]
    rest = [_counted(len(named) - _MOST_NAMED, "other kind")] if len(named) > _MOST_NAMED else []
    return ", ".join([*named[:_MOST_NAMED], *rest])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _compiled(stages: Stages, shapes: Shapes, operations: Operations, piece: Piece) -> tuple[GraphCut, GraphSteps]:
    cut = operations.graph(piece)
    steps = stages.run(cut.graph, shapes, f"a piece of {_counted(len(piece.tasks), 'operation')}")
    return GraphCut(steps.graph, cut.inputs, cut.outputs, cut.parameters), steps


def _require_worth(operations: Operations, host: Collection[int], reasons: Mapping[int, str]) -> None:
    tasks = operations.tasks
    on_host, whole = sum(tasks[number].flops for number in host), sum(task.flops for task in tasks)
    if len(host) < len(tasks) and 2 * on_host <= whole:
        return
    lack = f"{_listed(list(reasons.values()))} {'has' if len(reasons) == 1 else 'have'} no CUDA kernel"
    share = "all of the work" if len(host) == len(tasks) else f"{100 * on_host / whole:.0f}% of the work"
    raise EngineError(f"{lack}, and with the neighbours that is {share}")


class Composition:
    """The pieces of a program, ready to run in their order. Calls take turns.

    Raises EngineError where Paddle refuses a piece, and what `load` raises.
    """

    def __init__(
        self,
        division: Division,
        weights: Sequence[Array],
        load: Callable[[Graph, tuple[int, ...]], OnDevice],
        name: str,
        options: Options,
    ) -> None:
        """Args: weights: in the order of the program's parameters; load: for a graph after its passes, and which of
        the parameters are its weights, what runs it.
        """
        self.division = division
        self._turn = threading.Lock()
        self.runners: list[OnDevice | OnPaddle] = []
        for piece in division.pieces:
            if isinstance(piece, ProgramCut):
                self.runners.append(OnPaddle(piece, weights, name, options))
            else:
                self.runners.append(load(piece.graph, piece.parameters))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The program's results."""
        operations = self.division.operations
        values: dict[int, Array] = dict(operations.constants)
        values.update((number, inputs[position]) for position, number in operations.inputs.items())
        placed: dict[Port, Any] = {}
        """What lies on the device already, for the pieces there."""
        with self._turn:
            for piece, runner in zip(self.division.pieces, self.runners, strict=True):
                if isinstance(piece, ProgramCut):
                    results = runner.run([values[number] for number in piece.inputs])
                    values.update(zip(piece.outputs, results, strict=True))
                else:
                    assert not isinstance(runner, OnPaddle)
                    given = [placed[port] if port in placed else _read(values, port) for port in piece.inputs]
                    values.update(_joined(piece.outputs, runner.run(given)))
                    placed.update(zip(piece.outputs, runner.outputs, strict=True))
        return [values[number] for number in operations.results]

    def refresh(self, weights: Sequence[Array]) -> None:
        """Takes new values of the program's parameters for what Paddle runs; the device's are with their sessions."""
        with self._turn:
            for runner in self.runners:
                if isinstance(runner, OnPaddle):
                    runner.refresh(weights)


class OnPaddle:
    """A piece of a program that Paddle runs, operator by operator: no pass has a hand in it."""

    def __init__(self, piece: ProgramCut, weights: Sequence[Array], name: str, options: Options) -> None:
        """Raises EngineError."""
        writer = overwritten(piece.text)
        if writer:
            raise EngineError(f"{name}: {writer} writes over a tensor that is read after it")
        device = paddle.get_device()
        configuration = Configuration(
            onednn=False,
            optimise=False,
            threads=thread_count(options),
            gpu=int(device.partition(":")[2] or 0) if device.startswith("gpu") else None,
        )
        self._parameters = piece.parameters
        self._executable = PaddleExecutable(piece.text, self._own(weights), configuration, name)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Of arrays that it leaves as they are. Raises EngineError."""
        return [array_of(each) for each in self._executable.run([tensor_of(each) for each in inputs])]

    def refresh(self, weights: Sequence[Array]) -> None:
        """Takes new values of the program's parameters. Raises EngineError."""
        self._executable.refresh(self._own(weights))

    def _own(self, weights: Sequence[Array]) -> list[Any]:
        return [tensor_of(weights[position]) for position in self._parameters]


def _read(values: Mapping[int, Array], port: Port) -> Array:
    value = values[port.number]
    return numpy.ascontiguousarray(getattr(value, port.part)) if port.part else value


def _joined(ports: Sequence[Port], arrays: Sequence[Array]) -> dict[int, Array]:
    """The values that a graph gives, complex ones put together of their parts."""
    found: dict[int, Array] = {}
    for port, array in zip(ports, arrays, strict=True):
        if not port.part:
            found[port.number] = array
            continue
        if port.number not in found:
            found[port.number] = numpy.zeros(array.shape, numpy.result_type(array, numpy.complex64))
        setattr(found[port.number], port.part, array)
    return found
