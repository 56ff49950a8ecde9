"""Running candidates on NumPy arrays, on any machine: Triton functions by Triton's interpreter. For tests.

The functions are the same objects that are compiled: nothing has to be set before Triton is imported.
"""

from __future__ import annotations

import contextlib
import functools
import types
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from jitinfer.errors import KernelError
from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.types import INTEGRAL, numpy_dtype
from jitinfer.kernels.family import WORKSPACE, KernelLaunch, TypedPointer, input_name, output_name
from jitinfer.kernels.triton.frontend import LANGUAGE_LOCK
from jitinfer.kernels.triton.specialization import TRITON_TYPES
from jitinfer.runtime.plan import Copy, Fill, Pointer, Scalar, TensorMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.family import Candidate, KernelArgument

Array = numpy.ndarray[Any, Any]

_GUARD = 4096
_POISON = 0xA5
_OPERATIONS = {"add": numpy.add, "sub": numpy.subtract, "mul": numpy.multiply}


class Memory:
    """Bytes with a margin on both sides, all poisoned: what a kernel does not write stays recognisable."""

    def __init__(self, nbytes: int) -> None:
        self._all = numpy.full(nbytes + 2 * _GUARD, _POISON, numpy.uint8)
        self.bytes = self._all[_GUARD : _GUARD + nbytes]

    @property
    def address(self) -> int:
        return int(self._all.ctypes.data) + _GUARD

    @property
    def intact(self) -> bool:
        """Whether nothing was written outside."""
        margins = (self._all[:_GUARD], self._all[_GUARD + self.bytes.size :])
        return all(bool((margin == _POISON).all()) for margin in margins)


def interpret(node: Node, candidate: Candidate, arrays: Sequence[Array | None]) -> list[Array]:
    """The node's outputs as buffers, of the shapes of its output values; what was not written is poison.

    arrays: for each of the node's inputs, of its value's type. Raises KernelError where a step cannot be interpreted,
    or wrote outside of its buffers, or into an operand, or where integers overflow, unless the node computes with them.
    """
    memories = {output_name(i): Memory(value.type.nbytes) for i, value in enumerate(node.outputs)}
    memories[WORKSPACE] = Memory(candidate.workspace_bytes)
    given: dict[str, bytes] = {}
    for position, array in enumerate(arrays):
        if array is not None:
            name = input_name(position)
            given[name] = numpy.ascontiguousarray(array).tobytes()
            memories[name] = Memory(len(given[name]))
            memories[name].bytes[:] = numpy.frombuffer(given[name], numpy.uint8)
    for step in candidate.steps:
        run_step(step, memories, wrapping=_computes_integers(node))
    for name, memory in memories.items():
        if not memory.intact:
            raise KernelError(f"{node.op.name} wrote outside of {name}")
        if name in given and memory.bytes.tobytes() != given[name]:
            raise KernelError(f"{node.op.name} wrote into its operand {name}")
    return [
        memories[output_name(i)].bytes.view(numpy_dtype(value.dtype)).reshape(value.shape)
        for i, value in enumerate(node.outputs)
    ]


def _computes_integers(node: Node) -> bool:
    nested = (each for graph in nested_graphs(node) for each in graph.walk())
    return any(value.dtype in INTEGRAL for each in (node, *nested) for value in each.outputs)


def run_step(step: object, memories: Mapping[str, Memory], *, wrapping: bool = False) -> None:
    """Raises KernelError for a step that has no interpretation here, and unless `wrapping` where integers overflow."""
    if isinstance(step, KernelLaunch):
        _run_launch(step, memories, wrapping)
    elif isinstance(step, Copy):
        source, destination = memories[step.source.buffer].bytes, memories[step.destination.buffer].bytes
        taken = source[step.source.offset : step.source.offset + step.nbytes]
        destination[step.destination.offset : step.destination.offset + step.nbytes] = taken
    elif isinstance(step, Fill):
        start = step.destination.offset
        memories[step.destination.buffer].bytes[start : start + step.nbytes] = step.value
    else:
        raise KernelError(f"{type(step).__name__} runs on a device only")


