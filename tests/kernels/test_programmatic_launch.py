"""Kernels that start before the ones ahead of them have ended give what they give in turn."""

from dataclasses import replace

import numpy
import pytest
from gpu import device_target, needs_gpu
from row_norms import node_of

from jitinfer.errors import PlanError
from jitinfer.kernels import Target
from jitinfer.kernels.assembly import assemble, specializations
from jitinfer.kernels.family import Config
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.layer_norm import RowNorm
from jitinfer.runtime import Buffer, Executor, Plan, Pointer, check

STEPS = 101
SHAPE = (2, 200, 1152)


def chain(programmatic, target):
    """residual += gate * x, again and again: each step reads what the one before wrote, and overwrites what the one
    before read."""
    node = node_of("gated_residual_adaptive_layer_norm", SHAPE, affine=False)
    config = Config.of(rows=1, warps=4, programmatic=int(programmatic))
    candidate = RowNorm().launches(node, config, target)
    with Compiler(target, workers=1) as compiler:
        kernels = [compiler.compile(each) for each in specializations(candidate)]
    modulation = (SHAPE[0], 1, SHAPE[2])
    shapes = {"x": SHAPE, "residual": SHAPE, "gate": modulation, "scale": modulation, "shift": modulation}
    nbytes = 4 * int(numpy.prod(SHAPE))
    buffers = [Buffer(n, 4 * int(numpy.prod(s)), "input", shape=s, dtype="float32") for n, s in shapes.items()]
    buffers += [Buffer(n, nbytes, "output", shape=SHAPE, dtype="float32") for n in ("y0", "y1", "r0", "r1")]
    steps = []
    for number in range(STEPS):
        old, new = (number + 1) % 2, number % 2
        read = ("x", "residual") if number == 0 else (f"y{old}", f"r{old}")
        names = dict(zip(("input_0", "input_1"), read, strict=True))
        names |= {"input_2": "gate", "input_3": "scale", "input_4": "shift"}
        names |= {"output_0": f"r{new}", "output_1": f"y{new}", "workspace": "gate"}
        steps += assemble(node, candidate, kernels, {name: Pointer(each) for name, each in names.items()})
    last = (STEPS - 1) % 2
    return Plan(
        target=target.compute_capability,
        arena_bytes=0,
        buffers=tuple(buffers),
        steps=tuple(steps),
        kernels=tuple(kernels),
        inputs=tuple(shapes),
        outputs=(f"y{last}", f"r{last}", f"y{1 - last}", f"r{1 - last}"),
    )


@needs_gpu
def test_a_chain_of_dependent_kernels():
    target = device_target()
    if not target.has_programmatic_launch:
        pytest.skip("programmatic launches need sm_90")
    generator = numpy.random.default_rng(0)
    plans = [chain(programmatic, target) for programmatic in (False, True)]
    assert [plan.steps[5].programmatic for plan in plans] == [False, True]
    executors = [Executor(plan) for plan in plans]
    for _ in range(20):
        arrays = [
            0.3 * generator.standard_normal(plans[0].buffer_named[name].shape).astype(numpy.float32)
            for name in plans[0].inputs
        ]
        in_turn, early = (executor.run(arrays) for executor in executors)
        for one, other in zip(in_turn, early, strict=True):
            assert numpy.isfinite(one).all()
            assert numpy.array_equal(one, other)


def test_a_kernel_that_does_not_wait_cannot_be_launched_early():
    plan = chain(False, Target.named(90))
    check(plan)
    early = tuple(replace(step, programmatic=True) for step in plan.steps)
    with pytest.raises(PlanError, match="does not wait"):
        check(replace(plan, steps=early))
