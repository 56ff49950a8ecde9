"""fuse_attention: softmax(q k^T) v, as models write it out, becomes one node."""

from __future__ import annotations

from typing import Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, constant, either
from jitinfer.passes.rewrite import RewritePass, graph_pass


@graph_pass("fuse_attention")
class FuseAttention(RewritePass):
    """softmax(scale * matmul(q, k^T) + mask) matmul v  ->  attention(q, k, v, mask, scale)

    Operands of the matmuls: [batch, heads, seq, head_dim], or [batch * heads, seq, head_dim]. The node's own order is
    [batch, seq, heads, head_dim], so transposes are put around it; those of the model then cancel against them.
    Scaled dot-product attention, Vaswani et al., 2017.
    """

    def pattern(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        def scaled(x: Any, name: str) -> Any:
            return either(x * constant(name=name), ops.divide(x, constant(name=name + "_divisor")), x)

        scores = scaled(ops.matmul(scaled(q, "q_scale"), scaled(k, "k_scale"), label="scores"), "scale")
        apart = ops.reshape(scores, label="heads_apart") + mask
        weights = ops.softmax(either(scores + mask, ops.reshape(apart), scores), label="softmax")
        return ops.matmul(weights, v, label="product", transpose_x=False)

    def where(self, m: Match) -> bool:
        rank = len(m.q.shape)
        scores = m.scores.output.shape
        return (
            rank in (3, 4)
            and len(m.k.shape) == len(m.v.shape) == rank
            and not m.scores.transpose_x
            and m.softmax.axis in (-1, rank - 1)
            and m.q.shape[:-2] == m.k.shape[:-2] == m.v.shape[:-2]
            and m.softmax.output.shape == scores == (*m.q.shape[:-1], scores[-1])
            and (m.mask is None or m.mask.type.floating)
            and (m.heads_apart is None or _apart(m.heads_apart.output.shape, scores))
            and all(m.uniform(name) != 0.0 for name in ("q_scale_divisor", "k_scale_divisor", "scale_divisor"))
        )

    def replace(self, m: Match) -> Any:
        scale = 1.0
        for name in ("q_scale", "k_scale", "scale"):
            factor, divisor = m.uniform(name), m.uniform(name + "_divisor")
            scale *= 1.0 if factor is None else factor
            scale /= 1.0 if divisor is None else divisor
        heads = None if m.heads_apart is None else m.heads_apart.output.shape[:2]
        q = _heads_inside(m.q, heads, transposed=False)
        k = _heads_inside(m.k, heads, transposed=not m.scores.transpose_y)
        v = _heads_inside(m.v, heads, transposed=m.product.transpose_y)
        mask = m.mask
        if mask is not None and len(m.q.shape) == 3 and heads is None:
            mask = _with_heads(mask)
        result = ops.attention(q, k, v, mask, scale=scale)
        if len(m.q.shape) == 3 and heads is None:
            return ops.reshape(result, shape=m.product.output.shape)
        return ops.reshape(ops.transpose(result, permutation=(0, 2, 1, 3)), shape=m.product.output.shape)


def _apart(shape: tuple[int, ...], scores: tuple[int, ...]) -> bool:
    """Whether `shape` is [batch, heads, seq, seq] for scores of [batch * heads, seq, seq]."""
    return len(shape) == 4 and len(scores) == 3 and shape[2:] == scores[1:]


def _heads_inside(x: Any, heads: tuple[int, int] | None, *, transposed: bool) -> Any:
    """[batch, heads, seq, dim], or [batch, heads, dim, seq] where `transposed`  ->  [batch, seq, heads, dim]

    `heads`: batch and number of heads, where they are one axis of x that the model takes apart for its mask.
    """
    x = x if heads is None else ops.reshape(x, shape=(*heads, *x.shape[1:]))
    if len(x.shape) == 3:
        x = ops.transpose(x, permutation=(0, 2, 1)) if transposed else x
        return ops.reshape(x, shape=(x.shape[0], x.shape[1], 1, x.shape[2]))
    return ops.transpose(x, permutation=(0, 3, 1, 2) if transposed else (0, 2, 1, 3))


def _with_heads(mask: Any) -> Any:
    """[..., seq, seq] beside scores of three axes  ->  [..., 1, seq, seq]"""
    if len(mask.shape) < 3:
        return mask
    return ops.reshape(mask, shape=(mask.shape[0], 1, *mask.shape[1:]))
