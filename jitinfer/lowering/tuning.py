"""Tuning: the offers for a node are timed on the device, and the fastest is kept for the processes to come."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton

from jitinfer import kernels, lowering, runtime, version
from jitinfer.cache import Key
from jitinfer.errors import KernelError
from jitinfer.kernels.family import Config, families
from jitinfer.lowering.choice import Choice, compile_offers, form_of, offers
from jitinfer.lowering.rotation import Rotation
from jitinfer.runtime.timing import microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.cache import JSON, Cache
    from jitinfer.graph.node import Node
    from jitinfer.kernels.family import Family
    from jitinfer.kernels.triton.compilation import Compiler
    from jitinfer.runtime.device import Device

logger = logging.getLogger("jitinfer.lowering")

Offer = tuple["Family", Config]


class Tuner:
    """A chooser that measures.

    seconds: of one `choose` at most, compilation included; nodes whose turn does not come take the first offer that
    compiles, and are tuned another time. most: offers for a node that are tried at most.
    """

    def __init__(
        self,
        compiler: Compiler,
        device: Device,
        store: Cache | None = None,
        *,
        seconds: float = math.inf,
        most: int | None = None,
    ) -> None:
        self._compiler = compiler
        self._device = device
        self._store = store
        self._seconds = seconds
        self._most = most
        self.measured = 0
        """Offers that were timed, rather than known from the cache."""

    def choose(self, nodes: Sequence[Node]) -> list[Choice]:
        """As `Chooser` says."""
        deadline = time.perf_counter() + self._seconds
        forms = [form_of(node) for node in nodes]
        first = dict(zip(reversed(forms), reversed(nodes), strict=True))
        found: dict[str, Choice] = self._known(first)
        unknown = {form: node for form, node in first.items() if form not in found}
        offered = {form: offers(node, self._compiler.target)[: self._most] for form, node in unknown.items()}
        asked = [(unknown[form], *offer) for form, each in offered.items() for offer in each]
        compiled = iter(compile_offers(asked, self._compiler))
        for form, each in offered.items():
            choices = [next(compiled) for _ in each]
            found[form] = self._fastest(form, unknown[form], choices, deadline)
        return [found[form] for form in forms]

    def _fastest(self, form: str, node: Node, compiled: Sequence[Choice | KernelError], deadline: float) -> Choice:
        choices = [choice for choice in compiled if isinstance(choice, Choice)]
        if not choices:
            raise KernelError(f"nothing that computes {node.op.name} at {node.origin} compiles: {compiled[0]}")
        if len(choices) > 1 and time.perf_counter() > deadline:
            return choices[0]
        if len(choices) > 1:
            rotation = Rotation(node, self._compiler.target)
            weights = rotation.weights(self._device)
            try:
                choices = [self._timed(rotation, choice, weights) for choice in choices]
            finally:
                weights.close()
        best = min(choices, key=lambda choice: choice.microseconds)
        logger.debug("%s at %s: %s %s, %.1f us", node.op.name, node.origin, best.family, best.config, best.microseconds)
        if self._store is not None:
            self._store.put(self._key(form), {}, {"family": best.family, **_document(best)})
        return best

    def _timed(self, rotation: Rotation, choice: Choice, weights: Any) -> Choice:
        self.measured += 1
        logger.debug("timing %s %s for %s", choice.family, choice.config, rotation.node.op.name)
        total = microseconds(rotation.plan(choice), weights, self._device)
        return replace(choice, microseconds=total / rotation.copies)

    def _known(self, nodes: Mapping[str, Node]) -> dict[str, Choice]:
        """Winners of other times, compiled."""
        if self._store is None:
            return {}
        winners: dict[str, tuple[Offer, float]] = {}
        for form in nodes:
            entry = self._store.get(self._key(form))
            winner = None if entry is None else _restored(entry.metadata)
            if winner is not None:
                winners[form] = winner
        asked = [(nodes[form], *offer) for form, (offer, _) in winners.items()]
        found = {}
        for (form, (_, measured)), choice in zip(winners.items(), compile_offers(asked, self._compiler), strict=True):
            if isinstance(choice, Choice):
                found[form] = replace(choice, microseconds=measured)
        return found

    def _key(self, form: str) -> Key:
        target = self._compiler.target
        return Key(
            "tuning",
            {
                "node": form,
                "device": self._device.name,
                "capability": target.compute_capability,
                "sm_count": target.sm_count,
                "triton": triton.__version__,
                "jitinfer": version.__version__,
                "sources": sources_digest(),
                "families": sorted(families()),
                "most": self._most,
            },
        )


def _document(choice: Choice) -> dict[str, JSON]:
    measured = choice.microseconds if math.isfinite(choice.microseconds) else None
    return {"config": [[name, value] for name, value in choice.config.values], "microseconds": measured}


def _restored(metadata: Mapping[str, Any]) -> tuple[Offer, float] | None:
    """The offer that an entry names; None for one that no family makes any more."""
    try:
        family = families()[metadata["family"]]
        config = Config(tuple((str(name), int(value)) for name, value in metadata["config"]))
        measured = metadata["microseconds"]
    except (KeyError, TypeError, ValueError):
        return None
    return (family, config), math.nan if measured is None else float(measured)


@cache
def sources_digest() -> str:
    """Content of what kernels and plans are made by: what another state of it made says nothing about this one."""
    digest = hashlib.sha256()
    for package in (kernels, runtime, lowering):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
