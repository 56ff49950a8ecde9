"""The steps of a plan, bound to addresses: each becomes a function that queues it into a stream."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.errors import DeviceError
from jitinfer.graph.types import itemsize
from jitinfer.runtime.cublaslt import Product
from jitinfer.runtime.driver import call, driver
from jitinfer.runtime.plan import Copy, Fill, Gemm, Launch, Pointer, Scalar, TensorMap, step_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitinfer.runtime.plan import Argument, Kernel, Plan, Step
    from jitinfer.runtime.resources import Resources

Enqueue: TypeAlias = "Callable[[int], None]"

_C_TYPES: dict[str, Any] = {
    "i1": ctypes.c_int8,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}
# CUtensorMapDataType
_TENSOR_MAP_TYPES = {
    "uint8": 0,
    "int8": 0,
    "bool": 0,
    "float8_e4m3fn": 0,
    "float8_e5m2": 0,
    "int16": 1,
    "int32": 3,
    "int64": 5,
    "float16": 6,
    "float32": 7,
    "float64": 8,
    "bfloat16": 9,
}
_STATIC_SHARED_MEMORY = 48 * 1024  # more than this has to be asked for


class Binder:
    """Prepares steps against the addresses of buffers. What it makes lives as long as `resources`."""

    def __init__(self, plan: Plan, addresses: dict[str, int], resources: Resources) -> None:
        self._plan = plan
        self._addresses = addresses
        self._resources = resources
        self._functions = {digest: self._function(kernel) for digest, kernel in plan.kernel_of.items()}

    def address(self, pointer: Pointer) -> int:
        return self._addresses[pointer.buffer] + pointer.offset

    def bind(self, number: int, step: Step) -> Enqueue:
        """Raises DeviceError for a step that the device cannot do."""
        name = step_name(number, step)
        if isinstance(step, Launch):
            return self._launch(step, name)
        if isinstance(step, Gemm):
            return self._gemm(step, name)
        return self._copy(step, name) if isinstance(step, Copy) else self._fill(step, name)

    def _function(self, kernel: Kernel) -> Any:
        module = self._resources.module(kernel.cubin, kernel.entry)
        function = call("cuModuleGetFunction", module, kernel.entry.encode(), step=f"finding {kernel.entry}")
        kinds = driver().CUfunction_attribute
        if kernel.shared_memory > _STATIC_SHARED_MEMORY:
            attribute = kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call("cuFuncSetAttribute", function, attribute, kernel.shared_memory, step=f"{kernel.entry}")
        if kernel.cluster[0] * kernel.cluster[1] * kernel.cluster[2] > 8:
            attribute = kinds.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            call("cuFuncSetAttribute", function, attribute, 1, step=f"{kernel.entry}")
        return function

    def _launch(self, launch: Launch, name: str) -> Enqueue:
        kernel = self._plan.kernel_of[launch.kernel]
        values = [self._value(argument, name) for argument in launch.arguments]
        scratch = 0 if launch.scratch is None else self.address(launch.scratch)
        values += [ctypes.c_void_p(scratch if i == 0 else 0) for i in range(kernel.trailing_pointers)]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(value) for value in values))
        config = self._configuration(kernel, launch)
        function = self._functions[launch.kernel]
        kept = (values, pointers)

        def enqueue(stream: int) -> None:
            config.hStream = stream
            call("cuLaunchKernelEx", config, function, ctypes.addressof(kept[1]), 0, step=name)

        return enqueue

    def _configuration(self, kernel: Kernel, launch: Launch) -> Any:
        cuda = driver()
        config = cuda.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * kernel.num_warps, 1, 1
        config.sharedMemBytes = kernel.shared_memory
        attributes = []
        if launch.programmatic:
            attribute = cuda.CUlaunchAttribute()
            attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            attributes.append(attribute)
        if kernel.cluster != (1, 1, 1):
            attribute = cuda.CUlaunchAttribute()
            attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            dims = attribute.value.clusterDim
            dims.x, dims.y, dims.z = kernel.cluster
            attributes.append(attribute)
        config.attrs = attributes
        config.numAttrs = len(attributes)
        return config

    def _value(self, argument: Argument, name: str) -> Any:
        if isinstance(argument, Pointer):
            return ctypes.c_void_p(self.address(argument))
        if isinstance(argument, Scalar):
            return _C_TYPES[argument.kind](argument.value)
        return self._tensor_map(argument, name)

    def _tensor_map(self, tensor: TensorMap, name: str) -> Any:
        cuda = driver()
        kind = _TENSOR_MAP_TYPES.get(tensor.dtype)
        if kind is None:
            raise DeviceError(f"{name}: there is no tensor map of {tensor.dtype}")
        address = self.address(tensor.pointer)
        if address % 16:
            raise DeviceError(f"{name}: a tensor map's address is not a multiple of 16")
        size = itemsize(tensor.dtype)
        fill = cuda.CUtensorMapFloatOOBfill
        encoded = call(
            "cuTensorMapEncodeTiled",
            cuda.CUtensorMapDataType(kind),
            len(tensor.shape),
            address,
            [cuda.cuuint64_t(dim) for dim in reversed(tensor.shape)],
            [cuda.cuuint64_t(stride * size) for stride in reversed(tensor.strides[:-1])],
            [cuda.cuuint32_t(dim) for dim in reversed(tensor.box)],
            [cuda.cuuint32_t(1)] * len(tensor.shape),
            cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cuda.CUtensorMapSwizzle(tensor.swizzle),
            cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
            if tensor.nan_fill
            else fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            step=name,
        )
        words = (ctypes.c_uint64 * 16)()
        words[:] = [int(word) for word in encoded.opaque]
        return words

    def _gemm(self, gemm: Gemm, name: str) -> Enqueue:
        product = Product(gemm, self.address, self._resources.device, name)
        self._resources.keep(product.close)
        product.choose()
        return product.enqueue

    def _copy(self, copy: Copy, name: str) -> Enqueue:
        source, destination = self.address(copy.source), self.address(copy.destination)

        def enqueue(stream: int) -> None:
            if copy.nbytes:
                call("cuMemcpyDtoDAsync", destination, source, copy.nbytes, stream, step=name)

        return enqueue

    def _fill(self, fill: Fill, name: str) -> Enqueue:
        destination = self.address(fill.destination)

        def enqueue(stream: int) -> None:
            if fill.nbytes:
                call("cuMemsetD8Async", destination, fill.value, fill.nbytes, stream, step=name)

        return enqueue
