"""Attention: one launch, a program for each block of queries of a head."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.triton.attention_problem import AttentionProblem, kernel_launch, tiles_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

_BLOCKS = ((16, 2), (16, 4), (32, 2), (32, 4), (64, 4), (128, 4), (128, 8))
"""Queries of a program, and its warps."""

_FLOAT32 = ("tf32x3", "ieee")
"""How products of float32 are made: from three of tensor cores, to the last bits, or from multiplications."""


class BlockAttention(Family):
    """Any lengths, heads of up to 256 columns, masks, causal, shared keys; through any strides."""

    name = "block_attention"
    ops = ("attention",)

    def supports(self, node: Node, target: Target) -> bool:
        return AttentionProblem.of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """Those of least estimated time, the first of them also without an early launch."""
        problem = AttentionProblem.of(node)
        assert problem is not None
        maps = (1, 0) if problem.has_tensor_maps(target) else (0,)
        precisions = range(len(_FLOAT32)) if problem.q.dtype == "float32" else (0,)
        early = int(target.has_programmatic_launch)
        ranked = []
        for (m, warps), n, stages in itertools.product(_BLOCKS, (32, 64, 128), (2, 3, 4)):
            cost = estimate(problem, target, m, n, warps, stages)
            if cost is not None:
                ranked.append((cost, m, n, warps, stages))
        ranked.sort()
        chosen = [
            Config.of(m=m, n=n, warps=warps, stages=stages, tma=tma, early=early, precision=precision)
            for (_, m, n, warps, stages) in ranked[:6]
            for tma in maps
            for precision in precisions
        ]
        if early:
            chosen.insert(2, Config.of(**{**dict(chosen[0].values), "early": 0}))
        return chosen[:12]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        problem = AttentionProblem.of(node)
        assert problem is not None
        launch = kernel_launch(
            problem,
            target,
            block_m=config["m"],
            block_n=config["n"],
            warps=config["warps"],
            stages=config["stages"],
            tma=bool(config["tma"]),
            programmatic=bool(config["early"]),
            precision=_FLOAT32[config["precision"]],
        )
        return Candidate((launch,))


def estimate(
    problem: AttentionProblem, target: Target, block_m: int, block_n: int, warps: int, stages: int
) -> float | None:
    """Cycles of the busiest multiprocessor, roughly, to rank configurations by; None where one does not fit.

    A warp alone leaves its multiprocessor idle two thirds of the time, products waiting for exponentials and these for
    products; more warps fill that.
    """
    size = itemsize(problem.q.dtype)
    columns = sum(tiles_of(problem.head_dim, 16)) + sum(tiles_of(problem.v_dim, 8))
    shared = (block_m * sum(tiles_of(problem.head_dim, 16)) + stages * block_n * columns) * size
    threads = 32 * warps
    held = block_m * (block_n * (1 + size // 4) + sum(tiles_of(problem.v_dim, 8))) // threads
    steps = -(-problem.kv_len // block_n)
    excessive = (block_m > 16 and block_m >= 2 * problem.q_len) or (block_n > 32 and block_n >= 2 * problem.kv_len)
    if shared > target.shared_memory or held > 176 or excessive or stages > steps + 1 > 2:
        return None
    resident = min(target.shared_memory // shared, 65536 // (threads * min(255, held + 56)))
    if resident == 0:
        return None
    programs = -(-problem.q_len // block_m) * problem.heads * problem.batch
    queue = -(-programs // target.sm_count)
    together = min(resident, queue)
    scores = block_m * block_n
    cycles = scores * (2 * columns / 2048 + 1 / 16)
    busy = min(1.0, 0.3 + 0.05 * (together * warps - 4))
    prologue = 2500 * -(-queue // together)
    waiting = 400 * steps * queue / together / min(stages, 3)
    return prologue + waiting + queue * steps * cycles * (0.55 if problem.causal else 1.0) / busy
