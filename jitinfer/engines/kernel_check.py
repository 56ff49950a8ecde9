"""Whether the kernels that were chosen for nodes compute what the op table says, node by node."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from jitinfer.engines.blame import Blame
from jitinfer.engines.comparison import SIGMAS, tolerance_for
from jitinfer.errors import DeviceError, DeviceLostError, DeviceMemoryError, KernelError
from jitinfer.frontend.program import Rounding
from jitinfer.graph.evaluation import apply_view, evaluate_node
from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.node import Node, Value
from jitinfer.graph.op import Kind
from jitinfer.graph.types import FLOATING, numpy_dtype
from jitinfer.kernels.assembly import plan_of_node
from jitinfer.kernels.family import families_for
from jitinfer.lowering.choice import Choice, form_of, kernel_text
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.runtime.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from jitinfer.graph.types import TensorType
    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Work
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.device import Device

Array = Any
Runner: TypeAlias = Callable[[Node, Choice, Sequence["Array | None"]], list[Array]]
"""Computes a node with these kernels, of an array for each input: a buffer for each output, of its value's type."""

_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
_STEPS = 64
"""Roundings to float32 that the arithmetic of one op is taken for, sums apart: exponentials, divisions, roots."""
_LEEWAY = 4.0
"""By how much a kernel may be less exact than the same op in float32 by NumPy: it adds up in another order."""


def on_device(device: Device) -> Runner:
    """Raises DeviceError where the device does not run the kernels."""

    def run(node: Node, choice: Choice, arrays: Sequence[Array | None]) -> list[Array]:
        plan = plan_of_node(node, choice.candidate, choice.kernels, device.compute_capability)
        given: dict[Value, Array] = {}
        for value, array in zip(node.inputs, arrays, strict=True):
            if value is not None:
                given.setdefault(value, array)
        executor = Executor(plan, None, device)
        try:
            return list(executor.run(list(given.values())))
        finally:
            executor.close()

    return run


class KernelCheck:
    """Looks at each form of nodes with each choice of kernels once, where their operands are not known."""

    def __init__(self, run: Runner, target: Target) -> None:
        self._run = run
        self._target = target
        self._right: set[Hashable] = set()

    def wrong(self, work: Work, values: Mapping[Value, Array], excluded: Exclusions = ()) -> dict[Exclusion, Blame]:
        """What must not be chosen any more, for which form.

        It is the family, where others offer the same, or where another of its configurations is `excluded` already;
        else the one configuration.

        Args:
            values: what tensors hold, as far as that is known. Nodes all whose operands are among them are run on
                those, the others on random numbers.

        Raises KernelFaultError where the device fails for good, and DeviceMemoryError.
        """
        found: dict[Exclusion, Blame] = {}
        wrong: set[str] = set()
        before = {(each.form, each.family) for each in excluded}
        for node, choice in work:
            form = form_of(node)
            known = all(value is None or value in values for value in node.inputs)
            this = Exclusion(form, choice.family, choice.config)
            seen = (this, node.views, node.stores)  # which differ among nodes of one form in where they start
            if form in wrong or (seen in self._right and not known):
                continue
            operands = values if known else _random(node.inputs)
            arrays = [None if value is None else operands[value] for value in node.inputs]
            failure = self._failure(node, choice, arrays)
            if not failure:
                self._right.add(seen)
                continue
            wrong.add(form)
            others = any(each.name != choice.family for each in families_for(node, self._target))
            whole = others or (form, choice.family) in before
            found[dataclasses.replace(this, config=None) if whole else this] = Blame(
                kernel_text(node, choice.family, choice.config), failure
            )
        return found

    def _failure(self, node: Node, choice: Choice, arrays: Sequence[Array | None]) -> str:
        try:
            return failure_of(node, self._run(node, choice, arrays), arrays)
        except DeviceLostError as error:
            raise KernelFaultError.of(node, choice.family, choice.config, error) from error
        except DeviceMemoryError:
            raise
        except (DeviceError, KernelError) as error:
            return str(error)


