"""Paddle Inference: a program and its weights -> a predictor, in a configuration that has been shown to be right."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import paddle
import paddle.inference
from paddle.base import core

from jitinfer.engines.candidates import CandidateSearch
from jitinfer.engines.comparison import difference
from jitinfer.engines.configuration import (
    FRAMEWORK_PASSES,
    LEGACY_PASSES,
    REQUIRED_PASSES,
    Configuration,
    cpu_configurations,
    deleted_passes,
)
from jitinfer.engines.trial import trial_process
from jitinfer.errors import EngineError, OptionError, VerificationError, user_location
from jitinfer.frontend.program import parameter_name
from jitinfer.graph.rounding import tolerance_for
from jitinfer.passes import is_graph_pass
from jitinfer.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitinfer.engines.protocol import Executable, Request
    from jitinfer.engines.trial import Outcome
    from jitinfer.options import Options

logger = logging.getLogger("jitinfer.engines")


@contextmanager
def memory_file(name: str) -> Iterator[tuple[int, str]]:
    """A file that exists in memory only, and its path, which other processes of the same user can open as well.

    Nothing of it is left behind, however the process ends. Where the system has no such files: a temporary one.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
        try:
            yield descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile(prefix="jitinfer-") as file:
            yield file.fileno(), file.name


def write_parameters(path: str, parameters: Sequence[Any]) -> None:
    """The parameters in the form that a predictor loads, under the program's canonical names."""
    held = [contiguous(parameter) for parameter in parameters]  # what get_tensor() gives does not keep it alive
    tensors = [each.value().get_tensor() for each in held]
    names = [parameter_name(position) for position in range(len(tensors))]
    core.save_combine_func(tensors, names, path, True, False, False)


