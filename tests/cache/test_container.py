from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.cache import Key
from jitinfer.cache.container import DamagedError, decode, encode, read_header

KEY = Key("verdict", {"graph": "matmul", "shape": [2, 77]})
BLOBS = {"cubin": b"\x00\x01\x02" * 9, "text": b"", "plan": b"plan"}
METADATA = {"error": 1e-3, "passes": ["a", "b"]}


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=200), max_size=4))
def test_what_is_encoded_is_decoded(blobs):
    header, entry = decode(encode(KEY, blobs, METADATA, 12.5))
    assert entry.blobs == blobs
    assert list(entry.blobs) == list(blobs)
    assert (entry.key_document, entry.metadata) == (KEY.document, METADATA)
    assert (header.key, header.created) == (KEY, 12.5)


def test_every_flipped_bit_is_noticed():
    data = encode(KEY, BLOBS, METADATA, 1.0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(DamagedError):
            decode(bytes(damaged))


def test_every_length_but_the_right_one_is_noticed():
    data = encode(KEY, BLOBS, METADATA, 1.0)
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            decode(data[:length])
    with pytest.raises(DamagedError):
        decode(data + b"\0")


def test_garbage_is_noticed():
    chance = random.Random(0)
    for size in (0, 1, 8, 48, 49, 1000):
        with pytest.raises(DamagedError):
            decode(chance.randbytes(size))


def test_the_header_is_read_without_the_blobs():
    data = encode(KEY, {"large": b"x" * 10000}, METADATA, 1.0)
    stream = io.BytesIO(data[:-10000])
    assert read_header(stream).key == KEY
    damaged = data.replace(b"matmul", b"matmux")
    with pytest.raises(DamagedError, match="checksum of the header"):
        read_header(io.BytesIO(damaged))


@pytest.mark.parametrize("blobs", [{"a": "text"}, {"a": bytearray(b"x")}, {"a": None}, {1: b"x"}])
def test_blobs_are_bytes(blobs):
    with pytest.raises(TypeError, match="blobs are bytes"):
        encode(KEY, blobs, {}, 1.0)


def test_metadata_is_json():
    with pytest.raises(TypeError, match=r"entry\.metadata\.a\[0\] is a bytes"):
        encode(KEY, {}, {"a": [b"x"]}, 1.0)
