"""The decorator: a call -> its results. Bind, guard, pick or build the specialisation, rebuild the output."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import sys
import threading
import types
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, overload

import paddle
from paddle.base import framework
from paddle.jit.dy2static.utils import TransformOptions

from jitinfer.cache import Cache, cache_location
from jitinfer.compilation import Call, Compiler, verify_shapes
from jitinfer.engines import engine_for
from jitinfer.engines.paddle import check_options
from jitinfer.errors import ArgumentError, EngineError, OptionError, user_location
from jitinfer.frontend.capture import evaluating_reference
from jitinfer.frontend.exclusion import PADDLE
from jitinfer.frontend.program import TensorType
from jitinfer.frontend.signature import Signature
from jitinfer.frontend.state import INSTANCES, Observation, observe
from jitinfer.frontend.tracing import tracing, type_of
from jitinfer.frontend.translator import translated
from jitinfer.frontend.tree import anchors, flatten_arguments, tensor_names
from jitinfer.options import DimRange, Options, resolve
from jitinfer.report import explain, html_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitinfer.specialization import Specialization

logger = logging.getLogger("jitinfer")

F = TypeVar("F")

_AMP_OFF = paddle.base.core.AmpLevel.O0
_ANY_STATE = "any state"
_STATES_TRIED = 3
_TRANSFORM_ATTRIBUTE = TransformOptions.TRANSFORM_OPTIONS_ATTR_NAME
_TAKE_AS_IT_IS = TransformOptions(TransformOptions.ToStaticMode.AST | TransformOptions.ToStaticMode.SOT)
"""Keeps Paddle's translator from rewriting our `__call__`; inside a trace it inlines the function itself."""


class _Instance:
    """What is known for one receiver, and for the layers among the arguments."""

    def __init__(self) -> None:
        self.specializations: OrderedDict[Any, Specialization] = OrderedDict()
        self.observation: Observation | None = None


class _Instances(dict[Any, _Instance]):
    """What an object carries of this library: goes with the object, and is neither copied nor pickled along."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Instances:
        return _Instances()

    def __copy__(self) -> _Instances:
        return _Instances()

    def __reduce__(self) -> Any:
        return (_Instances, ())


class _Core:
    """What all bound forms of one compiled function share."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self.function = function
        self.options = options
        self.name = getattr(function, "__qualname__", None) or type(function).__qualname__
        self.free = Signature(function)
        self._bound: Signature | None = None
        self.alone = _Instances()
        self.alive: weakref.WeakSet[_Instance] = weakref.WeakSet()
        self.lock = threading.RLock()
        self._cache: Cache | None = None
        self.compiler = Compiler(self.name, options, self.cache)

    @property
    def bound(self) -> Signature:
        if self._bound is None:
            self._bound = Signature(self.function, skip_receiver=True)
        return self._bound

    def cache(self) -> Cache:
        if self._cache is None:
            limit = int(self.options.cache_size_limit_gb * 1e9)
            self._cache = Cache(cache_location(self.options.save_model_dir), limit)
        return self._cache

    def instance(self, owners: tuple[Any, ...]) -> _Instance:
        """What belongs to these objects; kept by the first of them, so that it never outlives it."""
        rest = owners if owners and isinstance(owners[0], type) else owners[1:]
        table = self.alone if rest is owners else self._table(owners[0])
        key = (self, *map(id, rest))
        found = table.get(key)
        if found is None:
            with self.lock:
                found = table.setdefault(key, _Instance())
                self.alive.add(found)
            for owner in rest:
                weakref.finalize(owner, table.pop, key, None).atexit = False
        return found

    def _table(self, owner: Any) -> _Instances:
        try:
            attributes = vars(owner)
            table = attributes.get(INSTANCES)
            if table is None:
                table = attributes[INSTANCES] = _Instances()
        except TypeError:
            raise ArgumentError(
                f"objects of class {type(owner).__qualname__} have no __dict__ to keep compiled programs with "
                f"(at {user_location()}): leave out its __slots__, or decorate a plain function"
            ) from None
        found: _Instances = table
        return found


