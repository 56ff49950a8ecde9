"""What an engine is to the rest of the house."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.cache import Cache
    from jitinfer.engines.stages import History
    from jitinfer.frontend.program import Program
    from jitinfer.graph.node import Origin
    from jitinfer.options import Options


class Pending(Protocol):
    """A run that goes on while this thread does something else. Others wait until it is finished or dropped."""

    def finish(self) -> list[Any]:
        """As `Executable.run`; once."""
        ...

    def drop(self) -> None:
        """Without the results. Idempotent."""
        ...


class Executable(Protocol):
    """A program ready to run with one set of weights. Safe to call from several threads."""

    @property
    def description(self) -> str:
        """How it runs, in a few words: engine, configuration."""
        ...

    @property
    def history(self) -> History | None:
        """What passes did on the way to it; None for an engine that does not tell."""
        ...

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        """Evaluate on `tensors`, in the order of the program's inputs.

        Returns new tensors that share memory with nothing else. Raises EngineError.
        """
        ...

    def begin(self, tensors: Sequence[Any]) -> Pending | None:
        """Starts what `run` does; None where nothing would be gained by it, or it is better left to `run`."""
        ...

    def refresh(self, parameters: Sequence[Any]) -> None:
        """Take new values of the parameters, in the program's order. Raises EngineError; the old ones are gone then."""
        ...


@dataclass
class Request:
    """What an engine is asked to compile, and with what it may check itself.

    `expected`: evaluates the dynamic function on `inputs` (once; later calls return the same results), or None where
    the caller does not want verification. `under_the_same_randomness`: calls its argument with the random generators
    in the state they had when the dynamic function ran, and leaves them as it found them. `origin`: the function, its
    arguments and its state, as a key; a program that is right for one origin is compared again for another. None: the
    origin has no name outside this process. `origins`: where in the model each of the program's operations comes from,
    in the order of its text; () where that is not known.
    """

    program: Program
    parameters: Sequence[Any]
    inputs: Sequence[Any]
    options: Options
    cache: Cache
    expected: Callable[[], Sequence[Any]] | None
    under_the_same_randomness: Callable[[Callable[[], Any]], Any]
    name: str
    origin: Mapping[str, Any] | None = None
    origins: Sequence[Origin] = ()
    degenerate: bool = False
    notes: list[str] = field(default_factory=list)


class Engine(Protocol):
    """One way to run programs."""

    name: str

    def missing(self) -> str:
        """Why it cannot work on this machine, and what would mend that; "" if it can."""
        ...

    def compile(self, request: Request) -> Executable:
        """Raises EngineError or VerificationError if no configuration of the engine gives the right results."""
        ...
