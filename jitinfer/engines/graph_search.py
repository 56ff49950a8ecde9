"""The search of an engine with a graph: run all passes, compare, and find what is to blame where that is wrong."""

from __future__ import annotations

import logging
import math
import traceback
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy

from jitinfer.engines.blame import Bisection, Blame
from jitinfer.engines.paddle import check_in_process, environment_document
from jitinfer.engines.recipe import Recipe
from jitinfer.engines.search import E, Search, Verdict
from jitinfer.errors import DeviceLostError
from jitinfer.frontend.state import observe
from jitinfer.passes import is_graph_pass, pass_named
from jitinfer.version import library_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.engines.stages import History

logger = logging.getLogger("jitinfer.engines")

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Attempt(Generic[E, R]):
    """What came of a recipe. `problem`: why it is not right, which leaves no `executable`, but maybe a `history`."""

    recipe: R
    executable: E | None = None
    error: float = math.inf
    problem: Exception | None = None
    history: History | None = None


class GraphSearch(Search[E, R]):
    """Starts from all passes. Subclasses say how to build a program, and what to do about one that is wrong.

    `blamed`, `attempts`: whom `repaired` found to blame, and how many programs it tried.
    """

    def __init__(self, request: Request, start: R, environment: Mapping[str, Any]) -> None:
        self.start = start
        self.foreign = {
            name: pass_named(name)
            for name in start.named
            if is_graph_pass(name) and not type(pass_named(name)).__module__.startswith("jitinfer.")
        }
        """The passes that are neither this library's nor Paddle's."""
        question = {
            "start": start.document(),
            "passes": {name: described(each) for name, each in self.foreign.items()},
            "library": library_digest(),
            "numpy": numpy.__version__,
            **environment_document(),
            **environment,
        }
        super().__init__(request, question)
        self.blamed: list[Blame] = []
        self.attempts = 0

    @abstractmethod
    def build(self, recipe: R) -> E:
        """Raises anything, as passes of users may."""

    @abstractmethod
    def remedies(self) -> Sequence[Callable[[Attempt[E, R]], R | None]]:
        """What to try in turn: each takes an attempt that is not right, adds to `blamed`, and gives another recipe.

        None: it finds nothing to blame.
        """

    def trusted(self) -> bool:
        """A pass of a user may depend on more than its own text, which is all of it that the key has."""
        return not self.foreign

    def search(self) -> tuple[E, Verdict[R]]:
        first = self.tried(self.start)
        attempt = self.repaired(first)
        self.report(tuple(self.blamed))
        if attempt.executable is None:
            problem = attempt.problem if self.blamed else first.problem
            assert problem is not None
            raise problem
        return attempt.executable, Verdict(attempt.recipe, attempt.error, tuple(self.blamed), self.attempts)

    def repaired(self, attempt: Attempt[E, R]) -> Attempt[E, R]:
        """The first attempt that is right after `attempt`, or the last one. Raises EngineError for a lost device."""
        for remedy in self.remedies():
            if attempt.problem is None:
                break
            logger.info("%s: %s is not right: %s", self.request.name, attempt.recipe, attempt.problem)
            recipe = remedy(attempt)
            if recipe is not None:
                attempt = self.tried(recipe)
        return attempt

    def accept(self, configuration: R) -> tuple[E, float]:
        executable = self.build(configuration)
        return executable, check_in_process(executable, self.request, configuration.arithmetic)

    def load(self, configuration: R) -> E:
        executable = self.build(configuration)
        executable.run(self.request.inputs)  # what cannot run is found now
        return executable

    def tried(self, recipe: R) -> Attempt[E, R]:
        """Raises what the dynamic function raises, and EngineError where no more can be tried in this process."""
        assert self.request.expected is not None
        self.request.expected()
        self.attempts += 1
        executable = None
        try:
            executable = self.build(recipe)
            error = check_in_process(executable, self.request, recipe.arithmetic)
        except Exception as problem:
            if isinstance(problem.__cause__, DeviceLostError):
                raise
            history = None if executable is None else executable.history
            executable = None
            _let_go(problem)
            return Attempt(recipe, problem=problem, history=history)
        return Attempt(recipe, executable, error)

    def bisected(self, attempt: Attempt[E, R], fails: Callable[[R], str]) -> R | None:
        """The recipe without the passes to blame, if `fails` finds it wrong; those that users named are tried first."""
        failure = fails(attempt.recipe)
        if not failure:
            return None
        of_paddle = [name for name in self.start.named if not is_graph_pass(name)]
        bisection = Bisection(fails, (*self.foreign, *of_paddle))
        recipe = bisection.repair(attempt.recipe, failure)
        self.attempts += bisection.attempts
        if recipe is not None:
            self.blamed += bisection.blamed
        return recipe


def _let_go(problem: BaseException | None) -> None:
    """An error keeps the variables of the functions that it went through, and so the device's memory: not any more."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__cause__


def described(foreign: object) -> str:
    """A digest of the code of an object's class and of the plain values that it reads."""
    return observe([("", foreign)]).digest


def failure_in(check: Callable[[], str]) -> str:
    """What a check finds wrong, or what it raises in words. Raises EngineError for a device that is lost."""
    try:
        return check()
    except Exception as problem:
        if isinstance(problem.__cause__, DeviceLostError):
            raise
        return str(problem) or type(problem).__name__
