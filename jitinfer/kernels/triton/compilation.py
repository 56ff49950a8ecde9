"""Triton functions -> kernels, each compiled once on this machine."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from jitinfer.errors import KernelError, PlanError
from jitinfer.kernels.triton.frontend import kernel_key, triton_ir
from jitinfer.kernels.triton.pool import WorkerPool
from jitinfer.runtime.plan import Kernel, Tile
from jitinfer.runtime.plan_file import document_of_kernel, kernel_from_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from jitinfer.cache import JSON, Cache, Key
    from jitinfer.kernels.target import Target
    from jitinfer.kernels.triton.specialization import Specialization


class Compiler:
    """Compiles for one target, without a device; keeps what it made in `cache`.

    workers: processes at most; None: as many as this process may use cores. Its processes end with it, or by `close`.
    """

    def __init__(self, target: Target, cache: Cache | None = None, workers: int | None = None) -> None:
        self.target = target
        self._cache = cache
        self._pool = WorkerPool(workers)
        self.compiled = 0
        """Kernels that it compiled, and did not find in the cache."""

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes; compiling again starts others. Idempotent."""
        self._pool.close()

    def compile(self, source: Specialization) -> Kernel:
        """Raises KernelError for what does not compile."""
        (kernel,) = self.try_all([source])
        if isinstance(kernel, KernelError):
            raise kernel
        return kernel

    def try_all(self, sources: Sequence[Specialization]) -> list[Kernel | KernelError]:
        """A kernel for each, or why there is none; equal ones are compiled once, different ones side by side."""
        results: dict[str, Kernel | KernelError] = {}
        digests: list[str] = []
        requests: dict[str, dict[str, JSON]] = {}
        keys: dict[str, tuple[Key, Specialization]] = {}
        capability = self.target.compute_capability
        for source in sources:
            key = kernel_key(source, capability)
            digests.append(key.digest)
            if key.digest in results or key.digest in requests:
                continue
            found = self._stored(key)
            if found is not None:
                results[key.digest] = found
                continue
            try:
                text = triton_ir(source, capability)
            except KernelError as error:
                results[key.digest] = error
                continue
            requests[key.digest] = {"ir": text, "capability": capability, "options": dict(source.options)}
            keys[key.digest] = (key, source)
        for digest, answer in zip(requests, self._pool.map(list(requests.values())), strict=True):
            results[digest] = self._finished(*keys[digest], answer)
        return [results[digest] for digest in digests]

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
