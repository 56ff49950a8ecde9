"""Dtypes: which casts keep every number."""

import itertools

import numpy
import pytest

from jitinfer.graph.types import FLOATING, INTEGRAL, exact_cast, numpy_dtype

SMALL = ["bool", "int8", "uint8", "int16", "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"]
"""Dtypes all of whose numbers can be tried."""


def numbers(dtype):
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return numpy.array([False, True])
    every = numpy.arange(2 ** (8 * kind.itemsize), dtype=f"uint{8 * kind.itemsize}").view(kind)
    return every if dtype in INTEGRAL else every[~numpy.isnan(every.astype("float32"))]


@pytest.mark.parametrize(("dtype", "to"), itertools.product(SMALL, [*SMALL, "int32", "int64", "float32", "float64"]))
def test_an_exact_cast_keeps_every_number(dtype, to):
    every = numbers(dtype)
    if dtype in FLOATING and to not in FLOATING:
        assert not exact_cast(dtype, to)
        return
    with numpy.errstate(all="ignore"):  # infinities as integers
        back = every.astype("float64").astype(numpy_dtype(to)).astype("float64")
    assert exact_cast(dtype, to) == numpy.array_equal(back, every.astype("float64"))


@pytest.mark.parametrize(
    ("dtype", "to", "exact"),
    [
        ("int32", "float32", False),
        ("int32", "float64", True),
        ("int64", "float64", False),
        ("float32", "float64", True),
        ("float64", "float32", False),
        ("float32", "complex64", False),
        ("complex64", "complex64", True),
    ],
)
def test_of_wide_dtypes(dtype, to, exact):
    assert exact_cast(dtype, to) is exact
