"""Saved programs, run without Paddle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from jitinfer.runtime import model_file
from jitinfer.runtime.watched import StoredSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.runtime.model import Session


def load(path: str | os.PathLike[str], *, device: int = 0, weights: Sequence[Any] | None = None) -> Session:
    """A program that `CompiledFunction.save` wrote, on a CUDA device, ready to run.

    `session.run(inputs)` takes arrays of NumPy, torch or CuPy, in the order of the function's tensors, and gives NumPy
    arrays; `session.enqueue(inputs, stream)` leaves the results on the device. Where the device is lost, errors name
    the step that did it, with its kernel, layer and line, if another process finds it (once, in two minutes at most).

    Args:
        weights: others than those saved, in the same order and of the same types, on the host or on the device.

    Raises PlanError for files that are damaged or no program, ArgumentError for weights that are not the program's,
    DeviceError where the device cannot run it, or OSError.
    """
    model, stored = model_file.load(path, weights=weights is None)
    if weights is None:
        return StoredSession(os.fspath(path), model, stored, device, stored)
    return StoredSession(os.fspath(path), model, weights, device, None)
