"""The decorator: a call -> its results. Bind, guard, pick or build the specialisation, rebuild the output."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import os
import sys
import types
from typing import TYPE_CHECKING, Any, TypeVar, overload

import paddle
from paddle.jit.dy2static.utils import TransformOptions

from jitinfer.compilation import Call, verify_shapes
from jitinfer.dispatch import AMBIENT, ambient, dynamic_types, forms, named, never_settles, why
from jitinfer.engines import engine_for
from jitinfer.engines.paddle import check_options
from jitinfer.errors import ArgumentError, EngineError, OptionError, user_location
from jitinfer.frontend.capture import evaluating_reference
from jitinfer.frontend.exclusion import PADDLE
from jitinfer.frontend.signature import Signature
from jitinfer.frontend.state import INSTANCES, Observation, observe
from jitinfer.frontend.tracing import tracing
from jitinfer.frontend.translator import translated
from jitinfer.frontend.tree import flatten_arguments
from jitinfer.instances import Core, Instance
from jitinfer.options import Options, resolve
from jitinfer.report import explain, html_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.specialization import Specialization

logger = logging.getLogger("jitinfer")

F = TypeVar("F")

ANY_STATE = "any state"
_TRANSFORM_ATTRIBUTE = TransformOptions.TRANSFORM_OPTIONS_ATTR_NAME
_TAKE_AS_IT_IS = TransformOptions(TransformOptions.ToStaticMode.AST | TransformOptions.ToStaticMode.SOT)
"""Keeps Paddle's translator from rewriting our `__call__`; inside a trace it inlines the function itself."""


