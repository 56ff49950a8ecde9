"""A whole compiled function: its plan, and the plans that compute the plan's weights from those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import TensorType, dtype_name
from jitinfer.runtime.arrays import device_array, host_array
from jitinfer.runtime.device import Device
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy

    from jitinfer.runtime.arrays import DeviceArray
    from jitinfer.runtime.plan import Plan

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Stage:
    """A part of the prologue: `plan` makes weights of the main plan, by name, of the model's, by number."""

    plan: int
    weights: tuple[int, ...]
    results: tuple[str, ...]


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


class Session:
    """A model on a device, ready to run: one memory for its weights, one executor.

    Raises ArgumentError for weights that are not the model's, DeviceError where the device cannot run it.
    """

    def __init__(self, model: Model, weights: Sequence[Any], device: Device | int = 0) -> None:
        self.model = model
        self.device = device if isinstance(device, Device) else Device.of(device)
        types = {buffer.name: TensorType(buffer.shape, buffer.dtype) for buffer in model.plan.weights}
        self._weights = Weights.reserved(types, self.device)
        self.refresh(weights)
        self._executor = Executor(model.plan, self._weights, self.device)

    @property
    def nbytes(self) -> int:
        """Of device memory, weights included."""
        return self._weights.nbytes + self._executor.nbytes

    def refresh(self, weights: Sequence[Any]) -> None:
        """Takes new values of the model's weights, in the model's order, on the host or on the device."""
        self._check(weights)
        for number, name in self.model.direct:
            self._weights.update(name, weights[number])
        for plan_number, plan in enumerate(self.model.prologue):
            stages = [stage for stage in self.model.stages if stage.plan == plan_number]
            executor = Executor(plan, None, self.device)
            try:
                for stage in stages:
                    outputs = executor.enqueue([weights[number] for number in stage.weights])
                    for name, output in zip(stage.results, outputs, strict=True):
                        self._weights.update(name, output)
            finally:
                executor.close()

    def run(self, inputs: Sequence[Any]) -> list[Array]:
        """As `Executor.run`."""
        return self._executor.run(inputs)

    def enqueue(self, inputs: Sequence[Any], stream: int = 0) -> list[DeviceArray]:
        """As `Executor.enqueue`."""
        return self._executor.enqueue(inputs, stream)

    @property
    def inputs(self) -> list[DeviceArray]:
        """As `Executor.inputs`."""
        return self._executor.inputs

    @property
    def weights(self) -> Weights:
        """Those of the plan, where they lie on the device."""
        return self._weights

    def synchronize(self) -> None:
        """Waits for all work on the device. Raises DeviceError where some of it failed."""
        self.device.synchronize()

    def close(self) -> None:
        """Gives the device's memory back. Idempotent."""
        self._executor.close()
        self._weights.close()

    def _check(self, weights: Sequence[Any]) -> None:
        if len(weights) != len(self.model.weights):
            raise ArgumentError(f"the model has {len(self.model.weights)} weights, not {len(weights)}")
        for number, (given, kind) in enumerate(zip(weights, self.model.weights, strict=True)):
            if _type_of(given) != kind:
                raise ArgumentError(f"weight {number} is {kind}, not {_type_of(given)}")


def _type_of(given: Any) -> TensorType:
    placed = device_array(given, 0)
    if placed is not None:
        return TensorType(placed.shape, placed.dtype)
    array = host_array(given)
    return TensorType(array.shape, dtype_name(array.dtype))
