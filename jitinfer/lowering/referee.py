"""Which of the kernels that were timed for a node to trust: two that agree, or what the reference confirms."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from jitinfer.graph.cost import flops
from jitinfer.lowering.choice import kernel_text
from jitinfer.lowering.node_check import MOST_FLOPS, disagreement, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.graph.node import Node
    from jitinfer.lowering.choice import Choice

    Array = Any

logger = logging.getLogger("jitinfer.lowering")


def trusted(
    node: Node,
    ranked: Sequence[Choice],
    results: Callable[[Choice], Sequence[Array]],
    arrays: Callable[[], Sequence[Array | None]],
) -> Choice:
    """The first of `ranked` if it agrees with another one, else the first that is right.

    The other is of another family if there is one: kernels of one family may share a fault. Where they do not agree,
    the reference decides, and where that would take too long, what half of the others or more agree with. A warning
    names what is left out.

    Args:
        ranked: the best first, at least one.
        results: of a choice, for each output, always for the same operands.
        arrays: these operands, None where the node has none.
    """
    first = ranked[0]
    rival = next((each for each in ranked if each.family != first.family), ranked[-1])
    if rival is first:
        return first
    of = cache(lambda position: results(ranked[position]))
    found = disagreement(node, of(0), of(ranked.index(rival)))
    if not found:
        return first
    logger.info(
        "%s and %s do not agree: %s",
        kernel_text(node, first.family, first.config),
        kernel_text(node, rival.family, rival.config),
        found,
    )
    faults = _by_reference(node, of, arrays()) if flops(node) <= MOST_FLOPS else _by_majority(node, of, len(ranked))
    for position, choice in enumerate(ranked):
        fault = faults(position)
        if not fault:
            return choice
        logger.warning("%s is left out: %s", kernel_text(node, choice.family, choice.config), fault)
    logger.warning("%s is taken all the same: there is no other", kernel_text(node, first.family, first.config))
    return first


def _by_reference(
    node: Node, of: Callable[[int], Sequence[Array]], arrays: Sequence[Array | None]
) -> Callable[[int], str]:
    return lambda position: failure_of(node, of(position), arrays)


def _by_majority(node: Node, of: Callable[[int], Sequence[Array]], count: int) -> Callable[[int], str]:
    def fault(position: int) -> str:
        others = [other for other in range(count) if other != position]
        found = [text for text in (disagreement(node, of(position), of(other)) for other in others) if text]
        if 2 * len(found) <= len(others):
            return ""
        return f"{len(found)} of {len(others)} others give something else: {found[0]}"

    return fault
