"""The folder where damaged bytes are kept for a post-mortem, a few at most."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KEPT = 4


class DamagedFolder:
    """Keeps the newest few damaged things. Nothing here raises: what cannot be kept is let go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep_file(self, path: Path, name: str) -> None:
        """Moves a file here."""
        with contextlib.suppress(OSError):
            os.replace(path, self._place(name))
        self._trim()

    def keep_bytes(self, data: bytes, name: str) -> None:
        """Writes bytes here."""
        with contextlib.suppress(OSError):
            self._place(name).write_bytes(data)
        self._trim()

    def clear(self) -> None:
        """Removes all of it. Idempotent."""
        self._trim(0)

    def _place(self, name: str) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder / f"{time.time_ns()}-{name}"

    def _trim(self, kept: int = _KEPT) -> None:
        with contextlib.suppress(OSError):
            # The names begin with the time.
            for path in sorted(self._folder.iterdir(), reverse=True)[kept:]:
                path.unlink()
