"""A Python function and example tensors -> a static program, by `paddle.jit.to_static`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle
from paddle.base import framework
from paddle.jit.dy2static import parameter_recorder
from paddle.static import pir_io

from jitinfer.errors import TraceError
from jitinfer.frontend.deadline import DeadlineError, deadline
from jitinfer.frontend.exclusion import PADDLE
from jitinfer.frontend.loop_arguments import owned_arguments
from jitinfer.frontend.origins import LayerPaths, origins_of
from jitinfer.frontend.program import Program, parameter_name
from jitinfer.frontend.randomness import is_random
from jitinfer.frontend.rounding import rounding_of
from jitinfer.frontend.serialising import all_ops, serialise
from jitinfer.frontend.translator import (
    current_sources_only,
    distinct_names,
    judged_once,
    keywords_of_builtins,
    methods_kept,
    own_lines,
    own_records,
    quiet_translator,
    refresh_translations,
)
from jitinfer.frontend.tree import Tree, flatten_results
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from jitinfer.graph.node import Origin

LONGEST = 600.0
"""Seconds that a trace may take; one that takes longer is taken not to end at all."""


class UntraceableError(TraceError):
    """The function does something that a static program cannot express; `where` is the user's file and line."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{message} (at {where})" if where else message)
        self.where = where


class StatefulError(UntraceableError):
    """The function keeps something from one call for the next, so no program can stand for it."""


@dataclass(frozen=True)
class Trace:
    """`parameters`: the captured tensors, in the program's order; `result`: the structure of what it returns.

    `origins`: where each operation comes from, in the order of the program's text, those inside of others after them.
    """

    program: Program
    parameters: tuple[paddle.Tensor, ...]
    result: Tree
    origins: tuple[Origin, ...] = ()


@dataclass
class _Recorded:
    """What the traced wrapper leaves behind for its caller."""

    result: Tree | None = None
    written: str = ""


def tracing() -> bool:
    """Whether this thread is inside a trace, ours or somebody else's `to_static`. To be asked with a share of PADDLE.

    A thread that first asks Paddle for its mode while another one traces takes static mode for its own, for good. Such
    a thread is told apart by the mode that Paddle set last, and put right.
    """
    if paddle.in_dynamic_mode():
        return False
    last_set = framework._dygraph_tracer_
    if last_set is None:
        return True
    framework.global_var._dygraph_tracer_ = last_set
    return False


def trace(
    call: Callable[[Sequence[Any]], Any],
    inputs: Sequence[TensorType],
    tensors: Iterable[paddle.Tensor] = (),
    *,
    prune: bool = True,
) -> Trace:
    """Trace `call`, which takes the list of input tensors and returns the function's result in any structure.

    Args:
        call: calls the user's function through `translated`; runs once, with symbolic tensors.
        inputs: the types of the tensors, -1 for dynamic dims.
        tensors: weights and other tensors that the function may capture.
        prune: whether to remove operations that no result depends on.

    Raises:
        UntraceableError: the function leaves what a static program can express.
    """
    recorded = _Recorded()

    def traced(tensors: Sequence[Any]) -> list[Any]:
        result = call(tensors)
        recorded.result, leaves = flatten_results(result, (paddle.pir.Value, paddle.Tensor))
        recorded.written = _written_in_place()
        return [leaf if isinstance(leaf, paddle.pir.Value) else paddle.assign(leaf) for leaf in leaves]

    specs = [
        paddle.static.InputSpec(shape=t.shape, dtype=t.dtype, name=f"in_{i}", stop_gradient=True)
        for i, t in enumerate(inputs)
    ]
    with (
        PADDLE.exclusive(),
        quiet_translator(),
        current_sources_only(),
        methods_kept(),
        own_lines(),
        judged_once(),
        keywords_of_builtins(),
        own_records(),
        owned_arguments(),
        distinct_names(tensors),
        paddle.no_grad(),
    ):
        refresh_translations()
        layers = LayerPaths()
        try:
            wrapper = paddle.jit.not_to_static(traced)
            static = paddle.jit.to_static(wrapper, input_spec=[specs], full_graph=True)
            with deadline(LONGEST), layers.recorded():
                concrete = static.concrete_program
        except DeadlineError as error:
            raise UntraceableError(f"its trace did not end within {LONGEST:.0f} s") from error
        except Exception as error:
            raise UntraceableError(_reason(error), _user_line(error)) from error
        if recorded.result is None:
            raise UntraceableError("the function was not called while it was traced")
        if recorded.written:
            raise UntraceableError(f"it changes {recorded.written} in place")
        layers.write(all_ops(concrete.main_program.global_block()))
        return _assemble(concrete, recorded.result, inputs, prune)


