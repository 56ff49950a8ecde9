"""The tolerance follows from the number of roundings; what differs by more, or in kind, is found."""

import math

import numpy
import pytest

from jitinfer.engines.comparison import difference
from jitinfer.graph.rounding import Rounding, tolerance_for


@pytest.mark.parametrize("length", [64, 1024, 16384])
def test_the_tolerance_holds_for_reorderings_of_a_dot_product_and_little_more(length):
    generator = numpy.random.default_rng(0)
    tolerance = tolerance_for(Rounding(1, length, "float32"), "float32").relative
    errors = []
    for _ in range(200):
        x, y = generator.standard_normal((2, length)).astype(numpy.float32)
        exact = float(numpy.dot(x.astype(numpy.float64), y.astype(numpy.float64)))
        one_by_one = numpy.float32(0)
        for product in (x * y)[: min(length, 2048)]:
            one_by_one = numpy.float32(one_by_one + product)
        exact_part = float(numpy.dot(x[:2048].astype(numpy.float64), y[:2048].astype(numpy.float64)))
        scale = float(numpy.linalg.norm(x) * numpy.linalg.norm(y)) / math.sqrt(length)
        errors.append(abs(float(one_by_one) - exact_part) / scale)
        assert abs(float(numpy.dot(x, y)) - exact) / scale <= tolerance
    assert max(errors) <= tolerance
    assert tolerance < 1e-3


def test_the_tolerance_grows_with_depth_and_with_coarser_arithmetic():
    def relative(depth, accumulations, coarsest, arithmetic="float32"):
        return tolerance_for(Rounding(depth, accumulations, coarsest), arithmetic).relative

    assert relative(1, 1, "float32") < 1e-6
    assert relative(100, 1, "float32") > relative(10, 1, "float32")
    assert relative(10, 10000, "float32") > relative(10, 10, "float32")
    assert relative(10, 10, "float64", "float64") < 1e-14
    assert relative(10, 10, "float32", "bfloat16") == relative(10, 10, "bfloat16")
    assert 1e-2 < relative(10, 10, "bfloat16") < 0.2


ONES = numpy.ones((2, 3), numpy.float32)


@pytest.mark.parametrize(
    ("actual", "expected", "what"),
    [
        ([ONES], [ONES, ONES], "1 results, expected 2"),
        ([ONES[:1]], [ONES], "shape [1, 3], expected [2, 3]"),
        ([ONES.astype("float64")], [ONES], "dtype float64, expected float32"),
        ([numpy.array([1, 2])], [numpy.array([1, 3])], "1 of 2 values differ"),
        ([numpy.array([True])], [numpy.array([False])], "1 of 1 values differ"),
        ([ONES * numpy.nan], [ONES], "NaN or infinity where the other has a number"),
        ([ONES], [ONES * numpy.inf], "NaN or infinity where the other has a number"),
        ([-ONES * numpy.inf], [ONES * numpy.inf], "another kind of NaN or infinity"),
        ([ONES * 1e-30], [ONES * 0], "differs by"),
    ],
)
def test_what_differs_in_kind_is_never_within_a_tolerance(actual, expected, what):
    found = difference(actual, expected)
    assert found.error == math.inf
    assert what in found.what
    assert not found.within(tolerance_for(Rounding(10**6, 10**9, "bfloat16"), "bfloat16"))


def test_equal_results_and_the_worst_of_several():
    special = numpy.array([numpy.nan, numpy.inf, -numpy.inf, 1.0], numpy.float32)
    assert difference([special, numpy.zeros((0, 3))], [special.copy(), numpy.zeros((0, 3))]).error == 0
    found = difference([ONES, ONES * 2.5, ONES], [ONES, ONES * 2, ONES * 1.1])
    assert found.error == pytest.approx(0.25)
    assert found.what.startswith("result 1: differs by 5.000e-01")
    values = numpy.array([1 + 1j, 2], numpy.complex64)
    assert difference([values * (1 + 1e-3j)], [values]).error == pytest.approx(1e-3, rel=1e-3)
