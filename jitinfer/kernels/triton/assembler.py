"""NVIDIA's assembler, ptxas, which makes machine code of PTX: which one, and of which version.

Those before 13.3 assemble some products of warp groups (sm_90) wrongly, also the ones that come with Triton 3.6: 12.8
lets both halves of a descriptor of shared memory share one register, by which attention with heads of 48 columns reads
what is not there, and all before 13.3 may write into registers that such a product has yet to read (release notes of
CUDA 13.3, "CUDA Tools").
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

from jitinfer.errors import KernelError

OLDEST = (13, 3)
PACKAGE = "nvidia-cuda-nvcc"
_WITHIN = "nvidia/cu13/bin/ptxas"
VARIABLES = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")
"""What Triton goes by; the first is also a user's way to name another assembler."""

_TIME_LIMIT = 30.0


@dataclass(frozen=True)
class Assembler:
    """version: all its numbers, such as 13.3.73; code depends on each."""

    path: str
    version: str


def assembler() -> Assembler:
    """That of TRITON_PTXAS_PATH, or else of the package nvidia-cuda-nvcc.

    Raises KernelError where there is none, or one older than `OLDEST`.
    """
    named = os.environ.get(VARIABLES[0])
    if named:
        return _asked(named, f" (of {VARIABLES[0]})")
    path = packaged()
    if path is None:
        raise KernelError(f'{PACKAGE} is not installed; pip install "jitinfer[cuda]"')
    return _asked(path, "")


@cache
def packaged() -> str | None:
    """The assembler of the package, if that is installed."""
    try:
        path = str(distribution(PACKAGE).locate_file(_WITHIN))
    except PackageNotFoundError:
        return None
    return path if os.path.isfile(path) else None


@cache
def _asked(path: str, whence: str) -> Assembler:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_TIME_LIMIT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelError(f"{path}{whence} does not run: {error}") from error
    found = re.search(r"\bV((\d+)\.(\d+)\.\d+)", done.stdout)
    if found is None:
        raise KernelError(f"{path}{whence} is no ptxas: it does not say its version")
    if (int(found[2]), int(found[3])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise KernelError(
            f"{path}{whence} is of version {found[1]}, which makes wrong code; {oldest} is the oldest right"
        )
    return Assembler(path, found[1])
