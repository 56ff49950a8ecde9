"""One builds, the others wait and load: among processes, and when the builder dies."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from cache_entries import blobs, key

from jitinfer.cache import Cache

CONTENT = {"cubin": bytes(range(256)) * 2000}


def _rank(folder: str, log: str, barrier, results) -> None:
    cache = Cache(Path(folder))

    def build():
        with Path(log).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return CONTENT, {"pid": os.getpid()}

    barrier.wait(60)
    entry, found = cache.get_or_build(key(), build)
    results.put((hashlib.sha256(entry.blobs["cubin"]).hexdigest(), entry.metadata["pid"], found))


def test_eight_processes_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8), context.Queue()
    log = tmp_path / "log"
    arguments = (str(tmp_path / "cache"), str(log), barrier, results)
    ranks = [context.Process(target=_rank, args=arguments) for _ in range(8)]
    for rank in ranks:
        rank.start()
    answers = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(30)
    assert len(log.read_text().splitlines()) == 1
    expected = hashlib.sha256(CONTENT["cubin"]).hexdigest()
    assert {digest for digest, _, _ in answers} == {expected}
    assert {pid for _, pid, _ in answers} == {int(log.read_text())}
    assert sorted(found for _, _, found in answers) == [False] + [True] * 7


BUILD_FOR_EVER = """
cache = Cache(Path(sys.argv[1]))
def build():
    print("building", flush=True)
    time.sleep(60)
cache.get_or_build(Key("plan", {"number": 0, "triton": "3.6.0"}), build)
"""


def test_when_the_builder_is_killed_the_next_one_builds(cache, children):
    builder = children.start(BUILD_FOR_EVER, cache.path)
    assert builder.stdout.readline() == "building\n"
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(cache.get_or_build(key(), lambda: (blobs(), {}))))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    assert answers == []
    builder.send_signal(signal.SIGKILL)
    waiter.join(10)
    builder.wait()
    builder.stdout.close()
    ((entry, found),) = answers
    assert entry.blobs == blobs()
    assert not found


def test_a_killed_builders_forked_child_does_not_keep_the_lock(cache, children):
    script = BUILD_FOR_EVER.replace('print("building", flush=True)', 'os.fork() and print("building", flush=True)')
    builder = children.start(script.replace("sleep(60)", "sleep(4)"), cache.path)
    assert builder.stdout.readline() == "building\n"
    builder.send_signal(signal.SIGKILL)
    start = time.monotonic()
    assert cache.get_or_build(key(), lambda: (blobs(), {}))[0].blobs == blobs()
    assert time.monotonic() - start < 2
    builder.wait()
    builder.stdout.close()


def test_a_waiter_builds_when_the_builder_raises(cache):
    entered, release = threading.Event(), threading.Event()
    raised, answers = [], []

    def fail():
        entered.set()
        release.wait(10)
        raise ZeroDivisionError

    def first():
        try:
            cache.get_or_build(key(), fail)
        except ZeroDivisionError:
            raised.append(1)

    one = threading.Thread(target=first)
    one.start()
    assert entered.wait(10)
    two = threading.Thread(target=lambda: answers.append(cache.get_or_build(key(), lambda: (blobs(), {}))))
    two.start()
    two.join(0.1)
    assert answers == []
    release.set()
    one.join(10)
    two.join(10)
    assert raised == [1]
    assert answers[0][0].blobs == blobs()
    assert answers[0][1] is False


def test_builds_of_different_keys_do_not_wait_for_each_other(cache):
    def build_another():
        entry, found = cache.get_or_build(key(1), lambda: (blobs(1), {}))
        assert not found
        return entry.blobs, {}

    with cache.lock(key(2)):
        assert cache.get_or_build(key(0), build_another)[0].blobs == blobs(1)


def test_a_thread_may_nest_a_lock(cache):
    with cache.lock(key()), cache.lock(key()):
        assert cache.get_or_build(key(), lambda: (blobs(), {}))[1] is False
    child = threading.Thread(target=lambda: cache.lock(key()).__enter__())
    child.start()
    child.join(5)
    assert not child.is_alive()


def test_cleaning_leaves_the_locks_that_are_held(cache):
    with cache.lock(key(0)):
        with cache.lock(key(1)):
            pass
        cache.prune()
        names = {path.name for path in (cache.path / "locks").iterdir()}
        assert f"{key(0).digest}.lock" in names
        assert f"{key(1).digest}.lock" not in names


def test_locks_exclude_while_their_files_are_being_cleaned(cache, children):
    script = """
cache = Cache(Path(sys.argv[1]))
counter = Path(sys.argv[2])
for _ in range(40):
    with cache.lock(Key("k", {})):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
    cache.prune()
"""
    counter = cache.path.parent / "counter"
    counter.write_text("0")
    workers = [children.start(script, cache.path, counter) for _ in range(3)]
    for worker in workers:
        assert worker.wait(60) == 0
        worker.stdout.close()
    assert int(counter.read_text()) == 120


@pytest.mark.parametrize("where", ["flock", "open"])
def test_where_flock_is_impossible_it_builds_without(cache, monkeypatch, where):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock" if where == "flock" else "jitinfer.cache.lock._acquire", refuse)
    assert cache.get_or_build(key(), lambda: (blobs(), {}))[1] is False
    assert cache.get_or_build(key(), lambda: (blobs(), {}))[1] is True
    assert cache.problem is None


def test_a_busy_database_is_a_miss_and_not_a_failure(cache, monkeypatch):
    cache.put(key(), blobs(), {})
    cache.close()
    monkeypatch.setattr("jitinfer.cache.database.BUSY_SECONDS", 0.2)
    monkeypatch.setattr("jitinfer.cache.disk.BUSY_SECONDS", 0.2)
    holder = sqlite3.connect(cache.path / "cache.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    assert cache.get(key()) is None
    assert not cache.put(key(1), blobs(1), {})
    assert cache.get_or_build(key(2), lambda: (blobs(2), {}))[0].blobs == blobs(2)
    assert time.monotonic() - start < 5
    holder.execute("ROLLBACK")
    holder.close()
    assert cache.problem is None
    assert cache.get(key()).blobs == blobs()
