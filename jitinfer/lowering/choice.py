"""Which kernels compute a node: the offers of all families, and who chooses among them."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from jitinfer.errors import KernelError, UnsupportedOpError
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import NOWHERE, Value
from jitinfer.graph.text import call_text
from jitinfer.graph.types import itemsize
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.family import Candidate, families_for
from jitinfer.runtime.plan import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitinfer.graph.node import Node
    from jitinfer.graph.view import View
    from jitinfer.kernels.family import Config, Family
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.compilation import Compilation, Compiler
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.plan import Kernel


@dataclass(frozen=True, eq=False)
class Choice:
    """A node's kernels: one candidate of one family, compiled. microseconds: as measured, nan where it was not."""

    family: str
    config: Config
    candidate: Candidate
    kernels: tuple[Kernel, ...]
    microseconds: float = float("nan")


Offer: TypeAlias = tuple["Family", "Config"]
Work: TypeAlias = list[tuple["Node", Choice]]
"""Nodes with their kernels."""


class Chooser(Protocol):
    """Chooses kernels for many nodes at once, so that they compile side by side."""

    def choose(self, nodes: Sequence[Node], once: Sequence[Node] = ()) -> list[Choice]:
        """One choice for each of `nodes`, then one for each of `once`, which run too seldom to be measured.

        Raises UnsupportedOpError, or KernelError where nothing compiles.
        """
        ...


