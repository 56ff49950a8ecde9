"""Steps of nodes on lanes -> the slots of a plan."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jitinfer.graph.types import itemsize
from jitinfer.runtime.plan import Launch, Region, Slot
from jitinfer.runtime.regions import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.node import Node, Value
    from jitinfer.graph.view import View
    from jitinfer.lowering.lanes import Lanes
    from jitinfer.runtime.plan import Step


def in_slots(
    steps: Sequence[Sequence[Step]], written: Sequence[Sequence[Region]], lanes: Lanes
) -> tuple[tuple[Step, ...], tuple[Slot, ...]]:
    """The steps of all nodes in their order, and their slots: none where all are on one lane.

    steps: of each node; written: of each node, by all its steps. A step that waits for another lane is launched when
    what it waits for has ended: not even CUDA says what an early launch means there.
    """
    together = tuple(step for each in steps for step in each)
    if not any(lanes.lanes):
        return together, ()
    placed: list[Step] = []
    slots: list[Slot] = []
    last: list[int] = []
    for node, (each, lane) in enumerate(zip(steps, lanes.lanes, strict=True)):
        after = tuple(last[awaited] for awaited in lanes.after[node])
        for step in each:
            early = isinstance(step, Launch) and step.programmatic and not after
            placed.append(dataclasses.replace(step, programmatic=early) if isinstance(step, Launch) else step)
            slots.append(Slot(lane, after, _given(step, written[node])))
            after = ()
        last.append(len(placed) - 1)
    return tuple(placed), tuple(slots)


def written_by(node: Node) -> list[Region]:
    """What a node writes of the buffers of its values, which have their names."""
    return [_region(value, node.store(position)) for position, value in enumerate(node.outputs)]


def _region(value: Value, store: View | None) -> Region:
    size = itemsize(value.dtype)
    if store is None:
        return Region(value.name, 0, value.type.nbytes)
    if not store.size:
        return Region(value.name, 0, 0)
    axes = list(zip(store.shape, store.strides, strict=True))
    first = store.offset + sum((dim - 1) * stride for dim, stride in axes if stride < 0)
    return joined(Region(value.name, first * size, size, tuple((dim, abs(stride) * size) for dim, stride in axes)))


def _given(step: Step, written: Sequence[Region]) -> tuple[Region, ...]:
    """Those of the regions whose buffers a launch is given; other steps say themselves what they write."""
    if not isinstance(step, Launch):
        return ()
    buffers = step.buffers
    return tuple(region for region in written if region.buffer in buffers)
