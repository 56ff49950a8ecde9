"""Showing that something goes on, where a person is watching: a terminal or a notebook. Elsewhere nothing is shown."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

_PATIENCE = 1.0
"""Seconds after which something counts as long."""


_shown: ContextVar[Progress | None] = ContextVar("_shown", default=None)


def someone_is_watching() -> bool:
    """Whether standard error is a terminal, or we run in a notebook."""
    kernel = sys.modules.get("ipykernel")
    return kernel is not None or bool(getattr(sys.stderr, "isatty", lambda: False)())


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show `what` with a clock on standard error while the block runs, from its second second on.

    With a `total`, a bar and the time left as well: the block calls what it is given once for each of so many steps.
    Inside another such block, it is a line more of the same display.
    """
    if not someone_is_watching():
        yield lambda: None
        return
    outer = _shown.get()
    if outer is not None:
        yield from _task(outer, what, total)
        return
    display = _display()
    timer = threading.Timer(_PATIENCE, display.start)
    timer.daemon = True
    timer.start()
    token = _shown.set(display)
    try:
        yield from _task(display, what, total)
    finally:
        _shown.reset(token)
        timer.cancel()
        timer.join()
        display.stop()


def _task(display: Progress, what: str, total: int | None) -> Iterator[Callable[[], None]]:
    task = display.add_task(what, total=total)
    try:
        yield lambda: display.advance(task)
    finally:
        display.remove_task(task)


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    console = Console(stderr=True, force_jupyter=False)
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True)
