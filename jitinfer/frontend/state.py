"""What a function depends on besides its arguments: layers, their attributes and weights, closures, globals.

`observe` walks from the receiver, the layers among the arguments and the function itself to every plain value that a
trace would freeze, and to every tensor that it would capture. The observation
  - says cheaply whether anything was replaced since (`unchanged`), by identity, so that it can be asked at every call,
  - describes the frozen values in text that is equal in another process (`facts`), so that it can be part of a key,
  - gives every tensor a path ("receiver.blocks.0.weight") under which another process finds the same weight.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import operator
import sys
import types
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy
import paddle

from jitinfer.frontend.tree import guard_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DEEPEST = 24
_MOST_OBJECTS = 200_000
_SMALL_ARRAY = 1 << 20  # bytes up to which an array's content is part of the facts

INSTANCES = "_jitinfer_instances"
"""The attribute under which an object carries what was compiled for it, so that both go together."""
_LAYER_BOOKKEEPING = frozenset(
    # attributes of paddle.nn.Layer that no forward function reads: names drawn from process-wide counters, hooks' ids
    {
        "_built",
        "_full_name",
        "_helper",
        INSTANCES,
        "_init_in_dynamic_mode",
        "_loaddict_holder",
        "_non_persistable_buffer_names_set",
        "_op_recorder",
        "_original_funcs",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
    }
)
_UNORDERED = "_use_default_values"  # ppdiffusers lists the names of a set here, in another order in every process
_OPAQUE_MODULES = frozenset({"paddle", "numpy", "torch", "jitinfer", "builtins", "logging", "threading", "weakref"})
_MISSING = object()


def _is_library(name: str | None) -> bool:
    """Whether a module is Paddle, NumPy or Python's own: its globals are taken to be constants."""
    root = (name or "").partition(".")[0]
    return root in _OPAQUE_MODULES or root in sys.stdlib_module_names


class TensorPlace:
    """Where a tensor is held: `container[key]`, so that a replaced one is found again."""

    __slots__ = ("container", "key")

    def __init__(self, container: Any, key: Any) -> None:
        self.container = container
        self.key = key

    def tensor(self) -> Any:
        if isinstance(self.container, types.CellType):
            return self.container.cell_contents
        return self.container[self.key]


class _Watch:
    """The values of one dict, by identity. Holds the values, so no identity is ever taken over by a new object."""

    __slots__ = ("container", "getter", "keys", "size", "values")

    def __init__(self, container: dict[Any, Any], keys: tuple[Any, ...], size: int | None) -> None:
        self.container = container
        self.keys = keys
        self.size = size
        padded = keys * 2 if len(keys) == 1 else keys  # itemgetter of one key returns no tuple
        self.getter: Callable[[Any], tuple[Any, ...]] = operator.itemgetter(*padded) if keys else (lambda _: ())
        self.values = self.getter(container)

    def unchanged(self) -> bool:
        if self.size is not None and len(self.container) != self.size:
            return False
        try:
            return all(map(operator.is_, self.getter(self.container), self.values))
        except KeyError:
            return False


class _WatchSequence:
    """The items of one list, by identity."""

    __slots__ = ("container", "values")

    def __init__(self, container: list[Any]) -> None:
        self.container = container
        self.values = list(container)

    def unchanged(self) -> bool:
        return len(self.container) == len(self.values) and all(map(operator.is_, self.container, self.values))


class _WatchSet:
    """The members of one set."""

    __slots__ = ("container", "values")

    def __init__(self, container: set[Any]) -> None:
        self.container = container
        self.values = frozenset(container)

    def unchanged(self) -> bool:
        return len(self.container) == len(self.values) and self.container == self.values


class _WatchCell:
    """What a closure's cell holds, by identity."""

    __slots__ = ("cell", "value")

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell
        self.value = _cell_contents(cell)

    def unchanged(self) -> bool:
        return _cell_contents(self.cell) is self.value


