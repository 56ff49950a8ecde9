"""Specialisations as people read them: text for a terminal, a table for a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.specialization import Specialization

_COLUMNS = ("inputs", "made because", "runs by", "operations", "weights", "compiled in", "calls")


def _row(specialization: Specialization) -> tuple[str, ...]:
    program = specialization.program
    return (
        specialization.signature,
        specialization.reason,
        "; ".join([specialization.description, *specialization.notes]),
        str(program.operations) if program else "",
        str(len(program.parameters)) if program else "",
        f"{specialization.seconds:.2f} s",
        str(specialization.calls),
    )


def explain(name: str, specializations: Sequence[Specialization]) -> str:
    """A paragraph for each specialisation: what it is for, why it was made, how it runs and what was dropped."""
    if not specializations:
        return f"{name} has not been called yet.\n"
    parts = [f"{name}: {len(specializations)} specialisation{'s' if len(specializations) != 1 else ''}\n"]
    for position, specialization in enumerate(specializations, 1):
        parts.append(f"\n{position}.\n")
        rows = zip(_COLUMNS, _row(specialization), strict=True)
        parts += [f"   {title:<13}{value}\n" for title, value in rows if value]
    return "".join(parts)


def html_table(name: str, specializations: Sequence[Specialization]) -> str:
    """The same as an HTML table."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in _row(each)) + "</tr>" for each in specializations
    )
    return f"<p><b>{html.escape(name)}</b>, compiled by jitinfer</p><table><tr>{head}</tr>{body}</table>"
