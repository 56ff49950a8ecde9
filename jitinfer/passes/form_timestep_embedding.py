"""The sinusoidal embedding of timesteps from the form in which diffusion models write it out."""

from __future__ import annotations

import math
from typing import Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, constant, either
from jitinfer.passes.rewrite import RewritePass, graph_pass


def _exact_factor(number: float) -> bool:
    """Whether multiplying by it rounds nothing: a power of two that moves no result of use out of range."""
    return number > 0 and math.frexp(number)[0] == 0.5 and 2.0**-20 <= number <= 2.0**20


@graph_pass("form_timestep_embedding")
class FormTimestepEmbedding(RewritePass):
    """a = factor * (t [N, 1] * f [1, F]);  concat(cos(a), sin(a))  ->  timestep_embedding(t, factor * f)

    Attention Is All You Need, Vaswani et al., 2017, as Denoising Diffusion Probabilistic Models, Ho, Jain and Abbeel,
    2020, use it. In either order of cos and sin. t may be cast to float32 on its way, which the node does itself. A
    factor other than a power of two rounds the angles, which are large, otherwise than the frequencies: it stays.
    """

    def pattern(self, t: Any, frequencies: Any, factor: Any) -> Any:
        column = either(ops.cast(ops.reshape(t)), ops.reshape(ops.cast(t)), ops.reshape(t), ops.cast(t), t)
        product = ops.multiply(column, frequencies, label="angles")
        angles = either(product * constant(_exact_factor, name="factor"), product)
        cos, sin = ops.cos(angles), ops.sin(angles)
        return either(ops.concat(cos, sin), ops.concat(sin, cos, label="sin_first"))

    def where(self, m: Match) -> bool:
        count, width = m.t.type.size, m.frequencies.type.size
        concat = m.concat or m.sin_first
        return (
            m.frequencies.shape in ((width,), (1, width))
            and m.angles.output.shape == (count, width)
            and m.angles.output.dtype == "float32"
            and concat.axis in (1, -1)
        )

    def replace(self, m: Match) -> Any:
        frequencies = ops.reshape(m.frequencies, shape=(m.frequencies.type.size,))
        factor = m.uniform("factor")
        frequencies = frequencies if factor is None else frequencies * factor
        t = ops.reshape(m.t, shape=(m.t.type.size,))
        return ops.timestep_embedding(t, frequencies, sin_first=m.sin_first is not None)


@graph_pass("flip_timestep_embedding")
class FlipTimestepEmbedding(RewritePass):
    """concat(the second half, the first half) of a timestep embedding  ->  the other one of its two orders"""

    def pattern(self, t: Any, frequencies: Any) -> Any:
        whole = ops.timestep_embedding(t, frequencies)
        return ops.concat(ops.slice(whole, label="second"), ops.slice(whole, label="first"))

    def where(self, m: Match) -> bool:
        count, width = m.t.shape[0], m.frequencies.shape[0]
        bounds = [(node.starts, node.stops, node.steps) for node in (m.first, m.second)]
        halves = [((0, start), (count, start + width), (1, 1)) for start in (0, width)]
        return bounds == halves and m.concat.axis in (1, -1)

    def replace(self, m: Match) -> Any:
        return ops.timestep_embedding(m.t, m.frequencies, sin_first=not m.timestep_embedding.sin_first)
