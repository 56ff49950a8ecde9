"""Which kernels compute a node: the offers of all families, and who chooses among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from jitinfer.errors import KernelError, UnsupportedOpError
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import NOWHERE, Value
from jitinfer.graph.text import call_text
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.family import families_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.node import Node
    from jitinfer.kernels.family import Candidate, Config, Family
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.compilation import Compiler
    from jitinfer.runtime.plan import Kernel


@dataclass(frozen=True, eq=False)
class Choice:
    """A node's kernels: one candidate of one family, compiled. microseconds: as measured, nan where it was not."""

    family: str
    config: Config
    candidate: Candidate
    kernels: tuple[Kernel, ...]
    microseconds: float = float("nan")


class Chooser(Protocol):
    """Chooses kernels for many nodes at once, so that they compile side by side."""

    def choose(self, nodes: Sequence[Node]) -> list[Choice]:
        """One choice for each node. Raises UnsupportedOpError, or KernelError where nothing compiles."""
        ...


def form_of(node: Node) -> str:
    """Text that is equal for nodes that the same kernels compute, whatever they are called and come from."""
    values: dict[Value, Value] = {}
    for value in node.inputs:
        if value is not None:
            values.setdefault(value, Value(value.type, f"x_{len(values)}"))
    results: dict[Value, Value] = {}
    for value in node.outputs:
        results.setdefault(value, Value(value.type, f"y_{len(results)}"))
    renamed = replace(
        node,
        inputs=tuple(None if value is None else values[value] for value in node.inputs),
        outputs=tuple(results[value] for value in node.outputs),
        origin=NOWHERE,
    )
    return Graph(tuple(values.values()), (), (renamed,), tuple(results.values())).hash


def offers(node: Node, target: Target) -> list[tuple[Family, Config]]:
    """All that families offer for `node`: the first of each family, then the second of each, and so on.

    Raises UnsupportedOpError where there is none.
    """
    by_family = [[(family, config) for config in family.configs(node, target)] for family in families_for(node, target)]
    if not by_family:
        raise UnsupportedOpError(f"{call_text(node)} has no CUDA kernel")
    longest = max(map(len, by_family))
    return [configs[i] for i in range(longest) for configs in by_family if i < len(configs)]


class FirstThatCompiles:
    """Takes what the families think is best, without measuring anything."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def choose(self, nodes: Sequence[Node]) -> list[Choice]:
        waiting = {form_of(node): node for node in nodes}
        offered = {form: offers(node, self._compiler.target) for form, node in waiting.items()}
        found: dict[str, Choice] = {}
        failures: dict[str, list[str]] = {form: [] for form in waiting}
        while waiting:
            tried = {form: offered[form][len(failures[form])] for form in waiting}
            compiled = compile_offers([(waiting[form], *offer) for form, offer in tried.items()], self._compiler)
            for form, result in zip(tried, compiled, strict=True):
                if isinstance(result, Choice):
                    found[form] = result
                    del waiting[form]
                    continue
                failures[form].append(str(result))
                if len(failures[form]) == len(offered[form]):
                    node = waiting[form]
                    raise KernelError(
                        f"nothing that computes {node.op.name} at {node.origin} compiles: {failures[form][0]}"
                    )
        return [found[form_of(node)] for node in nodes]


def compile_offers(asked: Sequence[tuple[Node, Family, Config]], compiler: Compiler) -> list[Choice | KernelError]:
    """Each offer compiled, or why it cannot be."""
    candidates = [_launches(*each, compiler.target) for each in asked]
    sources = [[] if isinstance(each, KernelError) else specializations(each) for each in candidates]
    kernels = iter(compiler.try_all([source for group in sources for source in group]))
    results: list[Choice | KernelError] = []
    for (_, family, config), candidate, group in zip(asked, candidates, sources, strict=True):
        made = [next(kernels) for _ in group]
        failed = next((each for each in made if isinstance(each, KernelError)), None)
        if isinstance(candidate, KernelError) or failed is not None:
            results.append(candidate if isinstance(candidate, KernelError) else failed or KernelError("no kernel"))
        else:
            kept = tuple(each for each in made if not isinstance(each, KernelError))
            results.append(Choice(family.name, config, candidate, kept))
    return results


def _launches(node: Node, family: Family, config: Config, target: Target) -> Candidate | KernelError:
    try:
        return family.launches(node, config, target)
    except KernelError as error:
        return error
