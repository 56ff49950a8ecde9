"""Attention of few queries over many keys: shares of the keys side by side, then their results put together.

Flash-Decoding (Dao et al., 2023): what a share of the keys makes of the values is weighted by how much of the whole
softmax lies in that share. The heads that share keys are computed together, so that each key is read once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family, KernelLaunch, TypedPointer
from jitinfer.kernels.triton.attention_kernel import LOG2E
from jitinfer.kernels.triton.attention_problem import AttentionProblem, kernel_launch, share_of
from jitinfer.runtime.plan import Pointer, aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MAX_ROWS = 64
"""Queries that share a head of keys."""

MAX_ROW_BYTES = 2**15
"""Of a block of queries, which stays in registers or shared memory."""

MAX_SHARES = 64


@triton.jit
def combine(
    partial,
    statistics,
    out,
    HEADS: tl.constexpr,
    Q_LEN: tl.constexpr,
    V_DIM: tl.constexpr,
    OUT: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK_SHARES: tl.constexpr,
    BLOCK_V: tl.constexpr,
    FOLDED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One row of the result. partial: [SHARES, batch, HEADS, Q_LEN, V_DIM]; statistics: [2, SHARES, batch, ...]."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    rows = tl.num_programs(0)
    share = tl.arange(0, BLOCK_SHARES)
    column = tl.arange(0, BLOCK_V)
    place = share.to(tl.int64) * rows + row
    greatest = tl.load(statistics + place, share < SHARES, other=float("-inf"))
    total = tl.load(statistics + SHARES * rows.to(tl.int64) + place, share < SHARES, other=0.0)
    level = tl.max(greatest, axis=0)
    level = tl.where(level == float("-inf"), 0.0, level)
    weight = tl.exp2(greatest - level) if FOLDED else tl.exp2((greatest - level) * LOG2E)
    there = (share < SHARES)[:, None] & (column < V_DIM)[None, :]
    value = tl.load(partial + place[:, None] * V_DIM + column[None, :], there, other=0.0)
    # A row that sees no key is 0 / 0: not a number, as the softmax of nothing but -inf.
    value = tl.sum(value * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    batch = (row // (HEADS * Q_LEN)).to(tl.int64)
    head = (row // Q_LEN % HEADS).to(tl.int64)
    query = (row % Q_LEN).to(tl.int64)
    results = out + batch * OUT[0] + query * OUT[1] + head * OUT[2]
    tl.store(results + column * OUT[3], value.to(out.dtype.element_ty), column < V_DIM)


class DecodeAttention(Family):
    """Queries of which at most 64 share a head of keys."""

    name = "decode_attention"
    ops = ("attention",)

    def supports(self, node: Node, target: Target) -> bool:
        problem = AttentionProblem.of(node, target)
        if problem is None or _rows(problem) > MAX_ROWS:
            return False
        return _block_m(problem) * max(problem.head_dim, problem.v_dim) * itemsize(problem.q.dtype) <= MAX_ROW_BYTES

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """Reading is all that counts: about two programs for every multiprocessor, with many keys on their way."""
        problem = AttentionProblem.of(node, target)
        assert problem is not None
        early = int(target.has_programmatic_launch)
        whole = problem.kv_heads * problem.batch
        block_m = _block_m(problem)
        key_bytes = (problem.head_dim + problem.v_dim) * itemsize(problem.q.dtype)
        block_n = 64 if key_bytes <= 512 else 32 if key_bytes <= 1024 else 16
        shares = []
        for wanted in (2, 4, 1, 8):
            most = min(max(1, wanted * target.sm_count // whole), MAX_SHARES)
            # No share is empty.
            count = -(-problem.kv_len // share_of(problem.kv_len, most, block_n))
            if count not in shares:
                shares.append(count)
        choices = [(block_n, count, 3, 4) for count in shares]
        for count in shares[:2]:
            choices += [(block_n, count, 2, 4), (block_n, count, 4, 4), (2 * block_n, count, 2, 4)]
            choices += [(block_n, count, 3, 2)] if block_m == 16 else []
        return [
            Config.of(m=block_m, n=n, shares=count, stages=stages, warps=warps, early=early)
            for n, count, stages, warps in choices
        ]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        problem = AttentionProblem.of(node, target)
        assert problem is not None
        shares = config["shares"]
        rows = problem.batch * problem.heads * problem.q_len
        statistics_bytes = aligned(2 * shares * rows * 4)
        statistics = TypedPointer(Pointer(WORKSPACE), "float32")
        partial = TypedPointer(Pointer(WORKSPACE, statistics_bytes), "float32")
        attention = kernel_launch(
            problem,
            target,
            block_m=config["m"],
            block_n=config["n"],
            warps=config["warps"],
            stages=config["stages"],
            programmatic=bool(config["early"]),
            packed=True,
            shares=shares,
            partial=(partial, statistics) if shares > 1 else None,
        )
        if shares == 1:
            return Candidate((attention,))
        together = KernelLaunch(
            combine,
            {"partial": partial, "statistics": statistics, "out": problem.out.pointer},
            {
                "HEADS": problem.heads,
                "Q_LEN": problem.q_len,
                "V_DIM": problem.v_dim,
                "OUT": problem.out.strides,
                "SHARES": shares,
                "BLOCK_SHARES": triton.next_power_of_2(shares),
                "BLOCK_V": triton.next_power_of_2(problem.v_dim),
                "FOLDED": problem.folded,
                "DEPENDENT": bool(config["early"]),
            },
            (rows, 1, 1),
            num_warps=4,
            programmatic=bool(config["early"]),
        )
        return Candidate((attention, together), statistics_bytes + shares * rows * problem.v_dim * 4)


def _rows(problem: AttentionProblem) -> int:
    return problem.group * problem.q_len


def _block_m(problem: AttentionProblem) -> int:
    return max(16, int(triton.next_power_of_2(_rows(problem))))
