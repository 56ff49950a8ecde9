"""A traced function as data: what the engines compile, what the cache keeps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jitinfer.graph.rounding import Rounding
from jitinfer.graph.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Program:
    """A static program in Paddle's serialised form (PIR, JSON), with canonical names.

    Inputs are named `in_0`, `in_1`, ..., parameters `p_0000`, ..., results `out_0`, ...: no name comes from a counter
    of the process, so equal functions have equal text. Parameters are not contained, only their types.
    """

    text: bytes
    inputs: tuple[TensorType, ...]
    parameters: tuple[TensorType, ...]
    outputs: int
    random: bool
    rounding: Rounding
    operations: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text and of the types of the parameters."""
        digest = hashlib.sha256(self.text)
        digest.update(repr((self.inputs, self.parameters, self.outputs)).encode())
        return digest.hexdigest()

    def metadata(self) -> dict[str, Any]:
        """All but the text, as JSON."""
        return {
            "inputs": [[list(t.shape), t.dtype] for t in self.inputs],
            "parameters": [[list(t.shape), t.dtype] for t in self.parameters],
            "outputs": self.outputs,
            "random": self.random,
            "rounding": [self.rounding.depth, self.rounding.accumulations, self.rounding.coarsest],
            "operations": self.operations,
        }

    @staticmethod
    def restore(text: bytes, metadata: Any) -> Program:
        """The inverse of `metadata`; raises KeyError, TypeError or ValueError if that is not what it is given."""
        depth, accumulations, coarsest = metadata["rounding"]
        return Program(
            text=text,
            inputs=tuple(TensorType(tuple(shape), dtype) for shape, dtype in metadata["inputs"]),
            parameters=tuple(TensorType(tuple(shape), dtype) for shape, dtype in metadata["parameters"]),
            outputs=int(metadata["outputs"]),
            random=bool(metadata["random"]),
            rounding=Rounding(int(depth), int(accumulations), str(coarsest)),
            operations=int(metadata["operations"]),
        )


def parameter_name(position: int) -> str:
    """Sorted by name is sorted by position, as Paddle's file of parameters wants it."""
    return f"p_{position:06d}"


def entries(block: Any) -> Iterator[Any]:
    """The operations of a block of a program's JSON, each followed by those inside of it."""
    for entry in block["ops"]:
        yield entry
        for region in entry.get("regions", ()):
            for inner in region["blocks"]:
                yield from entries(inner)
