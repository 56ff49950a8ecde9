"""Tuning: the offers for a node are timed on the device, and the fastest is kept for the processes to come."""

from __future__ import annotations

import logging
import math
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jitinfer.cache import Key
from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.kernels.family import Config, families
from jitinfer.lowering.choice import Choice, compiled_offers, first_that_compiles, form_of, offers, start
from jitinfer.lowering.environment import environment
from jitinfer.lowering.exclusion import documents
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.lowering.referee import trusted
from jitinfer.lowering.rotation import Rotation, samples_for
from jitinfer.progress import progress
from jitinfer.runtime.executor import outputs_of
from jitinfer.runtime.timing import InTurn, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from jitinfer.cache import JSON, Cache
    from jitinfer.errors import KernelError
    from jitinfer.graph.node import Node
    from jitinfer.kernels.family import Family
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.compilation import Compiler
    from jitinfer.lowering.choice import Offer, StartedOffer, Work
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Plan
    from jitinfer.runtime.weights import Weights

logger = logging.getLogger("jitinfer.lowering")

_COMPILED = 6
"""Kernels that are compiled for a form, about."""

_SPARED = 0.25
"""Of the time for tuning, in which forms are no longer taken as their kernels get ready, but the slowest first."""

_HOPELESS = 1.25
"""Times the best time so far: what takes longer in a few replays is not measured more exactly."""

_CLOSE = 1.05
"""Times the best time: what is not slower may be the fastest."""

_FINALISTS = 4

_MATTERS = 0.01
"""Of the time of all nodes: those of a form are worth to tell kernels apart that are about as fast."""

_POLLING = 0.005
"""Seconds."""

_ROUNDS = 15
"""In which plans take turns."""

Winner = tuple["Family", Config, float]
"""A family, its configuration, and its time in microseconds, nan where there is none."""