class _WatchArray:
    """A NumPy array that is changed in place: small ones by content, large ones by a sample."""

    __slots__ = ("array", "stride", "value")

    def __init__(self, array: Any) -> None:
        self.array = array
        self.stride = max(1, array.size // 512)
        self.value = self._sample()

    def _sample(self) -> bytes:
        sample: bytes = self.array.reshape(-1)[:: self.stride].tobytes()
        return sample

    def unchanged(self) -> bool:
        return self._sample() == self.value


def _cell_contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return _MISSING


class Observation:
    """The state that one specialisation was, or would be, made for."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.tensors: dict[str, TensorPlace] = {}
        self.modules: set[str] = set()
        self.watches: list[Any] = []
        self._digest: str | None = None
        self._sized: list[Any] = []
        self._sizes: list[int] = []
        self._reads: list[tuple[Callable[[Any], tuple[Any, ...]], Any]] = []
        self._values: tuple[Any, ...] = ()
        self._others: list[Any] = []

    def seal(self) -> None:
        """Arrange the watches so that `unchanged` runs through them in few bytecodes."""
        mappings = [watch for watch in self.watches if isinstance(watch, _Watch)]
        self._sized = [watch.container for watch in mappings if watch.size is not None]
        self._sizes = [watch.size for watch in mappings if watch.size is not None]
        self._reads = [(watch.getter, watch.container) for watch in mappings if watch.keys]
        self._values = tuple(itertools.chain.from_iterable(watch.values for watch in mappings if watch.keys))
        self._others = [watch for watch in self.watches if not isinstance(watch, _Watch)]

    def unchanged(self) -> bool:
        """Whether everything that was observed is still the same objects; some 30 ns for each."""
        if list(map(len, self._sized)) != self._sizes:
            return False
        try:
            values = itertools.chain.from_iterable([getter(container) for getter, container in self._reads])
            if not all(map(operator.is_, values, self._values)):
                return False
        except KeyError:
            return False
        return all(watch.unchanged() for watch in self._others)

    @property
    def digest(self) -> str:
        """SHA-256 of the facts; equal in every process in which a trace would freeze the same values."""
        if self._digest is None:
            text = "\n".join(f"{path}={fact}" for path, fact in sorted(self.facts.items()))
            self._digest = hashlib.sha256(text.encode()).hexdigest()
        return self._digest

    def tensor_paths(self) -> dict[int, str]:
        """The path of each observed tensor, by the object's id."""
        paths: dict[int, str] = {}
        for path, place in self.tensors.items():
            paths.setdefault(id(place.tensor()), path)
        return paths

    def mutations(self) -> tuple[list[str], Callable[[], None]]:
        """What was replaced in the observed containers since, by path-like names, and a function that puts it back."""
        changed: list[str] = []
        undo: list[Callable[[], None]] = []
        for watch in self.watches:
            if isinstance(watch, _WatchArray) or watch.unchanged():
                continue
            if isinstance(watch, _Watch):
                before = dict(zip(watch.keys, watch.values))  # noqa: B905 - one key has its value twice
                changed += _describe_changes(before, watch)
                undo.append(_restore_mapping(watch, before))
            elif isinstance(watch, _WatchSequence):
                changed.append(f"a list of {len(watch.values)} items")
                undo.append(_restore_sequence(watch))
            elif isinstance(watch, _WatchSet):
                changed.append(f"a set of {len(watch.values)} members")
                undo.append(_restore_set(watch))
            else:
                changed.append("a variable of the enclosing function")
                undo.append(_restore_cell(watch))

        def restore() -> None:
            for step in undo:
                step()

        return changed, restore


def _describe_changes(before: dict[Any, Any], watch: _Watch) -> list[str]:
    names = [str(k) for k, v in before.items() if watch.container.get(k, _MISSING) is not v]
    if watch.size is not None:
        names += [str(k) for k in watch.container if k not in before and not _is_bookkeeping(k)]
    return names


def _is_bookkeeping(key: Any) -> bool:
    return key in _LAYER_BOOKKEEPING


def _restore_mapping(watch: _Watch, before: dict[Any, Any]) -> Callable[[], None]:
    def restore() -> None:
        if watch.size is not None:
            for key in [k for k in watch.container if k not in before and not _is_bookkeeping(k)]:
                del watch.container[key]
        watch.container.update(before)

    return restore


def _restore_sequence(watch: _WatchSequence) -> Callable[[], None]:
    def restore() -> None:
        watch.container[:] = watch.values

    return restore


def _restore_set(watch: _WatchSet) -> Callable[[], None]:
    def restore() -> None:
        watch.container.clear()
        watch.container.update(watch.values)

    return restore


def _restore_cell(watch: _WatchCell) -> Callable[[], None]:
    def restore() -> None:
        watch.cell.cell_contents = watch.value

    return restore


class _Walk:
    """One walk; `queue` makes it breadth-first, so that a tensor gets its shortest path."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {}
        self.keep: list[Any] = []
        self.result = Observation()
        self.queue: deque[tuple[str, Any, int]] = deque()

    def run(self, roots: Iterable[tuple[str, Any]]) -> Observation:
        for path, root in roots:
            self.queue.append((path, root, 0))
        while self.queue and len(self.seen) < _MOST_OBJECTS:
            path, value, depth = self.queue.popleft()
            self._visit(path, value, depth)
        self.result.seal()
        return self.result

    def _visit(self, path: str, value: Any, depth: int) -> None:
        facts = self.result.facts
        identity = guard_identity(value)
        if identity is not None:
            facts[path] = repr(identity)
            return
        if isinstance(value, paddle.Tensor):
            facts[path] = f"tensor {value.dtype} {list(value.shape)}"
            return
        if id(value) in self.seen:
            facts[path] = "see " + self.seen[id(value)]
            return
        self.seen[id(value)] = path
        self.keep.append(value)
        facts[path] = f"{type(value).__module__}.{type(value).__qualname__}"
        if depth >= _DEEPEST:
            return
        visit = next((method for kinds, method in _VISITORS if isinstance(value, kinds)), _Walk._object)
        visit(self, path, value, depth + 1)

    def _add(self, path: str, container: Any, key: Any, value: Any, depth: int) -> None:
        if isinstance(value, paddle.Tensor):
            self.result.tensors.setdefault(path, TensorPlace(container, key))
        self.queue.append((path, value, depth))

    def _mapping(self, path: str, value: Any, depth: int) -> None:
        if type(value).__getitem__ is not dict.__getitem__:
            self._object(path, value, depth)
            return
        self.result.watches.append(_Watch(value, tuple(value), len(value)))
        for position, (key, item) in enumerate(value.items()):
            if key == _UNORDERED:
                continue
            named = isinstance(key, str) or guard_identity(key) is not None
            self._add(f"{path}[{key!r}]" if named else f"{path}[{position}]", value, key, item, depth)

    def _sequence(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, list):
            self.result.watches.append(_WatchSequence(value))
        for position, item in enumerate(value):
            self._add(f"{path}[{position}]", value, position, item, depth)

    def _set(self, path: str, value: Any, depth: int) -> None:
        self.result.facts[path] += " " + repr(sorted(map(repr, value)))
        if isinstance(value, set):
            self.result.watches.append(_WatchSet(value))

    def _array(self, path: str, value: Any, depth: int) -> None:
        content = hashlib.sha256(value.tobytes()).hexdigest() if value.nbytes <= _SMALL_ARRAY else "large"
        self.result.facts[path] += f" {value.dtype} {value.shape} {content}"
        if not value.dtype.hasobject:
            self.result.watches.append(_WatchArray(value))

    def _layer(self, path: str, layer: Any, depth: int) -> None:
        result = self.result
        attributes = vars(layer)
        kept = tuple(key for key in attributes if key not in _LAYER_BOOKKEEPING)
        result.watches.append(_Watch(attributes, kept, len(attributes)))
        for key in kept:
            value = attributes[key]
            if key in ("_parameters", "_buffers", "_sub_layers"):
                result.watches.append(_Watch(value, tuple(value), len(value)))
                for name, item in value.items():
                    self._add(f"{path}.{name}", value, name, item, depth)
            elif key.startswith("_forward_"):  # hooks, under keys drawn from a process-wide counter
                result.watches.append(_Watch(value, tuple(value), len(value)))
                for position, hook in enumerate(value.values()):
                    self._add(f"{path}.{key}[{position}]", value, None, hook, depth)
            else:
                self._add(f"{path}.{key}", attributes, key, value, depth)
        self._class(type(layer), depth)

    def _class(self, kind: type, depth: int) -> None:
        """The globals that the methods of a user's class read."""
        for base in kind.__mro__:
            if _is_library(base.__module__) or id(base) in self.seen:
                continue
            self.seen[id(base)] = f"class {base.__module__}.{base.__qualname__}"
            self.keep.append(base)
            self.result.modules.add(base.__module__)
            self._class_attributes(base)
            for name, member in vars(base).items():
                member = getattr(member, "__func__", member)
                if isinstance(member, property):
                    member = member.fget
                member = inspect.unwrap(member) if callable(member) else member
                if isinstance(member, types.FunctionType):
                    self._function(f"{base.__module__}.{base.__qualname__}.{name}", member, depth, follow=False)

    def _class_attributes(self, kind: type) -> None:
        for name, member in vars(kind).items():
            identity = guard_identity(member)
            if identity is not None and not name.startswith("__"):
                self.result.facts[f"class {kind.__module__}.{kind.__qualname__}.{name}"] = repr(identity)

    def _function(self, path: str, function: Any, depth: int, follow: bool = True) -> None:
        """A Python function: its code, defaults, closure and the globals it reads."""
        code = function.__code__
        self.result.facts[path] = "code " + code_digest(code)
        self.result.modules.add(function.__module__ or "")
        if _is_library(function.__module__):
            return
        for position, value in enumerate(function.__defaults__ or ()):
            self._add(f"{path}.default[{position}]", function.__defaults__, position, value, depth)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            content = _cell_contents(cell)
            if name == "__class__" or content is _MISSING:
                continue
            self.result.watches.append(_WatchCell(cell))
            self._add(f"{path}.{name}", cell, None, content, depth)
        self._globals(path, function.__globals__, _names(code), depth, follow)

    def _globals(self, path: str, scope: dict[str, Any], names: set[str], depth: int, follow: bool) -> None:
        found = []
        for name in sorted(names & scope.keys()):
            value = scope[name]
            if isinstance(value, types.ModuleType):
                self._module(f"{path}.{name}", value, names)
            elif follow or guard_identity(value) is not None or isinstance(value, paddle.Tensor):
                if isinstance(value, type):
                    continue
                found.append(name)
                self._add(f"{path}.{name}", scope, name, value, depth)
        if found:
            self.result.watches.append(_Watch(scope, tuple(found), None))

    def _module(self, path: str, module: types.ModuleType, names: set[str]) -> None:
        if _is_library(module.__name__):
            return
        scope = vars(module)
        found = [name for name in sorted(names & scope.keys()) if guard_identity(scope[name]) is not None]
        for name in found:
            self.result.facts[f"{path}.{name}"] = repr(guard_identity(scope[name]))
        if found:
            self.result.watches.append(_Watch(scope, tuple(found), None))

    def _method(self, path: str, method: Any, depth: int) -> None:
        self._add(f"{path}.__self__", None, None, method.__self__, depth)
        self.queue.append((f"{path}.__func__", method.__func__, depth))

    def _partial(self, path: str, partial: Any, depth: int) -> None:
        self.queue.append((f"{path}.func", partial.func, depth))
        self._sequence(f"{path}.args", partial.args, depth)
        self._mapping(f"{path}.keywords", partial.keywords, depth)

    def _skip(self, path: str, value: Any, depth: int) -> None:
        self.result.facts[path] = f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else path

    def _object(self, path: str, value: Any, depth: int) -> None:
        observed = getattr(type(value), "__jitinfer_function__", None)
        if observed is not None:  # a function that is compiled itself
            self.queue.append((path + ".function", value.function, depth))
            return
        if _is_library(type(value).__module__):
            return
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            kept = tuple(key for key in attributes if key != INSTANCES)
            self.result.watches.append(_Watch(attributes, kept, len(attributes)))
            for key, item in attributes.items():
                if key == INSTANCES:
                    continue
                self._add(f"{path}.{key}", attributes, key, item, depth)
        if isinstance(value, dict):
            for key in value:
                self._add(f"{path}[{key!r}]", value, key, dict.__getitem__(value, key), depth)
        if not isinstance(value, type):
            self._class(type(value), depth)


_VISITORS: tuple[tuple[Any, Callable[[_Walk, str, Any, int], None]], ...] = (
    (paddle.nn.Layer, _Walk._layer),
    (dict, _Walk._mapping),
    ((list, tuple), _Walk._sequence),
    ((set, frozenset), _Walk._set),
    (numpy.ndarray, _Walk._array),
    (types.FunctionType, _Walk._function),
    (types.MethodType, _Walk._method),
    (functools.partial, _Walk._partial),
    ((type, types.ModuleType, types.BuiltinFunctionType), _Walk._skip),
)


def _names(code: types.CodeType) -> set[str]:
    """Every global or attribute name that a code object, or one nested in it, reads."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def code_digest(code: types.CodeType) -> str:
    """SHA-256 of what a code object does; not of where it stands, so moving a function keeps it."""
    digest = hashlib.sha256()

    def add(part: types.CodeType) -> None:
        digest.update(part.co_code)
        digest.update(repr((part.co_names, part.co_varnames, part.co_freevars, part.co_flags)).encode())
        for constant in part.co_consts:
            if isinstance(constant, types.CodeType):
                add(constant)
            else:
                digest.update(repr((type(constant).__name__, constant)).encode())

    add(code)
    return digest.hexdigest()


def observe(roots: Iterable[tuple[str, Any]]) -> Observation:
    """Walk from `roots`, pairs of a name and an object."""
    return _Walk().run(roots)
