"""Many tensors of one shape, walked row by row: the few row dimensions that all of them agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.view import View


@dataclass(frozen=True)
class RowSpace:
    """Views of one shape as rows of one width.

    dims: sizes of the row dimensions, outermost first, those merged that every view walks with one stride;
    row_strides[i]: strides of view i over `dims`; columns[i]: its stride from one element of a row to the next.
    """

    dims: tuple[int, ...]
    width: int
    row_strides: tuple[tuple[int, ...], ...]
    columns: tuple[int, ...]

    @property
    def rows(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count


def row_space(views: Sequence[View], axes: int) -> RowSpace | None:
    """Of views of one shape, whose last `axes` axes are a row; None where a row is not walked with one stride."""
    shape = views[0].shape
    split = len(shape) - axes
    dims, strides = _merged(shape[:split], [view.strides[:split] for view in views])
    widths = [_merged(view.shape[split:], [view.strides[split:]]) for view in views]
    if any(len(merged) > 1 for merged, _ in widths):
        return None
    width = 1
    for dim in shape[split:]:
        width *= dim
    columns = tuple(strides[0][0] if merged else 1 for merged, strides in widths)
    return RowSpace(dims, width, strides, columns)


def _merged(
    shape: tuple[int, ...], strides: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Axes of size 1 left out, neighbours made one where that is one in all views."""
    dims: list[int] = []
    walked: list[list[int]] = [[] for _ in strides]
    for axis, dim in enumerate(shape):
        if dim == 1:
            continue
        steps = [each[axis] for each in strides]
        if dims and all(walk[-1] == dim * step for walk, step in zip(walked, steps, strict=True)):
            dims[-1] *= dim
            for walk, step in zip(walked, steps, strict=True):
                walk[-1] = step
        else:
            dims.append(dim)
            for walk, step in zip(walked, steps, strict=True):
                walk.append(step)
    return tuple(dims), tuple(tuple(walk) for walk in walked)