class CompiledFunction:
    """A function that runs as a compiled program, specialised to the shapes and plain values that it is called with.

    Has the name, documentation and signature of the function. Works as a method of a class, too.
    """

    __jitinfer_function__ = True

    def __init__(self, core: _Core, receiver: tuple[Any, ...] = ()) -> None:
        functools.update_wrapper(self, core.function)
        self._core = core
        self._bind(receiver)
        setattr(self, _TRANSFORM_ATTRIBUTE, _TAKE_AS_IT_IS)

    def _bind(self, receiver: tuple[Any, ...]) -> None:
        self._receiver = receiver
        self._signature = self._core.bound if receiver else self._core.free
        self.__signature__ = self._signature.inspected
        if receiver:
            self.__self__ = receiver[0]
            self.__func__ = self._core.function

    def __get__(self, instance: Any, owner: type | None = None) -> CompiledFunction:
        if instance is None or self._receiver:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._bind((instance,))
        return bound

    @property
    def function(self) -> Callable[..., Any]:
        """The dynamic function, bound as this one is."""
        if self._receiver:
            return types.MethodType(self._core.function, self._receiver[0])
        return self._core.function

    @property
    def options(self) -> Options:
        return self._core.options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with PADDLE.shared():
            if tracing():
                return translated(self.function)(*args, **kwargs)
            if evaluating_reference():
                return self.function(*args, **kwargs)
            return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        core, signature = self._core, self._signature
        values = signature.bind(args, kwargs)
        tree, tensors = flatten_arguments(signature.names, values)
        owners = (*self._receiver, *anchors(tree))
        instance = core.instance(owners)
        observation = instance.observation
        if observation is None or not observation.unchanged():
            observation = self._observe(instance, tree)
        shapes = core.options.dynamic_shapes and core.options.shapes
        types_ = tuple(map(type_of, tensors)) if not shapes else _dynamic_types(shapes, tree, signature, tensors)
        ambient = _ambient()
        specialization = instance.specializations.get((observation.digest, tree, types_, ambient))
        if specialization is None:
            specialization = instance.specializations.get((_ANY_STATE, tree, types_, ambient))
        call = Call(core.function, self._receiver, signature, tree, tensors, [], types_)
        if specialization is None:
            return self._first(instance, call, ambient)
        return self._run(instance, specialization, call, ambient)

    # -- picking -------------------------------------------------------------------------------------------------

    def _observe(self, instance: _Instance, tree: Any) -> Observation:
        """Look at the state again; weights that were replaced are handed to the specialisations that use them."""
        roots = [("receiver", owner) for owner in self._receiver]
        roots += [(f"argument {position}", owner) for position, owner in enumerate(anchors(tree))]
        found = observe([*roots, ("function", self._core.function)])
        instance.observation = found
        return found

    def _run(self, instance: _Instance, specialization: Specialization, call: Call, ambient: Any) -> Any:
        specialization.calls += 1
        if len(instance.specializations) > 1:
            _touch(instance, specialization)
        if specialization.executable is None:
            with paddle.no_grad():
                return call.run()
        try:
            self._rebind(instance, specialization)
            shapes = specialization.verified_shapes
            if shapes is not None and self._core.options.verify != "never":
                concrete = tuple(tuple(tensor.shape) for tensor in call.tensors)
                if concrete not in shapes:
                    return self._new_shapes(instance, specialization, call, ambient, concrete)
            if self._core.options.verify == "always":
                return self._checked(specialization, call)
            return specialization.run(call.tensors)
        except EngineError as error:
            self._core.compiler.fall_back(specialization, error)
            with paddle.no_grad():
                return call.run()

    def _rebind(self, instance: _Instance, specialization: Specialization) -> None:
        """Follow weights that were replaced by other tensors since the last call."""
        weights, observation = specialization.weights, instance.observation
        if weights is None or observation is None or specialization.observed is observation:
            return
        with specialization.lock:
            tensors = [
                tensor if path is None else observation.tensors[path].tensor()
                for path, tensor in zip(specialization.paths, weights.tensors, strict=True)
            ]
            if not weights.same_tensors(tensors):
                specialization.refresh(tensors, "weights were replaced")
            specialization.observed = observation

    def _checked(self, specialization: Specialization, call: Call) -> Any:
        """`verify="always"`: run both, compare, and return the dynamic result if they differ."""
        result, right = verify_shapes(self._core.compiler, specialization, _named(call))
        if right:
            return result
        self._core.compiler.fall_back(specialization, EngineError(f"{self._core.name}: a result was wrong"))
        return result

    def _new_shapes(
        self, instance: _Instance, specialization: Specialization, call: Call, ambient: Any, concrete: Any
    ) -> Any:
        if concrete in specialization.refused_shapes:
            return self._static(instance, call, ambient)
        result, right = verify_shapes(self._core.compiler, specialization, _named(call))
        assert specialization.verified_shapes is not None
        (specialization.verified_shapes if right else specialization.refused_shapes).add(concrete)
        return result

    def _static(self, instance: _Instance, call: Call, ambient: Any) -> Any:
        """The specialisation for exactly these shapes, where the one with dynamic dims does not hold."""
        assert instance.observation is not None
        exact = Call(
            call.function, call.receiver, call.signature, call.tree, call.tensors, [], tuple(map(type_of, call.tensors))
        )
        found = instance.specializations.get((instance.observation.digest, exact.tree, exact.types, ambient))
        return self._run(instance, found, exact, ambient) if found else self._first(instance, exact, ambient)

    def _first(self, instance: _Instance, call: Call, ambient: tuple[str, ...]) -> Any:
        with PADDLE.released(), self._core.lock:
            assert instance.observation is not None
            key = (instance.observation.digest, call.tree, call.types, ambient)
            found = instance.specializations.get(key)
            if found is None:
                return self._build(instance, _named(call), key)
        return self._run(instance, found, call, ambient)

    def _build(self, instance: _Instance, call: Call, key: tuple[Any, ...]) -> Any:
        ambient = dict(zip(("device", "default_dtype", "amp"), key[3], strict=True))
        reason = _why(instance, key, call)

        def observe_again() -> Observation:
            return self._observe(instance, call.tree)

        specialization, reference = self._core.compiler.build(call, observe_again, ambient, reason)
        if specialization.executable is None and any(dim < 0 for kind in call.types for dim in kind.shape):
            logger.info("%s: the declared dynamic shapes do not trace; specialising for each shape", self._core.name)
            exact = tuple(map(type_of, call.tensors))
            static = Call(call.function, call.receiver, call.signature, call.tree, call.tensors, call.names, exact)
            specialization, reference = self._core.compiler.build(static, observe_again, ambient, reason)
            key = (key[0], key[1], exact, key[3])
        observation = observe_again()
        specialization.observed = observation
        digest = _ANY_STATE if specialization.stateful or _never_settles(instance, key) else observation.digest
        specialization.key = (digest, *key[1:])
        instance.specializations[specialization.key] = specialization
        specialization.calls = 1
        self._evict(instance)
        if reference.evaluation is not None:
            evaluation = reference.evaluation
            return evaluation.result if specialization.executable is None else evaluation.detached()
        if specialization.executable is None:
            with paddle.no_grad():
                return call.run()
        return specialization.run(call.tensors)

    def _evict(self, instance: _Instance) -> None:
        while len(instance.specializations) > self._core.options.max_specializations:
            _, oldest = instance.specializations.popitem(last=False)
            logger.info(
                "%s: more than %d specialisations; the one for %s goes (%d calls)",
                self._core.name,
                self._core.options.max_specializations,
                oldest.signature,
                oldest.calls,
            )

    # -- what people see -----------------------------------------------------------------------------------------

    @property
    def specializations(self) -> list[Specialization]:
        """The specialisations of this function, or method of this instance; the least recently used first."""
        if self._receiver and not isinstance(self._receiver[0], type):
            table = vars(self._receiver[0]).get(INSTANCES, {})
            instances = [each for key, each in table.items() if key[0] is self._core]
        else:
            instances = list(self._core.alive)
        return [specialization for each in instances for specialization in each.specializations.values()]

    def refresh_weights(self) -> None:
        """Take over the present values of all weights now, without waiting for a call to notice."""
        for specialization in self.specializations:
            if specialization.weights is not None:
                with specialization.lock:
                    specialization.refresh(specialization.weights.tensors, "refresh_weights()")

    def explain(self) -> str:
        """What was compiled, why, and how it runs, as text."""
        return explain(self._core.name, self.specializations)

    def _repr_html_(self) -> str:
        return html_table(self._core.name, self.specializations)

    def __repr__(self) -> str:
        return f"<jitinfer.inference of {self._core.name}, {len(self.specializations)} specialisations>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pickle the model and decorate it where it is loaded")

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        """Copied along with a layer: the copy belongs to the layer's copy, with weights of its own."""
        receiver = tuple(memo.get(id(owner), owner) for owner in self._receiver)
        return CompiledFunction(_Core(self._core.function, self._core.options), receiver)


