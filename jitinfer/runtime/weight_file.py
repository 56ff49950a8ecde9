"""The weights of a model beside it, as raw bytes: mapped into memory when they are read, never copied whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import PlanError
from jitinfer.graph.types import TensorType, dtype_name, numpy_dtype
from jitinfer.runtime.plan_file import replacing

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from jitinfer.cache import JSON

    Array = numpy.ndarray[Any, Any]

_ALIGNMENT = 64


def write(path: str | os.PathLike[str], arrays: Sequence[Array]) -> list[JSON]:
    """Writes the arrays, row-major, one after the other, and returns what `read` wants to know.

    Elements are as they are in memory: NVIDIA's GPUs and their hosts have the least significant byte first.
    """
    table: list[JSON] = []
    with replacing(path) as stream:
        for array in arrays:
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            raw = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
            table.append(
                [stream.tell(), list(array.shape), dtype_name(array.dtype), hashlib.sha256(raw.data).hexdigest()]
            )
            stream.write(raw.data)
    return table


def read(path: str | os.PathLike[str], table: Sequence[Any]) -> list[Array]:
    """The arrays of a file that `write` wrote. Raises PlanError where it is another file, or damaged; or OSError."""
    try:
        data = numpy.memmap(path, numpy.uint8, "r") if Path(path).stat().st_size else numpy.empty(0, numpy.uint8)
        return [_one(data, *entry) for entry in table]
    except (TypeError, ValueError, KeyError) as error:
        raise PlanError(f"{path} does not hold the weights of this model: {error}") from None


def _one(data: Array, offset: int, shape: list[int], dtype: str, digest: str) -> Array:
    kind = TensorType(tuple(shape), dtype)
    raw = data[offset : offset + kind.nbytes]
    if raw.size != kind.nbytes or hashlib.sha256(raw.data).hexdigest() != digest:
        raise ValueError(f"the bytes from {offset} on are not those that were written")
    return raw.view(numpy_dtype(dtype)).reshape(kind.shape)
