"""Candidates -> steps of a plan, and a plan of one node alone, for tuning, tests and benchmarks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jitinfer.graph.graph import nested_graphs
from jitinfer.graph.op import Kind
from jitinfer.kernels.family import WORKSPACE, KernelLaunch, input_name, output_name
from jitinfer.kernels.triton.specialization import bind, moved, specialize
from jitinfer.runtime.plan import Buffer, Copy, Fill, Gemm, Matrix, Plan, Pointer, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph import Node
    from jitinfer.graph.types import TensorType
    from jitinfer.kernels.family import Candidate, CandidateStep
    from jitinfer.kernels.triton.specialization import Specialization
    from jitinfer.runtime.plan import Cost, Kernel, Step


def specializations(candidate: Candidate) -> list[Specialization]:
    """What has to be compiled for it, in the order of its launches."""
    return [specialize(step) for step in candidate.steps if isinstance(step, KernelLaunch)]


def scratch_bytes(candidate: Candidate, kernels: Sequence[Kernel]) -> int:
    """What its kernels need of global memory while they run, beside the workspace that it asks for itself."""
    launches = [step for step in candidate.steps if isinstance(step, KernelLaunch)]
    needs = [
        kernel.scratch_bytes * math.prod(launch.grid) * math.prod(kernel.cluster)
        for launch, kernel in zip(launches, kernels, strict=True)
    ]
    return max(needs, default=0)


def assemble(
    node: Node,
    candidate: Candidate,
    kernels: Sequence[Kernel],
    places: Mapping[str, Pointer],
    cost: Cost | None = None,
) -> tuple[Step, ...]:
    """The steps of a plan that compute `node`.

    kernels: of the candidate's launches, in order. places: where "input_0", ..., "output_0", ... and "workspace" lie;
    the workspace has the candidate's `workspace_bytes`, and behind them, from the next multiple of 256 on,
    `scratch_bytes`. cost: of the node, for the steps to carry.
    """
    remaining = iter(kernels)
    scratch = None
    if scratch_bytes(candidate, kernels):
        scratch = moved(Pointer(WORKSPACE, aligned(candidate.workspace_bytes)), places)
    label, origin = label_of(node), str(node.origin)
    steps: list[Step] = []
    for step in candidate.steps:
        if isinstance(step, KernelLaunch):
            steps.append(replace(bind(step, next(remaining), places, scratch, label, origin), cost=cost))
        else:
            steps.append(replace(_placed(step, places), label=label, origin=origin, cost=cost))
    return tuple(steps)


def label_of(node: Node) -> str:
    """What a node's steps are called: its op, with the distinct ones that a group is made of."""
    inner = [each.op for body in nested_graphs(node) for each in body.nodes]
    named = dict.fromkeys(op.name for op in inner if op.kind not in (Kind.VIEW, Kind.CREATION))
    return f"{node.op.name}({', '.join(named)})" if named else node.op.name


def plan_of_node(node: Node, candidate: Candidate, kernels: Sequence[Kernel], target: int) -> Plan:
    """A plan whose inputs are the node's operands, each value once, and whose outputs are its results."""
    buffers: list[Buffer] = []
    names: list[str] = []
    places: dict[str, Pointer] = {}
    first: dict[Any, str] = {}
    for position, value in enumerate(node.inputs):
        if value is None:
            continue
        name = input_name(position)
        if value not in first:
            first[value] = name
            names.append(name)
            buffers.append(_interface(name, value.type, "input"))
        places[name] = Pointer(first[value])
    for position, value in enumerate(node.outputs):
        buffers.append(_interface(output_name(position), value.type, "output"))
        places[output_name(position)] = Pointer(output_name(position))
    workspace = aligned(candidate.workspace_bytes) + scratch_bytes(candidate, kernels)
    buffers.append(Buffer(WORKSPACE, workspace, "arena"))
    places[WORKSPACE] = Pointer(WORKSPACE)
    return Plan(
        target=target,
        arena_bytes=aligned(workspace),
        buffers=tuple(buffers),
        steps=assemble(node, candidate, kernels, places),
        kernels=tuple({kernel.digest: kernel for kernel in kernels}.values()),
        inputs=tuple(names),
        outputs=tuple(output_name(position) for position in range(len(node.outputs))),
    )


def _interface(name: str, kind: TensorType, placement: str) -> Buffer:
    return Buffer(name, kind.nbytes, placement, shape=kind.shape, dtype=kind.dtype)


def _placed(step: CandidateStep, places: Mapping[str, Pointer]) -> Gemm | Copy | Fill:
    if isinstance(step, Copy):
        return replace(step, source=moved(step.source, places), destination=moved(step.destination, places))
    if isinstance(step, Fill):
        return replace(step, destination=moved(step.destination, places))
    assert isinstance(step, Gemm)

    def matrix(given: Matrix) -> Matrix:
        return replace(given, pointer=moved(given.pointer, places))

    return replace(
        step,
        a=matrix(step.a),
        b=matrix(step.b),
        d=matrix(step.d),
        c=None if step.c is None else matrix(step.c),
        bias=None if step.bias is None else moved(step.bias, places),
        workspace=None if step.workspace is None else moved(step.workspace, places),
    )
