"""Whether the kernels that were chosen for nodes compute what the op table says, node by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from jitinfer.engines.blame import Blame
from jitinfer.errors import DeviceError, DeviceLostError, DeviceMemoryError, KernelError
from jitinfer.graph.node import Node, Value
from jitinfer.graph.rounding import real
from jitinfer.graph.types import FLOATING, numpy_dtype
from jitinfer.kernels.assembly import plan_of_node
from jitinfer.kernels.family import families_for
from jitinfer.lowering.choice import Choice, form_of, kernel_text
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.lowering.node_check import failure_of
from jitinfer.runtime.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from jitinfer.kernels.target import Target
    from jitinfer.lowering.choice import Work
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.device import Device

Array = Any
Runner: TypeAlias = Callable[[Node, Choice, Sequence["Array | None"]], list[Array]]
"""Computes a node with these kernels, of an array for each input: a buffer for each output, of its value's type."""


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


def _random(values: Iterable[Value | None]) -> dict[Value, Array]:
    """An array for each value: normal where floating, else zeros and ones, which are valid indices."""
    made: dict[Value, Array] = {}
    for seed, value in enumerate(dict.fromkeys(values)):
        if value is not None:
            generator = numpy.random.default_rng(seed)
            floating = real(value.dtype) in FLOATING
            numbers = generator.standard_normal(value.shape) if floating else generator.integers(0, 2, value.shape)
            made[value] = numpy.asarray(numbers).astype(numpy_dtype(value.dtype))
    return made
