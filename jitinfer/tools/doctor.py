"""What this machine has of what jitinfer can use, and how to get the rest."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import logging
import os
import platform
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.filesize import decimal

from jitinfer.cache import Cache, cache_location
from jitinfer.cache.folder import folder_problem, user_name
from jitinfer.errors import KernelError
from jitinfer.kernels.triton.assembler import OLDEST, PACKAGE, VARIABLES, assembler, packaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("jitinfer.tools")

State = Literal["ok", "missing", "broken"]

_PADDLE = 'pip install "paddlepaddle>=3.3.1,<3.4"'
_TESTED_PADDLE = "3.3."
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Check:
    """One line of the report. mend: the command or step that helps, or ""; needed: the CPU engine cannot do without."""

    name: str
    state: State
    found: str
    mend: str = ""
    needed: bool = False


def examine() -> list[Check]:
    """All checks, in the order of the report. Never raises: a check that fails is reported as broken."""
    return [_guarded(name, check) for name, check in CHECKS.items()]


def is_ready(checks: Iterable[Check]) -> bool:
    """Whether all that the CPU engine needs is there."""
    return all(check.state == "ok" for check in checks if check.needed)


def _guarded(name: str, check: Callable[[str], Check]) -> Check:
    try:
        return check(name)
    except Exception as error:
        logger.debug("the check %s failed", name, exc_info=True)
        return Check(name, "broken", f"{type(error).__name__}: {error}", needed=name in _NEEDED)


def _python(name: str) -> Check:
    version = platform.python_version()
    return Check(name, "ok", version, needed=True)


def _import(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _paddle(name: str) -> Check:
    try:
        paddle = _import("paddle")
    except ModuleNotFoundError as error:
        if error.name != "paddle":
            raise
        return Check(name, "missing", "not installed", _PADDLE, needed=True)
    flags = paddle.get_flags("FLAGS_enable_pir_api")
    found = [paddle.__version__, "CUDA build" if paddle.is_compiled_with_cuda() else "CPU build"]
    if not flags["FLAGS_enable_pir_api"]:
        return Check(name, "broken", ", ".join([*found, "PIR off"]), "unset FLAGS_enable_pir_api", needed=True)
    found.append("PIR on")
    if not paddle.__version__.startswith(_TESTED_PADDLE):
        return Check(name, "broken", ", ".join([*found, f"tested is {_TESTED_PADDLE}x"]), _PADDLE, needed=True)
    return Check(name, "ok", ", ".join(found), needed=True)


def _onednn(name: str) -> Check:
    try:
        config = _import("paddle.inference").Config()
    except ModuleNotFoundError:
        return Check(name, "missing", "Paddle is not installed", _PADDLE)
    config.enable_onednn()
    if not config.onednn_enabled():
        return Check(name, "missing", "this build of Paddle has none", _PADDLE)
    return Check(name, "ok", "enabled in Paddle Inference")


def _processor(name: str) -> Check:
    flags: set[str] = set()
    for line in _CPU_INFO.read_text().splitlines():
        if line.startswith("flags"):
            flags.update(line.partition(":")[2].split())
            break
    known = [flag for flag in _CPU_FLAGS if flag in flags]
    cores = len(os.sched_getaffinity(0))
    found = f"{_usable_cores(cores):g} usable cores; {', '.join(known) or 'none of ' + ', '.join(_CPU_FLAGS)}"
    if "avx2" not in known and platform.machine() == "x86_64":
        return Check(name, "missing", found, "a processor with AVX2 is several times as fast")
    return Check(name, "ok", found)


def _usable_cores(cores: int) -> float:
    """The cores of this process, less when its container has a quota."""
    if not _CPU_QUOTA.exists():
        return cores
    quota, period = _CPU_QUOTA.read_text().split()
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def _gpu(name: str) -> Check:
    driver = "install the NVIDIA driver; in a container, start it with the GPUs (docker run --gpus all)"
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Check(name, "missing", "no libcuda.so.1", driver)
    code = cuda.cuInit(0)
    if code == 100:  # CUDA_ERROR_NO_DEVICE
        return Check(name, "missing", "a driver, but no device", driver)
    if code != 0:
        return Check(name, "broken", f"cuInit returns error {code}", "nvidia-smi")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    names = []
    for ordinal in range(count.value):
        device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
        cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        cuda.cuDeviceGetName(text, len(text), device)
        names.append(text.value.decode(errors="replace"))
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Check(name, "ok", f"{', '.join(names)}; the driver supports CUDA {cuda_version}")


def _distribution(*packages: str) -> Callable[[str], Check]:
    """A check for installed packages, by their metadata: importing them may need a GPU."""

    def check(name: str) -> Check:
        found, absent = [], []
        for package in packages:
            version = _version(package)
            if version is None:
                absent.append(package)
            else:
                found.append(f"{package} {version}")
        if absent:
            return Check(name, "missing", ", ".join(found) or "not installed", f"pip install {' '.join(absent)}")
        return Check(name, "ok", ", ".join(found))

    return check


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ptxas(name: str) -> Check:
    try:
        found = assembler()
    except KernelError as error:
        state: State = "missing" if packaged() is None and not os.environ.get(VARIABLES[0]) else "broken"
        mend = f"pip install '{PACKAGE}>={'.'.join(map(str, OLDEST))},<14'"
        return Check(name, state, str(error).partition(";")[0] if state == "missing" else str(error), mend)
    return Check(name, "ok", f"{found.version} at {found.path}")


def _cache(name: str) -> Check:
    folder = cache_location()
    elsewhere = "set JITINFER_CACHE_DIR to a folder of your own"
    problem = folder_problem(folder)
    if problem is not None:
        return Check(name, "broken", problem, elsewhere, needed=True)
    if not folder.exists():
        parent = next(path for path in folder.parents if path.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            found = f"{folder} cannot be created: {parent} is not writable"
            return Check(name, "broken", found, elsewhere, needed=True)
        return Check(name, "ok", f"{folder}, not created yet", needed=True)
    cache = Cache(folder)
    entries = list(cache.keys())
    cache.close()
    if cache.problem is not None:
        return Check(name, "broken", f"{folder}: {cache.problem}", elsewhere, needed=True)
    status = folder.stat()
    size = decimal(sum(entry.size for entry in entries))
    owner = f"{user_name(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}"
    return Check(name, "ok", f"{folder}: {len(entries)} entries, {size}; {owner}", needed=True)


CHECKS: dict[str, Callable[[str], Check]] = {
    "Python": _python,
    "Paddle": _paddle,
    "oneDNN": _onednn,
    "processor": _processor,
    "cache": _cache,
    "GPU": _gpu,
    "Triton": _distribution("triton"),
    "CUDA for Python": _distribution("cuda-core", "cuda-bindings"),
    "ptxas": _ptxas,
    "CUTLASS": _distribution("nvidia-cutlass"),
}
_NEEDED = ("Python", "Paddle", "cache")
