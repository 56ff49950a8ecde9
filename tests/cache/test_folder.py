"""Folders that cannot or must not be used: one warning, no caching, right results, no exception."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess

import pytest
from cache_entries import blobs, key

from jitinfer.cache import Cache

# Everything that may be asked of an unusable cache; prints its problem and the warnings.
USE = """
def use(cache, size=50000):
    k = Key("k", {"n": 1})
    content = {"a": bytes(range(250)) * (size // 250)}
    for _ in range(3):
        entry, _ = cache.get_or_build(k, lambda: (content, {"m": 1}))
        assert entry.blobs == content and entry.metadata == {"m": 1}
        got = cache.get(k)
        assert got is None or got.blobs == content
        cache.put(k, content, {"m": 1})
        with cache.lock(k):
            pass
        list(cache.keys()), cache.verify(), cache.prune(), str(cache.explain(k))
    cache.close()
    print(json.dumps([cache.problem, Warnings.seen, cache.stats.writes]))
"""


def check_unusable(cache: Cache, caplog, reason: str) -> None:
    with caplog.at_level(logging.WARNING, "jitinfer.cache"):
        assert not cache.put(key(), blobs(), {})
        assert cache.get(key()) is None
        entry, found = cache.get_or_build(key(), lambda: (blobs(), {"m": 1}))
        assert (entry.blobs, entry.metadata, found) == (blobs(), {"m": 1}, False)
        assert list(cache.keys()) == []
        assert (cache.verify(), cache.prune(), cache.clear()) == ([], 0, 0)
    assert reason in cache.problem
    assert [record.getMessage() for record in caplog.records] == [f"nothing is cached: {cache.problem}"]


def test_a_file_in_place_of_the_folder(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    check_unusable(Cache(tmp_path / "cache"), caplog, "is not a folder")


def test_a_file_in_place_of_a_parent(tmp_path, caplog):
    (tmp_path / "file").write_text("a file")
    check_unusable(Cache(tmp_path / "file" / "cache"), caplog, "is a file, not a folder")


@pytest.mark.parametrize("name", ["cache.db", "locks"])
def test_something_else_in_place_of_our_files(tmp_path, caplog, name):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    if name == "locks":
        (folder / name).write_text("a file")
    else:
        (folder / name).mkdir()
    check_unusable(Cache(folder), caplog, name if name == "locks" else "unable to open")


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to(tmp_path, caplog, mode):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    check_unusable(Cache(tmp_path / "cache"), caplog, f"chmod go-w {tmp_path / 'cache'}")


def test_folders_are_made_private_with_their_parents(tmp_path):
    cache = Cache(tmp_path / "a" / "b" / "cache")
    assert cache.put(key(), blobs(), {})
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "b", cache.path)] == [0o700] * 3


def test_a_folder_of_another_user_is_refused(children, open_folder, other_user):
    folder = open_folder / "cache"
    Cache(folder).put(key(), blobs(), {})
    os.chown(folder, 1234, 1234)
    folder.chmod(0o755)
    script = USE + "os.setuid(int(sys.argv[2]))\nuse(Cache(Path(sys.argv[1])))"
    problem, warnings, writes = json.loads(children.run(script, folder, other_user))
    assert f"{folder} belongs to uid 1234, and this process runs as" in problem
    assert f"chown -R {other_user} {folder}" in problem
    assert warnings == [f"nothing is cached: {problem}"]
    assert writes == 0


def test_root_refuses_the_folder_of_a_user_too(tmp_path, caplog, other_user):
    (tmp_path / "cache").mkdir(mode=0o700)
    os.chown(tmp_path / "cache", other_user, other_user)
    check_unusable(Cache(tmp_path / "cache"), caplog, f"(uid {other_user})")


def test_a_read_only_folder(children, open_folder, other_user):
    folder = open_folder / "cache"
    filled = Cache(folder)
    filled.put(key(), blobs(), {})
    filled.close()
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, other_user, other_user)
        path.chmod(0o500 if path.is_dir() else 0o400)
    script = USE + "os.setuid(int(sys.argv[2]))\nuse(Cache(Path(sys.argv[1])))"
    problem, warnings, writes = json.loads(children.run(script, folder, other_user))
    assert "readonly" in problem or "Permission denied" in problem
    assert warnings == [f"nothing is cached: {problem}"]
    assert writes == 0


def test_a_parent_that_cannot_be_written(children, open_folder, other_user):
    script = USE + "os.setuid(int(sys.argv[2]))\nuse(Cache(Path(sys.argv[1])))"
    problem, warnings, writes = json.loads(children.run(script, open_folder / "a" / "cache", other_user))
    assert "Permission denied" in problem
    assert (len(warnings), writes) == (1, 0)


@pytest.mark.parametrize("size", [2_000, 20_000, 200_000])
def test_a_file_size_limit(children, tmp_path, size):
    # An entry of 20 kB lies in the database, one of 200 kB in a file: sqlite and Python fail, in turn.
    script = (
        USE
        + """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
Cache(Path(sys.argv[1])).put(Key("k", {"n": 0}), {"a": b"1"}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))
use(Cache(Path(sys.argv[1])), int(sys.argv[2]))
"""
    )
    problem, warnings, _ = json.loads(children.run(script, tmp_path / "cache", size))
    if size > 2_000:
        assert problem is not None
        assert warnings == [f"nothing is cached: {problem}"]
    assert Cache(tmp_path / "cache").get(key()) is None
    assert Cache(tmp_path / "cache").verify() == []


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not possible here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("size", [20_000, 100_000])
def test_a_full_disk(small_disk, caplog, size):
    cache = Cache(small_disk / "cache")
    with caplog.at_level(logging.WARNING, "jitinfer.cache"):
        for number in range(30):
            entry, found = cache.get_or_build(key(number), lambda number=number: (blobs(number, size), {}))
            assert (entry.blobs, found) == (blobs(number, size), False)
    assert len(caplog.records) == 1
    assert "full" in cache.problem or "No space left" in cache.problem
    again = Cache(small_disk / "cache")
    for number in range(30):
        entry = again.get(key(number))
        assert entry is None or entry.blobs == blobs(number, size)
    # What is full has to be emptied, and works again then.
    again.clear()
    # A full disk is not a corrupt database: nothing is set aside.
    assert not any("set aside" in record.getMessage() for record in caplog.records)
    emptied = Cache(small_disk / "cache")
    assert list(emptied.keys()) == []
    assert list(emptied.path.glob("??/??/*.val")) == []
    assert emptied.put(key(), blobs(), {})
    assert not list((small_disk / "cache").glob("damaged/*"))


def test_a_disk_that_becomes_read_only(small_disk, caplog):
    cache = Cache(small_disk / "cache")
    cache.put(key(), blobs(), {})
    cache.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=False, capture_output=True)
    if os.access(small_disk, os.W_OK):
        pytest.skip("remounting read-only is not possible here")
    with caplog.at_level(logging.WARNING, "jitinfer.cache"):
        assert cache.get(key()) is None
        for number in range(3):
            assert cache.get_or_build(key(9), lambda number=number: (blobs(number), {}))[0].blobs == blobs(number)
    assert [record.getMessage() for record in caplog.records] == [f"nothing is cached: {cache.problem}"]


def test_two_users_can_share_the_parent(children, open_folder, other_user):
    # The way of TRITON_KERNEL_CACHE_DIR=/tmp/shared: the first one's folder is private, the second one is told.
    open_folder.chmod(0o1777)
    script = USE + "os.setuid(int(sys.argv[2]))\nuse(Cache(cache_location(sys.argv[1])))"
    assert Cache(open_folder / "jitinfer").put(key(), blobs(), {})
    problem, warnings, _ = json.loads(children.run(script, open_folder, other_user))
    assert "belongs to" in problem
    assert len(warnings) == 1
