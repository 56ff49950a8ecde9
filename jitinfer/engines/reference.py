"""The reference engine: the graph after its passes, evaluated by NumPy. Slow; for tests and for debugging."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jitinfer.engines.graph_search import GraphSearch, failure_in
from jitinfer.engines.paddle import compared
from jitinfer.engines.recipe import Recipe
from jitinfer.engines.stages import Stages, passes_of
from jitinfer.engines.tensors import array_of, tensor_of
from jitinfer.errors import EngineError, GraphError, PassError
from jitinfer.graph import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.engines.graph_search import Attempt
    from jitinfer.engines.protocol import Request
    from jitinfer.engines.stages import Arrangement, History
    from jitinfer.graph import Graph
    from jitinfer.graph.node import Value


class ReferenceExecutable:
    """One graph for each combination of the inputs' shapes."""

    def __init__(self, request: Request, recipe: Recipe, arrange: Arrangement = list) -> None:
        """arrange: as `Stages` takes it."""
        self._name = request.name
        self._stages = Stages(request, arrange, recipe.dropped)
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
            return [tensor_of(result) for result in self._evaluated(self.graph(tensors), tensors)]
        except (GraphError, PassError) as error:
            raise EngineError(f"{self._name}: {error}") from error

    def refresh(self, parameters: Sequence[Any]) -> None:
        self._weights = [array_of(tensor).copy() for tensor in self._stages.weights(parameters)]

    def graph(self, tensors: Sequence[Any]) -> Graph:
        """The graph for these inputs, after its passes. Raises GraphError and PassError."""
        return self._stages.graph(tuple(tuple(tensor.shape) for tensor in tensors))

    def values(self, tensors: Sequence[Any]) -> dict[Value, Any]:
        """What every tensor of that graph holds, as arrays. Raises GraphError and PassError."""
        graph = self.graph(tensors)
        computed = (value for node in graph.nodes for value in node.outputs)
        every = (*graph.inputs, *graph.parameters, *computed)
        return dict(zip(every, self._evaluated(dataclasses.replace(graph, outputs=every), tensors), strict=True))

    def _evaluated(self, graph: Graph, tensors: Sequence[Any]) -> list[Any]:
        return evaluate(graph, [array_of(tensor).copy() for tensor in tensors], self._weights)


class ByNumpy:
    """Says what is wrong with a recipe's results where its graph is evaluated by NumPy; equal graphs are, once."""

    def __init__(self, request: Request, arrange: Arrangement = list) -> None:
        self._request = request
        self._arrange = arrange
        self._known: dict[tuple[str, str], str] = {}

    def executable(self, recipe: Recipe) -> ReferenceExecutable:
        return ReferenceExecutable(self._request, recipe, self._arrange)

    def __call__(self, recipe: Recipe) -> str:
        """ "" where it is right."""
        return failure_in(lambda: self._compared(recipe))

    def _compared(self, recipe: Recipe) -> str:
        executable = self.executable(recipe)
        key = (executable.graph(self._request.inputs).hash, recipe.arithmetic)
        if key not in self._known:
            self._known[key] = compared(executable, self._request, recipe.arithmetic)[1]
        return self._known[key]


class ReferenceSearch(GraphSearch[ReferenceExecutable, Recipe]):
    def __init__(self, request: Request) -> None:
        of_program, of_graph = passes_of(request.options)
        super().__init__(request, Recipe("reference", tuple(dict.fromkeys([*of_program, *of_graph]))), {})

    def restore(self, document: Mapping[str, Any]) -> Recipe:
        return Recipe.restore(document)

    def build(self, recipe: Recipe) -> ReferenceExecutable:
        return ReferenceExecutable(self.request, recipe)

    def remedies(self) -> Sequence[Callable[[Attempt[ReferenceExecutable, Recipe]], Recipe | None]]:
        return (lambda attempt: self.bisected(attempt, ByNumpy(self.request)),)


class ReferenceEngine:
    """Refuses what has no NumPy reference: random operators, and all others that only Paddle knows."""

    name = "reference"

    def missing(self) -> str:
        return ""

    def search(self, request: Request) -> ReferenceSearch:
        return ReferenceSearch(request)

    def compile(self, request: Request) -> ReferenceExecutable:
        search = self.search(request)
        if request.expected is None:
            return search.load(search.start)
        return search.find()[0]
