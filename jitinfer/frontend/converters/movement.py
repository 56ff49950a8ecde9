"""Operators that move elements: all spellings become reshape, transpose, slice, broadcast_to, concat and gather."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.registry import PirOp, converter, known_integers, supported
from jitinfer.graph import Constant, ops

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
    """The row of the padding index, if there is one, counts as zeros."""
    rows, padding = ops.gather(table, indices, axis=0), op.attributes["padding_idx"]
    if padding in (-1, None):
        return rows
    padded = ops.reshape(ops.equal(indices, int(padding)), shape=(*indices.shape, 1))
    return ops.where(padded, importer.builder.constant(0, table.dtype), rows)


@converter("gather_nd")
def gather_nd(importer: Importer, op: PirOp, x: Any, indices: Any) -> Any:
    return ops.gather_nd(x, indices)


@converter("gather", "index_select")
def gather(importer: Importer, op: PirOp, x: Any, indices: Any, axis: Any = None) -> Any:
    along = op.attributes["axis"] if axis is None else known_integers(importer, axis)[0]
    indices = ops.reshape(indices, shape=(math.prod(indices.shape),)) if len(indices.shape) > 1 else indices
    return ops.gather(x, indices, axis=along % len(x.shape))


@converter("flip")
def flip(importer: Importer, op: PirOp, x: Any) -> Any:
    for axis in op.attributes["axis"]:
        along = axis % len(x.shape)
        x = cut(x, along, x.shape[along] - 1, -1, -1)
    return x


@converter("roll")
def roll(importer: Importer, op: PirOp, x: Any, shifts: Any) -> Any:
    """Along the given axes, or of all elements in their order."""
    by, axes, shape = known_integers(importer, shifts), op.attributes["axis"], x.shape
    if not axes:
        x, axes = ops.reshape(x, shape=(math.prod(shape),)), [0]
    for shift, axis in zip(by, axes, strict=True):
        along = axis % len(x.shape)
        size = x.shape[along]
        start = -shift % max(size, 1)
        if start:
            x = ops.concat(cut(x, along, start, size), cut(x, along, 0, start), axis=along)
    return ops.reshape(x, shape=shape)


@converter("pad")
def pad(importer: Importer, op: PirOp, x: Any, value: Any) -> Any:
    filler, widths = importer.number(value), op.attributes["paddings"]
    supported(filler is not None, "a filler that depends on data")
    return padded(x, list(zip(widths[::2], widths[1::2], strict=True)), "constant", filler)


@converter("pad3d")
def pad3d(importer: Importer, op: PirOp, x: Any, paddings: Any) -> Any:
    """Its widths begin with the last axis of the image."""
    left, right, top, bottom, front, back = known_integers(importer, paddings)
    image = [(front, back), (top, bottom), (left, right)]
    pairs = [(0, 0), (0, 0), *image] if op.attributes["data_format"] == "NCDHW" else [(0, 0), *image, (0, 0)]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return padded(x, pairs, mode[op.attributes["mode"]], op.attributes["pad_value"])


def padded(x: Any, pairs: list[tuple[int, int]], mode: str, value: Any) -> Any:
    """Negative widths cut."""
    for axis, (low, high) in enumerate(pairs):
        if min(low, high) < 0:
            x = cut(x, axis, max(-low, 0), x.shape[axis] - max(-high, 0))
    lows, highs = zip(*((max(low, 0), max(high, 0)) for low, high in pairs), strict=True)
    return ops.pad(x, low=lows, high=highs, mode=mode, value=float(value))


@converter("take_along_axis")
def take_along_axis(importer: Importer, op: PirOp, x: Any, indices: Any) -> Any:
    return ops.take_along_axis(x, indices, axis=op.attributes["axis"] % len(x.shape))


@converter("one_hot")
def one_hot(importer: Importer, op: PirOp, x: Any, classes: Any) -> Any:
    (count,) = known_integers(importer, classes)
    steps = importer.apply("constant", value=Constant(numpy.arange(count, dtype=x.dtype)))
    return ops.cast(ops.equal(ops.reshape(x, shape=(*x.shape, 1)), steps), dtype="float32")


@converter("index_sample")
def index_sample(importer: Importer, op: PirOp, x: Any, indices: Any) -> Any:
    return ops.take_along_axis(x, indices, axis=1)
