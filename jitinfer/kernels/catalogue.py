"""The families of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.kernels.cublaslt import CublasLtProduct
from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.attention_decode import DecodeAttention
from jitinfer.kernels.triton.conv2d import ImplicitGemm
from jitinfer.kernels.triton.conv2d_direct import DirectConvolution
from jitinfer.kernels.triton.creation import Creation
from jitinfer.kernels.triton.gathering import Gathers
from jitinfer.kernels.triton.generated import FAMILIES as GENERATED
from jitinfer.kernels.triton.group_norm import ImageNorm
from jitinfer.kernels.triton.layer_norm import RowNorm
from jitinfer.kernels.triton.matmul import BulkCopyProduct, TiledProduct
from jitinfer.kernels.triton.matmul_small import FewRowsProduct
from jitinfer.kernels.triton.movement import Copies
from jitinfer.kernels.triton.orders import Orders
from jitinfer.kernels.triton.padding import PadAndResize
from jitinfer.kernels.triton.pooling import Pools
from jitinfer.kernels.triton.rotary import RotaryHalves, TimestepEmbedding
from jitinfer.kernels.triton.scans import RunningSums

if TYPE_CHECKING:
    from jitinfer.kernels.family import Family

BUILT_IN: tuple[Family, ...] = (
    RowNorm(),
    ImageNorm(),
    BlockAttention(),
    DecodeAttention(),
    CublasLtProduct(),
    BulkCopyProduct(),
    FewRowsProduct(),
    TiledProduct(),
    DirectConvolution(),
    ImplicitGemm(),
    *GENERATED,
    RotaryHalves(),
    TimestepEmbedding(),
    Copies(),
    Gathers(),
    PadAndResize(),
    Pools(),
    RunningSums(),
    Orders(),
    Creation(),
)
