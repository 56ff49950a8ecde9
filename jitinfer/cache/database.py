"""The sqlite file of a cache folder: opened at first use, replaced when corrupt, given up when the folder fails."""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import os
import sqlite3
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import diskcache

from jitinfer.cache.damaged import DamagedFolder
from jitinfer.cache.disk import BUSY_SECONDS, VALUE_FILE, EntryTable
from jitinfer.cache.folder import folder_problem, make_folder
from jitinfer.cache.lock import file_lock

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("jitinfer.cache")

T = TypeVar("T")

# Value files without a row are left by killed writers. A younger one may be of a writer that is about to add the row.
ORPHAN_SECONDS = 3600.0

_FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)
# What diskcache raises while it opens a file whose Settings table holds nonsense.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Fault(enum.Enum):
    BUSY = "another process holds the database"
    FOLDER = "the folder or its disk fails"
    CORRUPT = "the database is corrupt"


_BUSY_MESSAGES = ("locked",)
_FOLDER_MESSAGES = ("readonly", "unable to open", "disk I/O", "is full", "access permission")


def _fault(error: Exception) -> _Fault:
    # By message, since Python 3.10 does not tell sqlite's error code.
    text = str(error)
    if text.startswith("cannot rollback") and isinstance(error.__context__, sqlite3.Error):
        # A full disk rolls back by itself; diskcache's own ROLLBACK then fails and hides the cause.
        return _fault(error.__context__)
    if isinstance(error, diskcache.Timeout):
        return _Fault.BUSY
    if isinstance(error, OSError):
        return _Fault.FOLDER
    if isinstance(error, sqlite3.OperationalError):
        if any(message in text for message in _BUSY_MESSAGES):
            return _Fault.BUSY
        if any(message in text for message in _FOLDER_MESSAGES):
            return _Fault.FOLDER
    return _Fault.CORRUPT


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
# Connections that were open when this process was forked. sqlite forbids using or even closing them here.
_inherited: list[EntryTable] = []


