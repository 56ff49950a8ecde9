from __future__ import annotations

from pathlib import Path

import pytest

from jitinfer.cache import cache_location

EVERYTHING = {
    "TRITON_KERNEL_CACHE_DIR": "/t",
    "JITINFER_CACHE_DIR": "/j",
    "XDG_CACHE_HOME": "/x",
    "HOME": "/h",
}


@pytest.mark.parametrize(
    ("folder", "unset", "expected"),
    [
        ("/s", [], "/s/jitinfer"),
        (Path("/s"), [], "/s/jitinfer"),
        (None, [], "/t/jitinfer"),
        (None, ["TRITON_KERNEL_CACHE_DIR"], "/j/jitinfer"),
        (None, ["TRITON_KERNEL_CACHE_DIR", "JITINFER_CACHE_DIR"], "/x/jitinfer"),
        (None, ["TRITON_KERNEL_CACHE_DIR", "JITINFER_CACHE_DIR", "XDG_CACHE_HOME"], "/h/.cache/jitinfer"),
    ],
)
def test_the_first_that_is_set_wins(folder, unset, expected):
    for name in unset:
        for absent in ({}, {name: ""}):
            environ = {**{k: v for k, v in EVERYTHING.items() if k not in unset}, **absent}
            assert cache_location(folder, environ) == Path(expected)
    environ = {k: v for k, v in EVERYTHING.items() if k not in unset}
    assert cache_location(folder, environ) == Path(expected)


def test_a_tilde_is_the_home_folder():
    assert cache_location("~/models", EVERYTHING) == Path("/h/models/jitinfer")


def test_a_relative_folder_does_not_move_with_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cache_location("models", EVERYTHING) == tmp_path / "models" / "jitinfer"


def test_a_relative_xdg_folder_is_ignored():
    assert cache_location(None, {"XDG_CACHE_HOME": "x", "HOME": "/h"}) == Path("/h/.cache/jitinfer")


def test_without_any_home_nothing_is_cached_and_nothing_fails(children, other_user):
    script = """
os.setuid(54321)  # a user without a name or a home
del os.environ["HOME"]
cache = Cache(cache_location())
k = Key("k", {})
assert cache.get(k) is None and not cache.put(k, {}, {})
entry, found = cache.get_or_build(k, lambda: ({"a": b"1"}, {}))
assert entry.blobs == {"a": b"1"} and not found
assert len(Warnings.seen) == 1, Warnings.seen
print(cache.problem)
"""
    environ = dict.fromkeys(("XDG_CACHE_HOME", "TRITON_KERNEL_CACHE_DIR", "JITINFER_CACHE_DIR"), "")
    assert "set HOME or JITINFER_CACHE_DIR" in children.run(script, **environ)