def _written_in_place() -> str:
    """Names an input or captured tensor that the function has changed in place so far; "" if there is none."""
    program = paddle.static.default_main_program()
    changed = parameter_recorder._global_inplace_map.params_dict.get(parameter_recorder._program_hash(program), {})
    for value in changed:
        written = _source(value)
        if written:
            return written
    for op in all_ops(program.global_block()):
        name = op.name().partition(".")[2]
        if name.endswith("_") and not _reads_only(op, name):
            for position in paddle.core.pir.get_op_inplace_info(op).values():
                written = _source(op.operand_source(position))
                if written:
                    return written
    return ""


def _reads_only(op: Any, name: str) -> bool:
    """In-place forms that leave their operands alone when the layer is in eval mode."""
    attributes = op.attrs()
    return name == "batch_norm_" and (attributes.get("is_test") or attributes.get("use_global_stats"))


def _source(value: Any) -> str:
    """ "an argument" or "a weight or buffer" if `value` is one, or a view of one."""
    for _ in range(64):
        op = value.get_defining_op() if value is not None and value.initialized() else None
        if op is None:
            return ""
        if op.name() == "pd_op.data":
            return "an argument"
        if op.name() == "builtin.parameter":
            return "a weight or buffer"
        if op.name() not in _VIEWS:
            return ""
        value = op.operand_source(0)
    return ""


_VIEWS = frozenset(
    "pd_op." + name
    for name in ("reshape_", "squeeze_", "unsqueeze_", "flatten_", "view_shape", "view_dtype", "as_strided")
)


def _assemble(concrete: Any, result: Tree, inputs: Sequence[TensorType], prune: bool) -> Trace:
    outputs = (
        list(concrete.outputs[0])
        if concrete.outputs and isinstance(concrete.outputs[0], list)
        else list(concrete.outputs)
    )
    if not outputs:
        raise UntraceableError("it returns no tensor")
    mapping = paddle.pir.IrMapping()
    program = concrete.main_program.clone(mapping)
    feeds = [mapping.look_up(value) for value in concrete.inputs[0]]
    fetched = [mapping.look_up(value) for value in outputs]
    with _static_mode(program):
        pir_io.append_pir_feed_ops(program, feeds)
        pir_io.append_pir_fetch_ops(program, [(value, f"out_{i}") for i, value in enumerate(fetched)])
    if prune:
        manager = paddle.pir.PassManager()
        manager.add_pass("dead_code_elimination_pass", {})
        manager.run(program)
    tensors, values = concrete.parameters
    by_name = _tensors_by_name(tensors, values)
    parameters: list[Any] = []
    renames: dict[str, str] = {}
    ops = list(all_ops(program.global_block()))
    for op in ops:
        if op.name() == "builtin.parameter":
            name = op.attrs()["parameter_name"]
            renames[name] = parameter_name(len(parameters))
            parameters.append(by_name[name])
    for op in ops:
        if op.name() == "builtin.parameter":
            op.set_str_attr("parameter_name", renames[op.attrs()["parameter_name"]])
            op.result(0).persistable = True  # predictors read no others, such as buffers that are not saved
    text, layers = serialise(program)
    static = Program(
        text=text,
        inputs=tuple(inputs),
        parameters=tuple(type_of(tensor) for tensor in parameters),
        outputs=len(outputs),
        random=any(is_random(op.name(), op.attrs) for op in ops),
        rounding=rounding_of(program),
        operations=len(ops) - len(parameters),
    )
    return Trace(static, tuple(parameters), result, origins_of([op.callstack for op in ops], layers))


def _tensors_by_name(tensors: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    """Paddle names parameters after tensors; raises UntraceableError where two tensors have one name."""
    by_name: dict[str, Any] = {}
    for tensor, value in zip(tensors, values, strict=True):
        name = value.get_defining_op().attrs()["parameter_name"]
        if name in by_name:
            raise UntraceableError(f"it uses two tensors that are both named {name!r}; rename one of them")
        by_name[name] = tensor
    return by_name


def type_of(tensor: paddle.Tensor) -> TensorType:
    return TensorType(tuple(tensor.shape), str(tensor.dtype).rpartition(".")[2])


@contextmanager
def _static_mode(program: Any) -> Iterator[None]:
    paddle.enable_static()
    try:
        with paddle.static.program_guard(program):
            yield
    finally:
        paddle.disable_static()


def _reason(error: BaseException) -> str:
    """The last line that says something in Paddle's long report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line or "Exception:" in line]
    return (told or lines or [type(error).__name__])[-1].removesuffix("Suggestions:").strip()[:300]


def _user_line(error: BaseException) -> str:
    """`file:line` of the user's code in Paddle's report of a failed trace; "" where it does not say."""
    found = ""
    for line in str(error).splitlines():
        text = line.strip()
        if text.startswith('File "') and ", line " in text:
            path, _, rest = text[6:].partition('", line ')
            if "/paddle/" not in path and "/jitinfer/" not in path:
                found = f"{path}:{rest.split(',')[0].strip()}"
    return found
