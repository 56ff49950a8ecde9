"""Building a specialisation: trace or find the trace, compile or find the verdict, check, bind the weights."""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle

from jitinfer.cache import Cache, Key
from jitinfer.engines import engine_for
from jitinfer.engines.protocol import Request
from jitinfer.errors import EngineError, JitinferError, VerificationError
from jitinfer.frontend.capture import Reference, rebuilds
from jitinfer.frontend.origins import packed, unpacked
from jitinfer.frontend.program import Program
from jitinfer.frontend.sources import unchanged_since_start
from jitinfer.frontend.structure import NotStorableError, from_json, key_document, to_json
from jitinfer.frontend.tracing import StatefulError, Trace, UntraceableError, trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.frontend.tree import Branch, unflatten
from jitinfer.frontend.weights import Weights
from jitinfer.progress import progress
from jitinfer.specialization import Specialization
from jitinfer.version import library_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitinfer.frontend.signature import Signature
    from jitinfer.frontend.state import Observation
    from jitinfer.graph.types import TensorType
    from jitinfer.options import Options

logger = logging.getLogger("jitinfer")


@dataclass(frozen=True)
class Call:
    """One call, taken apart. `receiver` is () for a function without one, so that any object can be a receiver."""

    function: Callable[..., Any]
    receiver: tuple[Any, ...]
    signature: Signature
    tree: Branch
    tensors: list[paddle.Tensor]
    names: list[str]
    dynamic: tuple[TensorType, ...] | None = None
    """The types with -1 in the dims that are dynamic, where there are any."""

    def exact_types(self) -> tuple[TensorType, ...]:
        return tuple(map(type_of, self.tensors))

    @property
    def types(self) -> tuple[TensorType, ...]:
        """What the program is made for."""
        return self.dynamic or self.exact_types()

    def run(self) -> Any:
        """The dynamic function on these arguments."""
        args, kwargs = self.signature.unbind(unflatten(self.tree, self.tensors))
        return self.function(*self.receiver, *args, **kwargs)

    def run_symbolically(self, tensors: Sequence[Any]) -> Any:
        """The function on symbolic tensors, translated; for use inside a trace."""
        function: Any = self.function
        before: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
            before, keywords = (*function.args, *before), {**function.keywords, **keywords}
            function = function.func
        target = types.MethodType(function, self.receiver[0]) if self.receiver else function
        values = unflatten(self.tree, tensors)
        args, kwargs = self.signature.unbind(values)
        return translated_root(target)(*before, *args, **{**keywords, **kwargs})


