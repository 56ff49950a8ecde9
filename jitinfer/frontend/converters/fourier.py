"""Discrete Fourier transforms of short axes, as products with matrices of cosines and sines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.frontend.converters.complex_numbers import Complex, on_complex
from jitinfer.frontend.converters.registry import PirOp, converter, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer

LONGEST = 512
"""Elements of an axis up to which a matrix serves; a longer one wants a fast transform."""


@converter("fft_r2c")
def fft_r2c(importer: Importer, op: PirOp, x: Any) -> Complex:
    """Of a real tensor. "onesided": the last axis up to the middle, which says all."""
    return _transformed(importer, op, Complex(x, None))


@on_complex("fft_c2c")
def fft_c2c(importer: Importer, op: PirOp, x: Complex) -> Complex:
    return _transformed(importer, op, x)


def _transformed(importer: Importer, op: PirOp, x: Complex) -> Complex:
    """Along one axis after the other, the last one first."""
    axes = [axis % len(x.shape) for axis in op.attributes["axes"]]
    sizes = [x.shape[axis] for axis in axes]
    supported(max(sizes) <= LONGEST, f"an axis of more than {LONGEST} elements")
    norm, forward = op.attributes["normalization"], op.attributes["forward"]
    factor = {"ortho": math.prod(sizes) ** -0.5, "forward" if forward else "backward": 1 / math.prod(sizes)}
    for axis, size in reversed(list(zip(axes, sizes, strict=True))):
        last = axis == axes[-1]
        count = size // 2 + 1 if last and op.attributes.get("onesided") else size
        angles = 2 * numpy.pi * numpy.arange(size)[:, None] * numpy.arange(count) / size * (-1 if forward else 1)
        scale = factor.get(norm, 1.0) if last else 1.0
        cosines, sines = (
            importer.builder.constant(scale * each, x.real.dtype) for each in (numpy.cos(angles), numpy.sin(angles))
        )
        x = _rotated(x, axis, cosines, sines)
    return x


def _rotated(x: Complex, axis: int, cosines: Any, sines: Any) -> Complex:
    """The products along one axis with cosines + i sines."""
    order = list(range(len(x.shape)))
    order[axis], order[-1] = order[-1], order[axis]

    def along(part: Any, matrix: Any) -> Any:
        return ops.transpose(ops.matmul(ops.transpose(part, permutation=order), matrix), permutation=order)

    if x.imag is None:
        return Complex(along(x.real, cosines), along(x.real, sines))
    return Complex(along(x.real, cosines) - along(x.imag, sines), along(x.real, sines) + along(x.imag, cosines))
