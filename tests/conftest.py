"""One temporary cache for the whole run, and models small enough to compile in a moment."""

import logging

import numpy
import paddle
import pytest

from jitinfer.frontend.tree import flatten


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    for name in ("TRITON_KERNEL_CACHE_DIR", "JITINFER_VERIFY", "JITINFER_ENGINE"):
        patch.delenv(name, raising=False)
    patch.setenv("JITINFER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _seed():
    paddle.seed(1234)
    paddle.disable_static()


class MLP(paddle.nn.Layer):
    """Two linear layers, and attributes of the kinds that a trace freezes."""

    def __init__(self, width=8, scale=1.0):
        super().__init__()
        self.first = paddle.nn.Linear(width, 2 * width)
        self.second = paddle.nn.Linear(2 * width, width)
        self.scale = scale
        self.flags = {"negate": False}

    def forward(self, x, residual=True):
        y = self.second(paddle.nn.functional.gelu(self.first(x))) * self.scale
        if self.flags["negate"]:
            y = -y
        return x + y if residual else y


@pytest.fixture
def mlp():
    layer = MLP()
    layer.eval()
    return layer


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


@pytest.fixture
def warnings_of(caplog):
    """The warnings that this library has logged so far."""

    def read():
        return [
            r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("jitinfer")
        ]

    caplog.set_level(logging.INFO, logger="jitinfer")
    return read
