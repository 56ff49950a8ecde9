"""Rotary position embedding of heads where they lie, and sinusoidal embedding of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.graph.view import View
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated import launching
from jitinfer.kernels.triton.generated.block import Kernel, Term
from jitinfer.kernels.triton.generated.tiles import Tiling, tiling
from jitinfer.kernels.triton.movement import write_copies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target


class RotaryHalves(Family):
    """Both styles, whole heads or their first elements, any strides; one launch."""

    name = "rotary"
    ops = ("rotary",)

    def supports(self, node: Node, target: Target) -> bool:
        floating = all(value is None or value.type.floating for value in node.inputs)
        return floating and launching.types_known(node, target) and launching.results_of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size // 2)

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        x, cos, sin = launching.operands_of(node)
        written = launching.results_of(node)
        assert written is not None
        y = written[0]
        turned = node.attributes["rotary_dim"] or x.shape[-1]
        tensors = [columns(x, 0, turned), cos, sin, columns(y, 0, turned)]
        tensors = launching.shaped(tensors, (*x.shape[:-1], turned))
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        plan = None
        if node.attributes["style"] == "interleaved":
            plan = _neighbours(tensors, config["elements"])
        whole = plan is not None
        if plan is None:
            plan = _apart(tensors, node.attributes["style"], config["elements"])
        programs = plan.programs
        rest = turned < x.shape[-1]
        if rest:
            kernel.line(f"if tl.program_id(0) < {programs}:")
            kernel.indentation += 1
        (_write_neighbours if whole else _write_apart)(kernel, plan)
        if rest:
            kernel.line("return")
            kernel.indentation -= 1
            behind = [(columns(x, turned, x.shape[-1]), columns(y, turned, x.shape[-1]))]
            programs = write_copies(kernel, behind, config["elements"], programs)
        return Candidate((launching.launch(kernel, programs, config["warps"]),))


def columns(tensor: Strided, start: int, stop: int, step: int = 1) -> Strided:
    """Those elements of the last axis."""
    lead = tensor.shape[:-1]
    view = tensor.view.slice((*[0] * len(lead), start), (*lead, stop), (*[1] * len(lead), step))
    return Strided(tensor.buffer, tensor.dtype, view)


def _apart(tensors: Sequence[Strided], style: str, elements: int) -> Tiling:
    """Both elements of the pairs as tensors of their own: of x, cos, sin, and of the result."""
    turned = tensors[0].shape[-1]
    spans = ((0, turned // 2, 1), (turned // 2, turned, 1)) if style == "half" else ((0, turned, 2), (1, turned, 2))
    return tiling([columns(each, *span) for each in tensors for span in spans], 2, elements)


def _write_apart(kernel: Kernel, plan: Tiling) -> None:
    block = plan.begin(kernel)
    a, b, cos_a, cos_b, sin_a, sin_b = (block.load(each).text for each in plan.tensors[:6])
    dtype = plan.tensors[6].dtype
    first = block.name(f"{a} * {cos_a} - {b} * {sin_a}", "turned")
    second = block.name(f"{b} * {cos_b} + {a} * {sin_b}", "turned")
    block.store(plan.tensors[6], Term(first, dtype))
    block.store(plan.tensors[7], Term(second, dtype))


def _neighbours(tensors: Sequence[Strided], elements: int) -> Tiling | None:
    """Blocks of whole pairs, so that both elements are read at once; None where memory has them in another order."""
    if any(abs(each.strides[-1]) != 1 for each in (tensors[0], tensors[-1])):
        return None
    plan = tiling(tensors, 1, elements)
    contiguous = plan.space.batch_axes == 0 and plan.tensors[-1].strides[-1] == 1
    return plan if contiguous and plan.columns >= 2 else None


def _write_neighbours(kernel: Kernel, plan: Tiling) -> None:
    block = plan.begin(kernel)
    pairs = f"[{plan.rows}, {plan.columns // 2}, 2]"
    parts = []
    for tensor in plan.tensors[:3]:
        whole = f"tl.broadcast_to({block.load(tensor).text}, {block.shape})"
        parts.append(block.name(f"tl.split(tl.reshape({whole}, {pairs}))", "pairs"))
    x, cos, sin = parts
    kernel.line(f"first = {x}[0] * {cos}[0] - {x}[1] * {sin}[0]")
    kernel.line(f"second = {x}[1] * {cos}[1] + {x}[0] * {sin}[1]")
    result = block.name(f"tl.reshape(tl.join(first, second), {block.shape})", "turned")
    block.store(plan.tensors[3], Term(result, plan.tensors[3].dtype))


class TimestepEmbedding(Family):
    """Cosines and sines side by side, in one launch; accurate for angles of any size."""

    name = "timestep_embedding"
    ops = ("timestep_embedding",)

    def supports(self, node: Node, target: Target) -> bool:
        return launching.types_known(node, target) and launching.results_of(node) is not None

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        return launching.block_configs(target, node.outputs[0].type.size // 2, (512, 1024))

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        if launching.empty(node):
            return launching.NOTHING
        t, frequencies = launching.operands_of(node)
        written = launching.results_of(node)
        assert written is not None
        count, width = t.shape[0], frequencies.shape[0]
        shape = (count, width)
        column = Strided(t.buffer, t.dtype, View((count, 1), (*t.strides, 0), t.view.offset)).broadcast_to(shape)
        halves = [columns(written[0], 0, width), columns(written[0], width, 2 * width)]
        cos, sin = halves[::-1] if node.attributes["sin_first"] else halves
        plan = tiling([column, frequencies.broadcast_to(shape), cos, sin], 2, config["elements"])
        kernel = Kernel(programmatic=bool(config["programmatic"]))
        block = plan.begin(kernel)
        time, frequency = (block.load(each) for each in plan.tensors[:2])
        angle = block.name(f"{time.text}.to({frequency.text}.dtype) * {frequency.text}", "angle")
        for function, goal in zip(("cos", "sin"), plan.tensors[2:], strict=True):
            value = block.name(f"libdevice.{function}({angle})", function)
            block.store(goal, Term(f"{value}.to(tl.float32)", "float32"))
        return Candidate((launching.launch(kernel, plan.programs, config["warps"]),))