def _never_settles(instance: _Instance, key: tuple[Any, ...]) -> bool:
    """Whether the function has run dynamically in several states already: then every call probably makes another."""
    others = [each for other, each in instance.specializations.items() if other[1:] == key[1:]]
    return sum(each.executable is None for each in others) >= _STATES_TRIED


def _touch(instance: _Instance, specialization: Specialization) -> None:
    """Mark as the most recently used."""
    if specialization.key in instance.specializations:
        instance.specializations.move_to_end(specialization.key)


def _ambient() -> tuple[str, ...]:
    """What Paddle takes from the surroundings of a call: device, default dtype, automatic mixed precision."""
    tracer = framework._dygraph_tracer()
    level = tracer._amp_level
    amp = "" if level == _AMP_OFF else f"{level} {tracer._amp_dtype}"
    return (str(framework._current_expected_place_()), paddle.get_default_dtype(), amp)


def _named(call: Call) -> Call:
    """The call with readable names for its tensors; they cost too much to be made at every call."""
    names: list[str] = []
    for parameter, child in zip(call.signature.names, call.tree.children, strict=True):
        names += tensor_names(child, parameter)
    return dataclasses.replace(call, names=names)


def _dynamic_types(
    shapes: Mapping[str, Mapping[int, DimRange]], tree: Any, signature: Signature, tensors: list[Any]
) -> tuple[TensorType, ...]:
    """The tensors' types with -1 in the dims that were declared dynamic, where the size is in the declared range."""
    names: list[str] = []
    for parameter, child in zip(signature.names, tree.children, strict=True):
        names += tensor_names(child, parameter)
    found = []
    for name, tensor in zip(names, tensors, strict=True):
        kind = type_of(tensor)
        declared = shapes.get(name, {})
        if declared and all(_in_range(dim, bounds, kind.shape) for dim, bounds in declared.items()):
            dims = tuple(-1 if dim in declared else size for dim, size in enumerate(kind.shape))
            kind = TensorType(dims, kind.dtype)
        found.append(kind)
    return tuple(found)


