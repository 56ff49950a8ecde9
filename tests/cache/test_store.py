from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import threading
import time

import pytest
from cache_entries import blobs, key

from jitinfer.cache import Cache, Entry, Key, Stats


@pytest.mark.parametrize("size", [0, 1, 1000, 32_000, 33_000, 1_000_000])
def test_what_is_put_is_got(cache, size):
    content = {"cubin": os.urandom(size), "text": b"x"}
    metadata = {"seconds": 1.0, "passes": ["a"], "nested": {"b": None}}
    assert cache.get(key()) is None
    assert cache.put(key(), content, metadata)
    assert cache.get(key()) == Entry(key().document, metadata, content)
    again = Cache(cache.path)
    assert again.get(key()) == Entry(key().document, metadata, content)
    assert again.get(key(1)) is None
    assert cache.stats == Stats(hits=1, misses=1, writes=1)


def test_putting_twice_replaces(cache):
    cache.put(key(), blobs(1, 50_000), {})
    cache.put(key(), blobs(2, 60_000), {})
    assert cache.get(key()).blobs == blobs(2, 60_000)
    assert len(list(cache.path.glob("??/??/*.val"))) == 1


def test_keys_differ_by_type_and_by_kind(cache):
    documents = [{"v": 1}, {"v": 1.0}, {"v": True}, {"v": "1"}]
    keys = [Key(kind, document) for kind in ("plan", "trace") for document in documents]
    for number, one in enumerate(keys):
        cache.put(one, blobs(number), {})
    assert [cache.get(one).blobs for one in keys] == [blobs(number) for number in range(len(keys))]


@pytest.mark.parametrize("ask", ["get", "read", "verify"])
def test_an_entry_under_the_digest_of_another_key_is_not_returned(cache, caplog, ask):
    cache.put(key(1), blobs(1), {})
    cache.put(key(2), blobs(2), {})
    one, two = key(1).digest, key(2).digest
    cache.close()
    with sqlite3.connect(cache.path / "cache.db") as planter:
        planter.execute("DELETE FROM Cache WHERE key = ?", (one,))
        planter.execute("UPDATE Cache SET key = ? WHERE key = ?", (one, two))
    planter.close()
    with caplog.at_level(logging.WARNING):
        if ask == "verify":
            assert [damage.digest for damage in cache.verify()] == [one]
        else:
            assert (cache.get(key(1)) if ask == "get" else cache.read(one)) is None
    assert two in caplog.text
    assert cache.stats.set_aside == 1


def test_the_builder_runs_once(cache):
    calls = []

    def build():
        calls.append(1)
        return blobs(), {"m": 1}

    built, found = cache.get_or_build(key(), build)
    assert not found
    loaded, found = cache.get_or_build(key(), build)
    assert found
    assert loaded == built
    assert calls == [1]
    assert cache.stats == Stats(hits=1, misses=1, writes=1)


def test_an_exception_of_the_builder_is_its_callers(cache):
    def fail():
        raise ZeroDivisionError("of the builder")

    with pytest.raises(ZeroDivisionError, match="of the builder"):
        cache.get_or_build(key(), fail)
    assert cache.get_or_build(key(), lambda: (blobs(), {}))[1] is False


@pytest.mark.parametrize(("content", "metadata"), [({"a": "text"}, {}), ({}, {"a": b"x"})])
def test_what_cannot_be_stored_is_a_type_error_of_the_caller(cache, content, metadata):
    with pytest.raises(TypeError):
        cache.put(key(), content, metadata)
    assert cache.get(key()) is None


def test_eviction_keeps_the_recently_used(tmp_path):
    cache = Cache(tmp_path / "cache", size_limit=450_000)
    for number in range(4):
        cache.put(key(number), blobs(number, 100_000), {})
        time.sleep(0.002)
    assert cache.get(key(0)) is not None
    cache.put(key(4), blobs(4, 100_000), {})
    kept = {number for number in range(5) if cache.get(key(number)) is not None}
    assert kept == {0, 2, 3, 4}
    assert len(list(cache.path.glob("??/??/*.val"))) == 4


def test_what_exceeds_the_limit_alone_is_not_stored(tmp_path):
    cache = Cache(tmp_path / "cache", size_limit=100_000)
    cache.put(key(0), blobs(0), {})
    assert not cache.put(key(1), blobs(1, 100_001), {})
    assert cache.get(key(1)) is None
    assert cache.get(key(0)).blobs == blobs(0)


def test_the_listing(cache):
    before = time.time()
    cache.put(key(0), blobs(0, 50_000), {})
    cache.put(key(1), blobs(1, 100), {})
    time.sleep(0.002)
    cache.get(key(0))
    first, second = cache.keys()
    assert (first.digest, second.digest) == (key(0).digest, key(1).digest)
    assert first.kind == second.kind == "plan"
    assert 50_000 < first.size < 51_000
    assert 100 < second.size < 1_100
    assert before <= first.created < first.last_used <= time.time()


