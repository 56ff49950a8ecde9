"""Trees as JSON: for keys, where equal text must mean equal structure, and for results that are kept on disk."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

from jitinfer.frontend.state import code_digest
from jitinfer.frontend.tree import Anchor, Branch, Guard, TensorLeaf, Tree


class NotStorableError(ValueError):
    """The structure has something in it that another process could not rebuild."""


def type_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def find_type(name: str) -> type:
    """The type of that name, if its module is loaded: reading a cache never imports anything. Raises KeyError."""
    module, _, path = name.partition(":")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise KeyError(name)
    return found


def key_document(tree: Tree) -> Any:
    """`tree` as JSON for a key. Raises NotStorableError for a guard that has no name outside this process."""
    if isinstance(tree, TensorLeaf):
        return {"tensor": tree.index}
    if isinstance(tree, Anchor):
        return {"object": type_name(type(tree.reference()))}
    if isinstance(tree, Guard):
        return {"guard": _guard_text(tree)}
    return {
        "branch": type_name(tree.kind),
        "keys": [repr(key) for key in tree.keys],
        "children": [key_document(child) for child in tree.children],
    }


def _guard_text(guard: Guard) -> str:
    value = guard.value
    if isinstance(value, types.FunctionType):
        if value.__closure__:
            raise NotStorableError(f"the function {value.__qualname__} among the arguments has a closure")
        return f"function {value.__module__}:{value.__qualname__} {code_digest(value.__code__)}"
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{type(value).__name__} {value.__module__}:{value.__qualname__}"
    if isinstance(value, (types.MethodType, types.ModuleType)):
        raise NotStorableError(f"a {type(value).__name__} among the arguments")
    return repr(guard.identity)


_PLAIN = (type(None), bool, int, float, str)


def to_json(tree: Tree) -> Any:
    """`tree` as JSON that `from_json` reads. Raises NotStorableError."""
    if isinstance(tree, TensorLeaf):
        return {"tensor": tree.index}
    if isinstance(tree, Guard) and type(tree.value) in _PLAIN:
        value = tree.value.hex() if isinstance(tree.value, float) else tree.value
        return {"plain": value, "type": type(tree.value).__name__}
    if isinstance(tree, Branch):
        name = type_name(tree.kind)
        if "<locals>" in name or not all(type(key) in (str, int, bool) for key in tree.keys):
            raise NotStorableError(f"a result of type {name}")
        keys = [[type(key).__name__, key] for key in tree.keys]
        return {"branch": name, "keys": keys, "children": [to_json(child) for child in tree.children]}
    raise NotStorableError("a result that is neither a tensor nor a plain value")


def from_json(document: Any) -> Tree:
    """The inverse of `to_json`. Raises KeyError, TypeError or ValueError if `document` is not what it wrote."""
    if "tensor" in document:
        return TensorLeaf(int(document["tensor"]))
    if "plain" in document:
        value = document["plain"]
        value = float.fromhex(value) if document["type"] == "float" else value
        return Guard((type(value), value), value)
    kind = find_type(document["branch"])
    known = kind in (list, tuple) or issubclass(kind, (dict, list, tuple)) or dataclasses.is_dataclass(kind)
    if not known:
        raise ValueError(f"{document['branch']} is not a container")
    read = {"str": str, "int": int, "bool": bool}
    keys = tuple(read[name](key) for name, key in document["keys"])
    return Branch(kind, keys, tuple(from_json(child) for child in document["children"]))
