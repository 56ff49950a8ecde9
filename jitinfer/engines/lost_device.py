"""What is said and done when the device is lost: the kernel that did it is looked for, named and noted, once a process.

After a fault on the device CUDA refuses everything in the process, to all that was compiled in it. Whoever meets that
first finds out which kernel it was; all others say that it happened, and to whom.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.engines.faults import Faults
from jitinfer.engines.making import maker_for
from jitinfer.engines.retracing import retrace
from jitinfer.errors import DeviceLostError
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.progress import progress
from jitinfer.runtime.executor import Run
from jitinfer.runtime.model import Session
from jitinfer.runtime.plan import step_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.engines.retracing import Retrace
    from jitinfer.graph import Graph
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.arrays import DeviceArray
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Model, Shared

logger = logging.getLogger("jitinfer.engines")


@dataclass(frozen=True)
class Loss:
    """by: the compiled function that met it first; kernel: which did it, in words, "" as long as that is not known."""

    by: str
    kernel: str = ""

    def __str__(self) -> str:
        did = f": {self.kernel} did it" if self.kernel else ""
        return f"the device was lost to this process when {self.by} ran{did}; CUDA serves this process no more"


@dataclass(frozen=True)
class Suspect:
    """What ran when the device was lost: the model of a graph, with these NumPy arrays as weights.

    inputs: as they were given; None where they are not known.
    """

    graph: Graph
    model: Model
    weights: Sequence[Any]
    inputs: Sequence[Any] | None = None


Explanation: TypeAlias = "Callable[[DeviceLostError, Model, Sequence[Any] | None], DeviceLostError]"
"""Takes an error, the model that met it, and the inputs if they are known; gives what to raise in its place."""

_turn = threading.Lock()
_loss: Loss | None = None


def forget() -> None:
    """As in a process that has lost nothing yet: for tests."""
    global _loss
    _loss = None


def require_device() -> None:
    """Raises DeviceLostError where the device is lost already."""
    if _loss is not None:
        raise DeviceLostError(str(_loss))


def explained(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect | None = None
) -> DeviceLostError:
    """`error` with what can be found out about it: a KernelFaultError, noted for the processes to come, if that is who.

    excluded: what was left out when the suspect's kernels were chosen. The first time it may take `retracing.SECONDS`;
    others wait for it meanwhile, as they are to tell the same.
    """
    global _loss
    with _turn:
        if _loss is not None:
            return DeviceLostError(str(_loss))
        _loss = Loss(request.name)
        error = _explained(error, request, device, excluded, suspect)
        if isinstance(error, KernelFaultError):
            _loss = Loss(request.name, error.kernel)
        return error


def _explained(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect | None
) -> DeviceLostError:
    if not isinstance(error, KernelFaultError) and suspect is not None:
        logger.info("%s: %s; looking for the kernel in another process", request.name, error)
        with progress(f"jitinfer: looking for the kernel of {request.name} that lost the device"):
            error = _found(error, request, device, excluded, suspect)
    if not isinstance(error, KernelFaultError):
        return error
    if Faults(request.cache, device).add(error):
        return error.with_remark("The next process leaves it out")
    where = request.cache.path
    return error.with_remark(f"That cannot be noted in the cache {where}, so the next process may choose it again")


def _found(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect
) -> DeviceLostError:
    found = retrace(suspect.model, suspect.weights, suspect.inputs, device.index)
    how = "run again in another process, step by step" + (f" and on {found.random}" if found.random else "")
    if not found.failure:
        return DeviceLostError(
            f"{error}. No kernel of {request.name} is known to have done it: {how}, none does; whatever else this "
            f"process ran on the device may have"
        )
    if not found.lost or found.plan is None:
        return DeviceLostError(f"{error}. Which kernel did it is not known: {how}, {found.failure}")
    if found.step is None:
        return DeviceLostError(
            f"{error}. Which kernel did it is not known: {how}, none does, but all of them one right after the other "
            f"do: {found.failure}"
        )
    return _named(found, found.plan, found.step, request, device, excluded, suspect)


def _named(
    found: Retrace,
    plan: int,
    number: int,
    request: Request,
    device: Device,
    excluded: Exclusions,
    suspect: Suspect,
) -> DeviceLostError:
    model = suspect.model
    failure = DeviceLostError(found.failure + (f" (in another process, on {found.random})" if found.random else ""))
    maker = maker_for(request, device, excluded)
    origin = maker.origin_of_step(suspect.graph, model, plan, number)
    if origin is not None:
        return KernelFaultError.of(*origin, failure)
    step = (model.plan, *model.prologue)[plan].steps[number]
    return DeviceLostError(
        f"{step_name(number, step)} loses the device: {failure}. The next process may choose its kernel again, as the "
        f"cache {request.cache.path} does not say which that was"
    )


class WatchedSession(Session):
    """A session that says more than the driver where it loses the device."""

    def __init__(
        self,
        model: Model,
        weights: Sequence[Any],
        device: Device,
        shared: Shared,
        explain: Explanation,
    ) -> None:
        """Raises as `Session`, and what `explain` gives."""
        self._explain = explain
        try:
            super().__init__(model, weights, device, shared=shared)
        except DeviceLostError as error:
            raise explain(error, model, None) from error

    def explained(self, error: DeviceLostError, inputs: Sequence[Any] | None = None) -> DeviceLostError:
        """For an error of its model that was met elsewhere."""
        return self._explain(error, self.model, inputs)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """As `Session.run`."""
        try:
            return super().run(inputs)
        except DeviceLostError as error:
            raise self.explained(error, inputs) from error

    def begin(self, inputs: Sequence[Any]) -> Run:
        """As `Session.begin`."""
        try:
            run = super().begin(inputs)
        except DeviceLostError as error:
            raise self.explained(error, inputs) from error

        def finish() -> list[Any]:
            try:
                return run.finish()
            except DeviceLostError as error:
                raise self.explained(error, inputs) from error

        return Run(finish, run.drop)

    def enqueue(self, inputs: Sequence[Any], stream: int = 0) -> list[DeviceArray]:
        """As `Session.enqueue`."""
        try:
            return super().enqueue(inputs, stream)
        except DeviceLostError as error:
            raise self.explained(error, inputs) from error