def test_find_and_read(cache):
    cache.put(key(), blobs(), {"m": 1})
    summary = cache.find(key().digest[:8])
    header, entry = cache.read(summary.digest)
    assert header.key == key()
    assert entry.blobs == blobs()
    assert cache.read("0" * 64) is None
    assert cache.stats.hits == 0


def test_verify_finds_exactly_the_damaged(cache):
    for number in range(4):
        cache.put(key(number), blobs(number, 50_000), {})
    assert cache.verify() == []
    flipped, lost, *_ = cache.path.glob("??/??/*.val")
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    lost.unlink()
    found = cache.verify()
    assert sorted(damage.reason for damage in found) == [
        "its value file is missing or unreadable",
        "the checksum of the blobs does not match",
    ]
    assert len(list(cache.keys())) == 2
    assert cache.verify() == []


def test_prune_removes_the_least_recently_used_and_what_nobody_owns(cache):
    for number in range(4):
        cache.put(key(number), blobs(number, 50_000), {})
    with cache.lock(key()):
        pass
    old, young = (cache.path / "ab" / "cd" / f"{digit * 28}.val" for digit in "01")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of a killed writer")
    young.write_bytes(b"of a writer at work")
    foreign = cache.path / "ab" / "cd" / "notes.txt"
    foreign.write_text("not ours")
    os.utime(old, (time.time() - 7200,) * 2)
    assert cache.prune(110_000) == 2
    assert [cache.get(key(number)) is not None for number in range(4)] == [False, False, True, True]
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)
    assert not list((cache.path / "locks").glob(f"{key().digest}.lock"))
    assert cache.prune() == 0


def test_clear_removes_all(cache):
    for number in range(3):
        cache.put(key(number), blobs(number, 50_000), {})
    assert cache.clear() == 3
    assert list(cache.keys()) == []
    assert list(cache.path.glob("??/??/*.val")) == []
    assert cache.clear() == 0
    assert cache.put(key(), blobs(), {})


def test_close_is_not_the_end(cache):
    cache.put(key(), blobs(), {})
    cache.close()
    cache.close()
    assert cache.get(key()).blobs == blobs()


def test_four_threads(cache):
    barrier = threading.Barrier(4)
    built, wrong = [], []

    def work(thread):
        barrier.wait()
        for number in range(8):

            def build(number=number):
                built.append(number)
                time.sleep(0.002)
                return blobs(number, 40_000), {}

            entry, _ = cache.get_or_build(key(number), build)
            cache.put(key(100 + thread, n=number), blobs(number), {})
            mine = cache.get(key(100 + thread, n=number))
            if entry.blobs != blobs(number, 40_000) or mine.blobs != blobs(number):
                wrong.append((thread, number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert sorted(built) == list(range(8))
    assert len(list(cache.keys())) == 8 + 32
    assert cache.verify() == []


def test_a_forked_child_works_on_and_leaves_the_parent_well(cache):
    cache.put(key(0), blobs(0), {})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            right = cache.get(key(0)).blobs == blobs(0) and cache.put(key(1), blobs(1), {})
            code = 0 if right else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get(key(1)).blobs == blobs(1)
    assert cache.put(key(2), blobs(2), {})
    assert cache.verify() == []


def test_forks_amid_the_work_of_other_threads(children, tmp_path):
    script = """
import threading
cache = Cache(Path(sys.argv[1]))
stop = threading.Event()
def work():
    number = 0
    while not stop.is_set():
        number += 1
        cache.put(Key("k", {"n": number % 20}), {"a": b"x" * 40000}, {})
thread = threading.Thread(target=work)
thread.start()
statuses = []
for n in range(15):
    child = os.fork()
    if child == 0:
        ok = cache.put(Key("k", {"child": n}), {"a": b"y"}, {}) and cache.get(Key("k", {"child": n})) is not None
        os._exit(0 if ok else 1)
    statuses.append(os.waitpid(child, 0)[1])
stop.set(); thread.join()
print(json.dumps([statuses, len(cache.verify()), Warnings.seen]))
"""
    assert json.loads(children.run(script, tmp_path / "cache")) == [[0] * 15, 0, []]


def test_a_folder_removed_by_somebody_is_made_again(cache, caplog):
    cache.put(key(), blobs(), {})
    shutil.rmtree(cache.path)
    assert cache.get(key()) is None or cache.get(key()).blobs == blobs()
    cache.put(key(), blobs(), {})
    assert cache.put(key(1), blobs(1), {})
    assert Cache(cache.path).get(key(1)).blobs == blobs(1)
    assert cache.problem is None
    assert caplog.records == []


def test_opening_is_quick(tmp_path):
    Cache(tmp_path / "cache").put(key(), blobs(), {})
    seconds = []
    for _ in range(5):
        cache = Cache(tmp_path / "cache")
        start = time.perf_counter()
        assert cache.get(key()) is not None
        seconds.append(time.perf_counter() - start)
        cache.close()
    assert min(seconds) < 0.03


def test_nothing_is_printed_and_folders_are_private(cache, capfd):
    cache.put(key(), blobs(), {})
    cache.get(key())
    assert cache.path.stat().st_mode & 0o777 == 0o700
    assert capfd.readouterr() == ("", "")
