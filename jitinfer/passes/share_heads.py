"""share_heads: keys and values that are repeated for several heads are read by all of them instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.graph.arithmetic import ops
from jitinfer.passes.pattern import Match, either, optional
from jitinfer.passes.rewrite import RewritePass, graph_pass

if TYPE_CHECKING:
    from collections.abc import Sequence


@graph_pass("share_heads")
class ShareHeads(RewritePass):
    """attention(q, k repeated, v repeated)  ->  attention(q, k, v) with fewer heads of k and v

    Grouped-query attention, Ainslie et al., 2023. Repeated: reshape(broadcast_to(k)), in which each head stands
    several times in a row; in [batch, seq, heads, dim], or transposed from [batch, heads, seq, dim].
    """

    def pattern(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        def repeated(x: Any, name: str) -> Any:
            flat = ops.reshape(ops.broadcast_to(x, label=name + "_spread"), label=name + "_flat")
            return either(flat, ops.transpose(flat, permutation=(0, 2, 1, 3), label=name + "_turned"))

        return ops.attention(q, repeated(k, "k"), repeated(v, "v"), optional(mask))

    def where(self, m: Match) -> bool:
        heads = self._heads(m, "k")
        return heads is not None and heads == self._heads(m, "v")

    def replace(self, m: Match) -> Any:
        k, v = (self._once(m, name) for name in ("k", "v"))
        return ops.attention(m.q, k, v, m.mask, **m.attention.attributes)

    def _heads(self, m: Match, name: str) -> int | None:
        """The number of heads before the repetition; None if that is no repetition of heads."""
        flat = getattr(m, name + "_flat").output.shape
        axis = 2 if getattr(m, name + "_turned") is None else 1
        spread = getattr(m, name + "_spread").output.shape
        return _heads_before(getattr(m, name).shape, spread, flat, axis)

    def _once(self, m: Match, name: str) -> Any:
        flat = getattr(m, name + "_flat").output.shape
        turned = getattr(m, name + "_turned") is not None
        axis = 1 if turned else 2
        x = ops.reshape(getattr(m, name), shape=(*flat[:axis], self._heads(m, name), *flat[axis + 1 :]))
        return ops.transpose(x, permutation=(0, 2, 1, 3)) if turned else x


def _heads_before(before: Sequence[int], spread: Sequence[int], flat: Sequence[int], axis: int) -> int | None:
    """Where broadcasting `before` to `spread` repeats each index of one axis of `flat`: that axis's first size."""
    before = (*[1] * (len(spread) - len(before)), *before)
    pairs = [(small, large) for small, large in zip(before, spread, strict=True) if large != 1]
    repeated = [position for position, (small, large) in enumerate(pairs) if small != large]
    if len(repeated) != 1:
        return None
    times = pairs[repeated[0]][1]
    if flat[axis] % times:
        return None
    heads = flat[axis] // times
    wanted = [(dim, dim) for dim in (*flat[:axis], heads) if dim != 1]
    place = len(wanted)
    wanted += [(1, times), *((dim, dim) for dim in flat[axis + 1 :] if dim != 1)]
    return heads if pairs == wanted and repeated == [place] else None
