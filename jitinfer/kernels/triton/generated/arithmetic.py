"""Scalar functions as Triton functions, for float32 and float64 unless they say otherwise.

They mean what the op table says, NaN and infinities included, and err by at most two units in the last place or so:
Triton's own exp, log, sine and root are faster and coarser than that, so those of CUDA's device library stand here.
Results below the smallest normal float32 may be 0.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def maximum(x, y):
    """Of numbers of any type; NaN where either is."""
    return tl.where((x > y) | (x != x), x, y)


@triton.jit
def minimum(x, y):
    return tl.where((x < y) | (x != x), x, y)


@triton.jit
def maximum_float32(x, y):
    """One instruction where the device has it."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum_float32(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sign(x):
    return tl.where(x != x, x, (x > 0).to(x.dtype) - (x < 0).to(x.dtype))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + libdevice.exp(-x))


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def softplus(x):
    """log(exp(x) + 1), without overflow."""
    return tl.where((x > 0) | (x != x), x, 0.0) + libdevice.log1p(libdevice.exp(-tl.abs(x)))


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + libdevice.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh(x):
    """0.5 (1 + tanh(u)) is sigmoid(2 u)."""
    return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu_sigmoid(x):
    return x * sigmoid(1.702 * x)


@triton.jit
def float_remainder(x, y):
    """Of the sign of y, as Python's %."""
    rest = libdevice.fmod(x, y)
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@triton.jit
def float_floor_divide(x, y):
    """floor(x / y), from the exact remainder: x / y itself may be rounded up to the next integer."""
    rest = libdevice.fmod(x, y)
    quotient = libdevice.div_rn(x - rest, y)
    quotient = tl.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1.0, quotient)
    return tl.where(y == 0, libdevice.div_rn(x, y), libdevice.rint(quotient))


@triton.jit
def integer_divide(x, y):
    """Towards zero; 0 where y is 0."""
    return tl.where(y == 0, tl.zeros_like(x), x // tl.where(y == 0, tl.full(y.shape, 1, y.dtype), y))


@triton.jit
def integer_remainder(x, y):
    """Of the sign of y; 0 where y is 0."""
    rest = x - integer_divide(x, y) * y
    rest = tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)
    return tl.where(y == 0, tl.zeros_like(rest), rest)


@triton.jit
def integer_floor_divide(x, y):
    """0 where y is 0."""
    quotient = integer_divide(x, y)
    rest = x - quotient * y
    below = (rest != 0) & ((rest < 0) != (y < 0)) & (y != 0)
    return tl.where(below, quotient - tl.full(x.shape, 1, x.dtype), quotient)


@triton.jit
def integer_power(x, y, BITS: tl.constexpr):
    """x multiplied y times, y >= 0, by squaring."""
    result = tl.full(x.shape, 1, x.dtype)
    for _ in range(BITS):
        result = tl.where((y & 1) != 0, result * x, result)
        x = x * x
        y = y >> 1
    return result


@triton.jit
def row_max(x):
    """Of each row of a block, as a column; NaN where the row has one."""
    unknown = tl.max((x != x).to(tl.int32), axis=1, keep_dims=True) > 0
    return tl.where(unknown, float("nan"), tl.max(x, axis=1, keep_dims=True))


@triton.jit
def row_min(x):
    unknown = tl.max((x != x).to(tl.int32), axis=1, keep_dims=True) > 0
    return tl.where(unknown, float("nan"), tl.min(x, axis=1, keep_dims=True))


@triton.jit
def _times(x, y):
    return x * y


@triton.jit
def row_product(x):
    return tl.reduce(x, 1, _times, keep_dims=True)


@triton.jit
def finite_base(x):
    """x, but 0 for minus infinity, so that exp(value - it) is 0 and not NaN where all values are minus infinity."""
    return tl.where(x == float("-inf"), 0.0, x)
