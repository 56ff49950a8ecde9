"""How a graph becomes a program, and which of its passes are left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.passes.convert_precision import TARGETS

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Recipe:
    """The passes that are `named`, Paddle's on the program and those on the graph, each once, less those `dropped`."""

    engine: str
    named: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def passes(self) -> tuple[str, ...]:
        return tuple(name for name in self.named if name not in self.dropped)

    def without(self, *names: str) -> Self:
        return dataclasses.replace(self, dropped=tuple(dict.fromkeys(self.dropped + names)))

    @property
    def arithmetic(self) -> str:
        """The dtype in which the graph computes, after its passes."""
        return next((dtype for dtype in TARGETS if f"convert_to_{dtype}" in self.passes()), "float32")

    def __str__(self) -> str:
        return f"{self.engine}, {self.arithmetic}" + (f", without {', '.join(self.dropped)}" if self.dropped else "")

    def document(self) -> dict[str, Any]:
        return {"engine": self.engine, "named": list(self.named), "dropped": list(self.dropped)}

    @staticmethod
    def restore(document: Any) -> Recipe:
        """The inverse of `document`; raises KeyError or TypeError if it is not one."""
        return Recipe(str(document["engine"]), tuple(document["named"]), tuple(document["dropped"]))
