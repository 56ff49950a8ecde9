"""Nested arguments and results as a flat list of tensors and a hashable description of everything else.

    tree, tensors = flatten({"x": [tensor, 3]}, "argument")
    unflatten(tree, tensors)                        # the same structure and types, with these tensors

Tensors become inputs; every other leaf is a guard: its type and value are part of the tree, so a changed one makes
another key. Trees compare and hash by value, typed: `1`, `1.0` and `True` differ.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import io
import types
import weakref
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import paddle

from jitinfer.errors import ArgumentError, user_location

LARGEST_GUARDED_ARRAY = 64
"""Elements of a NumPy array up to which it is taken as a guard; a larger one has to be passed as a tensor."""


@dataclass(frozen=True)
class TensorLeaf:
    """The place of one tensor: an index into the flat list."""

    index: int


_LEAVES = tuple(TensorLeaf(position) for position in range(256))
"""Made once: leaves are made at every call."""


@dataclass(frozen=True)
class Guard:
    """A leaf that is compiled in. `identity` tells apart what `value` alone would not (types, signs of zero)."""

    identity: Hashable
    value: Any = dataclasses.field(compare=False)


class Anchor:
    """A leaf that is compared by identity and not kept alive: a layer, or the receiver of a method."""

    __slots__ = ("address", "reference")

    def __init__(self, value: Any) -> None:
        self.reference = weakref.ref(value)
        self.address = id(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anchor) and self.address == other.address and self.reference() is other.reference()

    def __hash__(self) -> int:
        return hash(self.address)


@dataclass(frozen=True)
class Branch:
    """An inner node: the type of a container, what its type needs beside the children (`keys`), the children."""

    kind: type
    keys: tuple[Hashable, ...]
    children: tuple[Tree, ...]


Tree = TensorLeaf | Guard | Anchor | Branch

_PLAIN = (type(None), bool, int, str, bytes)
_BY_IDENTITY = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_CHANGEABLE = (numpy.ndarray, set)
_USED_UP = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, io.IOBase, Iterator)


def guard_identity(value: Any) -> Hashable | None:
    """What stands for a plain value in a key, or None if `value` is not a plain value."""
    kind = type(value)
    if kind in _PLAIN:
        return (kind, value)
    if kind is float:
        return (kind, value.hex())
    if kind is complex:
        return (kind, value.real.hex(), value.imag.hex())
    if isinstance(value, (enum.Enum, paddle.dtype, numpy.dtype)):
        return (kind, str(value))
    if isinstance(value, (slice, range)):
        return (kind, value.start, value.stop, value.step)
    if value is Ellipsis or isinstance(value, paddle.base.core.Place):
        return (kind, str(value))
    if isinstance(value, numpy.generic):
        return (kind, str(value.dtype), value.tobytes())
    return None


class _Leaves(list[Any]):
    """The tensors found so far, and beside them the objects that are held by identity."""

    def __init__(self) -> None:
        super().__init__()
        self.anchored: list[Any] = []


def flatten(value: Any, name: str) -> tuple[Tree, list[paddle.Tensor]]:
    """Raises ArgumentError, naming the place below `name`, for a leaf that can be neither an input nor a guard."""
    tensors = _Leaves()
    return _flatten(value, name, tensors, paddle.Tensor), tensors


def flatten_arguments(names: Sequence[str], values: Sequence[Any]) -> tuple[Branch, list[paddle.Tensor], list[Any]]:
    """As `flatten`, for the values of a call's parameters; also returns the objects that are held by identity."""
    leaves = _Leaves()
    children = [_flatten(value, name, leaves, paddle.Tensor) for name, value in zip(names, values, strict=True)]
    return Branch(list, (), tuple(children)), leaves, leaves.anchored


def flatten_results(value: Any, tensor_types: tuple[type, ...]) -> tuple[Tree, list[Any]]:
    """As `flatten`, for what a function returns while it is traced: `tensor_types` are taken as tensors."""
    tensors = _Leaves()
    return _flatten(value, "result", tensors, tensor_types), tensors