def failure_of(node: Node, buffers: Sequence[Array], arrays: Sequence[Array | None]) -> str:
    """What is wrong with a node's results, "" if nothing is.

    They are compared with the reference in float64, at a tolerance that follows from the dtypes and the lengths of
    sums, or from how far the reference in float32 is from that, where the numbers themselves are hard.

    Args:
        buffers: for each output, of its value's type; arrays: for each input.
    """
    types = node.op.output_types(node.input_types(), node.attributes)
    outputs = tuple(Value(kind, value.name) for kind, value in zip(types, node.outputs, strict=True))
    plain = dataclasses.replace(node, outputs=outputs, stores=())
    exact = evaluate_node(plain, [_wide(array) for array in arrays], "float64")
    near = evaluate_node(plain, arrays)
    rounding = _rounding(node)
    tolerance = tolerance_for(rounding, rounding.coarsest or "float64").relative if rounding.coarsest else 0.0
    for position, buffer in enumerate(buffers):
        store = node.store(position)
        got = buffer if store is None else apply_view(buffer, store)
        failure = _difference(got, exact[position], near[position], outputs[position].type, tolerance)
        if failure:
            return failure if len(buffers) == 1 else f"result {position}: {failure}"
    return ""


def _difference(got: Array, exact: Array, near: Array, kind: TensorType, tolerance: float) -> str:
    if exact.size == 0:
        return ""
    if kind.dtype not in FLOATING and not kind.dtype.startswith("complex"):
        differ = int(numpy.count_nonzero(got != near))  # by rounding before a comparison, as rarely as it says
        return f"{differ} of {exact.size} values differ" if differ > tolerance * exact.size else ""
    with numpy.errstate(all="ignore"):
        dtype = numpy_dtype(kind.dtype)
        finite = numpy.isfinite(_wide(exact.astype(dtype))) & numpy.isfinite(_wide(near))
    got, exact, near = _wide(got)[finite], exact[finite], _wide(near)[finite]
    if not exact.size:
        return ""
    if not numpy.isfinite(got).all():
        return "it gives NaN or infinity in place of a number"
    for norm, of, limit in (
        (_largest, "largest value", tolerance),
        (_root_mean_square, "root mean square", tolerance / SIGMAS),
    ):
        scale = norm(exact) or 1.0
        error, explained = (norm(each - exact) / scale for each in (got, near))
        allowed = max(limit, _LEEWAY * explained)
        if error > allowed:
            return f"its result differs by {error:.3e} of the {of}; rounding explains {allowed:.1e}"
    return ""


def _largest(numbers: Array) -> float:
    """What a fault in few places changes."""
    return float(numpy.abs(numbers).max())


def _root_mean_square(numbers: Array) -> float:
    """What a small fault in all places changes."""
    return float(numpy.sqrt(numpy.mean(numpy.abs(numbers) ** 2)))


def _rounding(node: Node) -> Rounding:
    """`coarsest` is "" where nothing is a floating number."""
    inside = [each for graph in nested_graphs(node) for each in graph.walk()]
    computing = sum(each.op.kind not in (Kind.VIEW, Kind.CREATION, Kind.MOVEMENT) for each in inside) or 1
    results = [value.type for value in node.outputs]
    flops = node.op.flops(node.input_types(), results, **node.attributes)
    terms = math.ceil(flops / max(1, sum(kind.size for kind in results)))
    values = [*node.inputs, *node.outputs, *(value for each in inside for value in each.outputs)]
    dtypes = {_real(value.dtype) for value in values if value is not None} & _BITS.keys()
    coarsest = min(dtypes, key=_BITS.__getitem__, default="")
    return Rounding(computing, terms + _STEPS * computing, coarsest)


def _real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _wide(array: Array) -> Array:
    """Floating numbers as float64, complex ones as complex128; None for None."""
    if array is None or array.dtype.kind in "biu":
        return array
    return array.astype(numpy.complex128 if array.dtype.kind == "c" else numpy.float64)


def _random(values: Iterable[Value | None]) -> dict[Value, Array]:
    """An array for each value: normal where floating, else zeros and ones, which are valid indices."""
    made: dict[Value, Array] = {}
    for seed, value in enumerate(dict.fromkeys(values)):
        if value is not None:
            generator = numpy.random.default_rng(seed)
            floating = _real(value.dtype) in FLOATING
            numbers = generator.standard_normal(value.shape) if floating else generator.integers(0, 2, value.shape)
            made[value] = numpy.asarray(numbers).astype(numpy_dtype(value.dtype))
    return made
