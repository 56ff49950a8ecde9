"""The cache: a key and bytes -> the bytes again, or nothing; never something else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from jitinfer.cache.container import DamagedError, Entry, Header, decode, encode, read_header
from jitinfer.cache.damaged import DamagedFolder
from jitinfer.cache.database import Database
from jitinfer.cache.explain import Explanation, explain
from jitinfer.cache.key import JSON, Key
from jitinfer.cache.lock import KeyLocks
from jitinfer.cache.summary import Damage, Stats, Summary
from jitinfer.errors import CacheError

if TYPE_CHECKING:
    import os

    from jitinfer.cache.disk import EntryTable, Row

logger = logging.getLogger("jitinfer.cache")

Built = tuple[Mapping[str, bytes], Mapping[str, JSON]]


class Cache:
    """Entries in one folder, shared by any number of threads, processes and forked children.

    Never raises for a folder, disk or file that fails: the first such failure is logged once as a warning, `problem`
    says why, and from then on every get misses and every put is dropped. A damaged entry is moved to the subfolder
    damaged/, logged, and is a miss.
    """

    def __init__(self, path: str | os.PathLike[str], size_limit: int = 20 * 2**30) -> None:
        self.path = Path(path)
        self.size_limit = size_limit
        self._database = Database(self.path)
        self._damaged = DamagedFolder(self.path / "damaged")
        self._locks = KeyLocks(self.path / "locks")
        self._stats = Stats()

    @property
    def problem(self) -> str | None:
        """Why nothing is cached, and what to do; None while all is well."""
        return self._database.problem

    @property
    def stats(self) -> Stats:
        """Counts of this object, not of the folder. A get_or_build counts as one hit or one miss."""
        return self._stats

    def get(self, key: Key) -> Entry | None:
        """The entry exactly as it was put, or None. Never raises."""
        entry = self._load(key)
        self._count(hits=int(entry is not None), misses=int(entry is None))
        return entry

    def put(self, key: Key, blobs: Mapping[str, bytes], metadata: Mapping[str, JSON]) -> bool:
        """Stores an entry, replacing one of the same key; whether it is stored now. Idempotent.

        Raises TypeError or ValueError for blobs that are not bytes and metadata that is not JSON; nothing else.
        """
        value = encode(key, blobs, metadata, time.time())
        if len(value) > self.size_limit:
            logger.warning("%s of %d bytes is not kept: the cache's limit is %d", key.kind, len(value), self.size_limit)
            return False

        def store(table: EntryTable) -> bool:
            table.set(key.digest, value, tag=key.kind)
            table.evict(self.size_limit)
            return True

        stored = self._database.run(store, False)
        self._count(writes=int(stored))
        return stored

    def get_or_build(self, key: Key, build: Callable[[], Built]) -> tuple[Entry, bool]:
        """The entry, and whether it was found (True) or built by this call (False).

        Of all threads and processes that ask at once, one builds; the others wait and load. When the builder dies or
        raises, the next one builds; its exception goes to its own caller only. Where the cache cannot be used, builds.
        Raises what `build` raises, and what `put` does for what `build` returns.
        """
        entry = self._load(key)
        if entry is None and self.problem is None:
            with self.lock(key):
                entry = self._load(key)
                if entry is None:
                    return self._build(key, build), False
        elif entry is None:
            return self._build(key, build), False
        self._count(hits=1)
        return entry, True

    def lock(self, key: Key) -> AbstractContextManager[None]:
        """Held by one thread of one process at a time; the same thread may nest it. Never raises by itself."""
        return contextlib.nullcontext() if self.problem is not None else self._locks.hold(key.digest)

    def keys(self) -> Iterator[Summary]:
        """All entries, the most recently used first."""
        for row in self._rows():
            yield Summary(row.digest, row.kind, row.size, row.created, row.used)

    def find(self, prefix: str) -> Summary:
        """The one entry whose digest begins so. Raises CacheError for none or several."""
        found = [summary for summary in self.keys() if summary.digest.startswith(prefix)]
        if len(found) != 1:
            count = "no entry" if not found else f"{len(found)} entries"
            raise CacheError(f"{count} in {self.path} with a digest of {prefix!r}...; `jitinfer cache ls` lists them")
        return found[0]

    def read(self, digest: str) -> tuple[Header, Entry] | None:
        """Any entry by its whole digest, without counting as a use; None when it is not there or damaged."""
        row = self._database.run(lambda table: table.find(digest), None)
        return None if row is None else self._read(row)

    def verify(self) -> list[Damage]:
        """Reads and checks every entry and the database, sets the damaged aside, and says what was wrong."""
        found: list[Damage] = []
        fault = self._database.run(lambda table: table.integrity(), None)
        if fault is not None:
            found.append(Damage("", "database", fault))
            with contextlib.suppress(OSError):
                self._database.replace(fault)
        for row in self._rows():
            reason = self._damage(row)
            if reason is not None and self._set_aside(row, reason):
                found.append(Damage(row.digest, row.kind, reason))
        return found

    def prune(self, size_limit: int | None = None) -> int:
        """Removes least recently used entries down to the limit (bytes), and files without an owner; how many went."""
        limit = self.size_limit if size_limit is None else size_limit

        def shrink(table: EntryTable) -> tuple[int, set[str]]:
            count = table.evict(limit)
            return count, {row.value_file for row in table.rows() if row.value_file is not None}

        result = self._database.run(shrink, None)
        if result is None:
            return 0
        count, known = result
        self._database.remove_orphans(known)
        self._locks.clean()
        return count

    def clear(self) -> int:
        """Removes every entry and everything set aside; how many entries went. Idempotent; works on a full disk too."""
        count = self._database.run(lambda table: int(table.clear()), None)
        if count is None:
            with contextlib.suppress(OSError):
                count = self._database.discard()
        else:
            self._database.remove_orphans(set(), age=0.0)
        self._damaged.clear()
        self._locks.clean()
        return count or 0

    def close(self) -> None:
        """Closes the database of this thread; the next use opens it again. Idempotent."""
        self._database.close()

    def explain(self, key: Key | str) -> Explanation:
        """What a key, or the entry whose digest begins so, does not share with the nearest other entry of its kind.

        Raises CacheError only for a str that names no entry, several, or a damaged one.
        """
        if isinstance(key, str):
            summary = self.find(key)
            content = self.read(summary.digest)
            if content is None:
                raise CacheError(f"the entry {summary.digest} of {self.path} is damaged; it has been set aside")
            key = content[0].key
        rows = [row for row in self._rows() if row.kind == key.kind]
        found = any(row.digest == key.digest for row in rows)
        return explain(key, found, (other for row in rows if (other := self._key(row)) is not None))

    def _rows(self) -> list[Row]:
        return self._database.run(lambda table: list(table.rows()), [])

    def _load(self, key: Key) -> Entry | None:
        row = self._database.run(lambda table: table.find(key.digest), None)
        content = None if row is None else self._read(row, key)
        if row is None or content is None:
            return None
        self._touch(row)
        return content[1]

    def _read(self, row: Row, key: Key | None = None) -> tuple[Header, Entry] | None:
        try:
            return self._decode(row, key)
        except DamagedError as damage:
            self._set_aside(row, str(damage))
            return None

    def _decode(self, row: Row, key: Key | None = None) -> tuple[Header, Entry] | None:
        """None when the value is gone. Raises DamagedError, also when it is a good entry of another key."""
        stream = self._database.run(lambda table: table.open(row), None)
        if stream is None:
            return None
        try:
            with stream:
                data = stream.read()
        except OSError as error:
            raise DamagedError(f"unreadable: {error}") from error
        header, entry = decode(data)
        if header.key.digest != row.digest or (key is not None and header.key.text != key.text):
            raise DamagedError(f"it holds the entry of another key, {header.key.digest}")
        return header, entry

    def _damage(self, row: Row) -> str | None:
        try:
            return "its value file is missing or unreadable" if self._decode(row) is None else None
        except DamagedError as damage:
            return str(damage)

    def _key(self, row: Row) -> Key | None:
        try:
            stream = self._database.run(lambda table: table.open(row), None)
            if stream is None:
                return None
            with stream:
                return read_header(stream).key
        except (DamagedError, OSError):
            return None

    def _touch(self, row: Row) -> None:
        def touch(table: EntryTable) -> None:
            # The entry has been read: a disk without room for this mark is no reason to give up the cache.
            with contextlib.suppress(sqlite3.Error):
                table.touch_row(row)

        self._database.run(touch, None)

    def _set_aside(self, row: Row, reason: str) -> bool:
        def remove(table: EntryTable) -> bool:
            column = table.value_column(row)
            if row.value_file is not None:
                self._damaged.keep_file(self.path / row.value_file, row.digest)
            elif column is not None and isinstance(column[0], bytes):
                self._damaged.keep_bytes(column[0], row.digest)
            return table.remove_row(row)

        removed = self._database.run(remove, False)
        if removed:
            logger.warning("the entry %s %s is set aside: %s", row.kind, row.digest, reason)
            self._count(set_aside=1)
        return removed

    def _build(self, key: Key, build: Callable[[], Built]) -> Entry:
        self._count(misses=1)
        blobs, metadata = build()
        self.put(key, blobs, metadata)
        return Entry(key_document=key.document, metadata=dict(metadata), blobs=dict(blobs))

    def _count(self, **changes: int) -> None:
        with self._database.mutex:
            new = {name: getattr(self._stats, name) + change for name, change in changes.items()}
            self._stats = dataclasses.replace(self._stats, **new)