@contextmanager
def program_files(text: bytes, parameters: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Paths of a program and its parameters, "" where there are none, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder, memory_file("parameters") as values:
        program = os.path.join(folder, "program.json")  # by this ending Paddle knows the format; without it, it crashes
        with open(program, "wb") as file:
            file.write(text)
        if parameters:
            write_parameters(values[1], parameters)
        yield program, values[1] if parameters else ""


def contiguous(tensor: Any) -> Any:
    """Predictors and files take a tensor's memory as it lies: a strided view has to be copied first.

    One that has no memory yet, such as the state of a recurrent network's dropout, is given zeros.
    """
    if not tensor._is_initialized():
        return paddle.zeros(tensor.shape, tensor.dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def create_predictor(program: str, parameters: str, configuration: Configuration) -> Any:
    """Args: paths of the two files (`parameters` may be empty for a program without), and how to set it up."""
    config = paddle.inference.Config(program, parameters) if parameters else paddle.inference.Config()
    if not parameters:
        config.set_prog_file(program)
    config.disable_glog_info()
    config.switch_ir_optim(configuration.optimise)
    config.switch_ir_debug(configuration.debug)
    config.set_cpu_math_library_num_threads(configuration.threads)
    if configuration.gpu is not None:
        precision = {"float32": "Float32", "float16": "Half", "bfloat16": "Bfloat16"}[configuration.precision]
        kind = getattr(paddle.inference.PrecisionType, precision)
        config.enable_use_gpu(configuration.memory_pool_mb, configuration.gpu, kind)
        if configuration.cutlass:
            config.exp_enable_use_cutlass()
    elif configuration.onednn:
        config.enable_onednn()
        if configuration.bfloat16:
            config.enable_onednn_bfloat16()
    else:
        config.disable_onednn()
    if configuration.custom:
        config.enable_custom_passes(list(configuration.custom), True)
    for name in configuration.deleted:
        config.delete_pass(name)
    if not configuration.optimise:
        config.set_optimization_level(0)
        config.enable_custom_passes([], True)
    threads = math_threads()
    try:
        with standard_output_kept_clean(configuration.debug):
            return paddle.inference.create_predictor(config)
    finally:
        restore_math_threads(threads)


_OUTPUT = threading.Lock()


@contextmanager
def standard_output_kept_clean(debug: bool) -> Iterator[None]:
    """Some of Paddle's passes print from C++: let that go to standard error, unless it was asked for."""
    if debug:
        yield
        return
    with _OUTPUT:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what C++ holds back must not come out after standard output is back
            os.dup2(kept, 1)
            os.close(kept)


@cache
def _openmp() -> Any:
    """Paddle's OpenMP library, which is loaded already, or None."""
    path = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):  # another system's build
        return None


def math_threads() -> int:
    """Threads that Paddle's mathematics uses now in this process; 0 where that cannot be told."""
    library = _openmp()
    return int(library.omp_get_max_threads()) if library is not None else 0


def restore_math_threads(before: int) -> None:
    """A predictor leaves the process's mathematics on one thread: put back what the user had."""
    if before and math_threads() != before:
        core.set_num_threads(before)


class PaddleExecutable:
    """A predictor. Calls take turns: a predictor has one set of buffers."""

    def __init__(self, text: bytes, parameters: Sequence[Any], configuration: Configuration, name: str) -> None:
        self._text = text
        self._name = name
        self.configuration = configuration
        self._turn = threading.Lock()
        self._predictor: Any = None
        self.refresh(parameters)

    @property
    def description(self) -> str:
        return f"Paddle Inference, {self.configuration}"

    @property
    def history(self) -> None:
        return None

    def begin(self, tensors: Sequence[Any]) -> None:
        """This thread is the one that would compute."""

    def refresh(self, parameters: Sequence[Any]) -> None:
        with self._turn, program_files(self._text, parameters) as (program, values):
            self._predictor = None  # the old copy of the weights goes before the new one comes
            try:
                self._predictor = create_predictor(program, values, self.configuration)
            except Exception as error:
                raise EngineError(
                    f"{self._name}: {self.description} refuses the program: {last_line(error)}"
                ) from error

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        with self._turn:
            if self._predictor is None:
                raise EngineError(f"{self._name}: its last refresh of the weights failed")
            threads = math_threads()
            try:
                results = self._predictor.run([contiguous(tensor) for tensor in tensors])
            except Exception as error:
                raise EngineError(f"{self._name}: {self.description} failed: {last_line(error)}") from error
            finally:
                restore_math_threads(threads)
            return [result.clone() for result in results]


def last_line(error: BaseException) -> str:
    """What Paddle's report of an error says, without its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line or "Error " in line]
    plain = [line for line in lines if not line.startswith("[Hint:")]
    return (told or plain or lines or [type(error).__name__])[-1].partition(" (at /")[0].strip()[:300]


def as_arrays(tensors: Sequence[Any]) -> list[Any]:
    """Tensors as NumPy arrays to compare; bfloat16, which NumPy lacks, as float32 of the same values."""
    return [(tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy() for tensor in tensors]


class PaddleEngine:
    """Finds the fastest configuration of Paddle Inference that gives the dynamic function's results."""

    name = "paddle"

    def missing(self) -> str:
        return ""

    def compile(self, request: Request) -> PaddleExecutable:
        if not paddle.get_device().startswith("cpu"):
            return self._compile_for_gpu(request)
        candidates = cpu_configurations(request.options, thread_count(request.options), use_bfloat16(request.options))
        if request.expected is None:
            return PaddleExecutable(request.program.text, request.parameters, candidates[0], request.name)
        search = PaddleSearch(request, candidates)
        executable, _verdict = search.find()
        return executable

    def _compile_for_gpu(self, request: Request) -> PaddleExecutable:
        options = request.options
        configuration = Configuration(
            onednn=False,
            optimise=options.switch_ir_optim,
            deleted=deleted_passes(options),
            debug=options.switch_ir_debug,
            memory_pool_mb=options.memory_pool_init_size_mb,
            gpu=int(paddle.get_device().partition(":")[2] or 0),
            precision=options.precision_mode,
            cutlass=options.exp_enable_use_cutlass,
        )
        executable = PaddleExecutable(request.program.text, request.parameters, configuration, request.name)
        if request.expected is not None:
            check_in_process(executable, request, configuration.arithmetic)
        return executable


def compared(executable: Executable, request: Request, arithmetic: str) -> tuple[float, str]:
    """The error of one evaluation in `arithmetic`, and what is wrong with it, "" if nothing. Raises EngineError."""
    assert request.expected is not None
    expected = as_arrays(request.expected())
    before = [tensor.numpy() for tensor in request.inputs]
    actual = as_arrays(request.under_the_same_randomness(lambda: executable.run(request.inputs)))
    for tensor, old in zip(request.inputs, before, strict=True):
        if not numpy.array_equal(tensor.numpy(), old, equal_nan=old.dtype.kind in "fc"):
            return math.inf, "it writes to its inputs"
    tolerance = tolerance_for(request.program.rounding, arithmetic)
    found = difference(actual, expected)
    return found.error, "" if found.within(tolerance) else f"{found.what}; rounding explains {tolerance}"


def check_in_process(executable: Executable, request: Request, arithmetic: str) -> float:
    """As `compared`, the error alone; raises VerificationError if something is wrong."""
    error, failure = compared(executable, request, arithmetic)
    if failure:
        raise VerificationError(f"{request.name}: {executable.description} is wrong: {failure}")
    return error


class PaddleSearch(CandidateSearch["PaddleExecutable"]):
    """The search over configurations with predictors: first tries in a child process, the last one here."""

    def __init__(self, request: Request, candidates: list[Configuration]) -> None:
        super().__init__(request, candidates, environment_document())

    def attempt(self, configuration: Configuration) -> Outcome:
        request = self.request
        with program_files(request.program.text, request.parameters) as files, memory_file("inputs") as inputs:
            with open(inputs[0], "wb", closefd=False) as file:
                numpy.savez(file, *[contiguous(tensor).numpy() for tensor in request.inputs])
            dtypes = [str(tensor.dtype).rpartition(".")[2] for tensor in request.inputs]
            return trial_process().attempt(*files, inputs[1], dtypes, configuration)

    def expected(self) -> list[Any]:
        assert self.request.expected is not None
        return as_arrays(self.request.expected())

    def accept(self, configuration: Configuration) -> tuple[PaddleExecutable, float]:
        executable = PaddleExecutable(
            self.request.program.text, self.request.parameters, configuration, self.request.name
        )
        return executable, check_in_process(executable, self.request, configuration.arithmetic)

    def load(self, configuration: Configuration) -> PaddleExecutable:
        return PaddleExecutable(self.request.program.text, self.request.parameters, configuration, self.request.name)


@cache
def processor() -> dict[str, str]:
    """Name and instruction sets of this machine's CPU, on which oneDNN's choice of kernels depends."""
    facts = {"machine": platform.machine(), "name": platform.processor()}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "flags"):
                facts.setdefault("cpu " + key.strip(), value.strip())
    except OSError:  # not Linux
        pass
    return facts


