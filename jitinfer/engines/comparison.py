"""Whether two evaluations of one function agree as well as rounding allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.rounding import Tolerance


@dataclass(frozen=True)
class Difference:
    """`error`: the largest difference over the largest expected value, of the worst result; inf if shapes, dtypes,
    NaNs or exact values differ. `what`: the reason in words."""

    error: float
    what: str

    def within(self, tolerance: Tolerance) -> bool:
        return self.error <= tolerance.relative


def difference(actual: Sequence[Any], expected: Sequence[Any]) -> Difference:
    """Compare two lists of NumPy arrays; floating ones by value, all others exactly."""
    if len(actual) != len(expected):
        return Difference(math.inf, f"{len(actual)} results, expected {len(expected)}")
    worst = Difference(0.0, "equal")
    for position, (one, other) in enumerate(zip(actual, expected, strict=True)):
        found = _one(one, other)
        if not found.error <= worst.error:
            worst = Difference(found.error, f"result {position}: {found.what}")
    return worst


def _one(actual: Any, expected: Any) -> Difference:
    if actual.shape != expected.shape:
        return Difference(math.inf, f"shape {list(actual.shape)}, expected {list(expected.shape)}")
    if actual.dtype != expected.dtype:
        return Difference(math.inf, f"dtype {actual.dtype}, expected {expected.dtype}")
    if expected.size == 0:
        return Difference(0.0, "equal")
    if expected.dtype.kind not in "fc":
        wrong = int(numpy.count_nonzero(actual != expected))
        return Difference(math.inf, f"{wrong} of {expected.size} values differ") if wrong else Difference(0.0, "equal")
    finite = numpy.isfinite(expected)
    if not numpy.array_equal(finite, numpy.isfinite(actual)):
        return Difference(math.inf, "NaN or infinity where the other has a number")
    if not numpy.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return Difference(math.inf, "another kind of NaN or infinity")
    if not finite.any():
        return Difference(0.0, "equal")
    wide = numpy.complex128 if expected.dtype.kind == "c" else numpy.float64
    wanted = expected[finite].astype(wide)
    gap = float(numpy.abs(actual[finite].astype(wide) - wanted).max())
    scale = float(numpy.abs(wanted).max())
    if gap == 0.0:
        return Difference(0.0, "equal")
    error = gap / scale if scale > 0 else math.inf
    return Difference(error, f"differs by {gap:.3e}, {error:.3e} of the largest value")