class Tuner:
    """A chooser that measures.

    seconds: of one `choose` at most, compilation included, but for what every node needs; nodes whose turn does not
    come, those that matter least, take the first offer that compiles, and are tuned another time. most: kernels that
    are compiled for a node to be tried, at most; what libraries offer is always tried. excluded: what is never taken.
    foreign: digests of the code of families that are not this library's, by name. most_parts: as `SequenceTimer` has
    it, which this is.
    """

    def __init__(
        self,
        compiler: Compiler,
        device: Device,
        store: Cache | None = None,
        *,
        seconds: float = math.inf,
        most: int | None = None,
        excluded: Exclusions = (),
        foreign: Mapping[str, str] | None = None,
        most_parts: int = 1,
    ) -> None:
        self._compiler = compiler
        self._device = device
        self._store = store
        self._seconds = seconds
        self._most = most
        self._excluded = excluded
        self._foreign = foreign or {}
        self.most_parts = most_parts
        self._deadline = math.inf
        self._sequences: dict[Key, list[float]] = {}
        self.measured = 0
        """Offers that were timed, rather than known from the cache."""

    def choose(self, nodes: Sequence[Node], once: Sequence[Node] = ()) -> list[Choice]:
        """As `Chooser` says. Raises KernelFaultError for an offer with which the device is lost."""
        began = time.perf_counter()
        deadline = self._deadline = began + self._seconds
        groups: dict[str, list[Node]] = {}
        for node in nodes:
            groups.setdefault(form_of(node), []).append(node)
        winners = self._known(groups)
        self._compiler.prepare(_COMPILED * (len(groups) - len(winners) + len(once)))
        races = [self._race(form, alike) for form, alike in groups.items() if form not in winners]
        races.sort(key=lambda race: -race.estimate)
        whole = sum(len(alike) * _seconds(alike[0], self._compiler.target) for alike in groups.values())
        seldom = [self._race(form_of(node), [node]) for node in once]
        for race in races:
            race.begin_compiling(1)
        for race in races:
            race.begin_compiling(self._most)
        for race in (*races, *seldom):
            race.begin_first()
        for race in races:
            race.begin_rest(self._most)
        with progress("jitinfer: tuning", sum(len(race.runners) for race in races)) as advance:
            for race in _as_they_get_ready(races, began + (1.0 - _SPARED) * self._seconds):
                matters = race.estimate >= _MATTERS * whole
                winners[race.form] = self._winner(race, deadline, advance, matters)
        chosen = [self._chosen(node, winners[form]) for form, alike in groups.items() for node in alike]
        placed = dict(zip((node for alike in groups.values() for node in alike), chosen, strict=True))
        return [*(placed[node] for node in nodes), *(race.first() for race in seldom)]

    def times_of(self, sequences: Sequence[Work]) -> list[float]:
        """As `SequenceTimer` says; the time of the last `choose` counts. Raises KernelFaultError."""
        forms: list[JSON] = [form_of(*(node for node, _ in work)) for work in sequences]
        chosen: list[JSON] = [[[c.family, c.config.document()] for _, c in work] for work in sequences]
        key = self._key(forms, chosen)
        if key not in self._sequences:
            entry = None if self._store is None else self._store.get(key)
            if entry is not None:
                self._sequences[key] = _numbers(entry.metadata)
            elif time.perf_counter() > self._deadline:
                return [math.inf] * len(sequences)
            else:
                self._sequences[key] = found = self._sequence_times(sequences)
                if self._store is not None and math.isfinite(found[0]):
                    self._store.put(key, {}, {"microseconds": [*found]})
        return self._sequences[key]

    def _sequence_times(self, sequences: Sequence[Work]) -> list[float]:
        """Infinities where they do not run."""
        self.measured += len(sequences)
        names = " or ".join(", ".join(node.op.name for node, _ in work) for work in sequences)
        rotations = [Rotation([node for node, _ in work], self._compiler.target) for work in sequences]
        plans = [rotation.plan(work) for rotation, work in zip(rotations, sequences, strict=True)]
        weights: list[Weights] = []
        try:
            weights.extend(rotation.weights(self._device) for rotation in rotations)
            totals = self._turns(sequences[-1][-1], plans, weights)
        except KernelFaultError:
            raise
        except DeviceError as error:
            logger.info("%s: they do not run: %s", names, error)
            return [math.inf] * len(sequences)
        finally:
            for each in weights:
                each.close()
        times = [total / rotation.copies for total, rotation in zip(totals, rotations, strict=True)]
        logger.debug("%s at %s: %s us", names, sequences[0][-1][0].origin, ", ".join(f"{each:.1f}" for each in times))
        return times

    def _race(self, form: str, nodes: Sequence[Node]) -> _Race:
        return _Race(form, nodes, self._compiler, self._excluded)

    def _winner(self, race: _Race, deadline: float, advance: Callable[[], None], matters: bool) -> Winner:
        """The fastest of those that compile until the deadline, or the first one of all."""
        late = time.perf_counter() > deadline
        if late or len(race.runners) == 1:
            race.cancel()
            best = race.first()
        else:
            choices = [choice for choice in race.results(deadline) if isinstance(choice, Choice)]
            late = len(choices) < len(race.runners) and time.perf_counter() > deadline
            best = self._fastest(race.node, choices, advance, matters) if choices else race.first()
        if self._store is not None and not late:
            self._store.put(self._key(race.form), {}, {"family": best.family, **_document(best)})
        return families()[best.family], best.config, best.microseconds

    def _fastest(self, node: Node, choices: list[Choice], advance: Callable[[], None], matters: bool) -> Choice:
        rotation = Rotation([node], self._compiler.target)
        weights = rotation.weights(self._device)
        try:
            timed: list[Choice] = []
            failures: list[DeviceError] = []
            for choice in choices:
                try:
                    best_yet = min((each.microseconds for each in timed), default=math.inf)
                    timed.append(self._timed(rotation, node, choice, weights, _HOPELESS * best_yet))
                except KernelFaultError:
                    raise
                except DeviceError as error:
                    logger.info("%s %s does not run: %s", choice.family, choice.config, error)
                    failures.append(error)
                advance()
            if not timed:
                raise failures[0]
            timed.sort(key=lambda choice: choice.microseconds)
            if matters:
                timed = self._told_apart(rotation, node, timed, weights)

            def results(choice: Choice) -> list[Any]:
                with _named(node, choice):
                    return outputs_of(rotation.plan([(node, choice)], 1), weights, self._device)

            best = trusted(node, timed, results, lambda: samples_for(node))
        finally:
            weights.close()
        logger.debug("%s at %s: %s %s, %.1f us", node.op.name, node.origin, best.family, best.config, best.microseconds)
        return best

    def _timed(self, rotation: Rotation, node: Node, choice: Choice, weights: Weights, limit: float) -> Choice:
        self.measured += 1
        logger.debug("timing %s %s for %s", choice.family, choice.config, node.op.name)
        with _named(node, choice):
            plan = rotation.plan([(node, choice)])
            total = microseconds(plan, weights, self._device, limit=limit * rotation.copies)
        return replace(choice, microseconds=total / rotation.copies)

    def _turns(self, last: tuple[Node, Choice], plans: Sequence[Plan], weights: Sequence[Weights]) -> list[float]:
        """Microseconds of plans in turn; `last` is blamed for a device that they lose, whose kernels ran well alone."""
        with _named(*last), self._device.telling_loss():
            return _in_turn(plans, weights, self._device)

    def _told_apart(self, rotation: Rotation, node: Node, timed: list[Choice], weights: Weights) -> list[Choice]:
        """`timed` with those at its head anew that are about as fast as the first: by their times in turn."""
        close = [each for each in timed if each.microseconds <= _CLOSE * timed[0].microseconds][:_FINALISTS]
        if len(close) < 2:
            return timed
        plans = [rotation.plan([(node, choice)]) for choice in close]
        try:
            totals = self._turns((node, close[-1]), plans, [weights] * len(close))
        except KernelFaultError:
            raise
        except DeviceError as error:
            logger.info("kernels for %s are not told apart: %s", node.op.name, error)
            return timed
        again = [replace(each, microseconds=total / rotation.copies) for each, total in zip(close, totals, strict=True)]
        return [*sorted(again, key=lambda choice: choice.microseconds), *timed[len(close) :]]

    def _chosen(self, node: Node, winner: Winner) -> Choice:
        """What won for nodes of this form, for this very one."""
        family, config, measured = winner
        result = start(node, family, config, self._compiler).result()
        if isinstance(result, Choice):
            return replace(result, microseconds=measured)
        return self._race("", [node]).first()

    def _known(self, forms: Iterable[str]) -> dict[str, Winner]:
        """Those of other times."""
        entries = {} if self._store is None else {form: self._store.get(self._key(form)) for form in forms}
        found = {form: _restored(entry.metadata) for form, entry in entries.items() if entry is not None}
        return {form: winner for form, winner in found.items() if winner is not None}

    def _key(self, form: JSON, chosen: JSON = None) -> Key:
        """form: of one node, or of sequences of them, whose kernels are `chosen`."""
        return Key(
            "tuning",
            {
                "node": form,
                "chosen": chosen,
                **environment(self._device),
                "families": with_digests(self._foreign),
                "most": self._most,
                "excluded": documents([each for each in self._excluded if each.form == form]),
            },
        )


