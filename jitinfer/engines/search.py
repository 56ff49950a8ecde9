"""What is found out once on a machine, and kept: how a program is made so that it is right, and who was to blame."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jitinfer.cache import Key
from jitinfer.engines.blame import Blame, S
from jitinfer.errors import DeviceLostError, EngineError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitinfer.engines.protocol import Executable, Request

logger = logging.getLogger("jitinfer.engines")

E = TypeVar("E", bound="Executable")


@dataclass(frozen=True)
class Verdict(Generic[S]):
    """The configuration that is right for a program, and how that was found out."""

    configuration: S
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
    def restore(document: Mapping[str, Any], configuration: Callable[[Any], S]) -> Verdict[S]:
        """The inverse of `document`; raises KeyError, TypeError or ValueError if it is not one.

        configuration: the inverse of the configuration's own `document`.
        """
        return Verdict(
            configuration(document["configuration"]),
            float(document["error"]),
            tuple(Blame(str(name), str(failure)) for name, failure in document["blamed"]),
            int(document["attempts"]),
        )


class Search(ABC, Generic[E, S]):
    """One engine's search for one program. Subclasses say how to search, and how to build what was found before."""

    def __init__(self, request: Request, question: Mapping[str, Any]) -> None:
        """question: all that the verdict depends on besides the program, its inputs' types and the options."""
        self.request = request
        self.key = Key(
            "verdict",
            {
                "program": request.program.digest,
                "shapes": [[list(t.shape), str(t.dtype)] for t in request.inputs],
                "options": request.options.key(),
                **question,
            },
        )

    @abstractmethod
    def search(self) -> tuple[E, Verdict[S]]:
        """Try, compare, find whom to blame. Raises EngineError or VerificationError where nothing is right."""

    @abstractmethod
    def restore(self, document: Any) -> S:
        """The inverse of a configuration's `document`; raises KeyError, TypeError or ValueError if it is not one."""

    @abstractmethod
    def accept(self, configuration: S) -> tuple[E, float]:
        """Build in this process, run, compare. Raises EngineError or VerificationError."""

    @abstractmethod
    def load(self, configuration: S) -> E:
        """Build in this process what was found right before. Raises EngineError."""

    def find(self) -> tuple[E, Verdict[S]]:
        """The executable and the verdict, from the cache if it is there. Raises as `search` does."""
        if self.request.degenerate:
            return self.search()
        found: list[tuple[E, Verdict[S]]] = []

        def build() -> tuple[Mapping[str, bytes], Mapping[str, Any]]:
            found.append(self.search())
            return {}, found[0][1].document()

        entry, _ = self.request.cache.get_or_build(self.key, build)
        if found:
            self._record_origin(found[0][1])
            return found[0]
        try:
            verdict = Verdict.restore(entry.metadata, self.restore)
            executable = self._loaded(verdict)
            self.request.notes.extend(map(str, verdict.blamed))
            return executable, verdict
        except (KeyError, TypeError, ValueError, EngineError, VerificationError) as error:
            if isinstance(error.__cause__, DeviceLostError):
                raise
            logger.warning("%s: the verdict in the cache does not work here (%s); searching", self.request.name, error)
        executable, verdict = self.search()
        self.request.cache.put(self.key, {}, verdict.document())
        self._record_origin(verdict)
        return executable, verdict

    def report(self, blamed: tuple[Blame, ...]) -> None:
        """Each in one warning, and in what `explain()` tells."""
        for blame in blamed:
            self.request.notes.append(str(blame))
            logger.warning("%s: %s", self.request.name, blame)

    def trusted(self) -> bool:
        """Whether a comparison that passed holds for every process: all that has a part in the program is in `key`."""
        return True

    def _loaded(self, verdict: Verdict[S]) -> E:
        """With the verdict's configuration; compared once for every function and state that has this program."""
        origin = self._origin_key(verdict)
        if origin is not None and self.request.cache.get(origin) is not None:
            return self.load(verdict.configuration)
        executable, _ = self.accept(verdict.configuration)
        self._record_origin(verdict)
        return executable

    def _origin_key(self, verdict: Verdict[S]) -> Key | None:
        if self.request.origin is None or not self.trusted():
            return None
        document: dict[str, Any] = {
            "verdict": self.key.digest,
            "configuration": verdict.configuration.document(),
            "origin": dict(self.request.origin),
        }
        return Key("comparison", document)

    def _record_origin(self, verdict: Verdict[S]) -> None:
        key = self._origin_key(verdict)
        if key is not None:
            self.request.cache.put(key, {}, {})
