"""What all families of generated kernels share: a node's tensors, choices of block sizes, and the launch of a text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jitinfer.graph.operations.complex_numbers import PARTS
from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, KernelLaunch, input_name
from jitinfer.kernels.operands import Strided, result
from jitinfer.kernels.triton.generated.access import LIMIT
from jitinfer.kernels.triton.generated.expressions import TYPES
from jitinfer.kernels.triton.generated.source import function_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.generated.block import Kernel

NOTHING = Candidate(())
"""For results without elements."""
FLOAT8_CAPABILITY = 89
"""The first devices that convert float8_e4m3fn."""


def operand_at(node: Node, position: int) -> Strided:
    """The operand at a position, as the op sees it; it is there."""
    value = node.inputs[position]
    assert value is not None
    return Strided(input_name(position), value.dtype, node.view(position) or View.of(value.shape))


def operands_of(node: Node) -> list[Strided]:
    """Those that are there."""
    return [operand_at(node, position) for position, value in enumerate(node.inputs) if value is not None]


def results_of(node: Node) -> list[Strided] | None:
    """All of them, of the shapes that the op gives; None where a store is not one strided view of that shape."""
    types = node.op.output_types(node.input_types(), node.attributes)
    found = [result(node, position, kind.shape) for position, kind in enumerate(types)]
    written = [each for each in found if each is not None]
    return written if len(written) == len(found) else None


def types_known(node: Node, target: Target) -> bool:
    """Whether kernels can read and write values of the node's types."""
    dtypes = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    if "float8_e4m3fn" in dtypes and target.compute_capability < FLOAT8_CAPABILITY:
        return False
    return all(dtype in TYPES or dtype in PARTS for dtype in dtypes)


def narrow(node: Node) -> bool:
    """Whether 32 bits count the elements of each of the node's values."""
    return all(value is None or value.type.size < LIMIT for value in (*node.inputs, *node.outputs))


def empty(node: Node) -> bool:
    """Whether there is nothing to compute."""
    return all(value.type.size == 0 for value in node.outputs)


def block_configs(target: Target, size: int, sizes: Iterable[int] = (512, 1024, 2048, 4096, 8192)) -> list[Config]:
    """Elements of a block and warps, for a space of `size` elements.

    About 16 elements a thread hide the latency of memory; a space that is small wants a program for every
    multiprocessor first.
    """
    ranked = []
    for elements in sizes:
        for warps in (2, 4, 8):
            held = elements / (32 * warps)
            if not 4 <= held <= 32:
                continue
            idle = elements > 512 and size / elements < 2 * target.sm_count
            ranked.append(((idle, abs(math.log2(held) - 4), abs(warps - 4), elements), elements, warps))
    chosen = [(elements, warps) for _, elements, warps in sorted(ranked)[:4]]
    return with_programmatic(target, [{"elements": elements, "warps": warps} for elements, warps in chosen])


def with_programmatic(target: Target, choices: Iterable[dict[str, int]]) -> list[Config]:
    """Each choice launched early, where the device can, and as ever."""
    early = (1, 0) if target.has_programmatic_launch else (0,)
    return [Config.of(**choice, programmatic=each) for choice in choices for each in early]


def launch(kernel: Kernel, programs: int, warps: int) -> KernelLaunch:
    """Of a kernel whose text is complete."""
    return KernelLaunch(
        function_of(kernel.text),
        dict(kernel.arguments),
        {},
        (programs, 1, 1),
        num_warps=warps,
        num_stages=1,
        programmatic=kernel.programmatic,
    )


def shaped(tensors: Sequence[Strided], shape: tuple[int, ...]) -> list[Strided]:
    return [each.broadcast_to(shape) for each in tensors]
