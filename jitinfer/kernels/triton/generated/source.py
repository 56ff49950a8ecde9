"""From the text of a Triton function to the function, as if it stood in a file."""

from __future__ import annotations

import hashlib
import linecache
import threading
import weakref
from typing import Any

import triton
import triton.language as tl
from triton.language.extra import libdevice

from jitinfer.kernels.triton.generated import arithmetic

NAME = "generated"
"""What every generated function is called; its text tells it from the others."""

_PLACE = "<jitinfer "
_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def function_of(text: str) -> Any:
    """The Triton function `generated` that `text`, written by this package, defines; the same one for the same text.

    Triton and its interpreter read the source of a function through `linecache`, where the text stays as long as the
    function lives.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    with _lock:
        function = _known.get(digest)
        if function is None:
            function = _defined(text, f"{_PLACE}{digest[:16]}>")
            _known[digest] = function
        return function


def text_of(function: Any) -> str | None:
    """What `function_of` made it of; None for a function that stands in a file."""
    place = function.fn.__code__.co_filename
    return "".join(linecache.getlines(place)) if place.startswith(_PLACE) else None


def _defined(text: str, place: str) -> Any:
    names: dict[str, Any] = {"__name__": __package__, "tl": tl, "libdevice": libdevice, "arithmetic": arithmetic}
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    exec(compile(text, place, "exec"), names)  # noqa: S102 (text of our own making: see the writers)
    plain = names[NAME]
    function = triton.jit(plain)
    weakref.finalize(function, linecache.cache.pop, place, None)
    return function
