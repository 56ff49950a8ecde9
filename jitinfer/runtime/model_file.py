"""A model as JSON and named bytes, for a cache entry or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.errors import PlanError
from jitinfer.graph.types import DTYPES, TensorType
from jitinfer.runtime import plan_file
from jitinfer.runtime.model import Model, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.cache import JSON

FORMAT = 1
"""Raised with every change of the model's data: another format is refused."""


def to_parts(model: Model) -> tuple[dict[str, JSON], dict[str, bytes]]:
    """The inverse of `from_parts`. Equal kernels of several plans are kept once."""
    documents: list[JSON] = []
    blobs: dict[str, bytes] = {}
    for number, plan in enumerate((model.plan, *model.prologue)):
        document, parts = plan_file.to_parts(plan)
        documents.append(document)
        blobs.update((_place(number, name), data) for name, data in parts.items())
    return {
        "format": FORMAT,
        "plans": documents,
        "weights": [[list(kind.shape), kind.dtype] for kind in model.weights],
        "direct": [[number, name] for number, name in model.direct],
        "stages": [[stage.plan, list(stage.weights), list(stage.results)] for stage in model.stages],
    }, blobs


def from_parts(document: Mapping[str, Any], blobs: Mapping[str, bytes]) -> Model:
    """The model, checked. Raises PlanError."""
    if document.get("format") != FORMAT:
        raise PlanError(f"a model of format {document.get('format')!r}; this version of jitinfer reads {FORMAT}")
    try:
        plans = [_plan(number, each, blobs) for number, each in enumerate(document["plans"])]
        model = Model(
            plans[0],
            tuple(TensorType(tuple(map(int, shape)), str(dtype)) for shape, dtype in document["weights"]),
            tuple((int(number), str(name)) for number, name in document["direct"]),
            tuple(
                Stage(int(plan), tuple(map(int, weights)), tuple(map(str, results)))
                for plan, weights, results in document["stages"]
            ),
            tuple(plans[1:]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PlanError(f"it is no whole model: {type(error).__name__}: {error}") from None
    check(model)
    return model


def check(model: Model) -> None:
    """Raises PlanError unless the plan's weights come from the model's, each once and of its type."""
    wanted = {buffer.name: TensorType(buffer.shape, buffer.dtype) for buffer in model.plan.weights}
    given: list[tuple[str, TensorType]] = []
    if any(kind.dtype not in DTYPES or min((*kind.shape, 0)) < 0 for kind in model.weights):
        raise PlanError("a weight has a type that there is not")
    for number, name in model.direct:
        given.append((name, _weight(model, number)))
    for stage in model.stages:
        if not 0 <= stage.plan < len(model.prologue):
            raise PlanError(f"a stage runs plan {stage.plan} of {len(model.prologue)}")
        plan = model.prologue[stage.plan]
        takes, gives = (
            [TensorType(plan.buffer_named[name].shape, plan.buffer_named[name].dtype) for name in names]
            for names in (plan.inputs, plan.outputs)
        )
        if takes != [_weight(model, number) for number in stage.weights] or len(gives) != len(stage.results):
            raise PlanError("a stage does not take what its plan takes, or give what it gives")
        given += zip(stage.results, gives, strict=True)
    if dict(given) != wanted or len(given) != len(wanted):
        raise PlanError("what is computed of the weights is not what the plan takes")


def _weight(model: Model, number: int) -> TensorType:
    if not 0 <= number < len(model.weights):
        raise PlanError(f"there is no weight {number} among {len(model.weights)}")
    return model.weights[number]


def _plan(number: int, document: Mapping[str, Any], blobs: Mapping[str, bytes]) -> Any:
    prefix = f"{number}:"
    own = {name.removeprefix(prefix): data for name, data in blobs.items() if name.startswith(prefix)}
    own.update((name, data) for name, data in blobs.items() if name.startswith("kernel:"))
    return plan_file.from_parts(document, own)


def _place(number: int, name: str) -> str:
    """Kernels are called by their digests in all plans alike; constants are each plan's own."""
    return name if name.startswith("kernel:") else f"{number}:{name}"
