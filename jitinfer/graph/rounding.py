"""How far rounding may move a result: what two ways to evaluate one program, or one node, may differ by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.op import Kind

if TYPE_CHECKING:
    from jitinfer.graph.node import Node

BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8, "float8_e4m3fn": 4, "float8_e5m2": 3}
"""Of the significand, the hidden one included."""
SIGMAS = 4.0
"""Rounding errors add up like a random walk; this many standard deviations are let pass."""
_STEPS = 64
"""Roundings to float32 that the arithmetic of one op is taken for, sums apart: exponentials, divisions, roots."""


@dataclass(frozen=True)
class Rounding:
    """What bounds the rounding error of one evaluation, along the longest chain of operations.

    `depth`: operations on the chain; `accumulations`: the sum of their reduction lengths (K of a matmul);
    `coarsest`: the floating dtype with the fewest bits of precision that occurs, "" if none does.
    """

    depth: int
    accumulations: int
    coarsest: str

    @staticmethod
    def of(node: Node) -> Rounding:
        """Of one node, what is nested in it included."""
        inside = [each for graph in nested_graphs(node) for each in graph.walk()]
        computing = sum(each.op.kind not in (Kind.VIEW, Kind.CREATION, Kind.MOVEMENT) for each in inside) or 1
        results = [value.type for value in node.outputs]
        flops = node.op.flops(node.input_types(), results, **node.attributes)
        terms = math.ceil(flops / max(1, sum(kind.size for kind in results)))
        values = [*node.inputs, *node.outputs, *(value for each in inside for value in each.outputs)]
        dtypes = {real(value.dtype) for value in values if value is not None} & BITS.keys()
        coarsest = min(dtypes, key=BITS.__getitem__, default="")
        return Rounding(computing, terms + _STEPS * computing, coarsest)


@dataclass(frozen=True)
class Tolerance:
    """`relative`: the largest error that rounding explains, as a fraction of the largest value of the result."""

    relative: float

    def __str__(self) -> str:
        return f"{self.relative:.1e}"


def tolerance_for(rounding: Rounding, arithmetic: str) -> Tolerance:
    """The tolerance for comparing two ways to evaluate a program, one of them in `arithmetic`.

    Each of `depth` results along a chain is rounded once to the coarsest dtype, with a relative error of at most
    u = 2^-bits, and each of the `accumulations` terms once in the accumulator, which has 24 bits (53 for float64).
    Independent errors add in quadrature: sqrt(depth) * u_storage and sqrt(accumulations) * u_accumulator (Higham and
    Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019). Both evaluations
    round, hence the factor sqrt(2).
    """
    storage = min(BITS.get(rounding.coarsest, 53), BITS[arithmetic])
    accumulator = 53 if storage == 53 else 24
    error = math.hypot(
        math.sqrt(max(rounding.depth, 1)) * 2.0**-storage, math.sqrt(max(rounding.accumulations, 1)) * 2.0**-accumulator
    )
    return Tolerance(SIGMAS * math.sqrt(2) * error)


def node_tolerance(node: Node) -> float:
    """For two kernels that compute a node; 0 where nothing in it is a floating number."""
    rounding = Rounding.of(node)
    return tolerance_for(rounding, rounding.coarsest).relative if rounding.coarsest else 0.0


def real(dtype: str) -> str:
    """The dtype of the parts of a complex one; any other as it is."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