class Compiler:
    """What builds the specialisations of one compiled function."""

    def __init__(self, name: str, options: Options, cache: Callable[[], Cache]) -> None:
        self.name = name
        self.options = options
        self._cache = cache
        self._warned: set[str] = set()

    def build(
        self, call: Call, observe: Callable[[], Observation], ambient: Mapping[str, Any], reason: str
    ) -> tuple[Specialization, Reference]:
        """A specialisation for `call`, at worst the dynamic function itself, and the reference it was checked with.

        If the reference has been evaluated, the function's effects have taken place and its result is the call's.
        Raises what the function raises, and JitinferError where `fallback="error"`.
        """
        specialization = Specialization(
            self.name, reason, _signature_text(call), types=call.types, tree=call.tree, origin=_origin(call.function)
        )
        reference = Reference(call.run, call.tensors, call.names)
        started = time.perf_counter()
        logger.info("%s: specialising for %s: %s", self.name, specialization.signature, reason)
        try:
            with progress(f"jitinfer: compiling {self.name}"):
                self._build(specialization, call, reference, observe, ambient)
        except Exception as error:
            if error is reference.error:
                raise
            reference.evaluate()  # an error of the function itself comes out here, as it is
            if not isinstance(error, JitinferError):
                error = EngineError(f"{type(error).__name__}: {error}")
            self.fall_back(specialization, error)
        specialization.seconds = time.perf_counter() - started
        logger.info("%s: ready in %.2f s (%s)", self.name, specialization.seconds, specialization.description)
        return specialization, reference

    def fall_back(self, specialization: Specialization, error: JitinferError) -> None:
        """Let the dynamic function run in place of the program, with one warning."""
        if self.options.fallback == "error":
            raise error
        specialization.executable = None
        specialization.simple = False
        specialization.weights = None
        specialization.note = str(error)
        specialization.stateful |= isinstance(error, StatefulError)
        where = getattr(error, "where", "") or specialization.origin
        level = logging.INFO if where in self._warned else logging.WARNING
        self._warned.add(where)
        logger.log(level, "%s (%s) runs dynamically: %s", self.name, where, error)

    def _build(
        self,
        specialization: Specialization,
        call: Call,
        reference: Reference,
        observe: Callable[[], Observation],
        ambient: Mapping[str, Any],
    ) -> None:
        observation = observe()
        key = self._static_key(call, observation, ambient)
        found = self._stored_trace(key, observation) if key is not None else None
        if found is None:
            found = self._trace(call, reference, observation, observe)
            if key is not None:
                self._store_trace(key, found, observation)
        weights = Weights(found.parameters)
        engine = engine_for(self.options)
        request = Request(
            program=found.program,
            parameters=found.parameters,
            inputs=call.tensors,
            options=self.options,
            cache=self._cache(),
            expected=None if self.options.verify == "never" else lambda: self._expected(reference, found, observe()),
            under_the_same_randomness=reference.under_the_same_randomness,
            name=self.name,
            origin=self._origin(call, observation, ambient),
            origins=found.origins,
            degenerate=weights.degenerate(),
            notes=specialization.notes,
        )
        started = time.perf_counter()
        specialization.executable = engine.compile(request)
        logger.info("%s: compiled in %.2f s", self.name, time.perf_counter() - started)
        weights.remember()
        paths = observation.tensor_paths()
        specialization.paths = [paths.get(id(tensor)) for tensor in found.parameters]
        specialization.program, specialization.result, specialization.weights = found.program, found.result, weights
        if any(dim < 0 for kind in found.program.inputs for dim in kind.shape):
            specialization.verified_shapes = {tuple(tuple(tensor.shape) for tensor in call.tensors)}

    def _expected(self, reference: Reference, found: Trace, before: Observation) -> Sequence[Any]:
        """The dynamic results, once it is sure that they can be compared with a program's."""
        if reference.evaluation is not None:
            return reference.evaluation.tensors
        evaluation = reference.evaluate()
        changed, _ = before.mutations()
        if changed:
            raise StatefulError(f"it assigns {changed[0]}, which a program cannot")
        if evaluation.changed_input:
            raise UntraceableError(f"it changes its argument {evaluation.changed_input} in place")
        if evaluation.tree != found.result:
            raise VerificationError(f"{self.name}: the traced function returns another structure than the dynamic one")
        if not rebuilds(evaluation):
            raise UntraceableError(f"its result, a {type(evaluation.result).__qualname__}, cannot be rebuilt")
        return evaluation.tensors

    def _trace(
        self, call: Call, reference: Reference, observation: Observation, observe: Callable[[], Observation]
    ) -> Trace:
        started = time.perf_counter()
        try:
            found = self._trace_once(call, observation)
        except UntraceableError:
            if reference.evaluation is not None:
                raise
            # What fails on the first run may have been a value that the function keeps for the next: run it, try again.
            evaluation = reference.evaluate()
            if evaluation.changed_input:
                raise UntraceableError(f"it changes its argument {evaluation.changed_input} in place") from None
            again = observe()
            if again.digest == observation.digest and again.tensors.keys() == observation.tensors.keys():
                raise
            found = self._trace_once(call, again)
        program = found.program
        logger.info(
            "%s: traced in %.2f s: %d operations, %d parameters",
            self.name,
            time.perf_counter() - started,
            program.operations,
            len(program.parameters),
        )
        return found

    def _trace_once(self, call: Call, observation: Observation) -> Trace:
        """One trace, after which the observed state is as it was, whatever the function assigned meanwhile."""
        try:
            tensors = [place.tensor() for place in observation.tensors.values()]
            found = trace(call.run_symbolically, call.types, tensors, prune=not self.options.skip_prune_program)
        finally:
            changed, restore = observation.mutations()
            restore()
        if changed:
            raise StatefulError(f"it assigns {changed[0]}, which a program cannot")
        return found

    def _origin(self, call: Call, observation: Observation, ambient: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the program was traced from, as far as that has a name outside this process."""
        try:
            return {
                "function": f"{call.function.__module__}:{getattr(call.function, '__qualname__', '')}",
                "source": _function_digest(call.function),
                "state": observation.digest,
                "arguments": key_document(call.tree),
                "ambient": dict(ambient),
            }
        except (NotStorableError, AttributeError):
            return None

    # -- the trace on disk ---------------------------------------------------------------------------------------

    def _static_key(self, call: Call, observation: Observation, ambient: Mapping[str, Any]) -> Key | None:
        if not self.options.cache_static_model:
            return None
        try:
            sources = {name: _source_digest(name) for name in sorted(observation.modules) if name}
            origin = self._origin(call, observation, ambient)
            if origin is None:
                raise NotStorableError("the function or one of its arguments has no name outside this process")
            return Key(
                "trace",
                {
                    **origin,
                    "modules": sources,
                    "inputs": [[list(kind.shape), kind.dtype] for kind in call.types],
                    "options": self.options.key(),
                    "paddle": paddle.__version__ + " " + paddle.version.commit,
                    "jitinfer": library_digest(),
                    "python": platform.python_version(),
                },
            )
        except NotStorableError as error:
            logger.info("%s: its trace is not kept on disk: %s", self.name, error)
            return None

    def _stored_trace(self, key: Key, observation: Observation) -> Trace | None:
        entry = self._cache().get(key)
        if entry is None:
            return None
        try:
            program = Program.restore(entry.blobs["program"], entry.metadata["program"])
            result = from_json(entry.metadata["result"])
            places: Any = entry.metadata["parameters"]
            parameters = tuple(observation.tensors[path].tensor() for path in places)
            origins = unpacked(entry.metadata["origins"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            logger.info("%s: the trace in the cache does not fit (%s); tracing", self.name, error)
            return None
        logger.info("%s: trace found in the cache (%s)", self.name, key.digest[:12])
        return Trace(program, parameters, result, origins)

    def _store_trace(self, key: Key, found: Trace, observation: Observation) -> None:
        paths = observation.tensor_paths()
        places = [paths.get(id(tensor)) for tensor in found.parameters]
        if None in places:
            logger.info(
                "%s: its trace is not kept on disk: it captures a tensor that has no place in a layer", self.name
            )
            return
        try:
            result = to_json(found.result)
        except NotStorableError as error:
            logger.info("%s: its trace is not kept on disk: %s", self.name, error)
            return
        metadata = {
            "program": found.program.metadata(),
            "result": result,
            "parameters": places,
            "origins": packed(found.origins),
        }
        self._cache().put(key, {"program": found.program.text}, metadata)


def _signature_text(call: Call) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in zip(call.names, call.types, strict=True)) or "no tensors"


def _origin(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _function_digest(function: Any) -> str:
    from jitinfer.frontend.state import code_digest

    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise NotStorableError("it is not a plain Python function")
    try:
        source = inspect.getsource(inspect.unwrap(function))  # of the code object, it would search all modules
    except (OSError, TypeError):  # typed in at a prompt
        source = ""
    return hashlib.sha256((code_digest(code) + source).encode()).hexdigest()


def _source_digest(module: str) -> str:
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not Path(path).is_file():
        return "" if module.partition(".")[0] in sys.stdlib_module_names or module == "__main__" else "no source"
    if not unchanged_since_start(path):
        raise NotStorableError(f"{path} was edited while this process ran")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def verify_shapes(compiler: Compiler, specialization: Specialization, call: Call) -> tuple[Any, bool]:
    """Run a program of dynamic shapes for the first time on these, beside the dynamic function.

    Returns the dynamic result, and whether the program's was the same.
    """
    from jitinfer.engines.comparison import difference
    from jitinfer.engines.paddle import as_arrays
    from jitinfer.graph.rounding import tolerance_for

    assert specialization.executable is not None
    assert specialization.program is not None
    reference = Reference(call.run, call.tensors, call.names)
    evaluation = reference.evaluate()
    try:
        if evaluation.tree != specialization.result:
            raise EngineError("another structure")
        specialization.follow()
        executable = specialization.executable
        actual = reference.under_the_same_randomness(lambda: executable.run(call.tensors))
    except EngineError as error:
        logger.warning("%s: the program does not hold for %s: %s", compiler.name, _signature_text(call), error)
        return evaluation.result, False
    names = ("bfloat16", "float16", "float32")
    arithmetic = next((each for each in names if each in specialization.description), "float32")
    tolerance = tolerance_for(specialization.program.rounding, arithmetic)
    found = difference(as_arrays(actual), as_arrays(evaluation.tensors))
    if not found.within(tolerance):
        logger.warning("%s: the program is wrong for %s: %s", compiler.name, _signature_text(call), found.what)
        return evaluation.result, False
    return evaluation.detached(), True
