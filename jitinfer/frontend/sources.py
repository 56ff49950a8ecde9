"""Whether the source text on disk is that of the code that runs.

Paddle's translator reads a function's source from its file when it is traced: if the file was edited since the import,
it would translate another function than the one that runs.
"""

from __future__ import annotations

import inspect
import os
import time
import types
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jitinfer.frontend.state import code_digest

_IMPORTED = time.time()
_NO_IMPORT_YET = 0.05
"""Seconds after its start in which a process has imported no model yet; more than the error of the clocks."""


def source_is_current(function: Any) -> bool:
    """Whether the text that `inspect.getsource` finds for a Python function compiles to the code it has."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    try:
        lines, _ = inspect.findsource(function)  # of the code object, it would search all modules
    except (OSError, TypeError):
        return False
    return code_digest(code) in _digests("".join(lines), code.co_filename).get((code.co_name, code.co_firstlineno), ())


@lru_cache(maxsize=64)
def _digests(text: str, path: str) -> dict[tuple[str, int], set[str]]:
    """The digest of every function in a file's text, by name and line."""
    found: dict[tuple[str, int], set[str]] = {}
    try:
        pending = [compile(text, path, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return found
    while pending:
        code = pending.pop()
        found.setdefault((code.co_name, code.co_firstlineno), set()).add(code_digest(code))
        pending += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def unchanged_since_start(path: str) -> bool:
    """Whether a file is as old as this process, so that what was imported from it is what it says."""
    try:
        return os.stat(path).st_mtime <= process_started() + _NO_IMPORT_YET
    except OSError:
        return False


@cache
def process_started() -> float:
    """Seconds since the epoch; where the system does not tell, the time when this library was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - (uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return _IMPORTED