class CompiledFunction:
    """A function that runs as a compiled program, specialised to the shapes and plain values that it is called with.

    Has the name, documentation and signature of the function. Works as a method of a class, too.
    """

    __jitinfer_function__ = True

    def __init__(self, core: Core, receiver: tuple[Any, ...] = ()) -> None:
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
        PADDLE.enter()
        try:
            if tracing():
                return translated(self.function)(*args, **kwargs)
            if evaluating_reference():
                return self.function(*args, **kwargs)
            return self._call(args, kwargs)
        finally:
            PADDLE.leave()

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        core, signature = self._core, self._signature
        values = signature.bind(args, kwargs)
        tree, tensors, anchored = flatten_arguments(signature.names, values)
        instance = core.instance((*self._receiver, *anchored) if anchored else self._receiver)
        around = ambient()
        dynamic = dynamic_types(core.shapes, tree, signature, tensors) if core.shapes else None
        if dynamic is not None and (tree, dynamic, around) in instance.untraceable:
            dynamic = None
        form = dynamic or forms(tensors)
        observation = instance.observation
        ahead = self._ahead(instance, observation, (tree, form, around), tensors)
        if ahead is not None:
            return ahead[0]
        if observation is None or not observation.unchanged():
            observation = self._observe(instance, anchored)
        key = (observation.digest, tree, form, around)
        found = instance.specializations.get(key)
        if found is not None and found.observed is observation and found.simple:
            self._count(instance, found)
            try:
                return found.run(tensors)
            except EngineError as error:
                core.compiler.fall_back(found, error)
        call = Call(core.function, self._receiver, signature, tree, tensors, [], dynamic)
        if found is None:
            found = instance.specializations.get((ANY_STATE, *key[1:]))
            if found is None:
                return self._first(instance, call, key, anchored)
        return self._run(instance, found, call, key, anchored)

    def _ahead(
        self, instance: Instance, observation: Observation | None, rest: tuple[Any, ...], tensors: list[Any]
    ) -> tuple[Any] | None:
        """The result where all is as it was before, which is looked at while a device computes; else None."""
        if observation is None:
            return None
        found = instance.specializations.get((observation.digest, *rest))
        if found is None or found.observed is not observation or not found.simple:
            return None
        try:
            ahead = found.run_ahead(tensors, observation.unchanged)
        except EngineError as error:
            self._core.compiler.fall_back(found, error)
            return None
        if ahead is not None:
            self._count(instance, found)
        return ahead

    def _count(self, instance: Instance, found: Specialization) -> None:
        found.calls += 1
        if len(instance.specializations) > 1:
            instance.touch(found)

    # -- picking -------------------------------------------------------------------------------------------------

    def _observe(self, instance: Instance, anchored: list[Any]) -> Observation:
        """Look at the state again; weights that were replaced are handed to the specialisations that use them."""
        roots = [("receiver", owner) for owner in self._receiver]
        roots += [(f"argument {position}", owner) for position, owner in enumerate(anchored)]
        found = observe([*roots, ("function", self._core.function)])
        instance.observation = found
        return found

    def _run(
        self, instance: Instance, specialization: Specialization, call: Call, key: Any, anchored: list[Any]
    ) -> Any:
        self._count(instance, specialization)
        if specialization.executable is None:
            with paddle.no_grad():
                return call.run()
        try:
            self._rebind(instance, specialization)
            shapes = specialization.verified_shapes
            if shapes is not None and self._core.options.verify != "never":
                concrete = tuple(tuple(tensor.shape) for tensor in call.tensors)
                if concrete not in shapes:
                    return self._new_shapes(instance, specialization, call, key, anchored, concrete)
            if self._core.options.verify == "always":
                return self._checked(specialization, call)
            return specialization.run(call.tensors)
        except EngineError as error:
            self._core.compiler.fall_back(specialization, error)
            with paddle.no_grad():
                return call.run()

    def _rebind(self, instance: Instance, specialization: Specialization) -> None:
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
        result, right = verify_shapes(self._core.compiler, specialization, named(call))
        if right:
            return result
        self._core.compiler.fall_back(specialization, EngineError(f"{self._core.name}: a result was wrong"))
        return result

    def _new_shapes(
        self,
        instance: Instance,
        specialization: Specialization,
        call: Call,
        key: Any,
        anchored: list[Any],
        concrete: Any,
    ) -> Any:
        if concrete in specialization.refused_shapes:
            return self._static(instance, call, key, anchored)
        result, right = verify_shapes(self._core.compiler, specialization, named(call))
        assert specialization.verified_shapes is not None
        (specialization.verified_shapes if right else specialization.refused_shapes).add(concrete)
        return result

    def _static(self, instance: Instance, call: Call, key: Any, anchored: list[Any]) -> Any:
        """The specialisation for exactly these shapes, where the one with dynamic dims does not hold."""
        exact = dataclasses.replace(call, dynamic=None)
        key = (*key[:2], forms(call.tensors), key[3])
        found = instance.specializations.get(key)
        if found is None:
            return self._first(instance, exact, key, anchored)
        return self._run(instance, found, exact, key, anchored)

    def _first(self, instance: Instance, call: Call, key: Any, anchored: list[Any]) -> Any:
        with PADDLE.released(), self._core.lock:
            found = instance.specializations.get(key)
            if found is None:
                return self._build(instance, named(call), key, anchored)
        return self._run(instance, found, call, key, anchored)

    def _build(self, instance: Instance, call: Call, key: Any, anchored: list[Any]) -> Any:
        surroundings = dict(zip(AMBIENT, key[3], strict=True))
        reason = why(instance.specializations, key, call)

        def observe_again() -> Observation:
            return self._observe(instance, anchored)

        specialization, reference = self._core.compiler.build(call, observe_again, surroundings, reason)
        if specialization.executable is None and call.dynamic is not None and call.dynamic != call.exact_types():
            logger.info("%s: the declared dynamic shapes do not trace; specialising for each shape", self._core.name)
            instance.untraceable.add(key[1:])
            call = dataclasses.replace(call, dynamic=None)
            specialization, reference = self._core.compiler.build(call, observe_again, surroundings, reason)
            key = (*key[:2], forms(call.tensors), key[3])
        observation = observe_again()
        specialization.observed = observation
        digest = (
            ANY_STATE if specialization.stateful or never_settles(instance.specializations, key) else observation.digest
        )
        specialization.key = (digest, *key[1:])
        instance.specializations[specialization.key] = specialization
        specialization.calls = 1
        checks = specialization.verified_shapes is not None or self._core.options.verify == "always"
        specialization.simple = specialization.executable is not None and not checks
        self._evict(instance)
        if reference.evaluation is not None:
            evaluation = reference.evaluation
            return evaluation.result if specialization.executable is None else evaluation.detached()
        with PADDLE.shared():
            if specialization.executable is None:
                with paddle.no_grad():
                    return call.run()
            return specialization.run(call.tensors)

    def _evict(self, instance: Instance) -> None:
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

    def specialization_of(self, *args: Any, **kwargs: Any) -> tuple[Specialization, list[Any]]:
        """Calls the function, and returns the specialisation that ran, and the tensors that its program was given.

        Raises what the call raises, or EngineError where others call it at the same time.
        """
        before = [(each, each.calls) for each in self.specializations]
        self(*args, **kwargs)
        counts = {id(each): calls for each, calls in before}
        ran = [each for each in self.specializations if each.calls != counts.get(id(each), 0)]
        if len(ran) != 1:
            raise EngineError(f"{self._core.name} was called by another thread meanwhile")
        _, tensors, _ = flatten_arguments(self._signature.names, self._signature.bind(args, kwargs))
        return ran[0], list(tensors)

    def refresh_weights(self) -> None:
        """Take over the present values of all weights now, without waiting for a call to notice."""
        for specialization in self.specializations:
            if specialization.weights is not None:
                with specialization.lock:
                    specialization.refresh(specialization.weights.tensors, "refresh_weights()")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program, and the weights that it runs with, for `jitinfer.load`, which needs no Paddle.

        Two files: `path`, and `path`.weights. Raises EngineError unless there is exactly one specialisation, and it
        runs by the CUDA engine; OSError where the files cannot be written.
        """
        found = self.specializations
        save = getattr(found[0].executable, "save", None) if len(found) == 1 else None
        if save is None:
            how = found[0].description if len(found) == 1 else f"in {len(found)} specialisations"
            raise EngineError(f"{self._core.name} runs {how}; one program of the CUDA engine can be saved")
        save(os.fspath(path))

    def explain(self, *, passes: bool | str | Sequence[str] = False, graph: bool = False) -> str:
        """What was compiled, why, how it runs, and what the passes did where there is a graph, as text.

        Args:
            passes: also the changes to the graph, place by place with the model's lines: of all passes (True), or of
                those that are named.
            graph: also the graph after the passes.

        Raises PassError for a name of no pass that ran.
        """
        return explain(self._core.name, self.specializations, passes, graph)

    def _repr_html_(self) -> str:
        return html_table(self._core.name, self.specializations)

    def __repr__(self) -> str:
        return f"<jitinfer.inference of {self._core.name}, {len(self.specializations)} specialisations>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pickle the model and decorate it where it is loaded")

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        """Copied along with a layer: the copy belongs to the layer's copy, with weights of its own."""
        receiver = tuple(memo.get(id(owner), owner) for owner in self._receiver)
        return CompiledFunction(Core(self._core.function, self._core.options), receiver)


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
        return CompiledFunction(Core(target.__func__, options), (target.__self__,))
    if inspect.isroutine(target) or isinstance(target, functools.partial):
        return CompiledFunction(Core(target, options))
    return CompiledFunction(Core(type(target).__call__, options), (target,))


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
