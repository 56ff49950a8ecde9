from __future__ import annotations

import logging
import pickle
import sqlite3

import diskcache
import pytest
from cache_entries import blobs, key

from jitinfer.cache import Cache
from jitinfer.cache.container import DamagedError
from jitinfer.cache.disk import BytesDisk


class Creates:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("value", [None, 1, 1.5, True, "text", [1], {"a": 1}, object(), bytearray(b"x")])
def test_only_bytes_can_be_stored(tmp_path, value):
    with diskcache.Cache(str(tmp_path), disk=BytesDisk) as table:
        with pytest.raises(TypeError, match="values of the cache are bytes"):
            table.set("key", value)
        assert len(table) == 0


@pytest.mark.parametrize("name", [None, 1, 1.5, b"bytes", ("a", 1)])
def test_only_text_can_be_a_key(tmp_path, name):
    with (
        diskcache.Cache(str(tmp_path), disk=BytesDisk) as table,
        pytest.raises(TypeError, match="keys of the cache are str"),
    ):
        table.set(name, b"value")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_planted_pickle_is_never_executed(cache, tmp_path, caplog, in_file):
    bomb = pickle.dumps(Creates(tmp_path / "executed"))
    cache.put(key(), blobs(), {})
    cache.close()
    columns = "mode = 4, filename = ?, value = ?"
    if in_file:
        name = "ab/cd/" + "0" * 28 + ".val"
        path = cache.path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bomb)
    with sqlite3.connect(cache.path / "cache.db") as planter:
        planter.execute(f"UPDATE Cache SET {columns}", (name, None) if in_file else (None, bomb))
    planter.close()

    with caplog.at_level(logging.WARNING, "jitinfer.cache"):
        assert cache.get(key()) is None
    assert not (tmp_path / "executed").exists()
    assert "mode 4" in caplog.text
    assert cache.stats.set_aside == 1
    assert [path.read_bytes() for path in (cache.path / "damaged").iterdir()] == [bomb]
    assert cache.put(key(), blobs(), {})
    assert cache.get(key()).blobs == blobs()
    # The bomb is a real one.
    pickle.loads(bomb).close()
    assert (tmp_path / "executed").exists()


def test_a_planted_pickle_as_a_key_is_never_executed(cache, tmp_path):
    bomb = pickle.dumps(Creates(tmp_path / "executed"))
    cache.put(key(), blobs(), {})
    with sqlite3.connect(cache.path / "cache.db") as planter:
        planter.execute("UPDATE Cache SET key = ?, raw = 0", (bomb,))
    planter.close()
    assert cache.get(key()) is None
    assert list(cache.keys()) == []
    assert cache.verify() == []
    assert cache.clear() == 1
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("filename", ["../../victim", "/etc/passwd", "ab/cd/../../../victim", "ab/cd/x.val"])
def test_a_planted_file_name_is_neither_read_nor_removed(cache, tmp_path, filename):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    cache.put(key(), blobs(), {})
    with sqlite3.connect(cache.path / "cache.db") as planter:
        planter.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (filename,))
    planter.close()
    assert cache.get(key()) is None
    assert cache.stats.set_aside == 1
    assert cache.put(key(), blobs(), {})
    assert cache.clear() == 1
    assert victim.read_bytes() == b"precious"


def test_the_disk_refuses_pickle_columns_by_itself(tmp_path):
    disk = BytesDisk(str(tmp_path))
    with pytest.raises(DamagedError):
        disk.fetch(4, None, pickle.dumps(1), False)
    with pytest.raises(DamagedError):
        disk.get(pickle.dumps(1), False)


def test_damaged_bytes_are_kept_but_only_a_few(tmp_path):
    cache = Cache(tmp_path / "cache")
    for number in range(9):
        cache.put(key(number), blobs(number, 50_000), {})
    for path in cache.path.glob("??/??/*.val"):
        path.write_bytes(b"damaged")
    assert all(cache.get(key(number)) is None for number in range(9))
    assert len(list((cache.path / "damaged").iterdir())) == 4
    assert list(cache.path.glob("??/??/*.val")) == []
