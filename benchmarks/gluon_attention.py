"""Attention with warps of two kinds, in Gluon: one that fetches keys and values, and groups of four that compute.

The schedule of FlashAttention-3 (Shah et al., 2024): while a group takes the softmax of one block of keys, its products
of the next scores and of the last weights with their values are on their way. A measurement, not yet a family: no
masks, no causal, bfloat16, operands that tensor maps can fetch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget, Language
from triton.compiler import make_backend
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from jitinfer.kernels import Target
from jitinfer.kernels.triton.specialization import moved
from jitinfer.runtime.plan import Kernel, Launch, Scalar, TensorMap, Tile

if TYPE_CHECKING:
    from jitinfer.kernels.triton.attention_problem import AttentionProblem


@gluon.jit
def _turn(j, STAGES: gl.constexpr):
    return j % STAGES, (j // STAGES) & 1


@gluon.jit
def _fetch(
    q,
    q_tail,
    k,
    k_tail,
    v,
    v_tail,
    memory,
    batch,
    head,
    block,
    KV_LEN: gl.constexpr,
    TILES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    PARTS: gl.constexpr,
):
    q_first, q_second, k_first, k_second, v_first, v_second, q_ready, k_ready, k_free, v_ready, v_free = memory
    STEPS: gl.constexpr = (KV_LEN + BLOCK_N - 1) // BLOCK_N
    WIDTH: gl.constexpr = TILES[0] + TILES[1]
    mbarrier.expect(q_ready, PARTS * 64 * WIDTH * 2)
    for part in gl.static_range(PARTS):
        tma.async_copy_global_to_shared(q, [batch, (block * PARTS + part) * 64, head, 0], q_ready, q_first.index(part))
        if TILES[1] > 0:
            tma.async_copy_global_to_shared(
                q_tail, [batch, (block * PARTS + part) * 64, head, TILES[0]], q_ready, q_second.index(part)
            )
    for j in range(STEPS):
        slot, phase = _turn(j, STAGES)
        start = (STEPS - 1 - j) * BLOCK_N
        mbarrier.wait(k_free.index(slot), phase ^ 1)
        bar = k_ready.index(slot)
        mbarrier.expect(bar, BLOCK_N * WIDTH * 2)
        tma.async_copy_global_to_shared(k, [batch, start, head, 0], bar, k_first.index(slot))
        if TILES[1] > 0:
            tma.async_copy_global_to_shared(k_tail, [batch, start, head, TILES[0]], bar, k_second.index(slot))
        mbarrier.wait(v_free.index(slot), phase ^ 1)
        bar = v_ready.index(slot)
        mbarrier.expect(bar, BLOCK_N * WIDTH * 2)
        tma.async_copy_global_to_shared(v, [batch, start, head, 0], bar, v_first.index(slot))
        if TILES[1] > 0:
            tma.async_copy_global_to_shared(v_tail, [batch, start, head, TILES[0]], bar, v_second.index(slot))


@gluon.jit
def _scores(
    q_first,
    q_second,
    k_first,
    k_second,
    slot,
    part: gl.constexpr,
    TILES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    S: gl.constexpr,
):
    W0: gl.constexpr = TILES[0]
    zero = gl.zeros([64, BLOCK_N], gl.float32, S)
    keys = k_first.index(slot).reshape([BLOCK_N, W0]).permute([1, 0])
    scores = warpgroup_mma(q_first.index(part).reshape([64, W0]), keys, zero, use_acc=False, is_async=True)
    if TILES[1] > 0:
        W1: gl.constexpr = TILES[1]
        keys = k_second.index(slot).reshape([BLOCK_N, W1]).permute([1, 0])
        scores = warpgroup_mma(q_second.index(part).reshape([64, W1]), keys, scores, is_async=True)
    return scores


@gluon.jit
def _attend(
    memory,
    out,
    scale,
    batch,
    head,
    block,
    part: gl.constexpr,
    OUT: gl.constexpr,
    Q_LEN: gl.constexpr,
    KV_LEN: gl.constexpr,
    V_DIM: gl.constexpr,
    TILES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    PARTS: gl.constexpr,
):
    q_first, q_second, k_first, k_second, v_first, v_second, q_ready, k_ready, k_free, v_ready, v_free = memory
    STEPS: gl.constexpr = (KV_LEN + BLOCK_N - 1) // BLOCK_N
    W0: gl.constexpr = TILES[0]
    W1: gl.constexpr = TILES[1] if TILES[1] > 0 else 16
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O0: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, W0, 16])
    O1: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, W1, 16])
    P0: gl.constexpr = gl.DotOperandLayout(0, O0, 2)
    P1: gl.constexpr = gl.DotOperandLayout(0, O1, 2)
    mbarrier.wait(q_ready, 0)
    mbarrier.wait(k_ready.index(0), 0)
    scores = _scores(q_first, q_second, k_first, k_second, 0, part, TILES, BLOCK_N, S)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_free.index(0), count=1)
    if KV_LEN % BLOCK_N > 0:
        column = (STEPS - 1) * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, S))
        scores = gl.where((column < KV_LEN)[None, :], scores, float("-inf"))
    greatest = gl.max(scores, 1) * scale
    level = gl.where(greatest == float("-inf"), 0.0, greatest)
    weights = gl.exp2(scores * scale - level[:, None])
    total = gl.sum(weights, 1)
    weights = weights.to(gl.bfloat16)
    first = gl.zeros([64, W0], gl.float32, O0)
    second = gl.zeros([64, W1], gl.float32, O1)
    for j in range(1, STEPS):
        slot, phase = _turn(j, STAGES)
        mbarrier.wait(k_ready.index(slot), phase)
        ahead = _scores(q_first, q_second, k_first, k_second, slot, part, TILES, BLOCK_N, S)
        before, phase = _turn(j - 1, STAGES)
        mbarrier.wait(v_ready.index(before), phase)
        held = gl.convert_layout(weights, P0)
        token = warpgroup_mma(held, v_first.index(before).reshape([BLOCK_N, W0]), first, is_async=True)
        if TILES[1] > 0:
            held1 = gl.convert_layout(weights, P1)
            token1 = warpgroup_mma(held1, v_second.index(before).reshape([BLOCK_N, W1]), second, is_async=True)
            scores = warpgroup_mma_wait(2, deps=[ahead])
        else:
            scores = warpgroup_mma_wait(1, deps=[ahead])
        mbarrier.arrive(k_free.index(slot), count=1)
        highest = gl.maximum(greatest, gl.max(scores, 1) * scale)
        level = gl.where(highest == float("-inf"), 0.0, highest)
        decay = gl.exp2(greatest - level)
        next_weights = gl.exp2(scores * scale - level[:, None])
        total = total * decay + gl.sum(next_weights, 1)
        greatest = highest
        if TILES[1] > 0:
            first, second, held, held1 = warpgroup_mma_wait(0, deps=[token, token1, held, held1])
            second = second * gl.convert_layout(decay, gl.SliceLayout(1, O1))[:, None]
        else:
            first, held = warpgroup_mma_wait(0, deps=[token, held])
        mbarrier.arrive(v_free.index(before), count=1)
        first = first * gl.convert_layout(decay, gl.SliceLayout(1, O0))[:, None]
        weights = next_weights.to(gl.bfloat16)
    last, phase = _turn(STEPS - 1, STAGES)
    mbarrier.wait(v_ready.index(last), phase)
    first = warpgroup_mma(gl.convert_layout(weights, P0), v_first.index(last).reshape([BLOCK_N, W0]), first)
    if TILES[1] > 0:
        second = warpgroup_mma(gl.convert_layout(weights, P1), v_second.index(last).reshape([BLOCK_N, W1]), second)
    factor = 1.0 / total
    _write(
        out,
        first * gl.convert_layout(factor, gl.SliceLayout(1, O0))[:, None],
        batch,
        head,
        (block * PARTS + part) * 64,
        0,
        W0,
        OUT,
        Q_LEN,
        V_DIM,
    )
    if TILES[1] > 0:
        _write(
            out,
            second * gl.convert_layout(factor, gl.SliceLayout(1, O1))[:, None],
            batch,
            head,
            (block * PARTS + part) * 64,
            W0,
            W1,
            OUT,
            Q_LEN,
            V_DIM,
        )


@gluon.jit
def _write(
    out,
    value,
    batch,
    head,
    start,
    FROM: gl.constexpr,
    WIDTH: gl.constexpr,
    OUT: gl.constexpr,
    Q_LEN: gl.constexpr,
    V_DIM: gl.constexpr,
):
    L: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [4, 1], [1, 0])
    value = gl.convert_layout(value.to(gl.bfloat16), L)
    row = start + gl.arange(0, 64, gl.SliceLayout(1, L))
    column = FROM + gl.arange(0, WIDTH, gl.SliceLayout(0, L))
    place = (
        out
        + batch.to(gl.int64) * OUT[0]
        + head.to(gl.int64) * OUT[2]
        + row.to(gl.int64)[:, None] * OUT[1]
        + column[None, :]
    )
    gl.store(place, value, (row < Q_LEN)[:, None] & (column < V_DIM)[None, :])


@gluon.jit
def attend_specialized(
    q,
    q_tail,
    k,
    k_tail,
    v,
    v_tail,
    out,
    scale,
    OUT: gl.constexpr,
    Q_LEN: gl.constexpr,
    KV_LEN: gl.constexpr,
    V_DIM: gl.constexpr,
    TILES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    PARTS: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    BLOCKS: gl.constexpr = (Q_LEN + 64 * PARTS - 1) // (64 * PARTS)
    W0: gl.constexpr = TILES[0]
    block = gl.program_id(0) % BLOCKS
    head = gl.program_id(0) // BLOCKS
    batch = gl.program_id(2)
    q_first = gl.allocate_shared_memory(gl.bfloat16, [PARTS, 1, 64, 1, W0], q.layout)
    k_first = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 1, BLOCK_N, 1, W0], k.layout)
    v_first = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 1, BLOCK_N, 1, W0], v.layout)
    q_second = q_first
    k_second = k_first
    v_second = v_first
    if TILES[1] > 0:
        W1: gl.constexpr = TILES[1]
        q_second = gl.allocate_shared_memory(gl.bfloat16, [PARTS, 1, 64, 1, W1], q_tail.layout)
        k_second = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 1, BLOCK_N, 1, W1], k_tail.layout)
        v_second = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 1, BLOCK_N, 1, W1], v_tail.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)
        mbarrier.init(k_free.index(i), count=PARTS)
        mbarrier.init(v_free.index(i), count=PARTS)
    gl.thread_barrier()
    memory = (q_first, q_second, k_first, k_second, v_first, v_second, q_ready, k_ready, k_free, v_ready, v_free)
    if PARTS == 2:
        gl.warp_specialize(
            [
                (
                    _attend,
                    (
                        memory,
                        out,
                        scale,
                        batch,
                        head,
                        block,
                        0,
                        OUT,
                        Q_LEN,
                        KV_LEN,
                        V_DIM,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
                (
                    _attend,
                    (
                        memory,
                        out,
                        scale,
                        batch,
                        head,
                        block,
                        1,
                        OUT,
                        Q_LEN,
                        KV_LEN,
                        V_DIM,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
                (
                    _fetch,
                    (
                        q,
                        q_tail,
                        k,
                        k_tail,
                        v,
                        v_tail,
                        memory,
                        batch,
                        head,
                        block,
                        KV_LEN,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
            ],
            [4, 1],
            [REGISTERS, 24],
        )
    else:
        gl.warp_specialize(
            [
                (
                    _attend,
                    (
                        memory,
                        out,
                        scale,
                        batch,
                        head,
                        block,
                        0,
                        OUT,
                        Q_LEN,
                        KV_LEN,
                        V_DIM,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
                (
                    _attend,
                    (
                        memory,
                        out,
                        scale,
                        batch,
                        head,
                        block,
                        1,
                        OUT,
                        Q_LEN,
                        KV_LEN,
                        V_DIM,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
                (
                    _attend,
                    (
                        memory,
                        out,
                        scale,
                        batch,
                        head,
                        block,
                        2,
                        OUT,
                        Q_LEN,
                        KV_LEN,
                        V_DIM,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
                (
                    _fetch,
                    (
                        q,
                        q_tail,
                        k,
                        k_tail,
                        v,
                        v_tail,
                        memory,
                        batch,
                        head,
                        block,
                        KV_LEN,
                        TILES,
                        BLOCK_N,
                        STAGES,
                        PARTS,
                    ),
                ),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, 24],
        )


@dataclass(frozen=True)
class Specialized:
    """What to compile. parts: groups of four warps, 64 queries each; registers: of a thread of theirs."""

    problem: AttentionProblem
    block_n: int
    stages: int
    parts: int
    registers: int

    @property
    def tiles(self):
        qk, _ = self.problem.tiles(Target.named(90), maps=True)
        return qk

    def __str__(self):
        return f"n={self.block_n} stages={self.stages} parts={self.parts}"


def specialized_kernel(choice):
    """The kernel, or the text of what went wrong. For a process of its own: a compiler may end it."""
    try:
        return _compiled(choice)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:400]


def _compiled(choice):
    problem, (wide, narrow) = choice.problem, choice.tiles
    signature, constants = {}, {}
    for name, rows in (("q", 64), ("k", choice.block_n), ("v", choice.block_n)):
        signature[name] = _descriptor(rows, wide)
        signature[f"{name}_tail"] = _descriptor(rows, narrow) if narrow else "constexpr"
        if not narrow:
            constants[f"{name}_tail"] = None
    signature["out"], signature["scale"] = "*bf16", "fp32"
    constants.update(
        OUT=problem.out.strides,
        Q_LEN=problem.q_len,
        KV_LEN=problem.kv_len,
        V_DIM=problem.v_dim,
        TILES=choice.tiles,
        BLOCK_N=choice.block_n,
        STAGES=choice.stages,
        PARTS=choice.parts,
        REGISTERS=choice.registers,
    )
    names = attend_specialized.arg_names
    signature = {name: signature.get(name, "constexpr") for name in names}
    source = GluonASTSource(
        attend_specialized, signature, constants, {(names.index("out"),): [["tt.divisibility", 16]]}
    )
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    options = backend.parse_options({"num_warps": 4})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = source.make_ir(
        target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context
    )
    stages, metadata = {}, {}
    backend.add_stages(stages, options, Language.GLUON)
    for stage in stages.values():
        module = stage(module, metadata)
    parameters = []
    for name in names:
        if signature[name].startswith("tensordesc"):
            parameters += ["tensor_map", *["i32"] * 4, *["i64"] * 4]
    return Kernel(
        cubin=module,
        entry=metadata["name"],
        target=90,
        num_warps=metadata["num_warps"],
        shared_memory=metadata["shared"],
        parameters=(*parameters, "pointer", "f32"),
        tiles=tuple(
            Tile(tuple(each["block_size"]), each["swizzle"], each["elem_size"]) for each in metadata["tensordesc_meta"]
        ),
        scratch_bytes=metadata["global_scratch_size"],
    )


def _descriptor(rows, width):
    layout = f"NVMMASharedLayout(swizzle_byte_width={2 * width},element_bitwidth=16,rank=4)"
    return f"tensordesc<bf16[1, {rows}, 1, {width}],{layout}>"


def specialized_launch(choice, kernel, places):
    """The step of a plan; places: of "input_0", ... and "output_0"."""
    problem, (wide, narrow) = choice.problem, choice.tiles
    arguments = []
    for tensor, rows in ((problem.q, 64), (problem.k, choice.block_n), (problem.v, choice.block_n)):
        for width in (wide, narrow) if narrow else (wide,):
            pointer = moved(tensor.pointer.pointer, places)
            swizzle = {64: 3, 32: 2, 16: 1}[width]
            box = (1, rows, 1, width)
            arguments.append(TensorMap(pointer, tensor.dtype, tensor.shape, tensor.strides, box, swizzle))
            arguments += [Scalar("i32", dim) for dim in tensor.shape]
            arguments += [Scalar("i64", stride) for stride in tensor.strides]
    arguments.append(moved(problem.out.pointer.pointer, places))
    arguments.append(Scalar("f32", problem.scale * math.log2(math.e)))
    blocks = -(-problem.q_len // (64 * choice.parts)) * problem.heads
    return Launch(kernel.digest, (blocks, 1, problem.batch), tuple(arguments), label="attention")