def with_digests(foreign: Mapping[str, str]) -> list[JSON]:
    """All families of kernels, for a key: those of this library are what its sources say."""
    return [[name, foreign.get(name, "")] for name in sorted(families())]


@contextmanager
def _named(node: Node, choice: Choice) -> Iterator[None]:
    """A device that is lost within is lost by this choice."""
    try:
        yield
    except DeviceLostError as error:
        raise KernelFaultError.of(node, choice.family, choice.config, error) from error


def _as_they_get_ready(races: Sequence[_Race], until: float) -> Iterator[_Race]:
    """Each time the first that need not be waited for; from `until` on, all that are left in their order."""
    left = list(races)
    while left:
        ready = next((race for race in left if race.ready), None)
        if ready is None and time.perf_counter() < until:
            time.sleep(_POLLING)
            continue
        race = ready or left[0]
        left.remove(race)
        yield race


def _in_turn(plans: Sequence[Plan], weights: Sequence[Weights], device: Device) -> list[float]:
    """Microseconds of each: medians of rounds, in which clocks and whoever else is there are the same for all."""
    timed = InTurn(plans, weights, device)
    try:
        rounds = [timed.round() for _ in range(_ROUNDS)]
    finally:
        timed.close()
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


class _Race:
    """The offers for nodes of one form, the most promising first, as far as they were begun."""

    def __init__(self, form: str, nodes: Sequence[Node], compiler: Compiler, excluded: Exclusions) -> None:
        self.form = form
        self.node = nodes[0]
        self.runners: list[StartedOffer] = []
        self._compiler = compiler
        self._excluded = excluded
        self._begun: dict[Offer, StartedOffer] = {}
        self.estimate = len(nodes) * _seconds(self.node, compiler.target)
        """Of one run of all the nodes."""

    @cached_property
    def _offers(self) -> list[Offer]:
        """All of them: libraries take their time to say what they have."""
        return offers(self.node, self._compiler.target, self._excluded)

    @cached_property
    def _compiled_offers(self) -> list[Offer]:
        return compiled_offers(self.node, self._compiler.target, self._excluded)

    def begin_compiling(self, most: int | None) -> None:
        """The first `most` of those offers that are compiled, or all of them, before libraries are asked for theirs."""
        for offer in self._compiled_offers[:most]:
            self._begin(offer)

    def begin_first(self) -> None:
        """The most promising one, which is needed in any case."""
        self._start(self._offers[0])

    def begin_rest(self, most: int | None) -> None:
        """The others, until `most` have been begun that are to be compiled; None: all of them."""
        compiled = int(self._offers[0][0].compiled)
        for offer in self._offers[1:]:
            compiled += offer[0].compiled
            if most is None or compiled <= most or not offer[0].compiled:
                self._start(offer)

    def _start(self, offer: Offer) -> None:
        self.runners.append(self._begin(offer))

    def _begin(self, offer: Offer) -> StartedOffer:
        if offer not in self._begun:
            self._begun[offer] = start(self.node, *offer, self._compiler)
        return self._begun[offer]

    @property
    def ready(self) -> bool:
        """Whether there is nothing to wait for."""
        return all(runner.ready for runner in self.runners)

    def results(self, deadline: float) -> Iterator[Choice | KernelError]:
        """Those of the runners, without what has not begun by the deadline."""
        for runner in self.runners:
            if time.perf_counter() > deadline:
                self.cancel()
            yield runner.result()

    def first(self) -> Choice:
        """The first offer that compiles. Raises KernelError."""
        if not self.runners:
            self.begin_first()
        return first_that_compiles(self.node, self.runners[0], self._offers[1:], self._compiler)

    def cancel(self) -> None:
        """All but the first: what has begun goes on."""
        for runner in self.runners[1:]:
            runner.cancel()


def _seconds(node: Node, target: Target) -> float:
    """By the target's ceilings."""
    inputs, outputs = node.input_types(), [value.type for value in node.outputs]
    flops = node.op.flops(inputs, outputs, **node.attributes)
    nbytes = node.op.bytes_moved(inputs, outputs, **node.attributes)
    return max(flops / target.flops, nbytes / target.bandwidth)


def _document(choice: Choice) -> dict[str, JSON]:
    measured = choice.microseconds if math.isfinite(choice.microseconds) else None
    return {"config": choice.config.document(), "microseconds": measured}


def _numbers(metadata: Mapping[str, Any]) -> list[float]:
    return [float(each) for each in metadata["microseconds"]]


def _restored(metadata: Mapping[str, Any]) -> Winner | None:
    """What an entry names; None where no family makes it any more."""
    try:
        family = families()[metadata["family"]]
        config = Config.restore(metadata["config"])
        measured = metadata["microseconds"]
    except (KeyError, TypeError, ValueError):
        return None
    return family, config, math.nan if measured is None else float(measured)
