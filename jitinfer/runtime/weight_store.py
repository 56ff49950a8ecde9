"""What the sessions of one function read of its weights: each tensor once on the device."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.graph.types import TensorType, dtype_name
from jitinfer.runtime.arrays import DeviceArray, host_array
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.producers import device_array
from jitinfer.runtime.resources import Resources
from jitinfer.runtime.weights import upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Model
    from jitinfer.runtime.plan import Plan


@dataclass(frozen=True)
class Source:
    """How a tensor on the device comes from the model's weights.

    form: the hash of the graph that computes it; "" for a weight as it is. weights: by number, as that graph takes
    them; result: which of its results.
    """

    form: str
    weights: tuple[int, ...]
    result: int
    type: TensorType


def sources(model: Model) -> dict[str, Source]:
    """Those of the plan's weights, by their names there."""
    found = {name: Source("", (number,), 0, model.weights[number]) for number, name in model.direct}
    for stage in model.stages:
        plan = model.prologue[stage.plan]
        for result, name in enumerate(stage.results):
            buffer = plan.buffer_named[plan.outputs[result]]
            found[name] = Source(stage.form, stage.weights, result, TensorType(buffer.shape, buffer.dtype))
    return found


class WeightStore:
    """Tensors on one device by their sources.

    It does not keep them: the memory of a tensor is given back when nobody who took it has it any more.
    """

    def __init__(self, device: Device, before_step: Callable[[str, int], None] | None = None) -> None:
        """before_step: told the form and the number of each step of what computes weights, which run one by one then
        (`Executor`).
        """
        self.device = device
        self._before_step = before_step
        self._lock = threading.Lock()
        self._types: tuple[TensorType, ...] | None = None
        self._held: weakref.WeakValueDictionary[Source, DeviceArray] = weakref.WeakValueDictionary()
        self._plans: dict[str, Plan] = {}

    @property
    def nbytes(self) -> int:
        """Of device memory."""
        with self._lock:
            return sum(array.nbytes for array in self._held.values())

    def take(self, model: Model, weights: Sequence[Any]) -> dict[str, DeviceArray]:
        """What the plan of `model` takes, by name; what somebody has taken before is not made again.

        weights: those of the model with the values of the last `refresh`, on the host or on the device. Raises
        ArgumentError for others, DeviceError where the memory does not suffice.
        """
        with self._lock, self.device.current():
            if self._types not in (None, model.weights):
                raise ArgumentError("the models of one store have the same weights")
            _require(weights, model.weights)
            wanted = sources(model)
            arrays = {source: self._held.get(source) for source in wanted.values()}
            made = {source: _reserved(source, self.device) for source, array in arrays.items() if array is None}
            plans = {**self._plans, **{stage.form: model.prologue[stage.plan] for stage in model.stages}}
            self._fill(made, plans, weights)
            self._types = model.weights
            self._held.update(made)
            forms = {source.form for source in self._held}
            self._plans = {form: plan for form, plan in plans.items() if form in forms}
            arrays.update(made)
            return {name: array for name, source in wanted.items() if (array := arrays[source]) is not None}

    def require(self, weights: Sequence[Any]) -> None:
        """Raises ArgumentError for weights that are not the models'."""
        with self._lock, self.device.current():
            if self._types is not None:
                _require(weights, self._types)

    def refresh(self, weights: Sequence[Any]) -> None:
        """New values for all tensors, when the device has nothing to do. Nothing may be queued that reads them.

        Raises ArgumentError for weights that are not the models'; DeviceError, and then some values are new.
        """
        with self._lock, self.device.current():
            if self._types is not None:
                _require(weights, self._types)
                self._fill(dict(self._held), self._plans, weights)

    def _fill(self, arrays: Mapping[Source, DeviceArray], plans: Mapping[str, Plan], weights: Sequence[Any]) -> None:
        computed: dict[str, dict[tuple[int, ...], list[Source]]] = {}
        for source, array in arrays.items():
            if source.form:
                computed.setdefault(source.form, {}).setdefault(source.weights, []).append(source)
            else:
                (number,) = source.weights
                upload(array, weights[number], f"weight {number}")
        for form, stages in computed.items():
            stepwise = False if self._before_step is None else partial(self._before_step, form)
            executor = Executor(plans[form], None, self.device, stepwise=stepwise)
            try:
                for numbers, results in stages.items():
                    outputs = executor.enqueue([weights[number] for number in numbers])
                    for source in results:
                        upload(arrays[source], outputs[source.result], f"what is computed of weights {numbers}")
            finally:
                executor.close()


def _reserved(source: Source, device: Device) -> DeviceArray:
    resources = Resources(device)
    address = resources.memory(source.type.nbytes, "a weight")
    return DeviceArray(address, source.type.shape, source.type.dtype, device.index, resources)


def _require(weights: Sequence[Any], types: Sequence[TensorType]) -> None:
    if len(weights) != len(types):
        raise ArgumentError(f"the model has {len(types)} weights, not {len(weights)}")
    for number, (given, kind) in enumerate(zip(weights, types, strict=True)):
        if _type_of(given) != kind:
            raise ArgumentError(f"weight {number} is {kind}, not {_type_of(given)}")


def _type_of(given: Any) -> TensorType:
    placed = device_array(given, 0)
    if placed is not None:
        return TensorType(placed.shape, placed.dtype)
    array = host_array(given)
    return TensorType(array.shape, dtype_name(array.dtype))
