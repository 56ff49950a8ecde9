"""Which passes make a program wrong: delta debugging over anything that is made of named parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

_MOST_ATTEMPTS = 120
"""Tries after which a bisection is content with the set of passes that it has."""


class Setup(Protocol):
    """How a program is made, with passes that can be left out. Immutable, hashable; `str` says it in a few words."""

    def passes(self) -> tuple[str, ...]:
        """The names of what runs, in order, each once: the candidates for blame."""
        ...

    def without(self, *names: str) -> Self: ...

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        ...


S = TypeVar("S", bound=Setup)


@dataclass(frozen=True)
class Blame:
    """A pass, or a kernel, that made a program wrong, or crash, and what it looked like."""

    name: str
    failure: str

    def __str__(self) -> str:
        return f"{self.name} is dropped: with it, {self.failure}"


@dataclass
class Bisection(Generic[S]):
    """The search for the passes to blame in one set-up.

    `fails`: "" if a set-up is right, else what is wrong with it; `suspects`: what is tried before any search. A pass is
    to blame if all the others together are right; a smallest set of such passes is found by delta debugging (Zeller and
    Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE Trans. Softw. Eng. 28, 2002), in about
    2 log2(n) tries for one pass of n.
    """

    fails: Callable[[S], str]
    suspects: Sequence[str] = ()
    blamed: list[Blame] = field(default_factory=list)
    attempts: int = 0

    def repair(self, setup: S, failure: str) -> S | None:
        """`setup` less the passes to blame, or None if it is wrong without any pass, too."""
        guilty = list(setup.passes())
        for suspect in self.suspects:
            if suspect in guilty and not self.ask(setup.without(suspect)):
                self.blamed = [Blame(suspect, failure)]
                return setup.without(suspect)
        if not guilty or self.ask(setup.without(*guilty)):
            return None
        parts = 2
        while len(guilty) > 1 and self.attempts < _MOST_ATTEMPTS:
            size = -(-len(guilty) // parts)
            pieces = [guilty[start : start + size] for start in range(0, len(guilty), size)]
            pieces.reverse()  # a late pass is worth less than an early one that the others build upon
            smaller = next((piece for piece in pieces if not self.ask(setup.without(*piece))), None)
            if smaller is not None:
                guilty, parts = smaller, 2
                continue
            rests = [[name for name in guilty if name not in piece] for piece in pieces] if parts > 2 else []
            smaller = next((rest for rest in rests if not self.ask(setup.without(*rest))), None)
            if smaller is not None:
                guilty, parts = smaller, max(parts - 1, 2)
            elif parts >= len(guilty):
                break
            else:
                parts = min(2 * parts, len(guilty))
        self.blamed = [Blame(name, failure) for name in guilty]
        return setup.without(*guilty)

    def ask(self, setup: S) -> str:
        """What is wrong with a set-up, "" if nothing is; counted."""
        self.attempts += 1
        return self.fails(setup)
