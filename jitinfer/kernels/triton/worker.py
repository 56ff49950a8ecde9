"""The child process of the compiler: functions, or Triton's IR, in, machine code out, one JSON line each.

In a process of its own, since LLVM ends the process that it cannot go on in, and ptxas's failures are printed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import importlib
import json
import os
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

METADATA = (
    "name",
    "num_warps",
    "shared",
    "global_scratch_size",
    "global_scratch_align",
    "profile_scratch_size",
    "tensordesc_meta",
)


_NEEDED = (
    "triton.backends.compiler",
    "triton.compiler",
    "jitinfer.kernels.triton.frontend",
    "jitinfer.kernels.triton.portable",
)
"""What it imports while it waits for its first request: seconds of work."""

_SCARCE = (errno.EAGAIN, errno.ENOMEM)
"""What a machine says that has no process, or no memory, to spare for now: ptxas is a process of its own."""

WAITS = (0.25, 0.5, 1.0, 2.0)
"""Seconds until it is asked again, and again."""


def main() -> None:
    """Answers requests on standard input; whatever else prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(Exception):  # the answer to the first request will say so
        for name in _NEEDED:
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            made = partial(machine_code, _ir(request), request["capability"], request["options"])
            answer = patiently(made)
        except Exception as error:  # noqa: BLE001 (every failure is an answer)
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def patiently(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, once the machine has what that takes. Raises what it raises."""
    for seconds in WAITS:
        try:
            return make()
        except OSError as error:  # noqa: PERF203 (it is tried again)
            if error.errno not in _SCARCE:
                raise
            time.sleep(seconds)
    return make()


def _ir(request: dict[str, Any]) -> str:
    """Raises KernelError where this process does not have the very function that is asked for."""
    if "ir" in request:
        return str(request["ir"])
    from jitinfer.errors import KernelError
    from jitinfer.kernels.triton.frontend import kernel_key, triton_ir
    from jitinfer.kernels.triton.portable import restored

    source, capability = restored(request["source"]), request["capability"]
    if kernel_key(source, capability).digest != request["digest"]:
        raise KernelError("it is not the same function here")
    return triton_ir(source, capability)


def machine_code(text: str, capability: int, options: dict[str, Any]) -> dict[str, Any]:
    """metadata of the kernel, its code in base 64, and whether it waits for the kernels before it."""
    from triton import knobs
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget, Language
    from triton.compiler import make_backend

    # The lines would be those of a temporary file, and the code another one each time.
    knobs.compilation.disable_line_info = True
    backend = make_backend(GPUTarget("cuda", capability, 32))
    parsed = backend.parse_options(dict(options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, parsed, Language.TRITON)
    module = _parse(text, context)
    metadata: dict[str, Any] = {}
    waits = False
    for name, stage in stages.items():
        module = stage(module, metadata)
        waits = waits or (name == "ptx" and "griddepcontrol.wait" in module)
    described = {name: metadata[name] for name in METADATA if name in metadata}
    return {
        "cubin": base64.b64encode(module).decode(),
        "metadata": {**described, "num_ctas": parsed.num_ctas, "waits": waits},
    }


def _parse(text: str, context: Any) -> Any:
    from triton._C.libtriton import ir

    with tempfile.NamedTemporaryFile("w", suffix=".ttir") as file:
        file.write(text)
        file.flush()
        module = ir.parse_mlir_module(file.name, context)
    module.context = context
    return module


if __name__ == "__main__":
    main()
