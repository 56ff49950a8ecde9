"""Sessions that say more than the driver where they lose the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.errors import DeviceLostError
from jitinfer.runtime import loss, retracing
from jitinfer.runtime.executor import Run
from jitinfer.runtime.model import Model, Session
from jitinfer.runtime.plan import Gemm, Launch, step_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.runtime.arrays import DeviceArray
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Shared

Explanation: TypeAlias = "Callable[[DeviceLostError, Model, Sequence[Any] | None], DeviceLostError]"
"""Takes an error, the model that met it, and the inputs if they are known; gives what to raise in its place."""


class WatchedSession(Session):
    """A session that has `explain` say what to raise where it loses the device."""

    def __init__(
        self,
        model: Model,
        weights: Sequence[Any],
        device: Device | int,
        explain: Explanation,
        *,
        shared: Shared | None = None,
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

    def synchronize(self) -> None:
        """As `Session.synchronize`."""
        try:
            super().synchronize()
        except DeviceLostError as error:
            raise self.explained(error) from error

    def refresh(self, weights: Sequence[Any]) -> None:
        """As `Session.refresh`."""
        try:
            super().refresh(weights)
        except DeviceLostError as error:
            raise self.explained(error) from error


class StoredSession(WatchedSession):
    """A saved program, called `name`; what is raised where it loses the device names the step, or says what was tried.

    The first time in a process that may take `retracing.SECONDS`.
    """

    def __init__(
        self, name: str, model: Model, weights: Sequence[Any], device: int, stored: Sequence[Any] | None
    ) -> None:
        """stored: the weights where they are arrays that lie in a file, not in memory, on which the plan can be run
        again. Raises as `Session`, in such words.
        """
        self._values = None if stored is None else list(stored)
        super().__init__(model, weights, device, _explanation(name, self._values, device))

    def refresh(self, weights: Sequence[Any]) -> None:
        """As `Session.refresh`."""
        if self._values is not None:
            self._values.clear()
        super().refresh(weights)


def _explanation(name: str, values: Sequence[Any] | None, device: int) -> Explanation:
    """values: of the weights; None, or empty for a model that has some, where they are not known any more.

    It does not keep the session, whose memory on the device must go with the last who uses it.
    """

    def explain(error: DeviceLostError, model: Model, inputs: Sequence[Any] | None) -> DeviceLostError:
        known = values if values is not None and len(values) == len(model.weights) else None

        def search() -> tuple[DeviceLostError, str]:
            found = retracing.search(name, error, model, known, inputs, device)
            if found.place is None:
                return found.unexplained(error, name), ""
            step = _described(model, *found.place)
            return DeviceLostError(f"{step} loses the device: {found.words}"), step

        return loss.told(name, search)

    return explain


def _described(model: Model, plan: int, number: int) -> str:
    """A step with what computes it, as far as a plan tells that."""
    of = (model.plan, *model.prologue)[plan]
    step = of.steps[number]
    if isinstance(step, Launch):
        kernel = f"the kernel {of.kernel_of[step.kernel].entry} of "
    else:
        kernel = "cuBLASLt's product of " if isinstance(step, Gemm) else ""
    return kernel + step_name(number, step)
