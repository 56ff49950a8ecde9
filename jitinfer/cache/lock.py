"""One builder per key: among the threads of a process, and among processes.

A key's lock is an flock on a small file. The kernel releases it when its holder ends, however it ends, so a killed
builder never leaves the others waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("jitinfer.cache")

_POLL_SECONDS = 0.002

# Descriptors of the locks that this process holds. A forked child inherits them, and would keep a lock alive
# after its parent was killed: it closes them at once (closing a copy does not release the parent's lock).
_held: set[int] = set()


@contextlib.contextmanager
def file_lock(path: Path, timeout: float | None = None) -> Iterator[bool]:
    """Holds an exclusive flock on `path`, creating the file (mode 0600); waits up to `timeout` seconds, or for ever.

    Yields whether the lock is held: False when the time is up, or when no file can be made or locked there. Never
    raises by itself.
    """
    try:
        descriptor = _acquire(path, timeout)
    except OSError as error:
        logger.debug("no lock on %s: %s", path, error)
        descriptor = None
    if descriptor is None:
        yield False
        return
    _held.add(descriptor)
    try:
        yield True
    finally:
        if descriptor in _held:  # not so in a child that was forked inside
            _held.remove(descriptor)
            os.close(descriptor)


def _acquire(path: Path, timeout: float | None) -> int | None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _wait(descriptor, path, deadline):
                os.close(descriptor)
                return None
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The file was cleaned away between opening and locking: others lock a new one by now.
        os.close(descriptor)


def _wait(descriptor: int, path: Path, deadline: float | None) -> bool:
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if deadline is None:
                logger.info("waiting for another process that holds %s", path)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                return True
        if waiting and time.monotonic() > deadline:
            return False
        waiting = True
        time.sleep(_POLL_SECONDS)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class _Holder:
    """The threads of this process at one key: `users` hold or wait, `depth` counts the holder's nested entries."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.users = 0
        self.depth = 0


class KeyLocks:
    """The locks of all keys of one cache folder; a thread may take the same one again inside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._holders: dict[str, _Holder] = {}
        _all_locks.add(self)

    def forget_threads(self) -> None:
        """Forgets who held what: in a forked child, the parent's threads do not exist."""
        self._guard = threading.Lock()
        self._holders = {}

    @contextlib.contextmanager
    def hold(self, digest: str) -> Iterator[None]:
        """Waits for the key's lock, then holds it. Where flock is impossible, holds it among the threads only."""
        holders = self._holders
        with self._guard:
            holder = holders.setdefault(digest, _Holder())
            holder.users += 1
        try:
            with holder.mutex:
                holder.depth += 1
                try:
                    with self._file(digest) if holder.depth == 1 else contextlib.nullcontext():
                        yield
                finally:
                    holder.depth -= 1
        finally:
            with self._guard:
                holder.users -= 1
                if holder.users == 0:
                    holders.pop(digest, None)

    def _file(self, digest: str) -> contextlib.AbstractContextManager[bool]:
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        return file_lock(self._folder / f"{digest}.lock")

    def clean(self) -> None:
        """Removes the lock files of keys that nobody holds. Idempotent; never raises."""
        with contextlib.suppress(OSError):
            for path in list(self._folder.glob("*.lock")):
                # Unlinked while held, so that whoever opened it meanwhile notices and opens the new one.
                with file_lock(path, timeout=0) as held:
                    if held:
                        path.unlink(missing_ok=True)


_all_locks: weakref.WeakSet[KeyLocks] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()
    for locks in list(_all_locks):
        locks.forget_threads()


os.register_at_fork(after_in_child=_after_fork_in_child)
