"""What a plan must not say."""

from dataclasses import replace

import pytest
from plans import GEMM, KERNEL, LAUNCH, PLAN, TENSOR

from jitinfer.errors import PlanError
from jitinfer.runtime import Buffer, Copy, Fill, Matrix, Pointer, Scalar, check


def with_steps(*steps):
    return replace(PLAN, steps=steps)


def with_kernel(**changes):
    kernel = replace(KERNEL, **changes)
    return replace(PLAN, kernels=(kernel,), steps=(replace(LAUNCH, kernel=kernel.digest),))


def with_buffer(name, **changes):
    buffers = tuple(replace(each, **changes) if each.name == name else each for each in PLAN.buffers)
    return replace(PLAN, buffers=buffers)


def with_argument(position, argument):
    arguments = list(LAUNCH.arguments)
    arguments[position] = argument
    return with_steps(replace(LAUNCH, arguments=tuple(arguments)))


def matrix(**changes):
    return replace(GEMM.d, **changes)


def test_the_plan_itself_is_sound():
    check(PLAN)


UNSOUND = {
    "a buffer twice": replace(PLAN, buffers=(*PLAN.buffers, PLAN.buffers[0])),
    "a kernel twice": replace(PLAN, kernels=(KERNEL, KERNEL)),
    "another placement": with_buffer("x", placement="heap"),
    "beyond the arena": with_buffer("more", offset=1280),
    "unaligned in the arena": with_buffer("more", offset=1000),
    "negative in the arena": with_buffer("more", offset=-256),
    "bytes that are not the shape": with_buffer("x", shape=(64, 31)),
    "an unknown dtype": with_buffer("x", dtype="float7"),
    "a negative shape": with_buffer("x", shape=(-64, -32)),
    "an offset outside of the arena": with_buffer("x", offset=256),
    "a constant without bytes": replace(PLAN, constants=()),
    "a constant of other bytes": replace(PLAN, constants=(("bias", b"1"),)),
    "bytes without a constant": replace(PLAN, constants=(*PLAN.constants, ("more", b""))),
    "an input that is missing": replace(PLAN, inputs=()),
    "an input twice": replace(PLAN, inputs=("x", "x")),
    "an output in the arena": replace(PLAN, outputs=("y", "work")),
    "an output of no buffer": replace(PLAN, outputs=("y", "z")),
    "an output buffer nobody gets": replace(PLAN, outputs=("x",)),
    "another target": replace(PLAN, target=100),
    "no warps": with_kernel(num_warps=0),
    "negative shared memory": with_kernel(shared_memory=-1),
    "an unknown parameter": with_kernel(parameters=("pointer", "i33", *KERNEL.parameters[2:])),
    "no parameter for the scratch": with_kernel(trailing_pointers=0),
    "a tile too few": with_kernel(tiles=()),
    "another tile": with_kernel(tiles=(replace(KERNEL.tiles[0], swizzle=2),)),
    "early without waiting": with_kernel(waits=False),
    "a grid that is no number of clusters": with_kernel(cluster=(4, 1, 1)),
    "an unknown kernel": with_steps(replace(LAUNCH, kernel="0" * 64)),
    "an empty grid": with_steps(replace(LAUNCH, grid=(0, 1, 1))),
    "a grid beyond the limit": with_steps(replace(LAUNCH, grid=(1, 65536, 1))),
    "an argument too few": with_steps(replace(LAUNCH, arguments=LAUNCH.arguments[:-1])),
    "no scratch": with_steps(replace(LAUNCH, scratch=None)),
    "too little scratch": with_steps(replace(LAUNCH, scratch=Pointer("work", 512 - 128))),
    "scratch in an input": with_steps(replace(LAUNCH, scratch=Pointer("x"))),
    "a pointer to no buffer": with_argument(0, Pointer("z")),
    "a pointer beyond its buffer": with_argument(0, Pointer("x", 64 * 32 * 2 + 1)),
    "a pointer before its buffer": with_argument(0, Pointer("x", -2)),
    "a number for a pointer": with_argument(0, Scalar("i64", 0)),
    "a pointer for a number": with_argument(1, Pointer("x")),
    "a number of another kind": with_argument(1, Scalar("i64", 1)),
    "a number beyond its kind": with_argument(1, Scalar("i32", 2**31)),
    "a float for an integer": with_argument(1, Scalar("i32", 1.0)),
    "an integer for a float": with_argument(2, Scalar("f32", 1)),
    "a tensor map beyond its buffer": with_argument(3, replace(TENSOR, shape=(65, 32))),
    "a tensor map of odd strides": with_argument(3, replace(TENSOR, strides=(33, 1))),
    "a tensor map of odd address": with_argument(3, replace(TENSOR, pointer=Pointer("x", 8))),
    "a tensor map of another box": with_argument(3, replace(TENSOR, box=(32, 16))),
    "a tensor map without rank": with_argument(3, replace(TENSOR, shape=(), strides=(), box=())),
    "a product that does not fit": with_steps(replace(GEMM, transpose_b=False)),
    "a product without an epilogue's name": with_steps(replace(GEMM, epilogue="swish")),
    "a product of two dtypes": with_steps(replace(GEMM, a=replace(GEMM.a, dtype="float16"))),
    "a product of integers": with_steps(replace(GEMM, d=matrix(dtype="int8"))),
    "a product beyond its buffer": with_steps(replace(GEMM, d=matrix(row_stride=17))),
    "a product with rows that overlap": with_steps(replace(GEMM, d=matrix(row_stride=15))),
    "a product into a weight": with_steps(replace(GEMM, d=Matrix(Pointer("w"), "bfloat16", 64, 16, 16))),
    "batches that overlap": with_steps(replace(GEMM, batch=2)),
    "a bias beyond its buffer": with_steps(replace(GEMM, bias=Pointer("bias", 2))),
    "a beta without c": with_steps(replace(GEMM, beta=1.0)),
    "a workspace beyond its buffer": with_steps(replace(GEMM, workspace_bytes=513)),
    "a workspace nowhere": with_steps(replace(GEMM, workspace=None)),
    "an algorithm of another size": with_steps(replace(GEMM, algorithm="00")),
    "an algorithm that is no number": with_steps(replace(GEMM, algorithm="zz" * 64)),
    "a copy beyond its buffer": with_steps(Copy(Pointer("more"), Pointer("work"), 513)),
    "a copy onto itself": with_steps(Copy(Pointer("more"), Pointer("more", 4), 8)),
    "a copy into an input": with_steps(Copy(Pointer("work"), Pointer("x"), 8)),
    "a copy of less than nothing": with_steps(Copy(Pointer("work"), Pointer("more"), -8)),
    "a fill with more than a byte": with_steps(Fill(Pointer("work"), 8, 256)),
}


@pytest.mark.parametrize("plan", UNSOUND.values(), ids=UNSOUND)
def test_what_a_plan_must_not_say(plan):
    with pytest.raises(PlanError):
        check(plan)


def test_the_step_is_named():
    with pytest.raises(PlanError, match=r"step 0, norm \(model\.py:41 in /Model_0/Norm_0\): there is no buffer 'z'"):
        check(with_argument(0, Pointer("z")))


def test_older_code_runs_on_later_minor_versions_and_newer_only_on_its_own():
    plan = replace(with_kernel(target=80, tiles=KERNEL.tiles, waits=True), target=89)
    check(plan)
    for kernel, target in ((90, 80), (89, 80), (80, 90), (100, 103)):
        with pytest.raises(PlanError, match="sm_"):
            check(replace(with_kernel(target=kernel), target=target))


def test_empty_buffers_are_sound():
    buffers = (*PLAN.buffers, Buffer("none", 0, "input", shape=(0, 4), dtype="float32"))
    check(replace(PLAN, buffers=buffers, inputs=("x", "none")))
