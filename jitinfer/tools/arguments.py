"""Options of ours beside the arguments of a user's function."""

from __future__ import annotations

import inspect
from typing import Any

from jitinfer.errors import ArgumentError


def require_own(function: Any, **given: Any) -> None:
    """Raises ArgumentError where `function` has a parameter of the name of one of our options that are given."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature, or nothing that can be called
        return
    for name in given:
        if name in parameters:
            raise ArgumentError(
                f"{name} is an option here, and a parameter of {getattr(function, '__qualname__', function)!r} too: "
                f"give it that one by functools.partial"
            )
