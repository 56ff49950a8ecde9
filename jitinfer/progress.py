"""Showing that something goes on, where a person is watching: a terminal or a notebook. Elsewhere nothing is shown."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 1.0
"""Seconds after which something counts as long."""


def someone_is_watching() -> bool:
    """Whether standard error is a terminal, or we run in a notebook."""
    kernel = sys.modules.get("ipykernel")
    return kernel is not None or bool(getattr(sys.stderr, "isatty", lambda: False)())


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show `what` with a clock on standard error while the block runs, from its second second on."""
    if not someone_is_watching():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    display = Progress(*columns, console=Console(stderr=True, force_jupyter=False), transient=True)
    display.add_task(what, total=None)
    timer = threading.Timer(_PATIENCE, display.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        display.stop()
