"""Parts of buffers, and whether two of them have bytes in common."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.types import itemsize
from jitinfer.runtime.plan import Region

if TYPE_CHECKING:
    from jitinfer.runtime.plan import Matrix

MOST_RUNS = 1 << 16
"""Of a region that is looked at run by run; one of more counts as all between its ends."""


def end(region: Region) -> int:
    """The byte behind its last one; its offset for an empty one."""
    if not region.nbytes or not all(count for count, _ in region.repeats):
        return region.offset
    return region.offset + region.nbytes + sum((count - 1) * stride for count, stride in region.repeats)


def matrix_region(matrix: Matrix, batch: int) -> Region:
    """What `batch` of these matrices hold."""
    size = itemsize(matrix.dtype)
    repeats = ((batch, matrix.batch_stride * size), (matrix.rows, matrix.row_stride * size))
    return joined(Region(matrix.pointer.buffer, matrix.pointer.offset, matrix.columns * size, repeats))


def joined(region: Region) -> Region:
    """The same bytes in as few repeats as they need: what follows without a gap is one run."""
    nbytes = region.nbytes
    left: list[tuple[int, int]] = []
    for count, stride in sorted(region.repeats, key=lambda repeat: repeat[1]):
        if count > 1 and stride <= nbytes and not left:
            nbytes += (count - 1) * stride
        elif count != 1:
            left.append((count, stride))
    return Region(region.buffer, region.offset, nbytes, tuple(reversed(left)))


def overlap(one: Region, other: Region) -> bool:
    """Whether they have bytes in common, or may have: regions of very many runs are taken for whole."""
    if one.buffer != other.buffer or max(one.offset, other.offset) >= min(end(one), end(other)):
        return False
    starts, nbytes = runs(one)
    others, length = runs(other)
    # Of each run of one, the other's last run that begins before it ends: it reaches furthest.
    last = numpy.searchsorted(others, starts + nbytes, side="left") - 1
    reached = numpy.where(last >= 0, others[last] + length, -1)
    return bool((reached > starts).any())


@lru_cache(maxsize=256)
def runs(region: Region) -> tuple[numpy.ndarray[Any, Any], int]:
    """Where the runs of a region start, sorted, and how long each is; one run for all of too many."""
    if math.prod(count for count, _ in region.repeats) > MOST_RUNS:
        return numpy.array([region.offset]), end(region) - region.offset
    starts = numpy.array([region.offset])
    for count, stride in region.repeats:
        starts = (starts[:, None] + stride * numpy.arange(count)).reshape(-1)
    return numpy.sort(starts), region.nbytes
