"""An end to traces that do not end: `list(range(x.shape[0]))` over a dynamic dim loops for ever."""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class DeadlineError(Exception):
    """Raised inside a block that took too long."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises DeadlineError in this thread, at its next Python instruction, when the block has run for `seconds`."""
    thread = threading.get_ident()
    guard = threading.Lock()
    done = False

    def interrupt() -> None:
        with guard:
            if not done:
                raised = ctypes.py_object(DeadlineError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with guard:
            done = True
        timer.cancel()
