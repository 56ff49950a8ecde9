"""The families of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.attention_decode import DecodeAttention
from jitinfer.kernels.cublaslt import CublasLtProduct
from jitinfer.kernels.triton.layer_norm import RowNorm
from jitinfer.kernels.triton.matmul import BulkCopyProduct, TiledProduct
from jitinfer.kernels.triton.matmul_small import FewRowsProduct

if TYPE_CHECKING:
    from jitinfer.kernels.family import Family

BUILT_IN: tuple[Family, ...] = (
    RowNorm(),
    BlockAttention(),
    DecodeAttention(),
    CublasLtProduct(),
    BulkCopyProduct(),
    FewRowsProduct(),
    TiledProduct(),
)
