"""The CUDA engine's search: a pass can be to blame for a wrong result, and so can a kernel."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jitinfer.engines.faults import Faults
from jitinfer.engines.graph_search import GraphSearch, failure_in
from jitinfer.engines.kernel_check import KernelCheck
from jitinfer.engines.lost_device import explained
from jitinfer.engines.making import foreign_families, maker_for
from jitinfer.engines.paddle import compared
from jitinfer.engines.recipe import Recipe
from jitinfer.engines.reference import ByNumpy
from jitinfer.engines.search import E
from jitinfer.engines.stages import passes_of
from jitinfer.errors import (
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    EngineError,
    GraphError,
    KernelError,
    PassError,
    VerificationError,
)
from jitinfer.kernels.target import Target
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.node_check import MOST_FLOPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.engines.graph_search import Attempt
    from jitinfer.engines.kernel_check import Runner
    from jitinfer.engines.protocol import Request
    from jitinfer.graph import Graph
    from jitinfer.graph.node import Value
    from jitinfer.options import Options
    from jitinfer.runtime.device import Device

logger = logging.getLogger("jitinfer.engines")

_PACKAGES = ("triton", "nvidia-cuda-nvcc", "nvmath-python", "nvidia-cublas", "cuda-bindings")


@dataclass(frozen=True)
class CudaRecipe(Recipe):
    """And the kernels that are `excluded`."""

    excluded: tuple[Exclusion, ...] = ()

    @staticmethod
    def of(options: Options) -> CudaRecipe:
        """All passes, all kernels."""
        of_program, of_graph = passes_of(options, arrangement(options))
        return CudaRecipe("CUDA", tuple(dict.fromkeys([*of_program, *of_graph])))

    def __str__(self) -> str:
        count = len(self.excluded)
        return super().__str__() + (f", without {count} kernel{'s' if count != 1 else ''}" if count else "")

    def document(self) -> dict[str, Any]:
        return {**super().document(), "excluded": [each.document() for each in self.excluded]}

    @staticmethod
    def restore(document: Any) -> CudaRecipe:
        """The inverse of `document`; raises KeyError, TypeError or ValueError if it is not one."""
        plain = Recipe.restore(document)
        excluded = tuple(map(Exclusion.restore, document["excluded"]))
        return CudaRecipe(plain.engine, plain.named, plain.dropped, excluded)


def arrangement(options: Options) -> Callable[[list[str]], list[str]]:
    """What the engine makes of the list of graph passes."""
    return partial(arranged, precision=options.precision_mode)


class CudaSearch(GraphSearch[E, CudaRecipe]):
    """In this order: passes that are wrong by NumPy, where the graph is small; kernels, each form of nodes by itself;
    passes with which the device is wrong. Kernels that have lost the device before are left out from the start.
    """

    def __init__(
        self, request: Request, device: Device, build: Callable[[Request, CudaRecipe], E], run_node: Runner
    ) -> None:
        """build: makes the program of a request, ready for its inputs. run_node: computes one node by its kernels."""
        self._device = device
        self._build = build
        self._run_node = run_node
        self._by_numpy = ByNumpy(request, arrangement(request.options))
        foreign = foreign_families()
        self._own_kernels = not foreign
        environment = {
            "cuda device": [device.name, device.compute_capability, device.sm_count],
            "driver": device.driver_version,
            "packages": {name: _version(name) for name in _PACKAGES},
            "families": foreign,
        }
        faulty = tuple(fault.exclusion for fault in Faults(request.cache, device).known())
        start = dataclasses.replace(CudaRecipe.of(request.options), excluded=faulty)
        super().__init__(request, start, environment)

    def restore(self, document: Any) -> CudaRecipe:
        return CudaRecipe.restore(document)

    def trusted(self) -> bool:
        return super().trusted() and self._own_kernels

    def build(self, recipe: CudaRecipe) -> E:
        return self._build(self.request, recipe)

    def load(self, configuration: CudaRecipe) -> E:
        # A run would draw random numbers that are the caller's.
        return self.build(configuration) if self.request.program.random else super().load(configuration)

    def remedies(self) -> Sequence[Callable[[Attempt[E, CudaRecipe]], CudaRecipe | None]]:
        return self._without_passes_by_numpy, self._without_kernels, self._without_passes

    def _without_passes_by_numpy(self, attempt: Attempt[E, CudaRecipe]) -> CudaRecipe | None:
        return self.bisected(attempt, self._by_numpy) if self._small() else None

    def _without_kernels(self, attempt: Attempt[E, CudaRecipe]) -> CudaRecipe | None:
        if not _kernels_suspected(attempt.problem):
            return None
        recipe, request = attempt.recipe, self.request
        check = KernelCheck(self._run_node, Target.of(self._device))
        for graph, values in self._graphs(attempt):
            while True:
                try:
                    maker = maker_for(request, self._device, recipe.excluded)
                    wrong = check.wrong(maker.kernels(graph), values, recipe.excluded)
                except DeviceLostError as error:
                    lost = explained(error, request, self._device, recipe.excluded)
                    raise EngineError(f"{request.name}: {lost}") from lost
                except (KernelError, DeviceError):  # nothing is left for a node, which the next attempt will say
                    break
                if not wrong:
                    break
                self.blamed += wrong.values()
                recipe = dataclasses.replace(recipe, excluded=(*recipe.excluded, *wrong))
        return recipe if recipe.excluded != attempt.recipe.excluded else None

    def _graphs(self, attempt: Attempt[E, CudaRecipe]) -> list[tuple[Graph, Mapping[Value, Any]]]:
        """Those that the device runs, with what their tensors hold where NumPy can tell."""
        steps = () if attempt.history is None else attempt.history.graphs
        if self._small() and not any(each.piece for each in steps):
            try:
                reference = self._by_numpy.executable(attempt.recipe)
                return [(reference.graph(self.request.inputs), reference.values(self.request.inputs))]
            except (GraphError, PassError, EngineError) as error:
                logger.info("%s: kernels are run on random numbers: %s", self.request.name, error)
        return [(each.graph, {}) for each in steps]

    def _without_passes(self, attempt: Attempt[E, CudaRecipe]) -> CudaRecipe | None:
        """On the device, with kernels that nobody measures."""
        cause = None if attempt.problem is None else attempt.problem.__cause__
        if isinstance(cause, (KernelError, DeviceError)):
            return None  # no pass is to blame for a kernel that there is not, or for memory that does not suffice
        options = dataclasses.replace(self.request.options, tune="off")
        untuned = dataclasses.replace(self.request, options=options)

        def compared_on_device(recipe: CudaRecipe) -> str:
            return compared(self._build(untuned, recipe), self.request, recipe.arithmetic)[1]

        return self.bisected(attempt, lambda recipe: failure_in(lambda: compared_on_device(recipe)))

    def _small(self) -> bool:
        """Whether NumPy evaluates the program as it was traced soon enough to be asked again and again: ten times, as
        in a bisection, cost less than one compilation."""
        try:
            plain = self._by_numpy.executable(self.start.without(*self.start.named))
            return plain.graph(self.request.inputs).flops <= MOST_FLOPS
        except (GraphError, EngineError):
            return False


def _kernels_suspected(problem: Exception | None) -> bool:
    """Whether there was a program, and it was wrong or did not run; memory that does not suffice is nobody's fault."""
    cause = None if problem is None else problem.__cause__
    does_not_run = isinstance(cause, DeviceError) and not isinstance(cause, DeviceMemoryError)
    return isinstance(problem, VerificationError) or does_not_run


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