def _run_launch(launch: KernelLaunch, memories: Mapping[str, Memory], wrapping: bool) -> None:
    arguments = {name: _tensor(argument, memories) for name, argument in launch.arguments.items()}
    constants = dict(launch.constants)
    with _interpretable(wrapping):
        function = interpreter.InterpretedFunction(_isolated(launch.function.fn))
        runner = interpreter.GridExecutor(function.rewrite(), function.arg_names, launch.grid)
        try:
            runner(**arguments, **constants)
        except interpreter.InterpreterError as error:
            raise KernelError(f"{launch.function.__qualname__}: {error}") from error


def _tensor(argument: KernelArgument, memories: Mapping[str, Memory]) -> Any:
    if isinstance(argument, Scalar):
        kind = {"f32": "fp32", "f64": "fp64"}.get(argument.kind, argument.kind)
        dtype = tl.str_to_ty(kind, None)
        data = numpy.array([argument.value], interpreter._get_np_dtype(dtype))
        return tl.tensor(interpreter.TensorHandle(data, dtype), dtype)
    if isinstance(argument, TensorMap):
        raise KernelError("tensor maps are for devices only")
    assert isinstance(argument, TypedPointer)
    pointer: Pointer = argument.pointer
    address = memories[pointer.buffer].address + pointer.offset
    dtype = tl.pointer_type(tl.str_to_ty(TRITON_TYPES[argument.dtype], None))
    return tl.tensor(interpreter.TensorHandle(numpy.array([address], numpy.uint64), dtype), dtype)


@contextlib.contextmanager
def _interpretable(wrapping: bool) -> Iterator[None]:
    """Within it, Triton functions that call each other are interpreted; wrapping: integers may overflow.

    The interpreter replaces functions of `triton.language`, not all of which it puts back: that is undone here, or the
    next compilation would meet them. They are replaced once for all functions: Triton would do so for each call of one.
    """

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return _rewritten(self.fn)(*arguments, **named)

    with LANGUAGE_LOCK:
        spaces: list[Any] = [tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base]
        spaces += [JITFunction, TritonSemantic]
        before = [(space, dict(vars(space))) for space in spaces]
        JITFunction.__call__ = call
        TritonSemantic.binary_op_sanitize_overflow_impl = _let_overflow if wrapping else _require_no_overflow
        try:
            interpreter._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
            yield
        finally:
            for space, names in before:
                _restore(space, names)


def _let_overflow(*_: Any) -> None:
    """Numbers of a model, and not places in memory, are modulo a power of two."""


def _require_no_overflow(_: Any, left: Any, right: Any, operation: Any) -> None:
    """What Triton's own check requires of sums, differences and products of integers, without interpreting it too.

    left, right: tensors of the same type.
    """
    kind = left.type.scalar
    if kind.int_bitwidth >= 64:
        return
    wide = _OPERATIONS[operation.__name__](*(each.handle.data.astype(numpy.int64) for each in (left, right)))
    if wide.min() < kind.get_int_min_value() or wide.max() > kind.get_int_max_value():
        raise OverflowError(f"{operation.__name__} of {kind} overflows")


@cache
def _rewritten(function: Any) -> Any:
    """The function as the interpreter runs it."""
    return interpreter.InterpretedFunction(_isolated(function)).rewrite()


@cache
def _isolated(function: Any) -> Any:
    """The function over a copy of its globals, to which the interpreter adds names of its own."""
    copy = types.FunctionType(
        function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, function.__closure__
    )
    return functools.update_wrapper(copy, function)


def _restore(space: Any, names: dict[str, Any]) -> None:
    for name in set(vars(space)) - set(names):
        delattr(space, name)
    for name, value in names.items():
        if vars(space).get(name) is not value:
            setattr(space, name, value)
