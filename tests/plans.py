"""A small plan of every kind of step, whose kernel is no machine code: for tests that run nothing."""

from jitinfer.runtime import (
    Buffer,
    Copy,
    Cost,
    Fill,
    Gemm,
    Kernel,
    Launch,
    Matrix,
    Plan,
    Pointer,
    Scalar,
    TensorMap,
    Tile,
)

KERNEL = Kernel(
    cubin=b"\x7fELF no code \x00\xff",
    entry="kernel",
    target=90,
    num_warps=4,
    shared_memory=1024,
    parameters=("pointer", "i32", "f32", "tensor_map", "i32", "i32", "i64", "i64"),
    tiles=(Tile((16, 32), 3, 2),),
    scratch_bytes=128,
    waits=True,
)
TENSOR = TensorMap(Pointer("x"), "bfloat16", (64, 32), (32, 1), (16, 32), 3)
LAUNCH = Launch(
    KERNEL.digest,
    (2, 1, 1),
    (
        Pointer("x", 64),
        Scalar("i32", -7),
        Scalar("f32", float("-inf")),
        TENSOR,
        Scalar("i32", 64),
        Scalar("i32", 32),
        Scalar("i64", 32),
        Scalar("i64", 1),
    ),
    scratch=Pointer("work", 256),
    programmatic=True,
    label="norm",
    origin="model.py:41 in /Model_0/Norm_0",
    cost=Cost(0, 12345, 8192),
)
GEMM = Gemm(
    a=Matrix(Pointer("x"), "bfloat16", 64, 32, 32),
    b=Matrix(Pointer("w"), "bfloat16", 16, 32, 32),
    d=Matrix(Pointer("y"), "bfloat16", 64, 16, 16),
    transpose_b=True,
    bias=Pointer("bias"),
    epilogue="gelu",
    algorithm="00" * 64,
    workspace=Pointer("work"),
    workspace_bytes=512,
    label="matmul",
    cost=Cost(1, 2 * 64 * 16 * 32, 7168),
)
PLAN = Plan(
    target=90,
    arena_bytes=2048,
    buffers=(
        Buffer("work", 512, "arena", 0),
        Buffer("more", 1024, "arena", 1024),
        Buffer("x", 64 * 32 * 2, "input", shape=(64, 32), dtype="bfloat16"),
        Buffer("w", 16 * 32 * 2, "weight", shape=(16, 32), dtype="bfloat16"),
        Buffer("bias", 32, "constant", shape=(16,), dtype="bfloat16"),
        Buffer("y", 64 * 16 * 2, "output", shape=(64, 16), dtype="bfloat16"),
    ),
    steps=(
        LAUNCH,
        GEMM,
        Copy(Pointer("more"), Pointer("more", 512), 512, label="copy"),
        Fill(Pointer("work"), 512, 255, label="fill"),
    ),
    kernels=(KERNEL,),
    inputs=("x",),
    outputs=("y", "x"),
    constants=(("bias", bytes(range(32))),),
    versions=(("triton", "3.6.0"),),
)
