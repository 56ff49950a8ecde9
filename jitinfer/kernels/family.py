"""Families of kernels: who offers which op, with which configurations, as which launches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from jitinfer.errors import KernelError
from jitinfer.runtime.plan import Copy, Fill, Gemm, Pointer, Scalar, TensorMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jitinfer.cache import JSON
    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

WORKSPACE = "workspace"


def input_name(position: int) -> str:
    """The buffer of a node's operand, as a candidate calls it."""
    return f"input_{position}"


def output_name(position: int) -> str:
    """The buffer of a node's result, as a candidate calls it."""
    return f"output_{position}"


@dataclass(frozen=True)
class Config:
    """One choice of a family's parameters, by name; hashable, and JSON as pairs."""

    values: tuple[tuple[str, int], ...]

    @staticmethod
    def of(**values: int) -> Config:
        return Config(tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> int:
        return dict(self.values)[name]

    def document(self) -> list[JSON]:
        return [[name, value] for name, value in self.values]

    @staticmethod
    def restore(document: Any) -> Config:
        """The inverse of `document`; raises TypeError or ValueError if it is not one."""
        return Config(tuple((str(name), int(value)) for name, value in document))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True)
class TypedPointer:
    """A pointer argument of a kernel to elements of `dtype`."""

    pointer: Pointer
    dtype: str


KernelArgument: TypeAlias = TypedPointer | Scalar | TensorMap


@dataclass(frozen=True, eq=False)
class KernelLaunch:
    """One launch of a Triton function that is still to be compiled.

    arguments: by the function's parameter names; constants: its other parameters, fixed at compilation (int, float,
    bool, str, None); grid: of Triton programs; scratch memory is taken from the workspace where the compiled kernel
    turns out to need any. programmatic: launched before the step ahead of it ends; the function must wait itself.
    """

    function: Any
    arguments: Mapping[str, KernelArgument]
    constants: Mapping[str, Any]
    grid: tuple[int, int, int]
    num_warps: int = 4
    num_stages: int = 3
    num_ctas: int = 1
    max_registers: int | None = None
    programmatic: bool = False


CandidateStep: TypeAlias = KernelLaunch | Gemm | Copy | Fill


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to compute a node: steps over the buffers "input_0", "output_0", ..., and "workspace".

    The buffers are those of the node's values, not of its views: offsets of views are in the pointers.
    """

    steps: tuple[CandidateStep, ...]
    workspace_bytes: int = 0


class Family(ABC):
    """Kernels for some ops; stateless. `name` is unique, and part of the key of what a tuner found."""

    name: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    compiled: ClassVar[bool] = True
    """Whether another configuration means another kernel to compile; a library has them ready."""

    @abstractmethod
    def supports(self, node: Node, target: Target) -> bool:
        """Whether it can compute `node`, with all its views and stores. `node.op.name` is one of `ops`."""

    @abstractmethod
    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """At least one, the best guess first."""

    @abstractmethod
    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        """The steps that compute `node`."""


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Adds a family to the table. Raises KernelError if there is another of its name."""
    if family.name in _FAMILIES:
        raise KernelError(f"there is a family {family.name!r} already")
    _FAMILIES[family.name] = family
    return family


def families() -> Mapping[str, Family]:
    """All of them by name."""
    from jitinfer.kernels import catalogue  # here: the families import this module

    return {family.name: family for family in (*catalogue.BUILT_IN, *_FAMILIES.values())}


def families_for(node: Node, target: Target) -> Iterator[Family]:
    """Those that can compute `node`."""
    for family in families().values():
        if node.op.name in family.ops and family.supports(node, target):
            yield family
