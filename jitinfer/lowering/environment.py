"""What a kernel, and what is found out about it, depends on besides the node that it computes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jitinfer import graph, kernels, lowering, runtime
from jitinfer.kernels.triton.frontend import toolchain
from jitinfer.version import __version__

if TYPE_CHECKING:
    from jitinfer.cache import JSON
    from jitinfer.runtime.device import Device


def environment(device: Device) -> dict[str, JSON]:
    """A kind of device and the code that makes its code, for a key. Raises KernelError where there is no assembler."""
    return {
        "device": device.name,
        "capability": device.compute_capability,
        "sm_count": device.sm_count,
        **toolchain(),
        "jitinfer": __version__,
        "sources": sources_digest(),
    }


@cache
def sources_digest() -> str:
    """Content of what kernels and plans are made by: what another state of it made says nothing about this one."""
    digest = hashlib.sha256()
    for package in (graph, kernels, runtime, lowering):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
