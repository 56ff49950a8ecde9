"""The families of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.kernels.triton.layer_norm import RowNorm

if TYPE_CHECKING:
    from jitinfer.kernels.family import Family

BUILT_IN: tuple[Family, ...] = (RowNorm(),)