def _in_range(dim: int, bounds: DimRange, shape: tuple[int, ...]) -> bool:
    return dim < len(shape) and (bounds is None or bounds[0] <= shape[dim] <= bounds[1])


def _why(instance: _Instance, key: tuple[Any, ...], call: Call) -> str:
    """What is new about a call, against the most similar specialisation there is."""
    if not instance.specializations:
        return "first call"
    other_key, other = next(reversed(instance.specializations.items()))
    for name, old, new in zip(call.names, other_key[2], key[2], strict=False):
        if old.dtype != new.dtype:
            return f"{name}.dtype was {old.dtype}, is {new.dtype}"
        if len(old.shape) != len(new.shape):
            return f"{name} had {len(old.shape)} dims, has {len(new.shape)}"
        for dim, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
            if before != after:
                return f"{name}.shape[{dim}] was {before}, is {after}"
    for parameter, old, new in zip(call.signature.names, other_key[1].children, key[1].children, strict=True):
        if old != new:
            before, after = (repr(getattr(each, "value", "of another structure"))[:60] for each in (old, new))
            return f"{parameter} was {before}, is {after}"
    if other_key[3] != key[3]:
        return f"device, default dtype or amp was {other_key[3]}, is {key[3]}"
    return "the model's attributes, globals or closure have changed" if other else "another call"


