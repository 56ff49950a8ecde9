"""A whole compiled function: its plan, and the plans that compute the plan's weights from those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.runtime.arena import Arena
from jitinfer.runtime.device import Device
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.weight_store import WeightStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy

    from jitinfer.graph.types import TensorType
    from jitinfer.runtime.arrays import DeviceArray
    from jitinfer.runtime.executor import Run
    from jitinfer.runtime.plan import Plan
    from jitinfer.runtime.weights import Weights

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Stage:
    """A part of the prologue: `plan` makes weights of the main plan, by name, of the model's, by number.

    form: the hash of the graph that `plan` computes.
    """

    plan: int
    weights: tuple[int, ...]
    results: tuple[str, ...]
    form: str


@dataclass(frozen=True)
class Model:
    """weights: types of the model's weights; direct: those that the plan takes as they are, with their names there;
    prologue: the plans of all stages, each once.
    """

    plan: Plan
    weights: tuple[TensorType, ...]
    direct: tuple[tuple[int, str], ...]
    stages: tuple[Stage, ...]
    prologue: tuple[Plan, ...]


_MIXED = "some of the weights on the device are new and some are not, since a refresh failed; refresh them again"


class Shared:
    """What the sessions of one function have in common on a device: tensors computed of its weights, and the memory
    that is used within a call. Their calls take turns.
    """

    def __init__(self, device: Device) -> None:
        """Raises DeviceError."""
        self.device = device
        self.weights = WeightStore(device)
        self.arena = Arena(device)

    @property
    def nbytes(self) -> int:
        """Of device memory."""
        return self.weights.nbytes + self.arena.nbytes

    def refresh(self, weights: Sequence[Any]) -> None:
        """New values of the weights for all sessions, between two calls.

        Raises ArgumentError for weights that are not the models'; DeviceError, and then no session runs until a refresh
        has succeeded.
        """
        turns = self.arena.turns
        with turns.lock:
            self.weights.require(weights)
            turns.refused = _MIXED
            self.weights.refresh(weights)
            turns.refused = ""


class Session:
    """A model on a device, ready to run."""

    def __init__(
        self, model: Model, weights: Sequence[Any], device: Device | int = 0, *, shared: Shared | None = None
    ) -> None:
        """Loads what others have not loaded.

        Args:
            weights: of the model, in its order; where others share them, with the values that they have.
            shared: with other sessions of the same function on the same device; otherwise it is alone.

        Raises ArgumentError for weights that are not the model's, DeviceError where the device cannot run it.
        """
        self.model = model
        self.device = device if isinstance(device, Device) else Device.of(device)
        self._shared = Shared(self.device) if shared is None else shared
        if self._shared.device != self.device:
            raise ArgumentError(f"what is shared lies on device {self._shared.device.index}, not {self.device.index}")
        taken = self._shared.weights.take(model, weights)
        self._executor = Executor(model.plan, taken, self.device, arena=self._shared.arena)

    @property
    def nbytes(self) -> int:
        """Of device memory, with what is shared."""
        return self._shared.nbytes + self._executor.nbytes

    def refresh(self, weights: Sequence[Any]) -> None:
        """Takes new values of the model's weights, in the model's order, on the host or on the device.

        All sessions that share them have them then.
        """
        self._shared.refresh(weights)

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """As `Executor.run`."""
        return self._executor.run(inputs)

    def begin(self, inputs: Sequence[Any]) -> Run:
        """As `Executor.begin`."""
        return self._executor.begin(inputs)

    def enqueue(self, inputs: Sequence[Any], stream: int = 0) -> list[DeviceArray]:
        """As `Executor.enqueue`."""
        return self._executor.enqueue(inputs, stream)

    @property
    def inputs(self) -> list[DeviceArray]:
        """As `Executor.inputs`."""
        return self._executor.inputs

    @property
    def outputs(self) -> list[DeviceArray]:
        """As `Executor.outputs`."""
        return self._executor.outputs

    @property
    def weights(self) -> Weights:
        """Those of the plan, where they lie on the device."""
        return self._executor.weights

    def synchronize(self) -> None:
        """Waits for all work on the device. Raises DeviceError where some of it failed."""
        self.device.synchronize()

    def close(self) -> None:
        """Gives the device's memory back, but for what others share. Idempotent."""
        self._executor.close()
        self._executor.weights.close()
