"""Where the cache folder is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES = ("TRITON_KERNEL_CACHE_DIR", "JITINFER_CACHE_DIR")


def cache_location(
    save_model_dir: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """The cache folder; nothing is created.

    The first that is set of: save_model_dir, TRITON_KERNEL_CACHE_DIR, JITINFER_CACHE_DIR (in each, the subfolder
    "jitinfer", since others may keep their files there too), $XDG_CACHE_HOME/jitinfer, ~/.cache/jitinfer. Never
    raises: where no home folder is known, the path keeps its "~", which Cache then reports as its problem.
    """
    chosen = [os.fspath(save_model_dir)] if save_model_dir is not None else []
    chosen += [environ.get(name, "") for name in _VARIABLES]
    for folder in chosen:
        if folder:
            return _absolute(folder, environ) / "jitinfer"
    xdg = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification: a relative path is invalid and to be ignored
        return Path(xdg) / "jitinfer"
    return _absolute("~/.cache", environ) / "jitinfer"


def _absolute(folder: str, environ: Mapping[str, str]) -> Path:
    path = Path(folder)
    if path.parts[:1] == ("~",):
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            return path
        path = Path(home, *path.parts[1:])
    return Path(os.path.abspath(path))
