"""A model as JSON and named bytes, for a cache entry or a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitinfer.cache import Key
from jitinfer.cache.container import DamagedError, decode, encode
from jitinfer.errors import ArgumentError, PlanError
from jitinfer.graph.types import DTYPES, TensorType, dtype_name
from jitinfer.runtime import plan_file, weight_file
from jitinfer.runtime.model import Model, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.cache import JSON

FORMAT = 2
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
        "stages": [[stage.plan, list(stage.weights), list(stage.results), stage.form] for stage in model.stages],
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
                Stage(int(plan), tuple(map(int, weights)), tuple(map(str, results)), str(form))
                for plan, weights, results, form in document["stages"]
            ),
            tuple(plans[1:]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PlanError(f"it is no whole model: {type(error).__name__}: {error}") from None
    check(model)
    return model


def save(model: Model, path: str | os.PathLike[str], weights: Sequence[Any] | None = ()) -> None:
    """Writes `path` and, for a model that has weights, `path`.weights beside it, each whole or not at all.

    weights: NumPy arrays, in the model's order; None: they are not written, and `load` has to be told not to read them.
    Raises ArgumentError for others, PlanError for a model that does not fit together, or OSError.
    """
    check(model)
    given = [TensorType(each.shape, dtype_name(each.dtype)) for each in weights or ()]
    if weights is not None and given != list(model.weights):
        raise ArgumentError(f"these {len(given)} arrays are not the {len(model.weights)} weights of the model")
    metadata, blobs = to_parts(model)
    metadata["stored"] = weight_file.write(_beside(path), weights) if weights else []
    data = encode(_KEY, blobs, metadata, created=0.0)
    with plan_file.replacing(path) as stream:
        stream.write(data)


def load(path: str | os.PathLike[str], *, weights: bool = True) -> tuple[Model, list[Any]]:
    """The model and, if asked for, its weights, as `save` wrote them; executes nothing of it.

    Raises PlanError for damaged files, or other ones, or OSError.
    """
    try:
        header, entry = decode(Path(path).read_bytes())
    except DamagedError as damage:
        raise PlanError(f"{os.fspath(path)} is damaged, or no model: {damage}; save the model again") from None
    if header.key.kind != _KEY.kind:
        raise PlanError(f"{os.fspath(path)} holds a {header.key.kind}, not a model")
    if header.key != _KEY:
        found = header.key.document.get("format")
        raise PlanError(
            f"{os.fspath(path)} is a model of format {found}; this version of jitinfer reads {FORMAT}: save it again"
        )
    metadata: Any = dict(entry.metadata)
    stored = metadata.pop("stored", None)
    model = from_parts(metadata, entry.blobs)
    if not weights:
        return model, []
    arrays = weight_file.read(_beside(path), stored) if stored else []
    if [TensorType(each.shape, dtype_name(each.dtype)) for each in arrays] != list(model.weights):
        raise PlanError(f"{_beside(path)} does not hold the weights of this model")
    return model, arrays


_KEY = Key("model file", {"format": FORMAT})


def _beside(path: str | os.PathLike[str]) -> str:
    return os.fspath(path) + ".weights"


def check(model: Model) -> None:
    """Raises PlanError unless the plan's weights come from the model's, each once and of its type."""
    wanted = {buffer.name: TensorType(buffer.shape, buffer.dtype) for buffer in model.plan.weights}
    given: list[tuple[str, TensorType]] = []
    if any(kind.dtype not in DTYPES or min((*kind.shape, 0)) < 0 for kind in model.weights):
        raise PlanError("a weight has a type that there is not")
    for number, name in model.direct:
        given.append((name, _weight(model, number)))
    plan_of = {stage.form: stage.plan for stage in model.stages}  # two plans of one form are found below
    for stage in model.stages:
        if not 0 <= stage.plan < len(model.prologue):
            raise PlanError(f"a stage runs plan {stage.plan} of {len(model.prologue)}")
        if not stage.form or plan_of[stage.form] != stage.plan:
            raise PlanError("a stage does not say what its plan computes, or two plans compute the same")
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
