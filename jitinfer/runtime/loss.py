"""Who lost this process's device, told once: after a fault CUDA refuses everything, to whoever asks.

Whoever meets that first finds out which kernel it was; all others say that it happened, and to whom.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.errors import DeviceLostError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Loss:
    """by: the program that met it first; kernel: which did it, in words, "" as long as that is not known."""

    by: str
    kernel: str = ""

    def __str__(self) -> str:
        did = f": {self.kernel} did it" if self.kernel else ""
        return f"the device was lost to this process when {self.by} ran{did}; CUDA serves this process no more"


_turn = threading.Lock()
_loss: Loss | None = None


def forget() -> None:
    """As in a process that has lost nothing yet: for tests."""
    global _loss
    _loss = None


def require_device() -> None:
    """Raises DeviceLostError where the device is lost already."""
    if _loss is not None:
        raise DeviceLostError(str(_loss))


def told(by: str, explain: Callable[[], tuple[DeviceLostError, str]]) -> DeviceLostError:
    """What `explain` gives, the first time in a process; later, and for those who have waited, who it was.

    by: the program that met the loss; explain: gives the error to raise, and the kernel that did it in words, "" where
    that is not known.
    """
    global _loss
    with _turn:
        if _loss is not None:
            return DeviceLostError(str(_loss))
        _loss = Loss(by)
        error, kernel = explain()
        _loss = Loss(by, kernel)
        return error
