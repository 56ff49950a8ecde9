"""What picks a specialisation: the forms of a call's tensors, its surroundings, and what is new about it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import paddle
from paddle.base import framework

from jitinfer.frontend.tracing import type_of
from jitinfer.frontend.tree import tensor_names
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

    from jitinfer.compilation import Call
    from jitinfer.frontend.signature import Signature
    from jitinfer.options import DimRange
    from jitinfer.specialization import Specialization

AMBIENT = ("device", "default_dtype", "amp")
"""The names of what `ambient` returns."""
_AMP_OFF = paddle.base.core.AmpLevel.O0
_STATES_TRIED = 3


def never_settles(specializations: Mapping[Any, Specialization], key: tuple[Any, ...]) -> bool:
    """Whether the function has run dynamically in several states already: then every call probably makes another."""
    others = [each for other, each in specializations.items() if other[1:] == key[1:]]
    return sum(each.executable is None for each in others) >= _STATES_TRIED


def forms(tensors: list[Any]) -> tuple[Any, ...]:
    """Shapes and dtypes as part of a key; `type_of` says the same in words, and takes longer."""
    return tuple([(tuple(tensor.shape), tensor.dtype) for tensor in tensors])


def ambient() -> tuple[str, ...]:
    """What Paddle takes from the surroundings of a call: device, default dtype, automatic mixed precision."""
    tracer = framework._dygraph_tracer()
    level = tracer._amp_level
    amp = "" if level == _AMP_OFF else f"{level} {tracer._amp_dtype}"
    return (_place_name(framework._current_expected_place_()), paddle.get_default_dtype(), amp)


def _place_name(place: Any) -> str:
    known = _PLACE_NAMES.get(id(place))
    if known is None or known[0] is not place:
        known = _PLACE_NAMES[id(place)] = (place, str(place))
    return known[1]


_PLACE_NAMES: dict[int, tuple[Any, str]] = {}


def named(call: Call) -> Call:
    """The call with readable names for its tensors; they cost too much to be made at every call."""
    return dataclasses.replace(call, names=_names(call.signature, call.tree))


def _names(signature: Signature, tree: Any) -> list[str]:
    pairs = zip(signature.names, tree.children, strict=True)
    return [name for parameter, child in pairs for name in tensor_names(child, parameter)]


def dynamic_types(
    shapes: Mapping[str, Mapping[int, DimRange]], tree: Any, signature: Signature, tensors: list[Any]
) -> tuple[TensorType, ...]:
    """The tensors' types with -1 in the dims that were declared dynamic, where the size is in the declared range."""
    found = []
    for name, tensor in zip(_names(signature, tree), tensors, strict=True):
        kind = type_of(tensor)
        declared = shapes.get(name, {})
        if declared and all(_in_range(dim, bounds, kind.shape) for dim, bounds in declared.items()):
            dims = tuple(-1 if dim in declared else size for dim, size in enumerate(kind.shape))
            kind = TensorType(dims, kind.dtype)
        found.append(kind)
    return tuple(found)


def _in_range(dim: int, bounds: DimRange, shape: tuple[int, ...]) -> bool:
    return dim < len(shape) and (bounds is None or bounds[0] <= shape[dim] <= bounds[1])


def why(specializations: OrderedDict[Any, Specialization], key: Any, call: Call) -> str:
    """What is new about a call, against the specialisation that was used last."""
    if not specializations:
        return "first call"
    other_key, other = next(reversed(specializations.items()))
    for name, old, new in zip(call.names, other.types, call.types, strict=False):
        if old.dtype != new.dtype:
            return f"{name}.dtype was {old.dtype}, is {new.dtype}"
        if len(old.shape) != len(new.shape):
            return f"{name} had {len(old.shape)} dims, has {len(new.shape)}"
        for dim, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
            if before != after:
                return f"{name}.shape[{dim}] was {before}, is {after}"
    for parameter, was, now in zip(call.signature.names, other.tree.children, call.tree.children, strict=True):
        if was != now:
            texts = [repr(getattr(each, "value", "of another structure"))[:60] for each in (was, now)]
            return f"{parameter} was {texts[0]}, is {texts[1]}"
    if other_key[3] != key[3]:
        return f"device, default dtype or amp was {other_key[3]}, is {key[3]}"
    return "the model's attributes, globals or closure have changed"
