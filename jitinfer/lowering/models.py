"""Models from the cache, or made: the same graph is lowered once on a machine."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jitinfer.cache import Key
from jitinfer.errors import DeviceLostError, PlanError
from jitinfer.kernels.family import Config, families
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.choice import AsBefore, FirstThatCompiles, form_of
from jitinfer.lowering.compiled import compile_graph, nodes_by_plan
from jitinfer.lowering.environment import environment
from jitinfer.lowering.exclusion import documents
from jitinfer.lowering.fault import ModelFaultError
from jitinfer.lowering.lane_timing import faster
from jitinfer.lowering.lower import Outline, located
from jitinfer.lowering.parts import questions
from jitinfer.lowering.tuning import Tuner, with_digests
from jitinfer.runtime.model_file import from_parts, to_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.cache import JSON, Cache
    from jitinfer.graph import Graph
    from jitinfer.graph.node import Node
    from jitinfer.lowering.choice import Chooser, Offer, Work
    from jitinfer.lowering.exclusion import Exclusion, Exclusions
    from jitinfer.lowering.lower import Lowered
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Model
    from jitinfer.runtime.plan import Step

FAST_SECONDS = 20.0
"""After which `tune="fast"` takes the rest as the families guess it."""

LANES_SECONDS = 2.0
"""Of FAST_SECONDS, to compare two lanes with one, where there are branches that may run side by side."""

FAST_OFFERS = 6
"""Kernels for one node that `tune="fast"` compiles and tries."""

FAST_PARTS = 2
"""In which `tune="fast"` tries products (`lowering.parts`)."""

MOST_PARTS = 4
"""In which `tune="max"` does."""

logger = logging.getLogger("jitinfer.lowering")


@dataclass(frozen=True)
class ModelMaker:
    """Makes models of graphs, after their passes, for `device`, and keeps them in `store`.

    tune: "off": as the families of kernels guess; "fast": some offers for each node are timed, within a limit of
    time; "max": all of them. excluded: kernels that must not be chosen. lanes: as `lower` says; unless `tune` is "off",
    two stay only where they are `lane_timing.faster`. foreign: digests of the families of kernels that are not this
    library's, by name: other code makes other models.
    """

    device: Device
    store: Cache
    tune: str
    excluded: Exclusions = ()
    lanes: int = 1
    foreign: Mapping[str, str] = field(default_factory=dict)

    def model(self, graph: Graph) -> Model:
        """Raises UnsupportedOpError for a node that no kernel can compute, KernelFaultError for an offer with which
        the device is lost, ModelFaultError where it is lost by the whole plan, which the next process does not time.
        """
        entry = self.store.get(self._key(graph))
        if entry is not None:
            try:
                model = from_parts(entry.metadata, entry.blobs)
                return dataclasses.replace(model, plan=located(model.plan, graph, Target.of(self.device)))
            except PlanError as error:
                logger.warning("a model in the cache does not fit and is made anew: %s", error)
        return self._made(graph)[0]

    def kernels(self, graph: Graph) -> Work:
        """The nodes of a graph and of its prologue, each with the kernels that compute it in the graph's model.

        Where the cache has no model, it is made. Raises as `model`.
        """
        entry = self.store.get(self._key(graph))
        if entry is None:
            return self._made(graph)[1]
        target = Target.of(self.device)
        with Compiler(target, self.store) as compiler:
            chooser = AsBefore(compiler, _offers_in(entry.metadata), self._chooser(compiler))
            return _work(compile_graph(graph, target, chooser, parts=_parts_in(entry.metadata))[1])

    def origin_of_step(self, graph: Graph, model: Model, plan: int, number: int) -> tuple[Node, str, Config] | None:
        """The node that a step of the graph's model computes, and the family and the configuration chosen for it.

        Read from the cache alone, since families may ask the device, which need not be there any more. plan: 0 for the
        model's plan, from 1 on those of its prologue. None where the cache has no model for this graph, or another one.
        """
        entry = self.store.get(self._key(graph))
        if entry is None:
            return None
        try:
            kept = from_parts(entry.metadata, entry.blobs)
        except PlanError:
            return None
        step, same = (_step(each, plan, number) for each in (model, kept))
        nodes = nodes_by_plan(graph, Target.of(self.device), _parts_in(entry.metadata))
        offers = _offers_in(entry.metadata)
        if step is None or step != same or step.cost is None or len(offers) != sum(map(len, nodes)):
            return None
        family, config = offers[sum(map(len, nodes[:plan])) + step.cost.node]
        return nodes[plan][step.cost.node], family.name, config

    def concerned(self, graph: Graph) -> list[Exclusion]:
        """Those of `excluded` that leave a node of the graph, or of its prologue, less to choose from."""
        if not self.excluded:
            return []
        target = Target.of(self.device)
        plans = nodes_by_plan(graph, target)
        forms = {form_of(node) for nodes in plans for node in nodes}
        for question in questions(plans[0], graph.outputs, target, self._most_parts):
            forms.update(map(form_of, question.nodes))
        return [each for each in self.excluded if each.form in forms]

    def _made(self, graph: Graph) -> tuple[Model, Work]:
        target = Target.of(self.device)
        with Compiler(target, self.store) as compiler:
            chooser = self._chooser(compiler)
            timer = chooser if isinstance(chooser, Tuner) else None
            model, lowered = compile_graph(graph, target, chooser, self.lanes, timer=timer)
        if model.plan.lanes > 1 and self.tune != "off":
            plain = Outline(graph, target, lowered.parts).plan([choice for _, choice in lowered.work])
            try:
                plan = faster(model.plan, plain.plan, self.device, self._limit(LANES_SECONDS))
            except DeviceLostError as error:
                self._keep(graph, model, lowered)
                raise ModelFaultError(model, error) from error
            model = dataclasses.replace(model, plan=plan)
        self._keep(graph, model, lowered)
        return model, _work(lowered)

    def _keep(self, graph: Graph, model: Model, lowered: Lowered) -> None:
        metadata, blobs = to_parts(model)
        offers: list[JSON] = [[choice.family, choice.config.document()] for _, choice in _work(lowered)]
        parts: list[JSON] = [[place, count] for place, count in lowered.parts.items()]
        self.store.put(self._key(graph), blobs, {**metadata, "offers": offers, "parts": parts})

    def _key(self, graph: Graph) -> Key:
        return Key(
            "model",
            {
                "graph": graph.hash,
                "weights": [value.name for value in graph.parameters],
                **environment(self.device),
                "tune": self.tune,
                "excluded": documents(self.concerned(graph)),
                "lanes": self.lanes,
                "families": with_digests(self.foreign),
            },
        )

    def _chooser(self, compiler: Compiler) -> Chooser:
        if self.tune == "off":
            return FirstThatCompiles(compiler, self.excluded)
        return Tuner(
            compiler,
            self.device,
            self.store,
            seconds=self._limit(FAST_SECONDS - (LANES_SECONDS if self.lanes > 1 else 0.0)),
            most=FAST_OFFERS if self.tune == "fast" else None,
            excluded=self.excluded,
            foreign=self.foreign,
            most_parts=self._most_parts,
        )

    @property
    def _most_parts(self) -> int:
        """In which a product is tried."""
        return {"off": 1, "fast": FAST_PARTS}.get(self.tune, MOST_PARTS)

    def _limit(self, seconds: float) -> float:
        """Of what is measured."""
        return seconds if self.tune == "fast" else math.inf


def _step(model: Model, plan: int, number: int) -> Step | None:
    """Without its place, by which models of equal graphs differ."""
    plans = (model.plan, *model.prologue)
    steps = plans[plan].steps[number:] if plan < len(plans) else ()
    return dataclasses.replace(steps[0], origin="") if steps else None


def _work(lowered: Lowered) -> Work:
    """The nodes of a graph and of its prologue, with their kernels."""
    return [*lowered.work, *lowered.prologue]


def _parts_in(metadata: Mapping[str, Any]) -> dict[int, int]:
    """Of which products were computed in parts when a model was made."""
    return {int(place): int(count) for place, count in metadata["parts"]}


def _offers_in(metadata: Mapping[str, Any]) -> list[Offer]:
    """What was chosen when a model was made; nothing where families have changed since."""
    try:
        return [(families()[family], Config.restore(config)) for family, config in metadata["offers"]]
    except (KeyError, TypeError, ValueError):
        return []
