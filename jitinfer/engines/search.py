"""Which configuration of an engine is right for a program: try, compare, find the pass to blame, remember."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jitinfer.cache import Key
from jitinfer.engines.comparison import difference, tolerance_for
from jitinfer.engines.configuration import Configuration
from jitinfer.errors import EngineError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitinfer.engines.protocol import Executable, Request
    from jitinfer.engines.trial import Outcome

logger = logging.getLogger("jitinfer.engines")

E = TypeVar("E", bound="Executable")

SUSPECTS = ("inplace_pass", "onednn_placement_pass")
"""What is to blame nearly always with Paddle 3.3, and so is tried before any search."""
_MOST_ATTEMPTS = 120
"""Tries after which a bisection is content with the set of passes that it has."""
_FASTER = 0.9
"""A later configuration is taken for an earlier one if it needs at most this fraction of its time."""


@dataclass(frozen=True)
class Blame:
    """A pass that made a program wrong, or crash, and what it looked like."""

    name: str
    failure: str

    def __str__(self) -> str:
        return f"{self.name} is dropped: with it, {self.failure}"


@dataclass(frozen=True)
class Verdict:
    """The configuration that is right for a program, and how that was found out."""

    configuration: Configuration
    error: float
    blamed: tuple[Blame, ...] = ()
    attempts: int = 0

    def document(self) -> dict[str, Any]:
        return {
            "configuration": self.configuration.document(),
            "error": self.error,
            "blamed": [[blame.name, blame.failure] for blame in self.blamed],
            "attempts": self.attempts,
        }

    @staticmethod
    def restore(document: Mapping[str, Any]) -> Verdict:
        """The inverse of `document`; raises KeyError, TypeError or ValueError if it is not one."""
        return Verdict(
            Configuration.restore(document["configuration"]),
            float(document["error"]),
            tuple(Blame(name, failure) for name, failure in document["blamed"]),
            int(document["attempts"]),
        )


@dataclass
class Bisection:
    """The search for the passes to blame in one configuration.

    `fails`: "" if a configuration is right, else what is wrong with it. A pass is to blame if all the others together
    are right; a smallest set of such passes is found by delta debugging (Zeller and Hildebrandt, "Simplifying and
    isolating failure-inducing input", IEEE Trans. Softw. Eng. 28, 2002), in about 2 log2(n) tries for one pass of n.
    """

    fails: Callable[[Configuration], str]
    blamed: list[Blame] = field(default_factory=list)
    attempts: int = 0

    def repair(self, configuration: Configuration, failure: str) -> Configuration | None:
        """`configuration` less the passes to blame, or None if it is wrong without any pass, too."""
        guilty = list(configuration.passes())
        for suspect in SUSPECTS:
            if suspect in guilty and not self.ask(configuration.without(suspect)):
                self.blamed = [Blame(suspect, failure)]
                return configuration.without(suspect)
        if not guilty or self.ask(configuration.without(*guilty)):
            return None
        parts = 2
        while len(guilty) > 1 and self.attempts < _MOST_ATTEMPTS:
            size = -(-len(guilty) // parts)
            pieces = [guilty[start : start + size] for start in range(0, len(guilty), size)]
            pieces.reverse()  # a late pass is worth less than an early one that the others build upon
            smaller = next((piece for piece in pieces if not self.ask(configuration.without(*piece))), None)
            if smaller is not None:
                guilty, parts = smaller, 2
                continue
            rests = [[name for name in guilty if name not in piece] for piece in pieces] if parts > 2 else []
            smaller = next((rest for rest in rests if not self.ask(configuration.without(*rest))), None)
            if smaller is not None:
                guilty, parts = smaller, max(parts - 1, 2)
            elif parts >= len(guilty):
                break
            else:
                parts = min(2 * parts, len(guilty))
        self.blamed = [Blame(name, failure) for name in guilty]
        return configuration.without(*guilty)

    def ask(self, configuration: Configuration) -> str:
        """What is wrong with a configuration, "" if nothing is; counted."""
        self.attempts += 1
        return self.fails(configuration)


class Search(ABC, Generic[E]):
    """One engine's search for one program. Subclasses say how to try a configuration and how to build with it."""

    def __init__(self, request: Request, candidates: list[Configuration], environment: Mapping[str, Any]) -> None:
        self.request = request
        self.candidates = candidates
        self.seconds: dict[Configuration, float] = {}
        self.key = Key(
            "verdict",
            {
                "program": request.program.digest,
                "shapes": [[list(t.shape), str(t.dtype)] for t in request.inputs],
                "options": request.options.key(),
                "candidates": [candidate.document() for candidate in candidates],
                **environment,
            },
        )

    @abstractmethod
    def attempt(self, configuration: Configuration) -> Outcome:
        """Try it out of process. Never raises."""

    @abstractmethod
    def expected(self) -> list[Any]:
        """The dynamic function's results, as arrays."""

    @abstractmethod
    def accept(self, configuration: Configuration) -> tuple[E, float]:
        """Build in this process, run, compare. Raises EngineError or VerificationError."""

    @abstractmethod
    def load(self, verdict: Verdict) -> E:
        """Build in this process what was found right before. Raises EngineError."""

    def find(self) -> tuple[E, Verdict]:
        """The executable and the verdict, from the cache if it is there.

        Raises VerificationError if no configuration is right.
        """
        if self.request.degenerate:
            return self._search()
        found: list[tuple[E, Verdict]] = []

        def build() -> tuple[Mapping[str, bytes], Mapping[str, Any]]:
            found.append(self._search())
            return {}, found[0][1].document()

        entry, _ = self.request.cache.get_or_build(self.key, build)
        if found:
            self._record_origin()
            return found[0]
        try:
            verdict = Verdict.restore(entry.metadata)
            executable = self._loaded(verdict)
            self.request.notes.extend(map(str, verdict.blamed))
            return executable, verdict
        except (KeyError, TypeError, ValueError, EngineError, VerificationError) as error:
            logger.warning("%s: the verdict in the cache does not work here (%s); searching", self.request.name, error)
            return self._search()

    def _loaded(self, verdict: Verdict) -> E:
        """With the verdict's configuration; compared once for every function and state that has this program."""
        origin = self._origin_key()
        if origin is not None and self.request.cache.get(origin) is not None:
            return self.load(verdict)
        executable, _ = self.accept(verdict.configuration)
        self._record_origin()
        return executable

    def _origin_key(self) -> Key | None:
        if self.request.origin is None:
            return None
        return Key("comparison", {"verdict": self.key.digest, "origin": dict(self.request.origin)})

    def _record_origin(self) -> None:
        key = self._origin_key()
        if key is not None:
            self.request.cache.put(key, {}, {})

    def _search(self) -> tuple[E, Verdict]:
        failures: list[str] = []
        attempts = 0
        right: list[tuple[float, Configuration, tuple[Blame, ...]]] = []
        for candidate in self.candidates:
            if right and not candidate.optimise:
                break
            bisection = Bisection(self.failure_of)
            failure = bisection.ask(candidate)
            repaired = candidate if not failure else self._repair(bisection, candidate, failure)
            attempts += bisection.attempts
            if repaired is None:
                failures.append(f"{candidate}: {failure}")
            else:
                right.append((self.seconds[repaired], repaired, tuple(bisection.blamed)))
        while right:
            chosen = next(one for one in right if all(one[0] * _FASTER <= other[0] for other in right))
            right.remove(chosen)
            try:
                executable, error = self.accept(chosen[1])
            except (EngineError, VerificationError) as problem:
                failures.append(str(problem))
                continue
            self._report(chosen[2])
            return executable, Verdict(chosen[1], error, chosen[2], attempts)
        raise VerificationError(
            f"{self.request.name}: no configuration gives the dynamic function's results: " + "; ".join(failures)
        )

    def _repair(self, bisection: Bisection, candidate: Configuration, failure: str) -> Configuration | None:
        logger.info("%s: %s is not right (%s); looking for the pass to blame", self.request.name, candidate, failure)
        return bisection.repair(candidate, failure)

    def _report(self, blamed: tuple[Blame, ...]) -> None:
        for blame in blamed:
            self.request.notes.append(str(blame))
            logger.warning("%s: %s", self.request.name, blame)

    def failure_of(self, configuration: Configuration) -> str:
        """What is wrong with a configuration, "" if nothing is."""
        outcome = self.attempt(configuration)
        self.seconds[configuration] = outcome.seconds
        if outcome.results is None:
            return outcome.failure or "it failed"
        if self.request.program.random:
            return ""  # the child draws other random numbers; the comparison is made in this process
        found = difference(outcome.results, self.expected())
        tolerance = tolerance_for(self.request.program.rounding, configuration.arithmetic)
        return "" if found.within(tolerance) else f"{found.what}; rounding explains {tolerance}"
