"""Attention and rotary embeddings, as builds of Paddle with CUDA kernels write them.

Where queries and keys differ in number, kernels of several versions count a causal mask from different corners: that
form is left to Paddle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer

_TURNED = (0, 2, 1, 3)


def attended(op: PirOp, q: Any, k: Any, v: Any, mask: Any, scale: float | None) -> Any:
    """q, k, v: [batch, length, heads, head_dim]."""
    causal = op.attributes["causal"]
    dropped = op.attributes.get("dropout", op.attributes.get("dropout_p", 0.0))
    supported(dropped == 0.0 or op.attributes["is_test"], "dropout while training")
    supported(not causal or q.shape[1] == k.shape[1], "a causal mask that is no square")
    scale = 1.0 / math.sqrt(q.shape[3]) if scale is None else scale
    return ops.attention(q, k, v, mask, scale=scale, causal=causal)


@converter("flash_attn")
def flash_attn(importer: Importer, op: PirOp, q: Any, k: Any, v: Any, seed: Any, mask: Any) -> list[Any]:
    supported(not op.attributes["return_softmax"], "the weights as a result")
    return [attended(op, q, k, v, mask, None)]


@converter("flash_attn_qkvpacked")
def flash_attn_qkvpacked(importer: Importer, op: PirOp, qkv: Any, seed: Any, mask: Any) -> list[Any]:
    """qkv: [batch, length, 3, heads, head_dim]."""
    supported(qkv.shape[2] == 3, "fewer keys than queries in one tensor")
    supported(not op.attributes["return_softmax"], "the weights as a result")
    shape = (*qkv.shape[:2], *qkv.shape[3:])
    q, k, v = (ops.reshape(cut(qkv, 2, i, i + 1), shape=shape) for i in range(3))
    return [attended(op, q, k, v, mask, None)]


@converter("flash_attn_unpadded")
def flash_attn_unpadded(
    importer: Importer, op: PirOp, q: Any, k: Any, v: Any, starts: Any, key_starts: Any, seed: Any, mask: Any, *_: Any
) -> list[Any]:
    """Sequences one after the other, [sum of lengths, heads, head_dim], if all have one length that is known."""
    supported(mask is None and not op.attributes["return_softmax"], "a mask, or the weights as a result")
    first, others = known_integers(importer, starts), known_integers(importer, key_starts)
    queries, keys, values = _apart(q, first), _apart(k, others), _apart(v, others)
    y = attended(op, queries, keys, values, None, op.attributes["scale"])
    return [ops.reshape(y, shape=(q.shape[0], *y.shape[2:]))]


def _apart(x: Any, starts: list[int]) -> Any:
    """[sequences, length, ...]; the starts end with the end of the last sequence."""
    count = len(starts) - 1
    length = x.shape[0] // max(count, 1)
    supported(count > 0 and starts == [i * length for i in range(count)] + [x.shape[0]], "sequences of several lengths")
    return ops.reshape(x, shape=(count, length, *x.shape[1:]))


@converter("memory_efficient_attention")
def memory_efficient_attention(
    importer: Importer, op: PirOp, q: Any, k: Any, v: Any, mask: Any, *lengths: Any
) -> list[Any]:
    """A scale below zero stands for the usual one."""
    supported(all(each is None for each in lengths[:4]), "sequences of several lengths")
    scale = op.attributes["scale"]
    return [attended(op, q, k, v, mask, scale if scale >= 0 else None)]


@converter("variable_length_memory_efficient_attention")
def variable_length_memory_efficient_attention(
    importer: Importer, op: PirOp, q: Any, k: Any, v: Any, lengths: Any, key_lengths: Any, mask: Any
) -> Any:
    """q, k, v: [batch, heads, length, head_dim]; lengths: [batch, 1]. Rows beyond a sequence's length mean nothing."""
    supported(op.attributes["pre_cache_length"] == 0, "keys of a cache before the others")
    supported(not op.attributes["causal"] or lengths is key_lengths, "a causal mask that is no square")
    batch, keys = k.shape[0], k.shape[2]
    places = importer.builder.constant(numpy.arange(keys), key_lengths.dtype)
    visible = ops.less(places, ops.reshape(key_lengths, shape=(batch, 1, 1, 1)))
    if mask is not None:
        visible = ops.where(visible, mask, importer.builder.constant(-numpy.inf, mask.dtype))
    q, k, v = (ops.transpose(each, permutation=_TURNED) for each in (q, k, v))
    return ops.transpose(attended(op, q, k, v, visible, op.attributes["scale"]), permutation=_TURNED)


