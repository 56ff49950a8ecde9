"""Small Triton functions for the tests of the runtime."""

import triton
import triton.language as tl


@triton.jit
def scale_and_add(x, w, y, count, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, i < count) * factor + tl.load(w + i, i < count)
    tl.store(y + i, value, i < count)


@triton.jit
def copy_tiles(x, y, rows, columns, BLOCK: tl.constexpr):
    """Through descriptors that the kernel makes itself, in scratch memory."""
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(y, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    i, j = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    target.store([i, j], source.load([i, j]))


@triton.jit
def transpose_tiles(source, target, BLOCK: tl.constexpr):
    """Through descriptors made on the host."""
    i, j = tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK
    target.store([j, i], source.load([i, j]).T)


@triton.jit
def silu_and_stray(x, y, count, distance, ONLY_NAN: tl.constexpr, BLOCK: tl.constexpr):
    """Writes far away from y: everything, or what it computes of NaN alone."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, i < count, other=0.0)
    far = tl.zeros([BLOCK], tl.int64) + distance.to(tl.int64) * 2**20
    if ONLY_NAN:
        far = tl.where(value != value, far, 0)
    tl.store(y + far + i, value / (1 + tl.exp(-value)), i < count)


@triton.jit
def write_far_away(y, distance):
    tl.store(y + distance.to(tl.int64) * 2**20, 1.0)
