"""Operators that move elements: all spellings become reshape, transpose, slice, broadcast_to, concat and gather."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer


def cut(x: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
    """x along one axis, from start to stop."""
    starts, stops, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return ops.slice(x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


@converter("reshape")
def reshape(importer: Importer, op: PirOp, x: Any, shape: Any) -> Any:
    """0 keeps a dim, -1 takes what is left."""
    wanted = known_integers(importer, shape)
    kept = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if -1 in kept:
        rest = math.prod(dim for dim in kept if dim != -1)
        kept[kept.index(-1)] = math.prod(x.shape) // max(rest, 1)
    return ops.reshape(x, shape=tuple(kept))


@converter("transpose")
def transpose(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.transpose(x, permutation=tuple(axis % len(x.shape) for axis in op.attributes["perm"]))


@converter("squeeze")
def squeeze(importer: Importer, op: PirOp, x: Any, axes: Any) -> Any:
    named = {axis % len(x.shape) for axis in known_integers(importer, axes)} or set(range(len(x.shape)))
    return ops.reshape(x, shape=tuple(dim for axis, dim in enumerate(x.shape) if axis not in named or dim != 1))


@converter("unsqueeze")
def unsqueeze(importer: Importer, op: PirOp, x: Any, axes: Any) -> Any:
    shape = list(x.shape)
    for axis in known_integers(importer, axes):
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 1)
    return ops.reshape(x, shape=tuple(shape))


@converter("flatten")
def flatten(importer: Importer, op: PirOp, x: Any) -> Any:
    rank = len(x.shape)
    start, stop = op.attributes["start_axis"] % max(rank, 1), op.attributes["stop_axis"] % max(rank, 1)
    middle = math.prod(x.shape[start : stop + 1])
    return ops.reshape(x, shape=(*x.shape[:start], middle, *x.shape[stop + 1 :]))


@converter("slice")
def slice_(importer: Importer, op: PirOp, x: Any, starts: Any, ends: Any) -> Any:
    first, last = known_integers(importer, starts), known_integers(importer, ends)
    for axis, start, end in zip(op.attributes["axes"], first, last, strict=True):
        bounds = range(x.shape[axis])[start:end]
        x = cut(x, axis, bounds.start if len(bounds) else 0, bounds.stop if len(bounds) else 0)
    dropped = op.attributes["decrease_axis"]
    return ops.reshape(x, shape=tuple(dim for axis, dim in enumerate(x.shape) if axis not in dropped)) if dropped else x


@converter("strided_slice")
def strided_slice(importer: Importer, op: PirOp, x: Any, starts: Any, ends: Any, strides: Any) -> Any:
    parts = [known_integers(importer, each) for each in (starts, ends, strides)]
    for axis, start, end, step in zip(op.attributes["axes"], *parts, strict=True):
        bounds = range(x.shape[axis])[start:end:step]
        if not len(bounds):
            bounds = range(0)
        x = cut(x, axis, bounds.start, max(bounds.stop, -1), bounds.step)
    return x


@converter("split_with_num")
def split_with_num(importer: Importer, op: PirOp, x: Any, axis: Any) -> Any:
    (along,) = known_integers(importer, axis)
    along %= len(x.shape)
    width = x.shape[along] // op.attributes["num"]
    return [[cut(x, along, i * width, (i + 1) * width) for i in range(op.attributes["num"])]]


@converter("split")
def split(importer: Importer, op: PirOp, x: Any, sections: Any, axis: Any) -> Any:
    (along,) = known_integers(importer, axis)
    along %= len(x.shape)
    sizes = known_integers(importer, sections)
    rest = x.shape[along] - sum(size for size in sizes if size >= 0)
    parts, start = [], 0
    for size in (rest if size < 0 else size for size in sizes):
        parts.append(cut(x, along, start, start + size))
        start += size
    return [parts]


@converter("unbind", "unstack")
def unbind(importer: Importer, op: PirOp, x: Any) -> Any:
    axis = op.attributes["axis"] % len(x.shape)
    shape = tuple(dim for i, dim in enumerate(x.shape) if i != axis)
    return [[ops.reshape(cut(x, axis, i, i + 1), shape=shape) for i in range(x.shape[axis])]]


@converter("concat")
def concat(importer: Importer, op: PirOp, xs: Any, axis: Any) -> Any:
    (along,) = known_integers(importer, axis)
    return ops.concat(*xs, axis=along % len(xs[0].shape))


@converter("stack")
def stack(importer: Importer, op: PirOp, xs: Any) -> Any:
    shape = list(xs[0].shape)
    axis = op.attributes["axis"] % (len(shape) + 1)
    shape.insert(axis, 1)
    return ops.concat(*(ops.reshape(x, shape=tuple(shape)) for x in xs), axis=axis)


@converter("expand")
def expand(importer: Importer, op: PirOp, x: Any, shape: Any) -> Any:
    """-1 keeps a dim."""
    wanted = known_integers(importer, shape)
    lead = len(wanted) - len(x.shape)
    return ops.broadcast_to(x, shape=tuple(x.shape[i - lead] if dim == -1 else dim for i, dim in enumerate(wanted)))


@converter("tile")
def tile(importer: Importer, op: PirOp, x: Any, times: Any) -> Any:
    counts = known_integers(importer, times)
    shape = (*[1] * (len(counts) - len(x.shape)), *x.shape)
    counts = [1] * (len(shape) - len(counts)) + counts
    pairs = [(count, dim) for count, dim in zip(counts, shape, strict=True)]
    y = ops.reshape(x, shape=tuple(size for _, dim in pairs for size in (1, dim)))
    y = ops.broadcast_to(y, shape=tuple(size for pair in pairs for size in pair))
    return ops.reshape(y, shape=tuple(count * dim for count, dim in pairs))


@converter("repeat_interleave")
def repeat_interleave(importer: Importer, op: PirOp, x: Any) -> Any:
    axis = op.attributes["axis"] % len(x.shape)
    times, (before, after) = op.attributes["repeats"], (x.shape[: axis + 1], x.shape[axis + 1 :])
    y = ops.broadcast_to(ops.reshape(x, shape=(*before, 1, *after)), shape=(*before, times, *after))
    return ops.reshape(y, shape=(*before[:-1], before[-1] * times, *after))


@converter("embedding")
def embedding(importer: Importer, op: PirOp, indices: Any, table: Any) -> Any:
    supported(op.attributes["padding_idx"] in (-1, None), "an embedding with padding")
    return ops.gather(table, indices, axis=0)


@converter("gather_nd")
def gather_nd(importer: Importer, op: PirOp, x: Any, indices: Any) -> Any:
    return ops.gather_nd(x, indices)


@converter("gather", "index_select")
def gather(importer: Importer, op: PirOp, x: Any, indices: Any, axis: Any = None) -> Any:
    along = op.attributes["axis"] if axis is None else known_integers(importer, axis)[0]
    indices = ops.reshape(indices, shape=(math.prod(indices.shape),)) if len(indices.shape) > 1 else indices
    return ops.gather(x, indices, axis=along % len(x.shape))
