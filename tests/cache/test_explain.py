from __future__ import annotations

import pytest
from cache_entries import blobs, key

from jitinfer.cache import Key
from jitinfer.cache.explain import differences
from jitinfer.errors import CacheError


def test_a_miss_names_the_field_that_differs(cache):
    cache.put(key(triton="3.6.0"), blobs(), {})
    explanation = cache.explain(key(triton="3.7.0"))
    assert not explanation.found
    assert explanation.nearest == key(triton="3.6.0").digest
    assert [str(difference) for difference in explanation.differences] == ["triton: '3.6.0' -> '3.7.0'"]
    assert "triton: '3.6.0' -> '3.7.0'" in str(explanation)


def test_the_nearest_entry_is_the_one_with_the_fewest_differences(cache):
    cache.put(key(1, device="H200", triton="3.5.0"), blobs(), {})
    cache.put(key(0, device="B200"), blobs(), {})
    cache.put(Key("trace", {"number": 0, "triton": "3.6.0", "device": "H200"}), blobs(), {})
    explanation = cache.explain(key(0, device="H200"))
    assert explanation.nearest == key(0, device="B200").digest
    assert [difference.path for difference in explanation.differences] == ["device"]


def test_an_entry_is_explained_by_the_beginning_of_its_digest(cache):
    cache.put(key(1), blobs(), {})
    cache.put(key(2), blobs(), {})
    explanation = cache.explain(key(2).digest[:10])
    assert explanation.found
    assert explanation.nearest == key(1).digest
    assert str(explanation.differences[0]) == "number: 1 -> 2"


def test_a_kind_without_other_entries_says_so(cache):
    assert cache.explain(key()).nearest is None
    cache.put(key(), blobs(), {})
    assert "there is no other entry of its kind" in str(cache.explain(key()))


def test_unknown_and_ambiguous_digests_are_errors(cache):
    with pytest.raises(CacheError, match="no entry"):
        cache.explain("00")
    cache.put(key(1), blobs(), {})
    cache.put(key(2), blobs(), {})
    with pytest.raises(CacheError, match="2 entries"):
        cache.explain("")


@pytest.mark.parametrize(
    ("stored", "asked", "texts"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b[1]: 2 -> 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] -> [1, 2]"]),
        ({"a": 1}, {"a": 1.0}, ["a: 1 -> 1.0"]),
        ({"a": 1}, {"a": True}, ["a: 1 -> True"]),
        ({"a": 1}, {"b": 1}, ["a: 1 -> (absent)", "b: (absent) -> 1"]),
        ({"a": {"b": 1}}, {"a": None}, ["a: {'b': 1} -> None"]),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
    ],
)
def test_differences_by_dotted_path(stored, asked, texts):
    assert [str(difference) for difference in differences(stored, asked)] == texts


def test_long_values_are_shown_where_they_part():
    (difference,) = differences({"graph": "x" * 500 + "matmul"}, {"graph": "x" * 500 + "conv2d"})
    assert "matmul" in str(difference)
    assert "conv2d" in str(difference)
    assert len(str(difference)) < 150