def is_inference_mode(function: Any) -> bool:
    """Whether a function, a method, or a layer's `forward`, is compiled by jitinfer."""
    if isinstance(function, paddle.nn.Layer):
        function = function.forward
    return isinstance(function, CompiledFunction)


@overload
def inference(function: None = None, **options: Any) -> Callable[[F], F]: ...
@overload
def inference(function: F, **options: Any) -> F: ...
def inference(function: Any = None, **options: Any) -> Any:
    """Compile a function for inference: same calls, same results, less time.

    Args:
        function: a Layer (its `forward` is replaced, and the Layer returned), a bound method, or any function.
            None, as in `@inference(...)`: returns the decorator.
        **options: see `jitinfer.options.Options`.

    Returns:
        The Layer, or a `CompiledFunction` with the name, documentation and signature of the function.

    Raises:
        OptionError: an option that does not exist, or that this build of Paddle cannot honour.
        EngineUnavailableError: the chosen engine cannot run here.
        ArgumentError: `function` is nothing that can be called.
    """
    chosen = resolve(options)
    check_options(chosen)
    engine_for(chosen)

    def decorate(target: Any) -> Any:
        return _decorate(target, chosen)

    return decorate if function is None else decorate(function)


def _decorate(target: Any, options: Options) -> Any:
    if is_inference_mode(target):
        return target
    if isinstance(target, paddle.nn.Layer):
        _check_shapes(options, Signature(target.forward))
        target.forward = _compiled(target.forward, options)
        return target
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(_decorate(target.__func__, options))
    if not callable(target) or isinstance(target, type):
        raise ArgumentError(
            f"jitinfer.inference takes a function, a method or a Layer, not {target!r} (at {user_location()})"
        )
    compiled = _compiled(target, options)
    _check_shapes(options, compiled._signature)
    return compiled


def _compiled(target: Any, options: Options) -> CompiledFunction:
    if isinstance(target, types.MethodType):
        return CompiledFunction(_Core(target.__func__, options), (target.__self__,))
    if inspect.isroutine(target) or isinstance(target, functools.partial):
        return CompiledFunction(_Core(target, options))
    return CompiledFunction(_Core(type(target).__call__, options), (target,))


def _check_shapes(options: Options, signature: Signature) -> None:
    for name in options.shapes:
        root = name.partition("[")[0].partition(".")[0]
        if root not in signature.names and not any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters
        ):
            raise OptionError(
                f"dynamic_shapes names {name!r}, but {signature.name} has no such argument "
                f"(at {user_location()}); it has {', '.join(signature.names)}"
            )


class _CallableModule(types.ModuleType):
    """`jitinfer.inference` names this module and the function: once the module is imported, both can be called."""

    def __call__(self, function: Any = None, **options: Any) -> Any:
        return inference(function, **options)


sys.modules[__name__].__class__ = _CallableModule