class Database:
    """Runs operations on the table of entries, so that none of them ever fails for its caller.

    problem: why nothing is stored (logged once as a warning); None while all is well. mutex: held during every
    operation and never while forking, so that a child inherits no half-done work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None
        self._file = folder / "cache.db"
        self._damaged = DamagedFolder(folder / "damaged")
        self._table: EntryTable | None = None
        self._opened_file: os.stat_result | None = None
        self.mutex = threading.RLock()
        try:
            self._prepare()
        except OSError as error:
            self._give_up(_reason(error))
        _databases.add(self)

    def run(self, operation: Callable[[EntryTable], T], default: T) -> T:
        """What the operation returns, or `default` where the table cannot be had. Never raises by itself.

        A corrupt file is set aside and the operation runs on a new one; where the file was removed or replaced by
        somebody else, on what is there now. So an operation has to be safe to run twice.
        """
        with self.mutex:
            for _ in range(3):
                if self.problem is not None:
                    return default
                try:
                    table = self._open()
                    return default if table is None else operation(table)
                except _FAILURES as error:
                    if not self._recover(error):
                        return default
            return default

    def close(self) -> None:
        """Closes the connection; the next operation opens it again. Idempotent."""
        with self.mutex:
            if self._table is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._table.close()
            self._table = None

    def replace(self, reason: str) -> None:
        """Sets the database aside and starts with an empty one, unless another process has done so already.

        Raises OSError when it can be neither moved nor removed.
        """
        with self.mutex:
            seen = self._opened_file
            self.close()
            with file_lock(self.folder / "locks" / "database.lock", BUSY_SECONDS) as held:
                now = _stat(self._file)
                if now is None or (seen is not None and not os.path.samestat(seen, now)):
                    return
                if not held:
                    raise OSError(errno.ENOLCK, "is corrupt, and no lock can be had; remove it", str(self._file))
                logger.warning("the cache database %s is set aside and begun anew: %s", self._file, reason)
                self._remove_journal()
                self._damaged.keep_file(self._file, "cache.db")
                self._file.unlink(missing_ok=True)
            self.remove_orphans(set())

    def discard(self) -> int:
        """Removes the database and all value files without opening it, which works on a full disk too.

        Returns how many value files went. Raises OSError.
        """
        with self.mutex:
            if folder_problem(self.folder) is not None:
                return 0
            self.close()
            with file_lock(self.folder / "locks" / "database.lock", BUSY_SECONDS):
                self._remove_journal()
                self._file.unlink(missing_ok=True)
            return self.remove_orphans(set(), age=0.0)

    def remove_orphans(self, known: set[str], age: float = ORPHAN_SECONDS) -> int:
        """Removes value files that are not in `known` and older than `age` seconds; how many. Never raises."""
        count = 0
        with contextlib.suppress(OSError):
            for path in list(self.folder.glob("??/??/*.val")):
                name = path.relative_to(self.folder).as_posix()
                if not VALUE_FILE.fullmatch(name) or name in known:
                    continue
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime >= age:
                        path.unlink()
                        count += 1
                        os.removedirs(path.parent)
        return count

    def _remove_journal(self) -> None:
        # Left behind, it would be played into the new file.
        for suffix in ("-journal", "-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)

    def _prepare(self) -> None:
        problem = folder_problem(self.folder)
        if problem is None:
            make_folder(self.folder)
            problem = folder_problem(self.folder)
        if problem is None:
            (self.folder / "locks").mkdir(mode=0o700, exist_ok=True)
        else:
            self._give_up(problem)

    def _open(self) -> EntryTable | None:
        if self._table is None:
            self._prepare()
            if self.problem is not None:
                return None
            with file_lock(self.folder / "locks" / "database.lock", BUSY_SECONDS):
                self._opened_file = _stat(self._file)
                # diskcache waits a minute per statement while it opens; find out beforehand, in seconds.
                with contextlib.closing(sqlite3.connect(self._file, BUSY_SECONDS, isolation_level=None)) as probe:
                    probe.execute("BEGIN IMMEDIATE")
                    probe.execute("ROLLBACK")
                self._opened_file = _stat(self._file)
                try:
                    self._table = _open_table(self.folder)
                except _NONSENSE as error:
                    raise sqlite3.DatabaseError(f"nonsense in its settings: {error!r}") from error
        return self._table

    def _recover(self, error: Exception) -> bool:
        """Whether it is worth trying again."""
        fault = _fault(error)
        now = _stat(self._file)
        moved = now is None or self._opened_file is None or not os.path.samestat(now, self._opened_file)
        if self._table is not None and fault is not _Fault.BUSY and moved:
            self.close()
            return True
        if fault is _Fault.CORRUPT:
            try:
                self.replace(str(error))
            except OSError as failure:
                self._give_up(_reason(failure))
                return False
            return True
        # A transaction may be open still: without its connection it is rolled back.
        self.close()
        if fault is _Fault.FOLDER:
            self._give_up(_reason(error))
        else:
            logger.debug("the cache is busy: %s", error)
        return False

    def _give_up(self, problem: str) -> None:
        if self.problem is None:
            self.problem = problem
            logger.warning("nothing is cached: %s", problem)

    def _before_fork(self) -> None:
        # A connection that is forked in the middle of a transaction would be rolled back by the child.
        self.mutex.acquire()

    def _after_fork_in_parent(self) -> None:
        self.mutex.release()

    def _after_fork_in_child(self) -> None:
        self.mutex = threading.RLock()
        if self._table is not None:
            _inherited.append(self._table)
            self._table = None


def _open_table(folder: Path) -> EntryTable:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return EntryTable(folder)
        except sqlite3.OperationalError as error:  # noqa: PERF203
            # Not all of diskcache's statements wait for a lock while it opens.
            if _fault(error) is not _Fault.BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if str(error).startswith("cannot rollback") and error.__context__ is not None:
        return str(error.__context__)
    return str(error) or type(error).__name__


_forking: list[Database] = []


def _before_fork() -> None:
    _forking[:] = list(_databases)
    for database in _forking:
        database._before_fork()


def _after_fork_in_parent() -> None:
    for database in _forking:
        database._after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for database in _forking:
        database._after_fork_in_child()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
