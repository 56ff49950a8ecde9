"""The cache folder: made private, and refused when somebody else could write into it."""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ELSEWHERE = "or name another folder in JITINFER_CACHE_DIR"


def folder_problem(folder: Path) -> str | None:
    """Why an existing folder must not be used, with what to do; None when it is fine or does not exist yet.

    Whoever can write into the folder decides what this process computes, so it has to belong to this user alone.
    """
    if folder.parts[:1] == ("~",):
        return "no home folder is known; set HOME or JITINFER_CACHE_DIR"
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return f"a part of {folder} is a file, not a folder; remove it, {_ELSEWHERE}"
    except OSError as error:
        return f"{folder}: {error.strerror}; {_ELSEWHERE[3:]}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder; remove it, {_ELSEWHERE}"
    if found.st_uid != os.geteuid():
        return (
            f"{folder} belongs to {user_name(found.st_uid)}, and this process runs as {user_name(os.geteuid())}; "
            f"take it over with: chown -R {os.geteuid()} {folder}, {_ELSEWHERE}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {folder}; forbid it with: chmod go-w {folder}, {_ELSEWHERE}"
    return None


def make_folder(folder: Path) -> None:
    """Creates the folder and its missing parents with mode 0700. Idempotent. Raises OSError."""
    for path in [*reversed(folder.parents), folder]:
        # Not mkdir's exist_ok alone: on a read-only disk, mkdir of an existing parent may answer EROFS.
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def user_name(uid: int) -> str:
    """`name (uid 1000)`, or `uid 1000` where the user has no name."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
