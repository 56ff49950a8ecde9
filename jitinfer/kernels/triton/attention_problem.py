"""An attention node as the kernel sees it, and the launch that computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import KernelLaunch, TypedPointer
from jitinfer.kernels.operands import Strided, operand, result
from jitinfer.kernels.triton.attention_kernel import attend
from jitinfer.runtime.plan import Scalar, TensorMap

if TYPE_CHECKING:
    from jitinfer.graph import Node
    from jitinfer.kernels.family import KernelArgument
    from jitinfer.kernels.target import Target

MAX_HEAD = 256
_FLOATING = ("float16", "bfloat16", "float32")
_MASKS = (*_FLOATING, "bool")
_MOST_ROWS = 2**31 - 1
"""Of queries in all: 32 bits count them, and the programs of a grid."""

_MOST_TOGETHER = 1024
"""Heads of keys whose blocks are computed side by side: more than fill any device."""

_WIDEST_COPIED = 256
"""Bytes of a row of a tile: of 512, and causal, ptxas 13.5 makes code whose products wait for each other."""

_LARGEST_STEP = 2**31 // 1024
"""Elements from one position, or column, to the next, so that 32 bits count those of a block."""


@dataclass(frozen=True)
class AttentionProblem:
    """A node's operands and result. q, k, v, out: [batch, length, heads, dim]; mask: [batch, heads, q_len, kv_len]."""

    q: Strided
    k: Strided
    v: Strided
    mask: Strided | None
    out: Strided
    scale: float
    causal: bool

    @staticmethod
    def of(node: Node, target: Target) -> AttentionProblem | None:
        """None where the kernel cannot compute it, by its types, its sizes or where its result goes."""
        q, k, v = (operand(node, name) for name in ("q", "k", "v"))
        assert q is not None
        assert k is not None
        assert v is not None
        out = result(node, 0, (*q.shape[:3], v.shape[3]))
        if out is None or out.view.size == 0 or 0 in q.shape or 0 in k.shape:
            return None
        mask = operand(node, "mask")
        if mask is not None:
            mask = mask.broadcast_to((q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
        problem = AttentionProblem(q, k, v, mask, out, float(node.scale), bool(node.causal))
        return problem if problem._computable(target) else None

    def _computable(self, target: Target) -> bool:
        floating = self.q.dtype in _FLOATING and (self.mask is None or self.mask.dtype in _MASKS)
        heads = max(self.head_dim, self.v_dim) <= MAX_HEAD
        sizes = heads and max(self.q_len, self.kv_len) < 2**30 and self._rows <= _MOST_ROWS
        steps = [step for each in (self.q, self.k, self.v, self.out) for step in (each.strides[1], each.strides[3])]
        # Triton 3.6 makes empty kernels of some of these.
        miscompiled = self.q.dtype == "float32" and target.compute_capability >= 100
        # A mask read backwards is not told from one that is the same for all rows.
        forward = self.mask is None or min(self.mask.strides) >= 0
        return (
            floating
            and not miscompiled
            and sizes
            and forward
            and math.isfinite(self.scale)
            and max(map(abs, steps)) < _LARGEST_STEP
        )

    @property
    def batch(self) -> int:
        return self.q.shape[0]

    @property
    def q_len(self) -> int:
        return self.q.shape[1]

    @property
    def heads(self) -> int:
        return self.q.shape[2]

    @property
    def head_dim(self) -> int:
        return self.q.shape[3]

    @property
    def kv_len(self) -> int:
        return self.k.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.k.shape[2]

    @property
    def group(self) -> int:
        """Heads that share one head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def v_dim(self) -> int:
        return self.v.shape[3]

    @property
    def _rows(self) -> int:
        return self.batch * self.heads * self.q_len

    @property
    def folded(self) -> bool:
        return self.mask is None and self.scale > 0

    @property
    def partial_strides(self) -> tuple[int, int, int, int]:
        """As `out`, of a row-major [batch, heads, q_len, v_dim]."""
        row = self.v_dim
        return (self.heads * self.q_len * row, row, self.q_len * row, 1)

    def has_tensor_maps(self, target: Target) -> bool:
        """Whether keys and values can be fetched by tensor maps: steps of 16 bytes, and tiles that are not too wide."""
        qk_tiles, v_tiles = self.tiles(target)
        return target.has_tma and _mapped(self.k, qk_tiles) and _mapped(self.v, v_tiles)

    def tiles(self, target: Target) -> tuple[tuple[int, int], tuple[int, int]]:
        """Widths of the tiles of q and k, and of those of v."""
        return tiles_of(self.head_dim, 16), tiles_of(self.v_dim, self.least_tail(target))

    def heads_together(self, target: Target) -> int:
        """Heads, counted through all batches, of which the last blocks come before any other; 1 where all are alike.

        They share two thirds of the second-level cache. Of numbers down to half of what fits, the one that leaves the
        last section fullest: what ends last has to fill the device.
        """
        if not self.causal:
            return 1
        pairs = self.batch * self.kv_heads
        kv_bytes = self.kv_len * (self.head_dim + self.v_dim) * itemsize(self.q.dtype)
        most = min(max(1, 2 * target.l2_bytes // (3 * kv_bytes)), pairs, _MOST_TOGETHER)
        fullest = max(range(most // 2 + 1, most + 1), key=lambda each: (((pairs - 1) % each + 1) / each, each))
        return self.group * fullest

    def least_tail(self, target: Target) -> int:
        """Columns of v, at least, in a second tile.

        Eight are a product of warps and not of warp groups, which wants its weights elsewhere: cheap as long as only
        finished weights have to move, but with a mask, or from tensor memory, all of the softmax is computed twice.
        """
        together = target.compute_capability >= 100 or (target.compute_capability >= 90 and self.mask is not None)
        return 16 if together else 8


def tiles_of(dim: int, least: int) -> tuple[int, int]:
    """Two widths, powers of two, that cover `dim` columns with little to spare; the second 0 where one does as well.

    least: the fewest columns that the second may have.
    """
    whole = triton.next_power_of_2(max(dim, 16))
    half = whole // 2
    if dim <= half or half < 16:
        return whole, 0
    rest = max(triton.next_power_of_2(dim - half), least)
    return (half, rest) if half + rest < whole else (whole, 0)


def _mapped(tensor: Strided, tiles: tuple[int, int]) -> bool:
    size = itemsize(tensor.dtype)
    steps = tensor.strides[:3]
    return (
        tensor.strides[3] == 1
        and all(
            step > 0 and step * size % 16 == 0 for step, dim in zip(steps, tensor.shape[:3], strict=True) if dim > 1
        )
        and tensor.pointer.pointer.offset % 16 == 0
        and all(16 <= width * size <= _WIDEST_COPIED for width in tiles if width)
    )


def kernel_launch(
    problem: AttentionProblem,
    target: Target,
    *,
    block_m: int,
    block_n: int,
    warps: int,
    stages: int,
    tma: bool = False,
    programmatic: bool = False,
    packed: bool = False,
    shares: int = 1,
    partial: tuple[TypedPointer, TypedPointer] | None = None,
) -> KernelLaunch:
    """`attend` for this problem.

    packed: a program for each head of keys, otherwise for each block of queries of a head; shares: of the keys, each
    for a program of its own; partial: where those leave results and statistics.
    """
    qk_tiles, v_tiles = problem.tiles(target)
    arguments: dict[str, KernelArgument] = {
        "q": problem.q.pointer,
        "scale": Scalar("f32", problem.scale * math.log2(math.e) if problem.folded else problem.scale),
    }
    constants: dict[str, Any] = {
        "Q": problem.q.strides,
        "K": problem.k.strides,
        "V": problem.v.strides,
        "OUT": problem.out.strides if partial is None else problem.partial_strides,
        "MASK": None,
        "mask": None,
        "HEADS": problem.heads,
        "GROUP": problem.group,
        "Q_LEN": problem.q_len,
        "KV_LEN": problem.kv_len,
        "HEAD_DIM": problem.head_dim,
        "V_DIM": problem.v_dim,
        "QK_TILES": qk_tiles,
        "V_TILES": v_tiles,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "SPLIT": share_of(problem.kv_len, shares, block_n),
        "PACKED": packed,
        "TOGETHER": 1 if packed else problem.heads_together(target),
        "CAUSAL": problem.causal,
        "FOLDED": problem.folded,
        "TMA": tma,
        # Three products of tf32 keep all but the last bits of float32.
        "PRECISION": "tf32x3",
        "DEPENDENT": programmatic,
    }
    for name, tensor, tiles in (("k", problem.k, qk_tiles), ("v", problem.v, v_tiles)):
        arguments[name] = _tensor_map(tensor, block_n, tiles[0]) if tma else tensor.pointer
        if tma and tiles[1]:
            arguments[f"{name}_tail"] = _tensor_map(tensor, block_n, tiles[1])
        else:
            constants[f"{name}_tail"] = None
    if problem.mask is not None:
        del constants["mask"]
        arguments["mask"] = problem.mask.pointer
        constants["MASK"] = problem.mask.strides
    if partial is None:
        arguments["out"] = problem.out.pointer
        constants["statistics"] = None
    else:
        arguments["out"], arguments["statistics"] = partial
    programs = problem.batch * (problem.kv_heads if packed else -(-problem.q_len // block_m) * problem.heads)
    return KernelLaunch(
        attend,
        arguments,
        constants,
        (programs, shares, 1),
        num_warps=warps,
        num_stages=stages,
        programmatic=programmatic,
    )


def share_of(kv_len: int, shares: int, block_n: int) -> int:
    """Keys in a share: whole blocks, the last share fewer."""
    return -(-kv_len // (shares * block_n)) * block_n


def _tensor_map(tensor: Strided, rows: int, columns: int) -> TensorMap:
    row_bytes = columns * itemsize(tensor.dtype)
    # The step along an axis of one element means nothing, but has to be a multiple of 16 bytes all the same.
    steps = zip(tensor.strides, tensor.shape, strict=True)
    strides = (*(step if dim > 1 else 16 for step, dim in steps),)
    return TensorMap(
        tensor.pointer.pointer,
        tensor.dtype,
        tensor.shape,
        (*strides[:3], 1),
        (1, rows, 1, columns),
        {128: 3, 64: 2, 32: 1, 16: 0}[min(row_bytes, 128)],
    )
