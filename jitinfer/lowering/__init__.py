"""Lowering: a graph -> the plan of a compute capability. It needs Triton, and no device."""

from __future__ import annotations

from jitinfer.lowering.choice import Choice, Chooser, FirstThatCompiles
from jitinfer.lowering.compiled import compile_graph
from jitinfer.lowering.lower import Lowered, lower
from jitinfer.lowering.placement import Lifetime, Placement, place
from jitinfer.lowering.prologue import Piece, Pieces, pieces

__all__ = [
    "Choice",
    "Chooser",
    "FirstThatCompiles",
    "Lifetime",
    "Lowered",
    "Piece",
    "Pieces",
    "Placement",
    "compile_graph",
    "lower",
    "pieces",
    "place",
]
