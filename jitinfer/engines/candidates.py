"""Which of several configurations of an engine is right for a program, and the fastest."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from jitinfer.engines.blame import Bisection
from jitinfer.engines.comparison import difference
from jitinfer.engines.configuration import Configuration
from jitinfer.engines.search import E, Search, Verdict
from jitinfer.errors import EngineError, VerificationError
from jitinfer.graph.rounding import tolerance_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.engines.blame import Blame
    from jitinfer.engines.protocol import Request
    from jitinfer.engines.trial import Outcome

logger = logging.getLogger("jitinfer.engines")

SUSPECTS = ("inplace_pass", "onednn_placement_pass")
"""What is to blame nearly always with Paddle 3.3, and so is tried before any search."""
_FASTER = 0.9
"""A later configuration is taken for an earlier one if it needs at most this fraction of its time."""


class CandidateSearch(Search[E, Configuration]):
    """Tries candidates outside of the process. Subclasses say how, and how to build with one."""

    def __init__(self, request: Request, candidates: list[Configuration], environment: Mapping[str, Any]) -> None:
        super().__init__(request, {"candidates": [candidate.document() for candidate in candidates], **environment})
        self.candidates = candidates
        self.seconds: dict[Configuration, float] = {}

    @abstractmethod
    def attempt(self, configuration: Configuration) -> Outcome:
        """Try it out of process. Never raises."""

    @abstractmethod
    def expected(self) -> list[Any]:
        """The dynamic function's results, as arrays."""

    def restore(self, document: Any) -> Configuration:
        return Configuration.restore(document)

    def search(self) -> tuple[E, Verdict[Configuration]]:
        failures: list[str] = []
        attempts = 0
        right: list[tuple[float, Configuration, tuple[Blame, ...]]] = []
        for candidate in self.candidates:
            if right and not candidate.optimise:
                break
            bisection = Bisection(self.failure_of, SUSPECTS)
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
            self.report(chosen[2])
            return executable, Verdict(chosen[1], error, chosen[2], attempts)
        raise VerificationError(
            f"{self.request.name}: no configuration gives the dynamic function's results: " + "; ".join(failures)
        )

    def _repair(
        self, bisection: Bisection[Configuration], candidate: Configuration, failure: str
    ) -> Configuration | None:
        logger.info("%s: %s is not right (%s); looking for the pass to blame", self.request.name, candidate, failure)
        return bisection.repair(candidate, failure)

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
