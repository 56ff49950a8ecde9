"""What an operation is, and the table of all of them.

An op is declared once, as a class with two functions of the same signature: positional parameters are operands
(with a default of None: optional; `*name`: variadic), keyword-only parameters are attributes.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy

from jitinfer.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph.node import Attribute
    from jitinfer.graph.types import TensorType


class Kind(Enum):
    """What an op does to its operands, for passes and the lowering to ask."""

    POINTWISE = "pointwise"  # one result element from the elements at its place, after broadcasting
    REDUCTION = "reduction"  # sums, maxima, norms, softmax: over axes of one operand
    VIEW = "view"  # the operand's elements, elsewhere: can be strides
    MOVEMENT = "movement"  # the operands' elements, elsewhere: cannot be strides alone
    CONTRACTION = "contraction"  # matmul, convolution, attention
    CREATION = "creation"  # from attributes alone
    CONTROL = "control"  # nested graphs
    OPAQUE = "opaque"  # known to Paddle only


REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Operand:
    name: str
    optional: bool = False
    variadic: bool = False


class Op:
    """Base of all operations. A subclass sets `name`, `kind`, and defines `infer` and `evaluate`."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    commutative: ClassVar[bool] = False
    strided: ClassVar[bool] = False
    """Whether its kernels can read every operand through strides."""
    nested: ClassVar[bool] = False
    """Whether it holds graphs: `evaluate` is then told the `arithmetic` to evaluate them in."""
    infer: Any
    """`infer(*types, **attributes)` -> a TensorType, or a tuple of them for several outputs. Raises TypeMismatch."""
    evaluate: Any
    """`evaluate(*arrays, **attributes)` -> an array, or a tuple of them. Arithmetic in the arrays' dtype."""

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Attribute) -> int:
        """Multiplications and additions (each counts one) of one evaluation."""
        return 0 if self.kind in (Kind.VIEW, Kind.MOVEMENT, Kind.CREATION) else sum(out.size for out in outputs)

    def bytes_moved(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType], **_: Attribute) -> int:
        """Bytes that have to be read and written at least."""
        if self.kind is Kind.VIEW:
            return 0
        return sum(each.nbytes for each in (*inputs, *outputs) if each is not None)

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        kinds = inspect.Parameter
        return tuple(
            Operand(p.name, optional=p.default is None, variadic=p.kind is kinds.VAR_POSITIONAL)
            for p in inspect.signature(self.infer).parameters.values()
            if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL)
        )

    @cached_property
    def attributes(self) -> Mapping[str, Attribute]:
        """Names of the attributes and their defaults; `REQUIRED` for those without."""
        parameters = inspect.signature(self.infer).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def position(self, operand: str) -> int:
        """Raises KeyError."""
        for position, each in enumerate(self.operands):
            if each.name == operand:
                return position
        raise KeyError(f"{self.name} has no operand {operand!r}")

    def complete(self, attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
        """All attributes, in the order of the declaration. Raises GraphError for an unknown or a missing one."""
        unknown = attributes.keys() - self.attributes.keys()
        if unknown:
            raise GraphError(
                f"{self.name} has no attribute {sorted(unknown)[0]!r}; it has {', '.join(self.attributes)}"
            )
        completed = {}
        for name, default in self.attributes.items():
            value = attributes.get(name, default)
            if value is REQUIRED:
                raise GraphError(f"{self.name} needs the attribute {name!r}")
            completed[name] = _plain(value)
        return completed

    def output_types(
        self, inputs: Sequence[TensorType | None], attributes: Mapping[str, Attribute]
    ) -> tuple[TensorType, ...]:
        """Raises GraphError, naming the op and what it was given; dims that are not known are for opaque ops only."""
        self._check_arity(inputs)
        opaque = self.kind is Kind.OPAQUE
        try:
            require(opaque or all(each is None or each.known for each in inputs), "it cannot read dims that vary")
            types = self.infer(*inputs, **attributes)
            types = types if isinstance(types, tuple) else (types,)
            require(opaque or all(each.known for each in types), "it cannot have results with dims that vary")
        except TypeMismatch as error:
            given = ", ".join("none" if each is None else str(each) for each in inputs)
            raise GraphError(f"{self.name}({given}): {error}") from None
        return types

    def _check_arity(self, inputs: Sequence[TensorType | None]) -> None:
        least = sum(not operand.optional and not operand.variadic for operand in self.operands)
        variadic = bool(self.operands) and self.operands[-1].variadic
        if len(inputs) < least or (len(inputs) > len(self.operands) and not variadic):
            raise GraphError(f"{self.name} takes {self.signature}, not {len(inputs)} operands")
        for operand, given in zip(self.operands, inputs, strict=False):
            if given is None and not operand.optional:
                raise GraphError(f"{self.name} needs its operand {operand.name!r}")

    @property
    def signature(self) -> str:
        """Such as `layer_norm(x, scale=None, bias=None, *, epsilon=1e-05)`."""
        return self.name + str(inspect.signature(self.infer)).partition(" ->")[0]

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _plain(value: Attribute) -> Attribute:
    """Python's own numbers and tuples for NumPy's numbers and lists: equal attributes print and hash alike."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(each) for each in value)
    return value.item() if isinstance(value, numpy.generic) else value


class TypeMismatch(Exception):  # noqa: N818 (never leaves the house: `Op.output_types` makes a GraphError of it)
    """Operands that an op cannot take."""


def require(condition: bool, message: str) -> None:
    """For `infer`: raises TypeMismatch."""
    if not condition:
        raise TypeMismatch(message)


_TABLE: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add an op to the table. Raises GraphError if there is another of its name."""
    if op.name in _TABLE:
        raise GraphError(f"there is an op {op.name!r} already")
    _TABLE[op.name] = op
    return op


def op_named(name: str) -> Op:
    """Raises GraphError."""
    try:
        return _TABLE[name]
    except KeyError:
        raise GraphError(f"there is no op {name!r}") from None


def table() -> Mapping[str, Op]:
    """All ops by name."""
    return dict(_TABLE)
