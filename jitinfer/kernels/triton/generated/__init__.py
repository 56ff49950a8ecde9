"""Triton functions written for one node each: from what it computes to readable source text, and to kernels."""

from jitinfer.kernels.triton.generated.cut_rows import CutRows
from jitinfer.kernels.triton.generated.pointwise import Pointwise
from jitinfer.kernels.triton.generated.reductions import Reductions
from jitinfer.kernels.triton.generated.rows import HeldRows

FAMILIES = (Pointwise(), HeldRows(), CutRows(), Reductions())

__all__ = ["FAMILIES"]
