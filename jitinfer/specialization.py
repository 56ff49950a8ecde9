"""One way to call a compiled function: the program for these shapes and guards, and the weights it runs with."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jitinfer.errors import EngineError
from jitinfer.frontend.tree import Tree, unflatten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.engines.protocol import Executable
    from jitinfer.frontend.program import Program
    from jitinfer.frontend.weights import Weights
    from jitinfer.graph.types import TensorType

logger = logging.getLogger("jitinfer")


@dataclass
class Specialization:
    """`executable` is None where the dynamic function itself runs, and `note` says why.

    `simple`: a call has nothing to do but run. `verified_shapes`: the input shapes for which the results have been
    verified; None: the program has no others. `stale`: the last refresh failed, so that the next run begins with one.
    """

    name: str
    reason: str
    signature: str
    types: tuple[TensorType, ...] = ()
    tree: Any = None
    executable: Executable | None = None
    program: Program | None = None
    result: Tree | None = None
    weights: Weights | None = None
    paths: list[str | None] = field(default_factory=list)
    origin: str = ""
    note: str = ""
    stateful: bool = False
    simple: bool = False
    stale: bool = False
    key: Any = None
    observed: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calls: int = 0
    verified_shapes: set[tuple[tuple[int, ...], ...]] | None = None
    refused_shapes: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)

    def run(self, tensors: Sequence[Any]) -> Any:
        """The function's result. Raises EngineError."""
        assert self.executable is not None
        assert self.result is not None
        self.follow()
        return unflatten(self.result, self.executable.run(tensors))

    def run_ahead(self, tensors: Sequence[Any], unchanged: Callable[[], bool]) -> tuple[Any] | None:
        """The function's result, if `unchanged` says that its state is, which is asked while a device computes already.

        None where it is not, its weights are stale, or there is no device to wait for. Raises EngineError.
        """
        assert self.executable is not None
        assert self.result is not None
        pending = None if self.stale else self.executable.begin(tensors)
        if pending is None:
            return None
        weights = self.weights
        try:
            if not unchanged():
                return None
            if weights is None or not weights.changed():
                return (unflatten(self.result, pending.finish()),)
        finally:
            pending.drop()
        self._follow(weights)
        return (unflatten(self.result, self.executable.run(tensors)),)

    def follow(self) -> None:
        """Take over what has changed of the weights. Raises EngineError."""
        weights = self.weights
        if weights is not None and (self.stale or weights.changed()):
            self._follow(weights)

    def _follow(self, weights: Weights) -> None:
        """Take over what has changed of `weights`."""
        with self.lock:
            if self.weights is weights:  # no other thread has been here meanwhile
                self.refresh(weights.tensors, "weights have changed")

    def refresh(self, tensors: Sequence[Any], why: str) -> None:
        """Run with the values that the weights have now. Raises EngineError if their types have changed."""
        from jitinfer.frontend.tracing import type_of
        from jitinfer.frontend.weights import Weights

        if self.executable is None or self.program is None:
            return
        if tuple(type_of(tensor) for tensor in tensors) != self.program.parameters:
            raise EngineError(f"{self.name}: a weight has another shape or dtype than when the program was made")
        started = time.perf_counter()
        weights = Weights(tensors)
        weights.remember()
        self.stale = True
        self.executable.refresh(tensors)
        self.weights, self.stale = weights, False
        logger.info("%s: %s, refreshed in %.2f s", self.name, why, time.perf_counter() - started)

    @property
    def description(self) -> str:
        return self.executable.description if self.executable is not None else f"dynamic: {self.note}"
