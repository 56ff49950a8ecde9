"""Attention: one launch, a program for each block of queries of a head."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.triton.attention_problem import AttentionProblem, kernel_launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

_BLOCKS = ((16, 2), (32, 2), (64, 4), (128, 4), (128, 8), (256, 16))
"""Queries of a program, and its warps."""


_SMALLEST = (16, 16, 4, 2)
"""Queries, keys, warps, stages: what the widest heads of float32 leave room for."""


class BlockAttention(Family):
    """Any lengths, heads of up to 256 columns, masks, causal, shared keys; through any strides."""

    name = "block_attention"
    ops = ("attention",)

    def supports(self, node: Node, target: Target) -> bool:
        return AttentionProblem.of(node, target) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """The tiles of least estimated time: with tensor maps where those can be, the best ones also without."""
        problem = AttentionProblem.of(node, target)
        assert problem is not None
        best: dict[tuple[int, int, int], tuple[float, int]] = {}
        for (m, warps), n, stages in itertools.product(_BLOCKS, (32, 64, 128), (3, 2, 4)):
            cost = estimate(problem, target, m, n, warps, stages)
            if cost is not None:
                best[m, n, warps] = min(
                    best.get((m, n, warps), (cost, stages)), (cost, stages), key=lambda each: each[0]
                )
        ranked = sorted((cost, m, n, warps, stages) for (m, n, warps), (cost, stages) in best.items())
        ranked = ranked or [(0.0, *_SMALLEST)]
        maps = int(problem.has_tensor_maps(target))
        early = int(target.has_programmatic_launch)
        choices = [(*tile, maps, early) for tile in ranked[:7]]
        if maps:
            choices[2:2] = [(*tile, 0, early) for tile in ranked[:3]]
        if early:
            choices[3:3] = [(*ranked[0], maps, 0)]
        return [
            Config.of(m=m, n=n, warps=warps, stages=stages, tma=tma, early=soon)
            for _, m, n, warps, stages, tma, soon in choices
        ]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        problem = AttentionProblem.of(node, target)
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
    qk_columns, v_columns = (sum(tiles) for tiles in problem.tiles(target))
    columns = qk_columns + v_columns
    shared = (block_m * qk_columns + stages * block_n * columns) * size
    threads = 32 * warps
    # In registers: scores, results, and of float32 also what is left of scores and queries after rounding to tf32.
    rounded = 2 * (block_n + qk_columns) if size == 4 else 0
    held = block_m * (block_n + v_columns + rounded) // threads
    crowded = held > (240 if rounded else 176)
    steps = -(-problem.kv_len // block_n)
    # Products of warp groups are of 64 rows at least. Hopper's read those anew for every block of keys: with as few as
    # 32, that takes longer than the product, and none such was the fastest of any shape measured.
    hopper = target.compute_capability // 10 == 9
    meagre = block_m < 64 <= problem.q_len and target.compute_capability >= 90
    meagre |= hopper and size == 2 and block_n < 64 <= min(block_m, problem.kv_len)
    excessive = (block_m > 16 and block_m >= 2 * problem.q_len) or (block_n > 32 and block_n >= 2 * problem.kv_len)
    if shared > target.shared_memory or crowded or meagre or excessive or stages > steps + 1 > 2:
        return None
    resident = min(target.shared_memory // shared, 65536 // (threads * min(255, held + 56)))
    if resident == 0:
        return None
    programs, walked = _walk(problem, target, block_m, block_n)
    queue = -(-programs // target.sm_count)
    together = min(resident, queue)
    scores = block_m * block_n
    # Products at 2048 multiplications a cycle, exponentials at 16; keys and values come out of L2 at 24 bytes a cycle.
    cycles = scores * (columns / 2048 + 1 / 16)
    arriving = block_n * columns * size / 24
    busy = min(1.0, 0.3 + 0.05 * (together * warps - 4))
    prologue = 2500 * -(-queue // together)
    waiting = 1200 * walked / together / min(stages, 3)
    return prologue + waiting + walked * max(cycles / busy, arriving)


def _walk(problem: AttentionProblem, target: Target, block_m: int, block_n: int) -> tuple[int, float]:
    """Programs, and the blocks of keys that the busiest multiprocessor walks over.

    With `causal`, the order of `block_and_head` keeps all equally busy, though never for less than the longest takes.
    """
    ends = range(block_m, problem.q_len + block_m, block_m)
    programs = len(ends) * problem.heads * problem.batch
    if not problem.causal:
        return programs, -(-programs // target.sm_count) * -(-problem.kv_len // block_n)
    later = problem.kv_len - problem.q_len
    seen = [-(-max(0, min(end, problem.q_len) + later) // block_n) for end in ends]
    return programs, max(seen[-1], sum(seen) * problem.heads * problem.batch / target.sm_count)
