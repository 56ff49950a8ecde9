"""Keeping traces and dynamic Paddle apart.

While Paddle traces, the whole process is in static mode: a dynamic operation of another thread would fail. A trace is
therefore exclusive, and everything dynamic that this library runs is shared. Operations of the user's own threads,
outside compiled functions, are out of its reach.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Exclusion:
    """Many sharers or one excluder. A thread may nest both kinds; one that waits to exclude gives up its own share."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._sharers = 0
        self._excluder = 0
        self._depth = 0
        self._waiting = 0
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Take a share; `leave` gives it back. `shared` is the two of them around a block."""
        depth = getattr(self._mine, "shares", 0)
        if depth == 0 and self._excluder != threading.get_ident():
            with self._condition:
                while self._excluder or self._waiting:  # sharers that keep coming must not keep a trace waiting
                    self._condition.wait()
                self._sharers += 1
            self._mine.counted = True
        self._mine.shares = depth + 1

    def leave(self) -> None:
        """Give back what `enter` took."""
        self._mine.shares -= 1
        if self._mine.shares == 0 and getattr(self._mine, "counted", False):
            self._mine.counted = False
            with self._condition:
                self._sharers -= 1
                self._condition.notify_all()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Without this thread's share, while it waits for something that another thread may hold."""
        depth = getattr(self._mine, "shares", 0)
        counted = getattr(self._mine, "counted", False)
        self._mine.shares, self._mine.counted = 0, False
        if counted:
            with self._condition:
                self._sharers -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            if counted:
                self.enter()
            self._mine.shares = depth

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        me = threading.get_ident()
        with self.released():
            with self._condition:
                self._waiting += 1
                while self._excluder not in (0, me) or (self._sharers and self._excluder != me):
                    self._condition.wait()
                self._waiting -= 1
                self._excluder = me
                self._depth += 1
            try:
                yield
            finally:
                with self._condition:
                    self._depth -= 1
                    if self._depth == 0:
                        self._excluder = 0
                        self._condition.notify_all()


PADDLE = Exclusion()
"""The process's one Paddle."""
