"""Matrix products by cuBLASLt, prepared once and queued many times.

cuBLASLt is column-major. A row-major [rows, columns] matrix is a column-major [columns, rows] one of the same bytes, so
d = a @ b is asked for as d' = b' @ a': the operands change places, and nothing is transposed in memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jitinfer.runtime.device import Device
    from jitinfer.runtime.plan import Gemm, Matrix, Pointer

_DATA_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType_t
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType_t


@dataclass(frozen=True)
class Algorithm:
    """What cuBLASLt proposes. code: for `Gemm.algorithm`; workspace_bytes: what it needs; waves: of thread blocks."""

    code: str
    workspace_bytes: int
    waves: float


class Product:
    """One `Gemm` with its descriptors, on the device that is current.

    Raises DeviceError, naming `step`, for a product that cuBLASLt cannot do as the Gemm says.
    """

    def __init__(self, gemm: Gemm, address: Callable[[Pointer], int], device: Device, step: str = "matmul") -> None:
        self._gemm = gemm
        self._step = step
        self._destroy: list[Callable[[], None]] = []
        self._lib = _library()
        self._handle = _handle(device.index)
        self._alpha = ctypes.c_float(gemm.alpha)
        self._beta = ctypes.c_float(gemm.beta)
        c = gemm.d if gemm.c is None else gemm.c
        # In cuBLASLt's order: its first factor is our second one.
        self._addresses = [address(matrix.pointer) for matrix in (gemm.b, gemm.a, c, gemm.d)]
        self._workspace = 0 if gemm.workspace is None else address(gemm.workspace)
        with self._named():
            self._description = self._describe(None if gemm.bias is None else address(gemm.bias))
            self._layouts = [self._layout(matrix) for matrix in (gemm.b, gemm.a, c, gemm.d)]

    def algorithms(self, count: int, workspace_bytes: int) -> list[Algorithm]:
        """At most `count`, those first that cuBLASLt expects to be fastest; none where it cannot do the product."""
        lib = self._lib
        results = numpy.zeros(count, lib.matmul_heuristic_result_dtype)
        found = ctypes.c_int(0)
        with self._named(), self._preference(workspace_bytes) as preference:
            try:
                lib.matmul_algo_get_heuristic(
                    self._handle,
                    self._description,
                    *self._layouts,
                    preference,
                    count,
                    results.ctypes.data,
                    ctypes.addressof(found),
                )
            except lib.cuBLASLtError as error:
                if "NOT_SUPPORTED" in str(error):
                    return []
                raise
        return [
            Algorithm(each["algo"].tobytes().hex(), int(each["workspace_size"]), float(each["waves_count"]))
            for each in results[: found.value]
            if each["state"] == 0
        ]

    def choose(self) -> None:
        """Settles the algorithm: the Gemm's own, checked, or the first proposal. Raises DeviceError."""
        code = self._gemm.algorithm
        if not code:
            proposals = self.algorithms(1, self._gemm.workspace_bytes)
            if not proposals:
                raise DeviceError(f"{self._step}: cuBLASLt has no algorithm for this product")
            code = proposals[0].code
        self._algorithm = numpy.frombuffer(bytes.fromhex(code), numpy.uint8).copy()
        result = numpy.zeros(1, self._lib.matmul_heuristic_result_dtype)
        with self._named():
            self._lib.matmul_algo_check(
                self._handle, self._description, *self._layouts, self._algorithm.ctypes.data, result.ctypes.data
            )
        needed = int(result["workspace_size"][0])
        if needed > self._gemm.workspace_bytes:
            raise DeviceError(f"{self._step}: its algorithm needs {needed} bytes of workspace")

    def enqueue(self, stream: int) -> None:
        """Queues the product. Raises DeviceError."""
        first, second, third, fourth = self._addresses
        one, two, three, four = self._layouts
        with self._named():
            self._lib.matmul(
                self._handle,
                self._description,
                ctypes.addressof(self._alpha),
                first,
                one,
                second,
                two,
                ctypes.addressof(self._beta),
                third,
                three,
                fourth,
                four,
                self._algorithm.ctypes.data,
                self._workspace,
                self._gemm.workspace_bytes,
                stream,
            )

    def close(self) -> None:
        """Gives the descriptors back. Idempotent. Raises DeviceError."""
        while self._destroy:
            with self._named():
                self._destroy.pop()()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._lib.cuBLASLtError as error:
            raise DeviceError(f"{self._step}: {error} in cuBLASLt") from None

    def _describe(self, bias: int | None) -> int:
        lib, gemm = self._lib, self._gemm
        compute = _COMPUTE_32F_FAST_TF32 if gemm.tf32 else _COMPUTE_32F
        description: int = lib.matmul_desc_create(compute, _DATA_TYPES["float32"])
        self._destroy.append(lambda: lib.matmul_desc_destroy(description))
        names = lib.MatmulDescAttribute

        def put(attribute: Any, value: int) -> None:
            array = numpy.array(value, lib.get_matmul_desc_attribute_dtype(attribute))
            lib.matmul_desc_set_attribute(description, attribute, array.ctypes.data, array.nbytes)

        put(names.TRANSA, int(gemm.transpose_b))
        put(names.TRANSB, int(gemm.transpose_a))
        epilogue = {"none": "", "relu": "RELU", "gelu": "GELU"}[gemm.epilogue]
        name = "_".join(part for part in (epilogue, "BIAS" if bias is not None else "") if part) or "DEFAULT"
        put(names.EPILOGUE, int(lib.Epilogue[name]))
        if bias is not None:
            put(names.BIAS_POINTER, bias)
        return description

    def _layout(self, matrix: Matrix) -> int:
        lib = self._lib
        layout: int = lib.matrix_layout_create(
            _DATA_TYPES[matrix.dtype], matrix.columns, matrix.rows, max(matrix.row_stride, 1)
        )
        self._destroy.append(lambda: lib.matrix_layout_destroy(layout))
        names = lib.MatrixLayoutAttribute
        pairs = ((names.BATCH_COUNT, self._gemm.batch), (names.STRIDED_BATCH_OFFSET, matrix.batch_stride))
        for attribute, value in pairs if self._gemm.batch > 1 else ():
            array = numpy.array(value, lib.get_matrix_layout_attribute_dtype(attribute))
            lib.matrix_layout_set_attribute(layout, attribute, array.ctypes.data, array.nbytes)
        return layout

    @contextlib.contextmanager
    def _preference(self, workspace_bytes: int) -> Iterator[int]:
        lib = self._lib
        names = lib.MatmulPreferenceAttribute
        preference: int = lib.matmul_preference_create()
        wanted = {names.MAX_WORKSPACE_BYTES: workspace_bytes}
        for letter, address in zip("ABCD", self._addresses, strict=True):
            # It assumes 256 bytes otherwise, and takes algorithms that need them.
            wanted[names[f"MIN_ALIGNMENT_{letter}_BYTES"]] = min(address & -address, 256) or 256
        try:
            for attribute, value in wanted.items():
                array = numpy.array(value, lib.get_matmul_preference_attribute_dtype(attribute))
                lib.matmul_preference_set_attribute(preference, attribute, array.ctypes.data, array.nbytes)
            yield preference
        finally:
            lib.matmul_preference_destroy(preference)


def version() -> int:
    """Such as 130100. Raises DeviceError where cuBLASLt is not installed."""
    return int(_library().get_version())


@cache
def _library() -> Any:
    try:
        return importlib.import_module("nvmath.bindings.cublasLt")
    except ImportError as error:
        raise DeviceError(f'cuBLASLt cannot be used ({error}): pip install "jitinfer[cuda]"') from None


@cache
def _handle(device: int) -> int:
    """Of the device, which must be current; for the life of the process."""
    library = _library()
    try:
        return int(library.create())
    except Exception as error:  # noqa: BLE001 (the package has several classes for a library that is not there)
        raise DeviceError(f'cuBLASLt cannot be used ({error}): pip install "jitinfer[cuda]"') from None
