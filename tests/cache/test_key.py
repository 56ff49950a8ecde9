from __future__ import annotations

import copy
import enum
import json

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.cache import Key

DOCUMENT = {
    "source": "def f(x): ...",
    "shapes": [[2, 77, 768], [2, 77]],
    "device": {"name": "NVIDIA H200", "capability": [9, 0], "memory": 141.0},
    "options": {"graphs": True, "split_k": None, "scale": 0.125},
    "versions": {"triton": "3.6.0", "driver": "580.65"},
}


def places(value, path=()):
    """Every place inside a document, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield (*path, name)
        yield from places(item, (*path, name))


def changed(document, path, change):
    result = copy.deepcopy(document)
    target = result
    for name in path[:-1]:
        target = target[name]
    change(target, path[-1])
    return result


def _perturb(target, name):
    old = target[name]
    target[name] = (
        not old
        if isinstance(old, bool)
        else [old]
        if not isinstance(old, int | float | str)
        else old * 2 + type(old)(1)
    )


def _remove(target, name):
    del target[name]


@pytest.mark.parametrize("change", [_perturb, _remove])
@pytest.mark.parametrize("path", list(places(DOCUMENT)), ids=str)
def test_each_field_is_part_of_the_digest(path, change):
    assert Key("plan", changed(DOCUMENT, path, change)).digest != Key("plan", DOCUMENT).digest


def test_the_kind_and_new_fields_are_part_of_the_digest():
    digests = {Key("plan", DOCUMENT).digest, Key("trace", DOCUMENT).digest, Key("plan", {**DOCUMENT, "a": None}).digest}
    assert len(digests) == 3


def test_the_digest_is_typed():
    values = [1, 1.0, True, "1", [1], {"1": 1}, None, 0, 0.0, -0.0, False, "", [], {}, "None", "null"]
    assert len({Key("k", {"v": value}).digest for value in values}) == len(values)


def test_the_digest_is_the_same_in_every_process(children):
    script = "print(Key('plan', json.loads(sys.argv[1])).digest)"
    digests = {children.run(script, json.dumps(DOCUMENT), PYTHONHASHSEED=seed).strip() for seed in ("0", "1", "4242")}
    assert digests == {Key("plan", DOCUMENT).digest}


def test_the_digest_never_changes_between_versions():
    # A change here makes every cache of every user cold.
    key = Key("plan", {"b": 1, "a": [1.5, None, "ü"]})
    assert key.text == '{"document":{"a":[1.5,null,"\\u00fc"],"b":1},"kind":"plan"}'
    assert key.digest == "80b2d46afeb7e21e786452c31f35779eb82fbe22f1404e80c52ee906775a4a0e"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


@settings(max_examples=100, deadline=None)
@given(documents, documents)
def test_digests_agree_exactly_when_documents_do(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (Key("k", one) == Key("k", other)) == same
    assert Key("k", dict(reversed(one.items()))).digest == Key("k", one).digest
    assert Key("k", one).document == one


class Level(enum.IntEnum):
    HIGH = 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [0, (1, 2)]}, "key.document.a[1] is a tuple"),
        ({"a": {"b": b"x"}}, "key.document.a.b is a bytes"),
        ({"a": {1: 2}}, "key.document.a has the key 1"),
        ({"a": Level.HIGH}, "key.document.a is a Level"),
        ({"a": numpy.float64(1.0)}, "key.document.a is a float64"),
        ({"a": {1, 2}}, "key.document.a is a set"),
        ({"a": object()}, "key.document.a is an object"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value, path):
    with pytest.raises(TypeError, match=path.replace("[", r"\[").replace("]", r"\]")):
        Key("k", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_a_number_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=r"key\.document\.a\.b is"):
        Key("k", {"a": {"b": value}})


def test_changing_the_original_document_later_changes_nothing():
    document = {"shapes": [1, 2]}
    key = Key("k", document)
    document["shapes"].append(3)
    assert key.document == {"shapes": [1, 2]}
    assert key == Key("k", {"shapes": [1, 2]})
