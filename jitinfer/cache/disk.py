"""How entries lie in diskcache: keys are text, values are bytes, and pickle is impossible in both directions."""

from __future__ import annotations

import io
import logging
import re
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN

from jitinfer.cache.container import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("jitinfer.cache")

# Seconds that one statement waits for another process's transaction.
BUSY_SECONDS = 5.0

# The only names diskcache gives to value files. Any other comes from a damaged row, and could name a user's file.
VALUE_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """diskcache's Disk without pickle: str keys, bytes values, nothing else, either way."""

    def put(self, key: object) -> tuple[str, bool]:
        """The column form of a key. Raises TypeError unless it is a str."""
        if type(key) is not str:
            raise TypeError(f"keys of the cache are str, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """A key from its column. Raises DamagedError unless it is a plain str."""
        if type(key) is not str or not raw:
            raise DamagedError("a key that is not plain text")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, Any]:
        """Columns size, mode, filename, value of a value. Raises TypeError unless it is bytes; OSError."""
        if read or type(value) is not bytes:
            raise TypeError(f"values of the cache are bytes, not {type(value).__name__}")
        if len(value) < self.min_file_size:
            return len(value), MODE_RAW, None, sqlite3.Binary(value)
        filename, path = self.filename(key, value)
        try:
            self._write(path, io.BytesIO(value), "xb")
        except OSError:
            self.remove(filename)
            raise
        return len(value), MODE_BINARY, filename, None

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> Any:
        """A value from its columns (an open file when `read`). Raises DamagedError for what `store` never writes."""
        if mode == MODE_RAW and filename is None and type(value) is bytes:
            return io.BytesIO(value) if read else value
        if mode == MODE_BINARY and type(filename) is str and VALUE_FILE.fullmatch(filename):
            path = Path(self._directory, filename)
            return path.open("rb") if read else path.read_bytes()
        raise DamagedError(f"a row of mode {mode!r} and file {filename!r}, which this cache never writes")

    def remove(self, file_path: str) -> None:
        """Removes a value file, and nothing that is not one. Idempotent."""
        if VALUE_FILE.fullmatch(file_path):
            super().remove(file_path)


@dataclass(frozen=True)
class Row:
    """One row of the table as it was at one moment. created, used: seconds since the epoch; size: bytes."""

    rowid: int
    digest: str
    kind: str
    size: int
    created: float
    used: float
    mode: object
    filename: object

    @property
    def value_file(self) -> str | None:
        """The value file, relative to the folder; None when the value lies in the row, or the name is not ours."""
        if isinstance(self.filename, str) and VALUE_FILE.fullmatch(self.filename):
            return self.filename
        return None


_COLUMNS = "rowid, key, tag, size, store_time, access_time, mode, filename"


class EntryTable(diskcache.Cache):  # type: ignore[misc]
    """diskcache's table of entries, with reads that hold no lock and eviction one entry at a time.

    diskcache's own LRU policy takes the write lock for the whole of every read, so that eight ranks loading a large
    plan would time out on each other; and it evicts ten entries at once. Here a read is a SELECT, followed by a short
    UPDATE of the access time. Methods raise sqlite3.Error, diskcache.Timeout and OSError.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            str(folder),
            timeout=BUSY_SECONDS,
            disk=BytesDisk,
            eviction_policy="none",
            cull_limit=0,
            # Write-ahead logging and mmap would map files of the folder: one cut short by somebody kills the process
            # with SIGBUS, and neither works on network file systems.
            sqlite_journal_mode="truncate",
            sqlite_mmap_size=0,
            # A power failure may cost the table, which is then made anew; every entry is checked when it is read.
            sqlite_synchronous=0,
        )

    def find(self, digest: str) -> Row | None:
        """The row of a digest."""
        rows = self._sql(f"SELECT {_COLUMNS} FROM Cache WHERE key = ? AND raw = 1", (digest,)).fetchall()  # noqa: S608
        return _row(rows[0]) if rows else None

    def rows(self) -> Iterator[Row]:
        """All rows whose columns make sense, the most recently used first."""
        for columns in self._sql(f"SELECT {_COLUMNS} FROM Cache ORDER BY access_time DESC").fetchall():  # noqa: S608
            if (row := _row(columns)) is not None:
                yield row

    def open(self, row: Row) -> BinaryIO | None:
        """A row's value as an open file; None when it is gone or unreadable. Raises DamagedError for a row not ours."""
        columns = self.value_column(row)
        if columns is None:
            return None
        try:
            stream: BinaryIO = self.disk.fetch(row.mode, row.filename, columns[0], True)
        except OSError as error:
            logger.debug("the value of %s cannot be read: %s", row.digest, error)
            return None
        return stream

    def value_column(self, row: Row) -> tuple[object] | None:
        """What lies in the row itself, unread by any Disk; None when the row was replaced or removed meanwhile."""
        select = "SELECT value FROM Cache WHERE rowid = ? AND store_time = ?"
        columns: tuple[object] | None = self._sql(select, (row.rowid, row.created)).fetchone()
        return columns

    def touch_row(self, row: Row) -> None:
        """Marks a row as used now."""
        self._sql("UPDATE Cache SET access_time = ? WHERE rowid = ?", (time.time(), row.rowid))

    def remove_row(self, row: Row) -> bool:
        """Removes exactly this row and its file; False when somebody has replaced or removed it meanwhile."""
        removed = self._sql("DELETE FROM Cache WHERE rowid = ? AND store_time = ?", (row.rowid, row.created)).rowcount
        if removed and row.value_file is not None:
            self.disk.remove(row.value_file)
        return bool(removed)

    def total_size(self) -> int:
        """Bytes of all values."""
        ((total,),) = self._sql("SELECT COALESCE(SUM(size), 0) FROM Cache").fetchall()
        return int(total)

    def evict(self, size_limit: int) -> int:
        """Removes least recently used entries until the values fit into `size_limit` bytes; how many went."""
        excess = self.total_size() - size_limit
        if excess <= 0:
            return 0
        count = 0
        for row in reversed(list(self.rows())):
            if excess <= 0:
                break
            if self.remove_row(row):
                count += 1
                excess -= row.size
        return count

    def integrity(self) -> str | None:
        """What sqlite finds wrong with its own file; None when nothing."""
        lines = [str(line) for (line,) in self._sql("PRAGMA integrity_check(3)").fetchall()]
        return None if lines == ["ok"] else "; ".join(lines)


def _row(columns: tuple[Any, ...]) -> Row | None:
    rowid, digest, kind, size, created, used, mode, filename = columns
    if type(rowid) is not int or type(size) is not int or type(digest) is not str:
        return None
    if type(created) is not float or type(used) is not float:
        return None
    return Row(rowid, digest, kind if type(kind) is str else "?", size, created, used, mode, filename)
