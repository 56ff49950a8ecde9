"""Whatever happens to the files, an answer is the right bytes or none, and the cache works on."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest
from cache_entries import blobs, key

from jitinfer.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

SIZES = [10, 2_000, 20_000, 40_000, 90_000]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "cache"
    cache = Cache(folder)
    for number, size in enumerate(SIZES):
        cache.get_or_build(key(number), lambda number=number, size=size: (blobs(number, size), {"n": number}))
    cache.close()
    return folder


def damages(data: bytes, chance: random.Random):
    """The damaged forms of a file's content."""
    size = len(data)
    for length in {0, 1, size // 2, max(size - 1, 0)}:
        yield f"cut to {length}", data[:length]
    yield "longer", data + chance.randbytes(100)
    yield "overwritten", chance.randbytes(max(size, 100))
    yield "zeros", bytes(size)
    for start in range(0, size, max(size // 8, 512)):
        yield f"garbage at {start}", data[:start] + chance.randbytes(512) + data[start + 512 :]
    for _ in range(min(size, 24)):
        position = chance.randrange(size)
        flipped = data[position] ^ (1 << chance.randrange(8))
        yield f"bit at {position}", data[:position] + bytes([flipped]) + data[position + 1 :]


def check(cache: Cache, what: str) -> int:
    """Asserts that the answers are right or none, and that everything can be stored again; how many were there."""
    there = 0
    for number, size in enumerate(SIZES):
        entry = cache.get(key(number))
        if entry is not None:
            there += 1
            assert (entry.blobs, entry.metadata) == (blobs(number, size), {"n": number}), what
    for number, size in enumerate(SIZES):
        entry, _ = cache.get_or_build(key(number), lambda n=number, s=size: (blobs(n, s), {"n": n}))
        assert entry.blobs == blobs(number, size), what
    for number, size in enumerate(SIZES):
        entry = cache.get(key(number))
        assert entry is not None, what
        assert entry.blobs == blobs(number, size), what
    assert cache.problem is None, what
    return there


def files(template: Path) -> list[str]:
    return sorted(str(path.relative_to(template)) for path in template.rglob("*") if path.is_file())


@pytest.mark.parametrize("already_open", [False, True])
def test_every_file_damaged_in_every_way(template, tmp_path, already_open):
    logging.getLogger("jitinfer.cache").setLevel(logging.ERROR)
    chance = random.Random(7)
    cases, misses = 0, 0
    names = files(template)
    assert sum(name.endswith(".val") for name in names) == 2
    for name in names:
        for what, content in damages((template / name).read_bytes(), chance):
            folder = tmp_path / "cache"
            shutil.copytree(template, folder)
            cache = Cache(folder)
            if already_open:
                assert cache.get(key(0)) is not None
            (folder / name).write_bytes(content)
            misses += len(SIZES) - check(cache, f"{name}: {what}")
            cache.close()
            cases += 1
            shutil.rmtree(folder)
    logging.getLogger("jitinfer.cache").setLevel(logging.NOTSET)
    assert cases > 100
    assert misses > 50


def test_every_file_removed_or_replaced_by_another(template, tmp_path):
    names = files(template)
    for name in names:
        for other in [None, *names]:
            folder = tmp_path / "cache"
            shutil.copytree(template, folder)
            if other is None:
                (folder / name).unlink()
            else:
                shutil.copyfile(template / other, folder / f"{name}.new")
                (folder / f"{name}.new").replace(folder / name)
            cache = Cache(folder)
            check(cache, f"{name} <- {other}")
            cache.close()
            shutil.rmtree(folder)


def test_a_corrupt_database_is_set_aside_once(template, tmp_path, children, caplog):
    folder = tmp_path / "cache"
    shutil.copytree(template, folder)
    (folder / "cache.db").write_bytes(b"garbage" * 1000)
    script = """
cache = Cache(Path(sys.argv[1]))
entry, found = cache.get_or_build(Key("k", {}), lambda: ({"a": b"1"}, {}))
assert entry.blobs == {"a": b"1"} and cache.problem is None
print(sum("set aside" in text for text in Warnings.seen))
"""
    started = [children.start(script, folder) for _ in range(4)]
    outputs = [child.communicate(timeout=60)[0] for child in started]
    assert sum(map(int, outputs)) == 1
    (kept,) = (folder / "damaged").iterdir()
    assert kept.read_bytes() == b"garbage" * 1000
    assert Cache(folder).verify() == []


def test_verify_reports_a_corrupt_database(template, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(template, folder)
    path = folder / "cache.db"
    data = bytearray(path.read_bytes())
    # The pages behind the schema: indices and rows.
    data[3 * 4096 : 6 * 4096] = random.Random(1).randbytes(3 * 4096)
    path.write_bytes(data)
    cache = Cache(folder)
    cache.verify()
    assert cache.verify() == []
    assert cache.put(key(), blobs(), {})
    assert len(list((folder / "damaged").iterdir())) >= 1


WRITE = """
import itertools, random
cache = Cache(Path(sys.argv[1]), size_limit=2_000_000)
chance = random.Random(int(sys.argv[2]))
print("ready", flush=True)
for _ in itertools.count():
    number = chance.randrange(40)
    size = chance.choice([100, 5_000, 40_000, 300_000])
    cache.put(Key("plan", {"number": number, "triton": "3.6.0"}), {"cubin": bytes([number]) * size, "empty": b""}, {})
"""


def test_killed_at_random_moments_while_it_writes(children, tmp_path):
    chance = random.Random(3)
    survivors = 0
    for moment in range(20):
        writer = children.start(WRITE, tmp_path / "cache", moment)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.08))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        cache = Cache(tmp_path / "cache")
        # "damaged" would be correct too, but nothing here damages: every entry that is present is whole.
        assert cache.verify() == []
        for number in range(40):
            entry = cache.get(key(number))
            if entry is not None:
                survivors += 1
                assert set(entry.blobs["cubin"]) == {number}
                assert len(entry.blobs["cubin"]) in (100, 5_000, 40_000, 300_000)
        assert cache.put(key(1000 + moment), blobs(moment), {})
        assert cache.get(key(1000 + moment)).blobs == blobs(moment)
        assert cache.problem is None
        assert not (tmp_path / "cache" / "damaged").exists()
        cache.close()
    assert survivors > 50
