"""Specialisations as people read them: text for a terminal, a table for a notebook."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

from jitinfer.errors import PassError
from jitinfer.graph.text import to_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitinfer.engines.stages import GraphSteps, History
    from jitinfer.passes import Step
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


def explain(
    name: str,
    specializations: Sequence[Specialization],
    passes: bool | str | Sequence[str] = False,
    graph: bool = False,
) -> str:
    """A paragraph for each specialisation: what it is for, why it was made, how it runs, what was dropped, the passes.

    Args:
        passes: for which passes to tell what they changed, too: for all (True), or for those named.
        graph: whether to write down the graph after the passes, too.

    Raises PassError for a name of no pass that ran.
    """
    if not specializations:
        return f"{name} has not been called yet.\n"
    histories = [each.executable.history if each.executable is not None else None for each in specializations]
    named = (passes,) if isinstance(passes, str) else () if isinstance(passes, bool) else tuple(passes)
    _check(name, named, [history for history in histories if history is not None])
    parts = [f"{name}: {len(specializations)} specialisation{'s' if len(specializations) != 1 else ''}\n"]
    for position, (specialization, history) in enumerate(zip(specializations, histories, strict=True), 1):
        parts.append(f"\n{position}.\n")
        rows = zip(_COLUMNS, _row(specialization), strict=True)
        parts += [f"   {title:<13}{value}\n" for title, value in rows if value]
        if history is not None:
            parts.append(textwrap.indent(passes_table(history), "   "))
            parts += [textwrap.indent(text, "   ") for text in _changes(history, named) if passes]
            parts += [textwrap.indent(text, "   ") for text in _graphs(history) if graph]
    return "".join(parts)


def _check(name: str, named: Sequence[str], histories: Sequence[History]) -> None:
    ran = dict.fromkeys(step.name for history in histories for graph in history.graphs for step in graph.report.steps)
    for each in named:
        if each not in ran:
            told = f"those that did are {', '.join(ran)}" if ran else "it runs without a graph"
            raise PassError(f"no graph pass {each!r} ran for {name}; {told}")


def passes_table(history: History) -> str:
    """What each pass did, in their order; those that changed nothing are counted only. "" where there were none."""
    lines = [
        f"{step.name:<40}{'Paddle':>8}{step.before:>8} -> {step.after:<6}{1e3 * step.seconds:>9.1f} ms\n"
        for step in history.program
    ]
    if lines:
        lines.insert(0, _title("passes on the program", "operations"))
    for graph in history.graphs:
        lines.append(_title("passes on the graph" + _shapes(graph, history), "nodes"))
        idle = [step for step in graph.report.steps if not step.changes]
        lines += [_line(step) for step in graph.report.steps if step.changes]
        if idle:
            seconds = sum(step.seconds for step in idle)
            lines.append(f"{f'{len(idle)} that found nothing':<66}{1e3 * seconds:>9.1f} ms\n")
        lines.append(_total(graph))
    return "".join(lines)


def _title(what: str, unit: str) -> str:
    return f"{what:<40}{'changes':>8}{unit:>16}{'time':>14}\n"


def _line(step: Step) -> str:
    before, after = len(step.before.nodes), len(step.after.nodes)
    return f"{step.name:<40}{step.changes:>8}{before:>8} -> {after:<6}{1e3 * step.seconds:>9.1f} ms\n"


def _total(graph: GraphSteps) -> str:
    changes = sum(step.changes for step in graph.report.steps)
    seconds = sum(step.seconds for step in graph.report.steps)
    before, after = len(graph.imported.nodes), len(graph.graph.nodes)
    return f"{'all':<40}{changes:>8}{before:>8} -> {after:<6}{1e3 * seconds:>9.1f} ms\n"


def _shapes(graph: GraphSteps, history: History) -> str:
    """Of which piece, and for which shapes, where there are several."""
    piece = f" of {graph.piece}" if graph.piece else ""
    if len({each.shapes for each in history.graphs}) == 1:
        return piece
    return piece + " for " + ", ".join(str(list(shape)) for shape in graph.shapes)


def _changes(history: History, named: Sequence[str]) -> Iterator[str]:
    for graph in history.graphs:
        for step in graph.report.steps:
            if step.changes and (step.name in named or not named):
                title = f"{step.name}{_shapes(graph, history)}"
                yield f"\n{title}\n\n" + textwrap.indent(step.diff(), "  ")


def _graphs(history: History) -> Iterator[str]:
    for graph in history.graphs:
        yield f"\nthe graph{_shapes(graph, history)}\n\n" + textwrap.indent(to_text(graph.graph, constants=False), "  ")


def html_table(name: str, specializations: Sequence[Specialization]) -> str:
    """The same as an HTML table, what the passes did folded away below it."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in _row(each)) + "</tr>" for each in specializations
    )
    table = f"<p><b>{html.escape(name)}</b>, compiled by jitinfer</p><table><tr>{head}</tr>{body}</table>"
    return table + "".join(map(_folded_passes, specializations))


def _folded_passes(specialization: Specialization) -> str:
    history = specialization.executable.history if specialization.executable is not None else None
    text = passes_table(history) if history is not None else ""
    if not text:
        return ""
    title = html.escape(f"passes for {specialization.signature}")
    return f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"
