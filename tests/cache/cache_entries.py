"""Keys and contents that the tests of the cache share."""

from __future__ import annotations

from jitinfer.cache import Key


def key(number: int = 0, **fields) -> Key:
    return Key("plan", {"number": number, "triton": "3.6.0", **fields})


def blobs(number: int = 0, size: int = 1000) -> dict[str, bytes]:
    return {"cubin": bytes([number % 251]) * size, "empty": b""}
