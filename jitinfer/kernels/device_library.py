"""CUDA's device library by NumPy, for Triton's interpreter, which has no functions of it. For tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy
import scipy.special
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter

from jitinfer.kernels.triton.frontend import LANGUAGE_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Array = numpy.ndarray[Any, Any]

_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "ceil": numpy.ceil,
    "cos": numpy.cos,
    "div_rn": numpy.divide,
    "erf": scipy.special.erf,
    "exp": numpy.exp,
    "floor": numpy.floor,
    "fmod": numpy.fmod,
    "log": numpy.log,
    "log1p": numpy.log1p,
    "pow": numpy.power,
    "rint": numpy.rint,
    "rsqrt": lambda x: 1 / numpy.sqrt(x),
    "sin": numpy.sin,
    "sqrt_rn": numpy.sqrt,
    "tanh": numpy.tanh,
}


@contextlib.contextmanager
def numpy_device_library() -> Iterator[None]:
    """Within it, what is interpreted finds the functions of the device library."""
    with LANGUAGE_LOCK, numpy.errstate(all="ignore"):
        before = {name: getattr(libdevice, name) for name in _FUNCTIONS}
        for name, function in _FUNCTIONS.items():
            setattr(libdevice, name, _interpreted(function))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(libdevice, name, function)


def _interpreted(function: Callable[..., Array]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        first = given[0]
        data = function(*(each.handle.data for each in given)).astype(first.handle.data.dtype)
        scalar = first.type.scalar
        kind = tl.block_type(scalar, list(data.shape)) if first.type.is_block() else scalar
        return tl.tensor(interpreter.TensorHandle(data, scalar), kind)

    return call
