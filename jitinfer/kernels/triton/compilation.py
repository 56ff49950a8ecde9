"""Triton functions -> kernels, each compiled once on this machine."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from jitinfer.errors import KernelError, PlanError
from jitinfer.kernels.triton.frontend import kernel_key, triton_ir
from jitinfer.kernels.triton.pool import WorkerPool
from jitinfer.kernels.triton.portable import described
from jitinfer.runtime.plan import Kernel, Tile
from jitinfer.runtime.plan_file import document_of_kernel, kernel_from_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from jitinfer.cache import JSON, Cache, Key
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.specialization import Specialization

    Finish = Callable[[Mapping[str, Any]], Kernel | KernelError]


class Compilation:
    """A kernel that is being compiled, or was."""

    def __init__(self, result: Kernel | KernelError | None = None) -> None:
        self._result = result
        self._waiting: tuple[Future[dict[str, Any]], Finish] | None = None

    @staticmethod
    def begun(answer: Future[dict[str, Any]], finish: Finish) -> Compilation:
        """finish: makes the kernel, or the reason why there is none, of the answer."""
        made = Compilation()
        made._waiting = (answer, finish)
        return made

    def result(self) -> Kernel | KernelError:
        """Waits for it. Raises concurrent.futures.CancelledError."""
        if self._waiting is not None:
            answer, finish = self._waiting
            self._result = finish(answer.result())
            self._waiting = None
        assert self._result is not None
        return self._result

    def cancel(self) -> bool:
        """Whether nothing will come of it: too late for one that has begun."""
        return self._waiting is not None and self._waiting[0].cancel()

    @property
    def ready(self) -> bool:
        """Whether `result` does not wait."""
        return self._waiting is None or self._waiting[0].done()

    @property
    def failed(self) -> bool:
        return isinstance(self._result, KernelError) or (self._waiting is not None and self._waiting[0].cancelled())


class Compiler:
    """Compiles for one target, without a device; keeps what it made in `cache`.

    workers: processes at most, which end with it, or by `close`; None: as many as this process may use cores; or a
    pool of someone else's.
    """

    def __init__(self, target: Target, cache: Cache | None = None, workers: int | WorkerPool | None = None) -> None:
        self.target = target
        self._cache = cache
        self._owns_pool = not isinstance(workers, WorkerPool)
        self._pool = workers if isinstance(workers, WorkerPool) else WorkerPool(workers)
        self._running: dict[str, Compilation] = {}
        self.compiled = 0
        """Kernels that it compiled, and did not find in the cache."""

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its processes; compiling again starts others. Idempotent."""
        if self._owns_pool:
            self._pool.close()

    def prepare(self, kernels: int) -> None:
        """Begins to start processes for so many kernels to come."""
        self._pool.prepare(kernels)

    def compile(self, source: Specialization) -> Kernel:
        """Raises KernelError for what does not compile."""
        (kernel,) = self.try_all([source])
        if isinstance(kernel, KernelError):
            raise kernel
        return kernel

    def try_all(self, sources: Sequence[Specialization]) -> list[Kernel | KernelError]:
        """A kernel for each, or why there is none; equal ones are compiled once, different ones side by side."""
        return [started.result() for started in [self.start(source) for source in sources]]

    def start(self, source: Specialization) -> Compilation:
        """Begins to compile, in the order of the calls; equal ones are compiled once, unless that fails."""
        key = kernel_key(source, self.target.compute_capability)
        running = self._running.get(key.digest)
        if running is None or running.failed:
            running = self._running[key.digest] = self._begin(source, key)
        return running

    def _begin(self, source: Specialization, key: Key) -> Compilation:
        found = self._stored(key)
        if found is not None:
            return Compilation(found)
        capability = self.target.compute_capability
        request: dict[str, JSON] = {"capability": capability, "options": dict(source.options)}
        portable = described(source)
        if portable is not None:
            request.update(source=portable, digest=key.digest)
        else:
            try:
                request["ir"] = triton_ir(source, capability)
            except KernelError as error:
                return Compilation(error)
        return Compilation.begun(self._pool.submit(request), lambda answer: self._finished(key, source, answer))

    def _stored(self, key: Key) -> Kernel | None:
        entry = None if self._cache is None else self._cache.get(key)
        if entry is None:
            return None
        try:
            return kernel_from_document(entry.metadata, entry.blobs["cubin"], "the cached kernel")
        except (PlanError, KeyError):  # written by another version of the library
            return None

    def _finished(self, key: Key, source: Specialization, answer: Mapping[str, Any]) -> Kernel | KernelError:
        if "error" in answer:
            return KernelError(
                f"{source.name} does not compile for sm_{self.target.compute_capability}: {answer['error']}"
            )
        try:
            kernel = self._kernel(source, answer["metadata"], base64.b64decode(answer["cubin"]))
        except (KernelError, KeyError, binascii.Error) as error:
            return error if isinstance(error, KernelError) else KernelError(f"{source.name}: {error}")
        self.compiled += 1
        if self._cache is not None:
            self._cache.put(key, {"cubin": kernel.cubin}, document_of_kernel(kernel))
        return kernel

    def _kernel(self, source: Specialization, metadata: Mapping[str, Any], cubin: bytes) -> Kernel:
        where = f"{source.name} for sm_{self.target.compute_capability}"
        if metadata["shared"] > self.target.shared_memory:
            limit = self.target.shared_memory
            raise KernelError(f"{where} needs {metadata['shared']} bytes of shared memory; there are {limit}")
        if metadata["profile_scratch_size"]:
            raise KernelError(f"{where} is instrumented for a profiler, which is not supported")
        tiles = tuple(
            Tile(tuple(each["block_size"]), each["swizzle"], each["elem_size"]) for each in metadata["tensordesc_meta"]
        )
        parameters = source.parameters
        if len(tiles) != parameters.count("tensor_map"):
            raise KernelError(f"{where} takes its tensor maps apart; that needs sm_90 or later")
        return Kernel(
            cubin=cubin,
            entry=metadata["name"],
            target=self.target.compute_capability,
            num_warps=metadata["num_warps"],
            shared_memory=metadata["shared"],
            parameters=parameters,
            tiles=tiles,
            cluster=(metadata["num_ctas"], 1, 1),
            scratch_bytes=metadata["global_scratch_size"],
            waits=metadata["waits"],
        )
