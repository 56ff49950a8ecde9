"""Every option of `jitinfer.inference`: its name, meaning, default and environment variable, in one table.

Precedence: an argument of the call, then the environment variable `JITINFER_<NAME>`, then the default.
The first fifteen have the names and meanings of `paddle.incubate.jit.inference`: switching is a change of import.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jitinfer.errors import OptionError, user_location

DimRange = tuple[int, int] | None
"""The sizes that a dynamic dimension may take, both ends included; None: any size."""


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected a bool (in the environment: 1 or 0)")


def _text_or_none(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value) or None
    raise ValueError("expected a string")


def _one_of(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError("expected one of " + ", ".join(map(repr, allowed)))

    return parse


def _integer(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"expected an integer of at least {least}")
        return number

    return parse


def _integer_or_none(least: int) -> Callable[[object], int | None]:
    return lambda value: None if value is None or value == "" else _integer(least)(value)


def _gigabytes(value: object) -> float:
    number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    if not 0 < number < float("inf"):
        raise ValueError("expected a positive number of gigabytes")
    return number


def _names(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError("expected pass names: a string or a list of strings")


def _range(value: object) -> DimRange:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(end) is int for end in value):
        low, high = value
        if 1 <= low <= high:
            return (low, high)
    raise ValueError(f"a dynamic dimension is (least, greatest) or None, not {value!r}")


def _shapes(value: object) -> tuple[tuple[str, tuple[tuple[int, DimRange], ...]], ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = json.loads(value) if value else {}
    if not isinstance(value, Mapping):
        raise ValueError("expected {argument: {dim: (least, greatest) or None}}")
    table = []
    for argument, dims in sorted(value.items()):
        if not isinstance(argument, str) or not isinstance(dims, Mapping):
            raise ValueError("expected {argument: {dim: (least, greatest) or None}}")
        ranges = []
        for dim, bounds in sorted((int(dim), bounds) for dim, bounds in dims.items()):
            if dim < 0:
                raise ValueError(f"a dim of {argument!r} is counted from 0, not {dim}")
            ranges.append((dim, _range(bounds)))
        table.append((argument, tuple(ranges)))
    return tuple(table)


def option(default: Any, parse: Callable[[object], Any], meaning: str, *, compiles: bool = True) -> Any:
    """A field of `Options`. `compiles`: whether the compiled program depends on it, so that it is part of the keys."""
    return field(default=default, metadata={"parse": parse, "meaning": meaning, "compiles": compiles})


@dataclass(frozen=True)
class Options:
    """The options of one compiled function, checked and complete."""

    cache_static_model: bool = option(
        False,
        _boolean,
        "Skip the trace, too, when nothing that it could depend on has changed since it was made.",
        compiles=False,
    )
    save_model_dir: str | None = option(
        None,
        _text_or_none,
        "The cache folder. None: `TRITON_KERNEL_CACHE_DIR`, `JITINFER_CACHE_DIR`, or the user's cache folder.",
        compiles=False,
    )
    memory_pool_init_size_mb: int = option(
        1000, _integer(0), "Initial size of Paddle's GPU memory pool, in MB. Nothing on a CPU."
    )
    precision_mode: str = option(
        "float32",
        _one_of("float32", "bfloat16", "float16"),
        "Arithmetic of the compiled program. On a CPU, bfloat16 where the processor has it.",
    )
    switch_ir_optim: bool = option(True, _boolean, "Run the engine's optimising passes.")
    switch_ir_debug: bool = option(
        False, _boolean, "Let Paddle print the program after every pass (from C++, to standard output)."
    )
    enable_cinn: bool = option(False, _boolean, "Compile with CINN; needs a build of Paddle with CINN.")
    with_trt: bool = option(False, _boolean, "Run subgraphs by TensorRT; needs a build of Paddle with TensorRT.")
    trt_precision_mode: str = option(
        "float32", _one_of("float32", "bfloat16", "float16"), "Precision of the TensorRT subgraphs."
    )
    trt_use_static: bool = option(False, _boolean, "Let TensorRT keep its engines on disk.")
    collect_shape: bool = option(False, _boolean, "Record shapes for TensorRT instead of running it.")
    enable_new_ir: bool = option(
        True, _boolean, "Use Paddle's new IR (PIR). Paddle 3 has no other way to run a traced program."
    )
    exp_enable_use_cutlass: bool = option(
        False, _boolean, "Let Paddle use its CUTLASS kernels; needs a GPU build of Paddle."
    )
    delete_pass_lists: tuple[str, ...] = option((), _names, "Passes that must not run.")
    skip_prune_program: bool = option(False, _boolean, "Keep the operations that no output depends on.")

    engine: str = option(
        "auto",
        _one_of("auto", "paddle", "cuda", "reference"),
        "What runs the program. `auto`: `cuda` where this machine has a device and the packages for it and the "
        "program runs there, else `paddle`; `reference`: the graph by NumPy, slowly, for tests and debugging.",
    )
    passes: tuple[str, ...] = option(
        (),
        _names,
        "Passes to run, Paddle's and graph passes in one list. Paddle's: in this order, before the engine's own; "
        "`default` stands for the engine's list, to place others after it. An engine with a graph runs them on the "
        "traced program, by default none; then it runs the graph passes of the list, where `default` stands for "
        "`jitinfer.passes.default()`, or that list if there are none.",
    )
    dynamic_shapes: tuple[tuple[str, tuple[tuple[int, DimRange], ...]], ...] = option(
        (), _shapes, "Dims that may change without another compilation: `{argument: {dim: (least, greatest) or None}}`."
    )
    max_specializations: int = option(
        16, _integer(1), "How many specialisations are kept; the least recently used goes first.", compiles=False
    )
    verify: str = option(
        "auto",
        _one_of("auto", "always", "never"),
        "Compare with the dynamic function: `auto` before a program is first trusted on this machine, "
        "`always` at every call, `never`: the trace is trusted to be the function.",
        compiles=False,
    )
    fallback: str = option(
        "paddle",
        _one_of("paddle", "error"),
        "What happens to what cannot be compiled: `paddle` lets Paddle run it, the function dynamically, or those of "
        "its operations that the CUDA engine has no kernel for; `error` raises.",
        compiles=False,
    )
    tune: str = option(
        "fast",
        _one_of("off", "fast", "max"),
        "How the CUDA engine chooses kernels: `off` as they are guessed to be best, `fast` by timing some for about "
        "20 seconds, `max` by timing all. What was found is kept in the cache.",
        compiles=False,
    )
    side_streams: bool = option(
        True,
        _boolean,
        "Let branches of a program run side by side on the device of the CUDA engine where that is estimated to save "
        "3% of its time and, unless `tune` is `off`, is measured to do so.",
    )
    device: int | None = option(
        None,
        _integer_or_none(0),
        "The device of the CUDA engine, by its number among those that the process sees. None: the one that Paddle is "
        "set to, where it is a GPU build, else the first.",
        compiles=False,
    )
    num_threads: int | None = option(
        None,
        _integer_or_none(1),
        "Threads of the CPU engine. None: `OMP_NUM_THREADS`, or the cores this process may use.",
    )
    cache_size_limit_gb: float = option(
        20.0, _gigabytes, "Size of the cache folder above which the least recently used entries go.", compiles=False
    )

    @property
    def shapes(self) -> dict[str, dict[int, DimRange]]:
        """`dynamic_shapes` as dictionaries: argument -> dim -> range."""
        return {argument: dict(dims) for argument, dims in self.dynamic_shapes}

    @property
    def lanes(self) -> int:
        """How many branches of a program may run side by side on a device."""
        return 2 if self.side_streams else 1

    def key(self) -> dict[str, Any]:
        """The options that a compiled program depends on, as plain JSON."""
        chosen = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["compiles"]}
        plain: dict[str, Any] = json.loads(json.dumps(chosen))
        return plain


def environment_variable(name: str) -> str:
    return "JITINFER_" + name.upper()


def resolve(given: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Options:
    """Complete the options given in a call from the environment and the defaults.

    Raises OptionError for an unknown name or a value that the option cannot take, naming where it came from.
    """
    environ = os.environ if environ is None else environ
    fields = {f.name: f for f in dataclasses.fields(Options)}
    for name in given:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the options are {', '.join(fields)}"
            raise OptionError(f"jitinfer.inference has no option {name!r} (at {user_location()}){hint}")
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        variable = environment_variable(name)
        if name in given:
            value, source = given[name], f"{name}={given[name]!r} at {user_location()}"
        elif variable in environ:
            value, source = environ[variable], f"environment variable {variable}={environ[variable]!r}"
        else:
            continue
        try:
            values[name] = spec.metadata["parse"](value)
        except (ValueError, TypeError) as error:
            raise OptionError(f"{source}: {error}") from None
    return Options(**values)


def table() -> str:
    """The options as a Markdown table; the documentation contains exactly this text."""
    rows = ["| option | default | environment variable | meaning |", "| --- | --- | --- | --- |"]
    for spec in dataclasses.fields(Options):
        default = {"()": "none"}.get(repr(spec.default), repr(spec.default))
        rows.append(
            f"| `{spec.name}` | `{default}` | `{environment_variable(spec.name)}` | {spec.metadata['meaning']} |"
        )
    return "\n".join(rows) + "\n"
