"""An end to traces that do not end: `list(range(x.shape[0]))` over a dynamic dim loops for ever."""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


AGAIN = 2.0
"""Seconds after which it is raised again, where that was lost."""


class DeadlineError(Exception):
    """Raised inside a block that took too long."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises DeadlineError in this thread, at its next Python instruction, when the block has run for `seconds`."""
    thread = threading.get_ident()
    guard = threading.Lock()
    finished = threading.Event()

    def interrupt() -> None:
        pause = seconds
        while not finished.wait(pause):
            pause = AGAIN  # what is raised inside of a callback or a destructor is lost
            with guard:
                if not finished.is_set():
                    raised = ctypes.py_object(DeadlineError)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        yield
    finally:
        with guard:
            finished.set()
