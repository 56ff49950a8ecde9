"""A small model, and what it means that a compiled function gives the dynamic results."""

import numpy
import paddle

from jitinfer.frontend.tree import flatten


class MLP(paddle.nn.Layer):
    """Two linear layers, and attributes of the kinds that a trace freezes."""

    def __init__(self, width=8, scale=1.0):
        super().__init__()
        self.first = paddle.nn.Linear(width, 2 * width)
        self.second = paddle.nn.Linear(2 * width, width)
        self.scale = scale
        self.flags = {"negate": False}
        self.words = {"single"}
        self.factors = [1.0]
        self.array = numpy.ones(1)

    def forward(self, x, residual=True):
        y = self.second(paddle.nn.functional.gelu(self.first(x))) * self.scale
        if self.flags["negate"]:
            y = -y
        y = y * (2.0 if "double" in self.words else 1.0) * sum(self.factors) * float(self.array[0])
        return x + y if residual else y


def assert_same(actual, expected, relative=1e-5):
    """Equal structure, types, dtypes, guards; tensors within `relative` of the largest value, exact if not floating."""
    one, actual_tensors = flatten(actual, "actual")
    other, expected_tensors = flatten(expected, "expected")
    assert type(actual) is type(expected)
    assert one == other
    for a, b in zip(actual_tensors, expected_tensors, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if not a.is_floating_point() and not a.is_complex():
            assert numpy.array_equal(a.numpy(), b.numpy())
            continue
        wide = "complex128" if a.is_complex() else "float64"
        a, b = a.astype(wide).numpy(), b.astype(wide).numpy()
        assert numpy.array_equal(numpy.isnan(a), numpy.isnan(b))
        known = ~numpy.isnan(b)
        if known.any():
            scale = max(float(numpy.abs(b[known]).max()), 1e-30)
            assert float(numpy.abs(a[known] - b[known]).max()) <= relative * scale


def compiled(function):
    """Asserts that every specialisation of a compiled function runs as a program; returns how many there are."""
    for specialization in function.specializations:
        assert specialization.executable is not None, specialization.note
    return len(function.specializations)