def environment_document() -> dict[str, Any]:
    """All that a verdict depends on besides the program and the options."""
    return {
        "paddle": paddle.__version__,
        "paddle_commit": paddle.version.commit,
        "jitinfer": __version__,
        "device": paddle.get_device(),
        "processor": dict(processor()),
        "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    }


def thread_count(options: Options) -> int:
    """`num_threads`, or what the process was started with as OMP_NUM_THREADS, or the cores that it may use."""
    if options.num_threads is not None:
        return options.num_threads
    wanted = environment_at_start().get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def environment_at_start() -> dict[str, str]:
    """The environment that the process was given; importing Paddle sets OMP_NUM_THREADS=1 in the present one."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # not Linux
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 (AVX-512 BF16 or AMX)."""
    flags = processor().get("cpu flags", "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def use_bfloat16(options: Options) -> bool:
    if options.precision_mode != "bfloat16":
        return False
    if not has_bfloat16():
        logger.warning("precision_mode='bfloat16': this processor has no bfloat16 arithmetic; using float32")
        return False
    return True


def known_pass(name: str) -> bool:
    if name in FRAMEWORK_PASSES or name in REQUIRED_PASSES or name in LEGACY_PASSES:
        return True
    try:
        paddle.pir.PassManager().add_pass(name, {})
    except ValueError:
        return False
    return True


def check_options(options: Options) -> None:
    """Raises OptionError for what this build of Paddle, on this device, cannot honour."""
    on_gpu = paddle.is_compiled_with_cuda() and paddle.get_device().startswith("gpu")
    refused = {
        "with_trt": (options.with_trt and paddle.inference.get_trt_compile_version() == (0, 0, 0), "has no TensorRT"),
        "enable_cinn": (options.enable_cinn and not paddle.is_compiled_with_cinn(), "has no CINN"),
        "exp_enable_use_cutlass": (
            options.exp_enable_use_cutlass and not paddle.is_compiled_with_cuda(),
            "has no CUTLASS kernels: it is a CPU build",
        ),
        "enable_new_ir": (not options.enable_new_ir, "runs traced programs in the new IR only"),
        "precision_mode": (
            options.precision_mode == "float16" and not on_gpu,
            "has no float16 kernels for this device; use 'bfloat16' or 'float32'",
        ),
    }
    for name, (unable, reason) in refused.items():
        if unable:
            raise OptionError(
                f"{name}={getattr(options, name)!r} at {user_location()}: this build of Paddle "
                f"({paddle.__version__}, {'GPU' if paddle.is_compiled_with_cuda() else 'CPU'}) {reason}"
            )
    for option in ("passes", "delete_pass_lists"):
        for name in getattr(options, option):
            if name != "default" and not known_pass(name) and not is_graph_pass(name):
                raise OptionError(
                    f"{option} at {user_location()}: there is no pass {name!r}, neither of Paddle "
                    f"{paddle.__version__} nor of jitinfer"
                )
