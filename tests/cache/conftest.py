"""Folders, entries and child processes for the tests of the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import jitinfer
from jitinfer.cache import Cache

REPOSITORY = Path(jitinfer.__path__[0]).parent

# The first lines of every child: what it needs is imported before it may change its user.
PRELUDE = """
import logging, os, signal, sys, time, resource, json, pwd
from pathlib import Path
from jitinfer.cache import Cache, Key, cache_location
class Warnings(logging.Handler):
    seen = []
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            Warnings.seen.append(record.getMessage())
logging.getLogger("jitinfer.cache").addHandler(Warnings())
logging.getLogger("jitinfer.cache").propagate = False
"""


class Children:
    """Starts Python scripts in processes of their own."""

    def command(self, script: str, *arguments: object) -> list[str]:
        return [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]

    def environment(self, **changes: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **changes}

    def run(self, script: str, *arguments: object, **environ: str) -> str:
        """The script's standard output; its failure fails the test."""
        result = subprocess.run(
            self.command(script, *arguments),
            env=self.environment(**environ),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def start(self, script: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(script, *arguments), env=self.environment(), stdout=subprocess.PIPE, text=True
        )


@pytest.fixture
def children() -> Children:
    return Children()


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.close()


@pytest.fixture
def open_folder():
    """A folder that every user can reach, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="jitinfer-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def other_user() -> int:
    """The id of an unprivileged user that a child can become."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    return 65534
