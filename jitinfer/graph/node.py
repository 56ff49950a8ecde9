"""Values and nodes: the data that a graph is made of."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.graph.types import TensorType, dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.graph.op import Op
    from jitinfer.graph.view import View


@dataclass(frozen=True)
class Origin:
    """Where in the user's model a node comes from: `place` as "file:line", `layer` as "/DiT/Block/Linear".

    `operation`: the number of the operation in the traced program; None where that is not known. It is no part of what
    origins are compared by, and not written down.
    """

    place: str = ""
    layer: str = ""
    operation: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return " in ".join(part for part in (self.place, self.layer) if part)

    @staticmethod
    def parse(text: str) -> Origin:
        """The inverse of `str`: what ends in a colon and digits is a place, what begins with a slash a layer."""
        if text.rpartition(":")[2].isdigit() or not text:
            return Origin(text)
        place, _, layer = text.rpartition(" in /")
        return Origin(place, f"/{layer}") if place else Origin("", text)


NOWHERE = Origin()


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor that a graph computes or is given. Two values are the same only if they are the same object."""

    type: TensorType
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, eq=False)
class Constant:
    """An array as an attribute: immutable, equal by content."""

    array: numpy.ndarray[Any, Any]

    def __post_init__(self) -> None:
        array = numpy.array(self.array, order="C")  # a copy of its own, scalars included
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @property
    def type(self) -> TensorType:
        return TensorType(self.array.shape, dtype_name(self.array.dtype))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of type and bytes, the same on every machine."""
        return hashlib.sha256(f"{self.type} ".encode() + self.little_endian).hexdigest()

    @property
    def little_endian(self) -> bytes:
        """The elements' bytes in row-major order, the least significant byte of each first."""
        swapped = self.array if sys.byteorder == "little" else self.array.byteswap()
        return swapped.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Constant({self.type}, {self.digest[:12]})"


Attribute = Any
"""None, bool, int, float, str, a tuple of these, a Constant, or a Graph."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    `inputs`: in the order of the op's operands, None for an optional one that is absent; a variadic operand's values
    come last. `views`: how an input is read, None for "as it is". `stores`: how a result is written into its value's
    buffer, None for "as it is": the result, row by row, goes to the elements that the view names, in its order.
    """

    op: Op
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Attribute]
    outputs: tuple[Value, ...]
    origin: Origin = NOWHERE
    views: tuple[View | None, ...] = field(default=())
    stores: tuple[View | None, ...] = field(default=())

    @property
    def output(self) -> Value:
        """The only output. Raises ValueError where there are several."""
        (value,) = self.outputs
        return value

    def __getattr__(self, name: str) -> Attribute:
        """Attributes of the op as attributes of the node: `node.epsilon`."""
        try:
            return self.__dict__["attributes"][name]
        except KeyError:
            raise AttributeError(f"{self.__dict__['op'].name} has no attribute {name!r}") from None

    @property
    def plain(self) -> bool:
        """Whether all operands are read, and all results written, as they are: no view, no store."""
        return not any(self.views) and not any(self.stores)

    def view(self, position: int) -> View | None:
        return self.views[position] if position < len(self.views) else None

    def store(self, position: int) -> View | None:
        return self.stores[position] if position < len(self.stores) else None

    def input_type(self, position: int) -> TensorType | None:
        """The type under which the op sees an input: that of the view, where there is one."""
        value = self.inputs[position]
        if value is None:
            return None
        view = self.view(position)
        return value.type if view is None else value.type.with_shape(view.shape)

    def input_types(self) -> list[TensorType | None]:
        return [self.input_type(position) for position in range(len(self.inputs))]

    def operand(self, name: str) -> Value | None:
        """The input of an operand by name; None for one that is absent. Raises KeyError for no operand's name."""
        position = self.op.position(name)
        return self.inputs[position] if position < len(self.inputs) else None