@converter("fused_softmax_mask")
def fused_softmax_mask(importer: Importer, op: PirOp, x: Any, mask: Any) -> Any:
    return ops.softmax(x + mask, axis=len(x.shape) - 1)


@converter("fused_softmax_mask_upper_triangle")
def fused_softmax_mask_upper_triangle(importer: Importer, op: PirOp, x: Any) -> Any:
    """Over the columns up to the row's own."""
    rows, columns = x.shape[-2:]
    visible = importer.builder.constant(numpy.tri(rows, columns, dtype=bool))
    return ops.softmax(ops.where(visible, x, importer.builder.constant(-numpy.inf, x.dtype)), axis=len(x.shape) - 1)


@converter("fused_rotary_position_embedding")
def fused_rotary_position_embedding(
    importer: Importer, op: PirOp, q: Any, k: Any, v: Any, sin: Any, cos: Any, positions: Any
) -> list[Any]:
    """Each of q, k, v: [batch, length, heads, head_dim], or [length, batch, ...] if time comes first.

    sin, cos: [positions, head_dim], or with axes of one element for batch and heads. Without them, the frequencies are
    those of neighbours that form a pair, also where the pairs are halves, which is what Paddle's kernel does. What it
    calls the style of NeoX are the neighbours.
    """
    first = op.attributes["time_major"]
    present = [each for each in (q, k, v) if each is not None]
    batch, length = (q.shape[1], q.shape[0]) if first else q.shape[:2]
    supported(all(each.shape[:2] == q.shape[:2] for each in present), "queries and keys of different lengths")
    width = q.shape[3]
    if sin is None or cos is None:
        tables = _angles(importer, op, positions, length, width)
    else:
        tables = [ops.reshape(each, shape=(each.type.size // width, width)) for each in (cos, sin)]
        if positions is not None:
            tables = [ops.gather(each, positions, axis=0) for each in tables]
    apart = (1 if positions is None else batch, length, 1, width)
    tables = [ops.reshape(each, shape=apart) for each in tables]
    if first:
        tables = [ops.transpose(each, permutation=(1, 0, 2, 3)) for each in tables]
    style = "interleaved" if op.attributes["use_neox_rotary_style"] else "half"

    def turned(x: Any) -> Any:
        if x.dtype == tables[0].dtype:
            return ops.rotary(x, *tables, style=style)
        return ops.cast(ops.rotary(ops.cast(x, dtype=tables[0].dtype), *tables, style=style), dtype=x.dtype)

    return [None if each is None else turned(each) for each in (q, k, v)]


def _angles(importer: Importer, op: PirOp, positions: Any, length: int, width: int) -> list[Any]:
    """[..., length, width], of positions or of 0, 1, 2, ...: the cosines and the sines."""
    rates = 1.0 / op.attributes["rotary_emb_base"] ** (numpy.arange(width) // 2 * 2 / width)
    if positions is None:
        angles = numpy.arange(length)[:, None] * rates
        return [importer.builder.constant(each, "float32") for each in (numpy.cos(angles), numpy.sin(angles))]
    turned = ops.reshape(ops.cast(positions, dtype="float32"), shape=(*positions.shape, 1))
    angles = turned * importer.builder.constant(rates, "float32")
    return [ops.cos(angles), ops.sin(angles)]