def _flatten(value: Any, name: str, tensors: _Leaves, tensor_types: type | tuple[type, ...]) -> Tree:
    if isinstance(value, tensor_types):
        tensors.append(value)
        position = len(tensors) - 1
        return _LEAVES[position] if position < len(_LEAVES) else TensorLeaf(position)
    kind = type(value)
    if kind is list or kind is tuple:
        return Branch(kind, (), tuple(_flatten(v, f"{name}[{i}]", tensors, tensor_types) for i, v in enumerate(value)))
    identity = (kind, value) if kind in _PLAIN else guard_identity(value)
    if identity is not None:
        return Guard(identity, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        children = tuple(_flatten(getattr(value, f, None), f"{name}.{f}", tensors, tensor_types) for f in fields)
        return Branch(kind, tuple(fields), children)
    if isinstance(value, dict):
        return _flatten_mapping(value, name, tensors, tensor_types)
    if isinstance(value, (list, tuple)):
        keys = tuple(value._fields) if hasattr(value, "_fields") else ()
        return Branch(
            kind, keys, tuple(_flatten(v, f"{name}[{i}]", tensors, tensor_types) for i, v in enumerate(value))
        )
    return _guard(value, name, tensors)


def _flatten_mapping(value: dict[Any, Any], name: str, tensors: _Leaves, tensor_types: Any) -> Tree:
    keys: list[Hashable] = []
    if isinstance(value, defaultdict):
        keys.append(value.default_factory)
    for key in value:
        if guard_identity(key) is None and not isinstance(key, tuple):
            raise ArgumentError(f"{name} has a key of type {type(key).__name__} (at {user_location()}); use plain keys")
        keys.append(key)
    children = tuple(_flatten(v, f"{name}[{k!r}]", tensors, tensor_types) for k, v in value.items())
    return Branch(type(value), tuple(keys), children)


def _guard(value: Any, name: str, leaves: _Leaves) -> Tree:
    kind = type(value)
    if isinstance(value, paddle.nn.Layer):
        leaves.anchored.append(value)
        return Anchor(value)
    if isinstance(value, numpy.ndarray):
        if value.size > LARGEST_GUARDED_ARRAY or value.dtype.hasobject:
            raise ArgumentError(
                f"{name} is a NumPy array of shape {list(value.shape)} and dtype {value.dtype} (at {user_location()}): "
                f"its values would be compiled in. Pass a tensor: paddle.to_tensor({name})"
            )
        return Guard((kind, str(value.dtype), value.shape, value.tobytes()), value.copy())
    if isinstance(value, (set, frozenset)) and all(guard_identity(item) is not None for item in value):
        return Guard((kind, frozenset(guard_identity(item) for item in value)), kind(value))
    if isinstance(value, _USED_UP):
        raise ArgumentError(
            f"{name} is a {kind.__name__} (at {user_location()}): it can be read only once, so a call could not be "
            "repeated. Pass a tensor, a list or plain values"
        )
    if isinstance(value, _BY_IDENTITY):
        return Guard((kind, id(value)), value)
    own: Any = kind
    if own.__eq__ is not object.__eq__ and own.__hash__ not in (None, object.__hash__):
        return Guard((kind, value), value)
    raise ArgumentError(
        f"{name} is a {kind.__module__}.{kind.__qualname__} (at {user_location()}): jitinfer cannot tell whether it "
        "changes between calls. Pass tensors, plain values, lists, dicts or dataclasses of them"
    )


def unflatten(tree: Tree, tensors: Sequence[Any]) -> Any:
    """The structure that `tree` describes, with `tensors` in their places; containers are new at every call."""
    if isinstance(tree, TensorLeaf):
        return tensors[tree.index]
    if isinstance(tree, Guard):
        return copy.copy(tree.value) if isinstance(tree.value, _CHANGEABLE) else tree.value
    if isinstance(tree, Anchor):
        return tree.reference()
    children = [unflatten(child, tensors) for child in tree.children]
    kind: Any = tree.kind
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    if dataclasses.is_dataclass(tree.kind):
        return kind(**{str(name): child for name, child in zip(tree.keys, children, strict=True)})
    if issubclass(kind, defaultdict):
        return kind(tree.keys[0], zip(tree.keys[1:], children, strict=True))
    if issubclass(kind, dict):
        return kind(zip(tree.keys, children, strict=True))
    return kind(*children) if tree.keys else kind(children)


def tensor_names(tree: Tree, name: str = "") -> list[str]:
    """A readable name for each tensor, in order: `hidden_states`, `kwargs['mask']`, `pair[0]`."""
    if isinstance(tree, TensorLeaf):
        return [name]
    if not isinstance(tree, Branch):
        return []
    names: list[str] = []
    keys = tree.keys[1:] if issubclass(tree.kind, defaultdict) else tree.keys
    for position, child in enumerate(tree.children):
        if keys and issubclass(tree.kind, dict) and not dataclasses.is_dataclass(tree.kind):
            step = f"{name}[{keys[position]!r}]" if name else str(keys[position])
        elif keys:
            step = f"{name}.{keys[position]}"
        else:
            step = f"{name}[{position}]"
        names += tensor_names(child, step)
    return names


__all__ = [
    "Anchor",
    "Branch",
    "Guard",
    "TensorLeaf",
    "Tree",
    "flatten",
    "flatten_arguments",
    "flatten_results",
    "guard_identity",
    "tensor_names",
    "unflatten",
]
