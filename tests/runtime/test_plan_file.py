"""Plans survive the way to disk and back; nothing else passes for one."""

import copy
import hashlib
import json
import math
import random
from dataclasses import replace

import pytest
from laned_plans import launches, random_plan
from plans import KERNEL, PLAN

from jitinfer.cache import Key
from jitinfer.cache.container import MAGIC, encode
from jitinfer.errors import JitinferError, PlanError
from jitinfer.runtime import Scalar, from_parts, load, model_file, save, to_parts
from jitinfer.runtime.document import from_document, to_document
from jitinfer.runtime.model import Model

LAUNCHES = launches(early={1, 4})


def test_it_comes_back_equal_and_saves_to_the_same_bytes(tmp_path):
    save(PLAN, tmp_path / "a.plan")
    read = load(tmp_path / "a.plan")
    assert read == PLAN
    assert read.kernels[0].cubin == KERNEL.cubin
    save(read, tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.plan", "b.plan"]


@pytest.mark.parametrize("value", [0.1, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, math.nan])
def test_floats_are_exact(value):
    document = json.loads(json.dumps(to_document(Scalar("f64", value))))
    read = from_document(Scalar, document, "scalar").value
    assert type(read) is float
    assert read.hex() == value.hex()


def test_ints_stay_ints():
    document = json.loads(json.dumps(to_document(Scalar("i64", 2**63 - 1))))
    assert from_document(Scalar, document, "scalar") == Scalar("i64", 2**63 - 1)


def test_every_cut_is_noticed(tmp_path):
    save(PLAN, tmp_path / "plan")
    whole = (tmp_path / "plan").read_bytes()
    for length in [*range(200), *range(200, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(PlanError, match="damaged"):
            load(tmp_path / "cut")
    (tmp_path / "longer").write_bytes(whole + b"\0")
    with pytest.raises(PlanError, match="damaged"):
        load(tmp_path / "longer")


def test_every_flipped_bit_is_noticed(tmp_path):
    save(PLAN, tmp_path / "plan")
    whole = (tmp_path / "plan").read_bytes()
    for position in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(PlanError):
            load(tmp_path / "damaged")


def test_a_cache_entry_is_no_plan(tmp_path):
    (tmp_path / "entry").write_bytes(encode(Key("verdict", {}), {}, {}, 0.0))
    with pytest.raises(PlanError, match="verdict"):
        load(tmp_path / "entry")


def test_a_header_that_is_not_json_is_no_plan(tmp_path):
    header = b"cos\nsystem\n(S'true'\ntR."  # a pickle
    data = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
    (tmp_path / "plan").write_bytes(data)
    with pytest.raises(PlanError, match="damaged"):
        load(tmp_path / "plan")


def test_another_format_is_refused():
    document, blobs = to_parts(PLAN)
    with pytest.raises(PlanError, match="format 4"):
        from_parts({**document, "format": 4}, blobs)


def test_a_plan_of_several_lanes_comes_back_and_others_do_not_mention_them(tmp_path):
    laned = next(plan for plan, _ in map(random_plan, range(10)) if plan.lanes > 1)
    save(laned, tmp_path / "laned.plan")
    assert load(tmp_path / "laned.plan") == laned
    model = Model(laned, (), (), (), ())
    model_file.save(model, tmp_path / "model")
    assert model_file.load(tmp_path / "model") == (model, [])
    document, blobs = to_parts(PLAN)
    assert document["format"] == 2
    assert "slots" not in document
    for changes in ({"format": 3}, {"slots": []}, {"format": 3, "slots": []}):
        with pytest.raises(PlanError):
            from_parts({**document, **changes}, blobs)
    document, blobs = to_parts(laned)
    assert document["format"] == 3
    with pytest.raises(PlanError, match="fields"):
        from_parts({**document, "format": 2}, blobs)


def test_other_code_under_a_kernels_digest_is_refused():
    document, blobs = to_parts(PLAN)
    name = f"kernel:{KERNEL.digest}"
    with pytest.raises(PlanError, match="not the kernel"):
        from_parts(document, {**blobs, name: b"other code"})
    del blobs[name]
    with pytest.raises(PlanError, match="lacks the bytes"):
        from_parts(document, blobs)


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield from _places(each, (*path, name))


def _changed(document, path, value):
    document = copy.deepcopy(document)
    target = document
    for name in path[:-1]:
        target = target[name]
    if value is KeyError:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


@pytest.mark.parametrize("plan", [PLAN, LAUNCHES], ids=["one lane", "two lanes"])
def test_whatever_changes_in_the_document_is_a_plan_or_a_plan_error(plan):
    """Documents with valid checksums: no other exception comes out, whatever stands in them."""
    document, blobs = to_parts(plan)
    document = json.loads(json.dumps(document))
    odd = [None, True, -1, 0, 2**70, 1.5, "", "x", "ff", [], [[]], {}, {"is": "Launch"}, KeyError]
    places = [path for path in _places(document) if path]
    choose = random.Random(5)
    refused = 0
    for path in places:
        for value in choose.sample(odd, 5):
            try:
                from_parts(_changed(document, path, value), blobs)
            except PlanError:
                refused += 1
    assert refused > 4 * len(places)


def test_errors_are_the_librarys():
    assert issubclass(PlanError, JitinferError)
    assert replace(PLAN, target=80) != PLAN
