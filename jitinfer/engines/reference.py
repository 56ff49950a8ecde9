"""The reference engine: the graph after its passes, evaluated by NumPy. Slow; for tests and for debugging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.engines.comparison import difference, tolerance_for
from jitinfer.engines.paddle import as_arrays
from jitinfer.engines.stages import Stages
from jitinfer.engines.tensors import array_of, tensor_of
from jitinfer.errors import EngineError, GraphError, PassError, VerificationError
from jitinfer.graph import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.engines.stages import History

ARITHMETIC = "float32"


class ReferenceExecutable:
    """One graph for each combination of the inputs' shapes."""

    def __init__(self, request: Request) -> None:
        self._name = request.name
        self._stages = Stages(request)
        self.refresh(request.parameters)

    @property
    def description(self) -> str:
        nodes = ", ".join(str(len(steps.graph.nodes)) for steps in self.history.graphs)
        return f"reference: NumPy, {nodes or 'no'} nodes"

    @property
    def history(self) -> History:
        return self._stages.history

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        try:
            graph = self._stages.graph(tuple(tuple(tensor.shape) for tensor in tensors))
            results = evaluate(graph, [array_of(tensor).copy() for tensor in tensors], self._weights)
        except (GraphError, PassError) as error:
            raise EngineError(f"{self._name}: {error}") from error
        return [tensor_of(result) for result in results]

    def refresh(self, parameters: Sequence[Any]) -> None:
        self._weights = [array_of(tensor).copy() for tensor in self._stages.weights(parameters)]


class ReferenceEngine:
    """Refuses what has no NumPy reference: random operators, and all others that only Paddle knows."""

    name = "reference"

    def missing(self) -> str:
        return ""

    def compile(self, request: Request) -> ReferenceExecutable:
        executable = ReferenceExecutable(request)
        results = executable.run(request.inputs)  # also without verification: an opaque node is found now
        if request.expected is not None:
            found = difference(as_arrays(results), as_arrays(request.expected()))
            tolerance = tolerance_for(request.program.rounding, ARITHMETIC)
            if not found.within(tolerance):
                raise VerificationError(f"{request.name}: {found.what}; rounding explains {tolerance}")
        return executable
