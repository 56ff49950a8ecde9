"""The reference engine: the graph after its passes, evaluated by NumPy. Slow; for tests and for debugging."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import ml_dtypes
import paddle

from jitinfer.engines.comparison import difference, tolerance_for
from jitinfer.engines.paddle import as_arrays
from jitinfer.errors import EngineError, GraphError, VerificationError
from jitinfer.frontend.importing import import_program
from jitinfer.graph import evaluate
from jitinfer.graph.types import NARROW, dtype_name
from jitinfer.passes import chosen, run_passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.graph import Graph

ARITHMETIC = "float32"


class ReferenceExecutable:
    """One graph for each combination of the inputs' shapes, made when it is first met."""

    def __init__(self, request: Request) -> None:
        options = request.options
        self._program = request.program
        self._name = request.name
        self._passes = chosen(options.passes, options.delete_pass_lists) if options.switch_ir_optim else []
        self._graphs: dict[tuple[tuple[int, ...], ...], Graph] = {}
        self._weights = [_array(tensor) for tensor in request.parameters]
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        nodes = ", ".join(str(len(graph.nodes)) for graph in self._graphs.values())
        return f"reference: NumPy, {nodes or 'no'} nodes"

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        try:
            graph = self._graph(tuple(tuple(tensor.shape) for tensor in tensors))
            results = evaluate(graph, [_array(tensor) for tensor in tensors], self._weights)
        except GraphError as error:
            raise EngineError(f"{self._name}: {error}") from error
        return [_tensor(result) for result in results]

    def refresh(self, parameters: Sequence[Any]) -> None:
        self._weights = [_array(tensor) for tensor in parameters]

    def _graph(self, shapes: tuple[tuple[int, ...], ...]) -> Graph:
        with self._lock:
            if shapes not in self._graphs:
                graph = import_program(self._program, shapes)
                self._graphs[shapes], _ = run_passes(graph, self._passes)
            return self._graphs[shapes]


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


def _array(tensor: Any) -> Any:
    """A NumPy array of the tensor's own dtype, sharing no memory with it."""
    array = tensor.numpy()
    return (array.view(ml_dtypes.bfloat16) if tensor.dtype == paddle.bfloat16 else array).copy()


def _tensor(array: Any) -> Any:
    if dtype_name(array.dtype) in NARROW:
        return paddle.to_tensor(array.astype("float32")).astype(dtype_name(array.dtype))
    return paddle.to_tensor(array)
