"""One entry as bytes that prove themselves.

    magic (8) | header length (8, little endian) | SHA-256 of the header (32) | header, JSON | blobs, one after another

The header holds the key, the metadata, names and sizes of the blobs, and the SHA-256 of the blobs: every byte behind
the magic is covered, and the header alone can be read and trusted without reading the blobs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from jitinfer.cache.key import JSON, Key, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"JITINF\x00\x01"
_HEADER_START = len(MAGIC) + 8 + 32
# A header is text made by us; a length beyond this is a damaged length, not a reason to allocate.
_MAX_HEADER = 2**30


class DamagedError(Exception):
    """Stored bytes that are not what was stored; the message says what is off."""


@dataclass(frozen=True)
class Entry:
    """What is kept under a key: JSON metadata and named blobs."""

    key_document: Mapping[str, JSON]
    metadata: Mapping[str, JSON]
    blobs: Mapping[str, bytes]


@dataclass(frozen=True)
class Header:
    """An entry without its blobs. created: seconds since the epoch; sizes: bytes of each blob, in order."""

    key: Key
    metadata: Mapping[str, JSON]
    created: float
    sizes: Mapping[str, int]
    blobs_sha256: str


def encode(key: Key, blobs: Mapping[str, bytes], metadata: Mapping[str, JSON], created: float) -> bytes:
    """The container of one entry. Raises TypeError or ValueError for blobs that are not bytes, metadata not JSON."""
    for name, blob in blobs.items():
        if type(name) is not str or type(blob) is not bytes:
            raise TypeError(f"blob {name!r} is {type(blob).__name__}; blobs are bytes, named by str")
    document = {
        "kind": key.kind,
        "document": dict(key.document),
        "metadata": dict(metadata),
        "created": float(created),
        "blobs": [[name, len(blob)] for name, blob in blobs.items()],
        "blobs_sha256": _sha256(blobs),
    }
    header = canonical(document, "entry").encode("ascii")
    start = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest()
    return b"".join([start, header, *blobs.values()])


def decode(data: bytes) -> tuple[Header, Entry]:
    """The entry in `data`. Raises DamagedError unless every byte is as it was written."""
    header = _parse(data[:_HEADER_START], data[_HEADER_START : _HEADER_START + _header_length(data)])
    position = _HEADER_START + _header_length(data)
    blobs: dict[str, bytes] = {}
    for name, size in header.sizes.items():
        blobs[name] = data[position : position + size]
        position += size
    if position != len(data):
        raise DamagedError(f"{len(data)} bytes, expected {position}")
    if _sha256(blobs) != header.blobs_sha256:
        raise DamagedError("the checksum of the blobs does not match")
    return header, Entry(key_document=header.key.document, metadata=header.metadata, blobs=blobs)


def read_header(stream: BinaryIO) -> Header:
    """The header at the start of a container, checked; the blobs are neither read nor checked. Raises DamagedError."""
    start = stream.read(_HEADER_START)
    return _parse(start, stream.read(_header_length(start)))


def _header_length(start: bytes) -> int:
    if len(start) < _HEADER_START or not start.startswith(MAGIC):
        raise DamagedError("not a container of this version")
    length = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 8], "little")
    if length > _MAX_HEADER:
        raise DamagedError(f"a header of {length} bytes")
    return length


def _parse(start: bytes, header: bytes) -> Header:
    if _header_length(start) != len(header):
        raise DamagedError("cut off inside the header")
    if hashlib.sha256(header).digest() != start[_HEADER_START - 32 : _HEADER_START]:
        raise DamagedError("the checksum of the header does not match")
    try:
        document = json.loads(header)
        return Header(
            key=Key(document["kind"], document["document"]),
            metadata=document["metadata"],
            created=document["created"],
            sizes=dict(document["blobs"]),
            blobs_sha256=document["blobs_sha256"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"the header is not one of ours: {error}") from error


def _sha256(blobs: Mapping[str, bytes]) -> str:
    checksum = hashlib.sha256()
    for blob in blobs.values():
        checksum.update(blob)
    return checksum.hexdigest()
