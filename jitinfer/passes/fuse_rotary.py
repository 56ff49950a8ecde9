"""Rotary position embeddings (Su et al., RoFormer, 2021) from the forms in which models write them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.graph.arithmetic import ops
from jitinfer.graph.operations.pointwise import broadcast
from jitinfer.passes.pattern import Match, either
from jitinfer.passes.rewrite import RewritePass, graph_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.node import Node


@graph_pass("fuse_rotary_half")
class FuseRotaryHalf(RewritePass):
    """x * cos + concat(-x[..., h:], x[..., :h]) * sin  ->  rotary(x, cos, sin), as LLaMA writes it"""

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        second = ops.slice(x, label="second")
        turned = ops.concat(either(second * -1.0, ops.negative(second)), ops.slice(x, label="first"))
        return x * cos + turned * sin

    def where(self, m: Match) -> bool:
        return _of_two_parts(m, (m.first,), (m.second,)) and m.nodes[0].output.type == m.x.type

    def replace(self, m: Match) -> Any:
        return ops.rotary(m.x, m.cos, m.sin, style="half")


@graph_pass("fuse_rotary_halves")
class FuseRotaryHalves(RewritePass):
    """a, b = halves of x;  concat(a * cos - b * sin, b * cos + a * sin)  ->  rotary(x, cos twice, sin twice)"""

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        a, b, again_a, again_b = (ops.slice(x, label=label) for label in ("a", "b", "again_a", "again_b"))
        return ops.concat(a * cos - b * sin, again_b * cos + again_a * sin)

    def where(self, m: Match) -> bool:
        return _of_two_parts(m, (m.a, m.again_a), (m.b, m.again_b)) and all(
            _fits(each.shape, m.a.output.shape) for each in (m.cos, m.sin)
        )

    def replace(self, m: Match) -> Any:
        cos, sin = (ops.concat(each, each, axis=len(each.shape) - 1) for each in (m.cos, m.sin))
        return ops.rotary(m.x, cos, sin, style="half")


@graph_pass("fuse_rotary_pairs")
class FuseRotaryPairs(RewritePass):
    """a, b = neighbours in x [..., h, 2];  the pairs (a * cos - b * sin, a * sin + b * cos)  ->  rotary(x, cos, sin)

    Multiplication by complex numbers, as Large-DiT and LLaMA's first code write it.
    """

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        a, b, again_a, again_b = (
            ops.reshape(ops.slice(x, label=label), label="flat_" + label) for label in ("a", "b", "again_a", "again_b")
        )
        real, imaginary = a * cos - b * sin, again_b * cos + again_a * sin
        return ops.concat(ops.reshape(real, label="real"), ops.reshape(imaginary, label="imaginary"))

    def where(self, m: Match) -> bool:
        shape = m.x.shape
        nodes = (m.flat_a, m.flat_b, m.flat_again_a, m.flat_again_b)
        return (
            shape[-1] == 2
            and _of_two_parts(m, (m.a, m.again_a), (m.b, m.again_b))
            and all(node.output.shape == shape[:-1] for node in nodes)
            and all(node.output.shape == (*shape[:-1], 1) for node in (m.real, m.imaginary))
            and all(_fits(each.shape, shape[:-1]) for each in (m.cos, m.sin))
        )

    def replace(self, m: Match) -> Any:
        *outer, pairs, _ = m.x.shape
        whole = ops.reshape(m.x, shape=(*outer, 2 * pairs))
        turned = ops.rotary(whole, _each_twice(m.cos), _each_twice(m.sin), style="interleaved")
        return ops.reshape(turned, shape=m.x.shape)


@graph_pass("fuse_rotary_partial")
class FuseRotaryPartial(RewritePass):
    """concat(rotary(x[..., :r], cos, sin), x[..., r:])  ->  rotary(x, cos, sin, rotary_dim=r)

    Only the first elements of a head are turned; GPT-NeoX, Black et al., 2022.
    """

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        return ops.concat(ops.rotary(ops.slice(x, label="first"), cos, sin, rotary_dim=0), ops.slice(x, label="rest"))

    def where(self, m: Match) -> bool:
        shape, width = m.x.shape, m.first.output.shape[-1]
        along_last = m.concat.axis % len(shape) == len(shape) - 1
        return along_last and _is_part(m.first, shape, 0, width) and _is_part(m.rest, shape, width, shape[-1])

    def replace(self, m: Match) -> Any:
        return ops.rotary(m.x, m.cos, m.sin, style=m.rotary.style, rotary_dim=m.first.output.shape[-1])


def _each_twice(angles: Any) -> Any:
    """[..., h] -> [..., 2 h]"""
    single = ops.reshape(angles, shape=(*angles.shape, 1))
    pairs = ops.concat(single, single, axis=len(angles.shape))
    return ops.reshape(pairs, shape=(*angles.shape[:-1], 2 * angles.shape[-1]))


def _fits(angles: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether angles broadcast to `shape` and stand in full along its last axis."""
    return (
        len(angles) > 0 and angles[-1] == shape[-1] and len(angles) <= len(shape) and broadcast(angles, shape) == shape
    )


def _of_two_parts(m: Match, first: Sequence[Node], second: Sequence[Node]) -> bool:
    """Whether the slices are the first and the second half of x, and the concat is along the same, last axis."""
    shape = m.x.shape
    along_last = m.concat.axis % len(shape) == len(shape) - 1
    halves = ((node, number) for number, nodes in enumerate((first, second)) for node in nodes)
    return along_last and all(_is_half(node, shape, number) for node, number in halves)


def _is_half(node: Node, shape: tuple[int, ...], number: int) -> bool:
    """Whether a slice is half 0 or 1 of the last axis, all else whole."""
    width = shape[-1] // 2
    return shape[-1] % 2 == 0 and _is_part(node, shape, number * width, (number + 1) * width)


def _is_part(node: Node, shape: tuple[int, ...], start: int, stop: int) -> bool:
    """Whether a slice is these elements of the last axis, all else whole."""
    starts, stops = (*[0] * (len(shape) - 1), start), (*shape[:-1], stop)
    return (node.starts, node.stops) == (starts, stops) and set(node.steps) == {1}
