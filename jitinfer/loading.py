"""Saved programs, run without Paddle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.runtime import model_file
from jitinfer.runtime.model import Session

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


def load(path: str | os.PathLike[str], *, device: int = 0, weights: Sequence[Any] | None = None) -> Session:
    """A program that `CompiledFunction.save` wrote, on a CUDA device, ready to run.

    `session.run(inputs)` takes arrays of NumPy, torch or CuPy, in the order of the function's tensors, and gives NumPy
    arrays; `session.enqueue(inputs, stream)` leaves the results on the device.

    Args:
        weights: others than those saved, in the same order and of the same types, on the host or on the device.

    Raises PlanError for files that are damaged or no program, ArgumentError for weights that are not the program's,
    DeviceError where the device cannot run it, or OSError.
    """
    model, stored = model_file.load(path, weights=weights is None)
    return Session(model, stored if weights is None else weights, device)
