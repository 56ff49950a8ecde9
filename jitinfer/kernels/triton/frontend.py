"""From a Triton function to Triton's IR as text: the part of a compilation that needs the function itself."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITCallable

from jitinfer.cache import Key
from jitinfer.errors import KernelError
from jitinfer.kernels.triton.assembler import assembler
from jitinfer.kernels.triton.sources import dependencies
from jitinfer.kernels.triton.specialization import DIVISOR

if TYPE_CHECKING:
    from jitinfer.cache import JSON
    from jitinfer.kernels.triton.specialization import Specialization

LANGUAGE_LOCK = threading.RLock()
"""Held by whoever reads or replaces the functions of `triton.language`: the frontend, and the interpreter."""


def triton_ir(source: Specialization, capability: int) -> str:
    """The IR before any optimisation, without the places of its lines. Raises KernelError for what does not compile."""
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    names = list(source.function.arg_names)
    attributes = {(names.index(name),): [["tt.divisibility", DIVISOR]] for name in source.divisible}
    program = ASTSource(source.function, dict(source.signature), dict(source.constants), attributes)
    with LANGUAGE_LOCK:
        try:
            options = backend.parse_options(dict(source.options))
            context = ir.context()
            ir.load_dialects(context)
            backend.load_dialects(context)
            generators = backend.get_codegen_implementation(options)
            module = program.make_ir(target, options, generators, backend.get_module_map(), context)
            return str(module.str_nodebug())
        except Exception as error:  # Triton raises whatever the function's own text provokes
            raise KernelError(f"{source.name} does not compile for sm_{capability}: {error}") from error


def kernel_key(source: Specialization, capability: int) -> Key:
    """Everything that the machine code depends on. Raises KernelError where there is no assembler for it."""
    return Key(
        "kernel",
        {
            "function": source.name,
            "source": source.function.src,
            "dependencies": dependencies(source.function),
            "signature": [list(pair) for pair in source.signature],
            "constants": [[name, type(value).__name__, _text(value)] for name, value in source.constants],
            "divisible": list(source.divisible),
            "options": [[name, _text(value)] for name, value in source.options],
            "target": capability,
            **toolchain(),
        },
    )


def toolchain() -> dict[str, JSON]:
    """Versions of all that makes machine code. Raises KernelError where there is no assembler."""
    return {"triton": triton.__version__, "ptxas": assembler().version}


def _text(value: Any) -> str:
    """Floats exactly; Triton's own types and functions by what they are, not where."""
    if isinstance(value, float):
        return value.hex()
    return json.dumps(dependencies(value)) if isinstance(value, JITCallable) else repr(value)
