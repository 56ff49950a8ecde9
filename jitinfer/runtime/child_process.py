"""Python processes that this one starts: what they import, and how they ended."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import IO


def child_environment() -> dict[str, str]:
    """For a child that imports what this process does, from where it does."""
    package_parent = str(Path(__file__).resolve().parents[2])
    return dict(os.environ, PYTHONPATH=os.pathsep.join([package_parent, *(p for p in sys.path if p)]))


def ending(code: int, errors: IO[bytes] | None) -> str:
    """How a child ended, with the last error among what it wrote into `errors`."""
    words = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if errors is None:
        return words
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 4096))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    told = [line for line in lines if "Error" in line or "error" in line]
    return words + (f": {told[-1][:200]}" if told else "")