def form_of(*nodes: Node) -> str:
    """Text that is equal for nodes that the same kernels compute equally fast, one after the other where there are
    several.

    It is the same whatever they are called and come from, and wherever in a tensor they read and write, as long as
    that is equally well aligned.
    """
    inputs: dict[Value, Value] = {}
    results: dict[Value, Value] = {}
    renamed: list[Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in results:
                inputs.setdefault(value, Value(value.type, f"x_{len(inputs)}"))
        for value in node.outputs:
            results.setdefault(value, Value(value.type, f"y_{len(results)}"))
        named = {**inputs, **results}
        renamed.append(
            replace(
                node,
                inputs=tuple(None if value is None else named[value] for value in node.inputs),
                outputs=tuple(named[value] for value in node.outputs),
                views=tuple(_shifted(view, value) for view, value in zip(node.views, node.inputs, strict=False)),
                stores=tuple(_shifted(store, value) for store, value in zip(node.stores, node.outputs, strict=False)),
                origin=NOWHERE,
            )
        )
    return Graph(tuple(inputs.values()), (), tuple(renamed), tuple(results.values())).hash


def _shifted(view: View | None, value: Value | None) -> View | None:
    """By whole multiples of a buffer's alignment, as near to its start as these allow."""
    if view is None or value is None:
        return view
    return replace(view, offset=view.offset % max(ALIGNMENT // itemsize(value.dtype), 1))


def kernel_text(node: Node, family: str, config: Config) -> str:
    """What was chosen for a node, as people read it."""
    types = ", ".join("none" if kind is None else str(kind) for kind in node.input_types())
    values = f" ({config})" if config.values else ""
    where = f" at {node.origin}" if str(node.origin) else ""
    return f"the kernel {family}{values} for {node.op.name}({types}){where}"


def offers(node: Node, target: Target, excluded: Exclusions = ()) -> list[Offer]:
    """All that families offer for `node`: the first of each family, then the second of each, and so on.

    excluded: what is left out. Raises UnsupportedOpError where there is none.
    """
    able = list(families_for(node, target))
    found = _offers(node, target, able, excluded)
    if not found:
        problem = "has no CUDA kernel left that is right" if able else "has no CUDA kernel"
        raise UnsupportedOpError(f"{call_text(node)} {problem}")
    return found


def compiled_offers(node: Node, target: Target, excluded: Exclusions = ()) -> list[Offer]:
    """Those of `offers` whose kernels are to be compiled, in the same order; libraries are not asked."""
    return _offers(node, target, [family for family in families_for(node, target) if family.compiled], excluded)


def _offers(node: Node, target: Target, able: Iterable[Family], excluded: Exclusions) -> list[Offer]:
    by_family = [[(family, config) for config in family.configs(node, target)] for family in able]
    if excluded:
        form = form_of(node)
        by_family = [
            [(f, config) for f, config in each if not any(one.covers(form, f.name, config) for one in excluded)]
            for each in by_family
        ]
    longest = max(map(len, by_family), default=0)
    return [configs[i] for i in range(longest) for configs in by_family if i < len(configs)]


class FirstThatCompiles:
    """Takes what the families think is best, but for what is `excluded`, without measuring anything."""

    def __init__(self, compiler: Compiler, excluded: Exclusions = ()) -> None:
        self._compiler = compiler
        self._excluded = excluded

    def choose(self, nodes: Sequence[Node], once: Sequence[Node] = ()) -> list[Choice]:
        """As `Chooser` says."""
        target = self._compiler.target
        waiting = [(node, iter(offers(node, target, self._excluded))) for node in (*nodes, *once)]
        started = [start(node, *next(rest), self._compiler) for node, rest in waiting]
        return [
            first_that_compiles(node, first, rest, self._compiler)
            for (node, rest), first in zip(waiting, started, strict=True)
        ]


class AsBefore:
    """Takes the offers `known` for all nodes, in their order; lets `otherwise` choose where they are not to be had."""

    def __init__(self, compiler: Compiler, known: Sequence[Offer], otherwise: Chooser) -> None:
        self._compiler = compiler
        self._known = known
        self._otherwise = otherwise

    def choose(self, nodes: Sequence[Node], once: Sequence[Node] = ()) -> list[Choice]:
        """As `Chooser` says."""
        every = (*nodes, *once)
        if len(every) == len(self._known):
            started = [start(node, *offer, self._compiler) for node, offer in zip(every, self._known, strict=True)]
            choices = [result for result in (each.result() for each in started) if isinstance(result, Choice)]
            if len(choices) == len(every):
                return choices
        return self._otherwise.choose(nodes, once)


def first_that_compiles(node: Node, first: StartedOffer, rest: Iterable[Offer], compiler: Compiler) -> Choice:
    """`first`, or the next of `rest` in its place. Raises KernelError with the first failure where none compiles."""
    failure = result = first.result()
    for offer in rest:
        if isinstance(result, Choice):
            break
        result = start(node, *offer, compiler).result()
    if isinstance(result, Choice):
        return result
    raise KernelError(f"nothing that computes {node.op.name} at {node.origin} compiles: {failure}")


class StartedOffer:
    """An offer for a node whose kernels are being compiled."""

    def __init__(self, family: Family, config: Config, candidate: Candidate, kernels: Sequence[Compilation]) -> None:
        self.family = family
        self.config = config
        self._candidate = candidate
        self._kernels = kernels

    def result(self) -> Choice | KernelError:
        """Waits for it; why there is none, where its kernels do not compile or were cancelled."""
        made = []
        for kernel in self._kernels:
            try:
                result = kernel.result()
            except CancelledError:
                return KernelError("its compilation was cancelled")
            if isinstance(result, KernelError):
                return result
            made.append(result)
        return Choice(self.family.name, self.config, self._candidate, tuple(made))

    @property
    def ready(self) -> bool:
        """Whether `result` does not wait."""
        return all(kernel.ready for kernel in self._kernels)

    def cancel(self) -> None:
        """What has begun goes on."""
        for kernel in self._kernels:
            kernel.cancel()


class RefusedOffer(StartedOffer):
    """An offer that a family cannot keep."""

    def __init__(self, family: Family, config: Config, error: KernelError) -> None:
        super().__init__(family, config, Candidate(()), ())
        self._error = error

    def result(self) -> Choice | KernelError:
        return self._error


def start(node: Node, family: Family, config: Config, compiler: Compiler) -> StartedOffer:
    """Begins to compile the kernels of an offer."""
    try:
        candidate = family.launches(node, config, compiler.target)
        return StartedOffer(family, config, candidate, [compiler.start(each) for each in specializations(candidate)])
    except KernelError as error:
        return RefusedOffer(family, config, error)
