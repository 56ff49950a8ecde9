"""Operators on complex tensors, which a graph holds as two real ones: what rotary embeddings are written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.registry import CONVERTERS, Converter, PirOp, converter, supported
from jitinfer.graph import ops
from jitinfer.graph.operations.complex_numbers import PARTS
from jitinfer.graph.operations.pointwise import broadcast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitinfer.frontend.importing import Importer

ON_COMPLEX: dict[str, Converter] = {}
"""As CONVERTERS, for operators with a complex operand; its converters are given every tensor as a `Complex`."""

EACH_PART = (
    "reshape transpose squeeze unsqueeze flatten slice strided_slice split split_with_num unbind unstack concat stack "
    "expand tile repeat_interleave gather gather_nd index_select flip roll assign share_data"
)
"""Operators that do to a complex tensor what they do to its parts."""


@dataclass(frozen=True)
class Complex:
    """real + i * imag, both of one dtype; imag is None for a tensor that is real."""

    real: Any
    imag: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.real.shape)


def is_complex(operand: Any) -> bool:
    """Whether it is a complex tensor, in either form, or a list with one."""
    if isinstance(operand, list):
        return any(map(is_complex, operand))
    return isinstance(operand, Complex) or getattr(operand, "dtype", "") in PARTS


def parts(x: Any) -> Complex:
    """Any tensor as a `Complex`."""
    if isinstance(x, Complex):
        return x
    if x.dtype in PARTS:
        return Complex(ops.real(x), ops.imag(x))
    return Complex(x, None)


def whole(operand: Any) -> Any:
    """A `Complex` as one tensor; everything else as it is."""
    if isinstance(operand, list):
        return [whole(each) for each in operand]
    return ops.complex(operand.real, operand.imag) if isinstance(operand, Complex) else operand


def convert_complex(importer: Importer, op: PirOp, operands: Sequence[Any]) -> Any:
    """The results of an operator that has a complex operand. Raises UnsupportedForm."""
    name = op.name.rstrip("_")
    if name in ON_COMPLEX:
        return ON_COMPLEX[name](importer, op, *map(parts, operands))
    supported(name.removeprefix("pd_op.") in EACH_PART.split(), "complex operands")

    def taken(operand: Any, part: str) -> Any:
        if isinstance(operand, list) and is_complex(operand):
            return [getattr(parts(each), part) for each in operand]
        return getattr(parts(operand), part) if is_complex(operand) else operand

    results = [
        CONVERTERS[name](importer, op, *(taken(operand, part) for operand in operands)) for part in ("real", "imag")
    ]
    return _paired(*results)


def _paired(real: Any, imag: Any) -> Any:
    if isinstance(real, (list, tuple)):
        return [_paired(*each) for each in zip(real, imag, strict=True)]
    return Complex(real, imag)


def on_complex(name: str) -> Callable[[Converter], Converter]:
    """Decorator, as `converter`."""

    def registered(function: Converter) -> Converter:
        ON_COMPLEX["pd_op." + name] = function
        return function

    return registered


@converter("as_complex")
def as_complex(importer: Importer, op: PirOp, x: Any) -> Any:
    """[..., 2] -> [...]."""
    last = len(x.shape) - 1
    real, imag = (ops.reshape(cut(x, last, i, i + 1), shape=x.shape[:-1]) for i in (0, 1))
    return Complex(real, imag)


@converter("complex")
def from_parts(importer: Importer, op: PirOp, real: Any, imag: Any) -> Any:
    shape = broadcast(real.shape, imag.shape)
    return Complex(*(each if each.shape == shape else ops.broadcast_to(each, shape=shape) for each in (real, imag)))


@on_complex("as_real")
def as_real(importer: Importer, op: PirOp, x: Complex) -> Any:
    """[...] -> [..., 2]."""
    return ops.concat(*(ops.reshape(each, shape=(*x.shape, 1)) for each in (x.real, x.imag)), axis=len(x.shape))


@on_complex("real")
def real_part(importer: Importer, op: PirOp, x: Complex) -> Any:
    return x.real


@on_complex("imag")
def imaginary_part(importer: Importer, op: PirOp, x: Complex) -> Any:
    return x.imag


@on_complex("conj")
def conjugate(importer: Importer, op: PirOp, x: Complex) -> Complex:
    return Complex(x.real, -x.imag)


@on_complex("abs")
def magnitude(importer: Importer, op: PirOp, x: Complex) -> Any:
    return ops.sqrt(x.real * x.real + x.imag * x.imag)


@on_complex("add")
def add(importer: Importer, op: PirOp, x: Complex, y: Complex) -> Complex:
    return _sum(x.real + y.real, x.imag, y.imag)


@on_complex("subtract")
def subtract(importer: Importer, op: PirOp, x: Complex, y: Complex) -> Complex:
    return _sum(x.real - y.real, x.imag, None if y.imag is None else -y.imag)


@on_complex("multiply")
def multiply(importer: Importer, op: PirOp, x: Complex, y: Complex) -> Complex:
    if x.imag is None or y.imag is None:
        return Complex(x.real * y.real, x.real * y.imag if x.imag is None else x.imag * y.real)
    return Complex(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _sum(real: Any, x: Any, y: Any) -> Complex:
    """The sum with these imaginary parts, None where there is none."""
    imag = (x if y is None else y) if x is None or y is None else x + y
    return Complex(real, imag if imag.shape == real.shape else ops.broadcast_to(imag, shape=real.shape))
