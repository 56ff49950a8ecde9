"""Which function converts which of Paddle's operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer
    from jitinfer.graph import TensorType

Converter = Callable[..., Any]
"""`converter(importer, op, *operands)` -> a Tensor, or a sequence of results, None for those it does not compute."""

CONVERTERS: dict[str, Converter] = {}


class UnsupportedForm(Exception):  # noqa: N818 (never leaves the house: the importer makes an opaque node of it)
    """A use of an operator that its converter does not know."""


@dataclass(frozen=True)
class PirOp:
    """One operation of a PIR program: `name` as "pd_op.matmul"; `results`: number and type.

    The type of a list of tensors is a list of types, that of anything else None. `blocks`: what stands inside of it, as
    JSON.
    """

    name: str
    attributes: dict[str, Any]
    operands: tuple[int, ...]
    results: tuple[tuple[int, TensorType | list[TensorType] | None], ...]
    blocks: tuple[Any, ...] = ()

    @property
    def dtype(self) -> str | None:
        """That of its first result; None for no tensor."""
        kind = self.results[0][1]
        return None if kind is None or isinstance(kind, list) else kind.dtype


def converter(*names: str) -> Callable[[Converter], Converter]:
    """Decorator: the function converts Paddle's operators of these names."""

    def registered(function: Converter) -> Converter:
        for name in names:
            CONVERTERS["pd_op." + name] = function
        return function

    return registered


def supported(condition: bool, what: str) -> None:
    """Raises UnsupportedForm."""
    if not condition:
        raise UnsupportedForm(what)


def known_integers(importer: Importer, operand: Any) -> list[int]:
    """The numbers of a tensor, or list of tensors, that does not depend on data. Raises UnsupportedForm."""
    if isinstance(operand, (list, tuple)):
        return [number for each in operand for number in known_integers(importer, each)]
    array = importer.known(operand)
    supported(array is not None, "a shape or index that depends on data")
    return [int(number) for number in array.reshape(-1)]  # type: ignore[union-attr]
