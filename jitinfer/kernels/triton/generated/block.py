"""The text of a kernel while it is written: its parameters, its lines, and the blocks of a space that it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitinfer.kernels.family import TypedPointer
from jitinfer.kernels.triton.generated.access import Space, offset_of
from jitinfer.kernels.triton.generated.expressions import TYPES, computed, converted

if TYPE_CHECKING:
    from jitinfer.kernels.operands import Strided

STORED = {"bool": "uint8"}
"""Types that lie in memory as another one."""


@dataclass(frozen=True)
class Term:
    """A block that a name of the kernel's text stands for, of the type that `dtype` is computed in."""

    text: str
    dtype: str

    @property
    def computed(self) -> str:
        return computed(self.dtype)


@dataclass
class Kernel:
    """`arguments`: by the parameters' names; `lines`: of the body, without their first indentation."""

    programmatic: bool = False
    arguments: dict[str, TypedPointer] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    indentation: int = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indentation + text)

    def pointer(self, operand: Strided) -> str:
        """The parameter that points to the operand's first element."""
        given = operand.pointer
        pointer = TypedPointer(given.pointer, STORED.get(given.dtype, given.dtype))
        for name, other in self.arguments.items():
            if other == pointer:
                return name
        taken = sum(other.pointer.buffer == operand.buffer for other in self.arguments.values())
        name = f"{operand.buffer}_{'abcdefghijklmnopqrstuvwxyz'[taken]}" if taken < 26 else f"{operand.buffer}_{taken}"
        self.arguments[name] = pointer
        return name

    @property
    def text(self) -> str:
        """The whole function's."""
        lines = list(self.lines)
        if self.programmatic:
            lines = ["tl.extra.cuda.gdc_wait()", *lines]
        body = "\n".join(f"    {line}" for line in lines)
        return f"def generated({', '.join(self.arguments)}):\n{body}\n"


@dataclass
class Block:
    """Blocks of `rows` by `columns` elements of a space, in a kernel's text.

    row_end, column_end: the number of rows and columns where a block may reach beyond, as text; "" where none does.
    """

    kernel: Kernel
    space: Space
    rows: int
    columns: int
    row_end: str
    column_end: str
    _names: int = 0

    @property
    def shape(self) -> str:
        return f"[{self.rows}, {self.columns}]"

    def name(self, text: str, stem: str) -> str:
        """A new name for the value of an expression."""
        name = f"{stem}_{len(self.kernel.lines)}"
        self.kernel.line(f"{name} = {text}")
        return name

    def mask(self, roles: set[str]) -> str:
        """True where an operand that varies along these roles has elements; "" where it has everywhere."""
        parts = []
        if self.row_end and "row" in roles:
            parts.append(f"(row < {self.row_end})")
        if self.column_end and "column" in roles:
            parts.append(f"(column < {self.column_end})")
        return " & ".join(parts)

    def place(self, operand: Strided, extra: str = "", extra_roles: set[str] | None = None) -> tuple[str, set[str]]:
        """Pointers to the operand's elements, and the roles along which they vary. extra: an offset more."""
        roles = self.space.roles(operand.strides) | (extra_roles or set())
        offset = " + ".join(part for part in (extra, offset_of(self.space, operand)) if part)
        if not roles & {"row", "column"}:
            zeros = "tl.zeros([1, 1], tl.int32)"
            offset = f"{offset} + {zeros}" if offset else zeros
        return f"{self.kernel.pointer(operand)} + {offset}", roles

    def load(self, operand: Strided, extra: str = "", extra_roles: set[str] | None = None, where: str = "") -> Term:
        """The operand's elements, of one row or one column where it does not vary; 0 outside.

        where: a condition more; what it does not hold for is not read.
        """
        place, roles = self.place(operand, extra, extra_roles)
        mask = " & ".join(part for part in (self.mask(roles), where) if part)
        text = f"tl.load({place}, {mask}, other=0)" if mask else f"tl.load({place})"
        held = STORED.get(operand.dtype, operand.dtype)
        if held != operand.dtype:
            text = f"({text} != 0)"
        elif computed(held) != held:
            text = f"{text}.to({TYPES[computed(held)]})"
        return Term(self.name(text, operand.buffer), operand.dtype)

    def store(self, operand: Strided, value: Term, extra: str = "") -> None:
        """The value, broadcast to the elements that the operand names, in its type. extra: an offset more."""
        place, roles = self.place(operand, extra)
        kept = [self.rows if "row" in roles else 1, self.columns if "column" in roles else 1]
        text = converted(value.text, value.computed, operand.dtype)
        held = STORED.get(operand.dtype, operand.dtype)
        if held != computed(operand.dtype):
            text = f"{text}.to({TYPES[held]})"
        mask = self.mask(roles)
        self.kernel.line(f"tl.store({place}, tl.broadcast_to({text}, {kept}){', ' + mask if mask else ''})")
