"""Whether a plan fits together: every pointer inside of its buffer, every argument of the kind that the kernel takes.

A plan that passes cannot make the driver read what is not its own by a wrong number in the plan itself; what a kernel
does with good arguments is the kernel's affair.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jitinfer.errors import PlanError
from jitinfer.graph.types import DTYPES, itemsize
from jitinfer.runtime.plan import (
    ALIGNMENT,
    POINTER,
    TENSOR_MAP,
    Buffer,
    Copy,
    Gemm,
    Launch,
    Matrix,
    Plan,
    Pointer,
    Scalar,
    TensorMap,
    step_name,
)
from jitinfer.runtime.races import check_races, check_slots

if TYPE_CHECKING:
    from jitinfer.runtime.plan import Argument, Kernel, Step

PLACEMENTS = ("arena", "input", "output", "weight", "constant")
INTEGER_RANGES = {
    "i1": (0, 1),
    **{f"i{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
FLOATING_KINDS = ("f32", "f64")
GEMM_DTYPES = ("float32", "float16", "bfloat16")
EPILOGUES = ("none", "relu", "gelu")
_GRID_LIMITS = (2**31 - 1, 65535, 65535)
_ALGORITHM_BYTES = 64


def check(plan: Plan) -> None:
    """Raises PlanError, naming the step or the buffer."""
    if len(plan.buffer_named) != len(plan.buffers):
        raise PlanError("two buffers have one name")
    if len(plan.kernel_of) != len(plan.kernels):
        raise PlanError("a kernel stands there twice")
    constants = dict(plan.constants)
    for buffer in plan.buffers:
        _check_buffer(plan, buffer, constants)
    if len(constants) != sum(buffer.placement == "constant" for buffer in plan.buffers):
        raise PlanError("the bytes of a constant have no buffer")
    _check_interface(plan)
    for kernel in plan.kernels:
        _check_kernel(kernel, plan.target)
    for number, step in enumerate(plan.steps):
        try:
            _check_step(plan, step)
        except PlanError as error:  # noqa: PERF203 (at loading, once a step)
            raise PlanError(f"{step_name(number, step)}: {error}") from None
    if plan.slots:
        check_slots(plan)
        check_races(plan)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _check_buffer(plan: Plan, buffer: Buffer, constants: dict[str, bytes]) -> None:
    name = f"the buffer {buffer.name!r}"
    _require(buffer.placement in PLACEMENTS, f"{name} is placed in {buffer.placement!r}")
    _require(buffer.nbytes >= 0 and all(dim >= 0 for dim in buffer.shape), f"{name} has a negative size")
    if buffer.placement == "arena":
        _require(buffer.offset % ALIGNMENT == 0, f"{name} is not aligned to {ALIGNMENT} bytes")
        _require(0 <= buffer.offset <= plan.arena_bytes - buffer.nbytes, f"{name} leaves the arena")
        return
    _require(buffer.offset == 0, f"{name} has an offset but is not in the arena")
    _require(buffer.dtype in DTYPES, f"{name} has the dtype {buffer.dtype!r}")
    fits = math.prod(buffer.shape) * itemsize(buffer.dtype) == buffer.nbytes
    _require(fits, f"{name} has {buffer.nbytes} bytes, which is not {buffer.dtype}{list(buffer.shape)}")
    if buffer.placement == "constant":
        given = constants.get(buffer.name)
        _require(given is not None and len(given) == buffer.nbytes, f"{name} has not {buffer.nbytes} bytes in the plan")


def _check_interface(plan: Plan) -> None:
    inputs = [buffer.name for buffer in plan.buffers if buffer.placement == "input"]
    _require(sorted(inputs) == sorted(plan.inputs), "the inputs are not the input buffers, each once")
    for name in plan.outputs:
        known = name in plan.buffer_named and plan.buffer_named[name].placement != "arena"
        _require(known, f"the output {name!r} is no buffer that a caller can have")
    results = {buffer.name for buffer in plan.buffers if buffer.placement == "output"}
    _require(results <= set(plan.outputs), "an output buffer is not among the outputs")


def _check_kernel(kernel: Kernel, target: int) -> None:
    # Code for 9.0 and later uses features of that one architecture; older code runs on later minor versions.
    fits = kernel.target == target or (kernel.target < 90 and kernel.target // 10 == target // 10)
    _require(fits and kernel.target <= target, f"{kernel.entry} is for sm_{kernel.target}, the plan for sm_{target}")
    _require(0 < kernel.num_warps <= 32, f"{kernel.entry} has {kernel.num_warps} warps")
    sizes = (kernel.shared_memory, kernel.scratch_bytes, kernel.trailing_pointers)
    _require(min(sizes) >= 0, f"{kernel.entry} has a negative size")
    _require(kernel.scratch_bytes == 0 or kernel.trailing_pointers > 0, f"{kernel.entry} cannot be given its scratch")
    _require(all(0 < dim <= 16 for dim in kernel.cluster), f"{kernel.entry} has a cluster of {kernel.cluster}")
    _require(len(kernel.tiles) == kernel.parameters.count(TENSOR_MAP), f"{kernel.entry} lacks tiles of tensor maps")
    for kind in kernel.parameters:
        known = kind in (POINTER, TENSOR_MAP, *FLOATING_KINDS) or kind in INTEGER_RANGES
        _require(known, f"{kernel.entry} has a parameter {kind!r}")


def _check_step(plan: Plan, step: Step) -> None:
    cost = step.cost
    _require(cost is None or min(cost.node, cost.flops, cost.nbytes) >= 0, "a cost of less than nothing")
    if isinstance(step, Launch):
        _check_launch(plan, step)
    elif isinstance(step, Gemm):
        _check_gemm(plan, step)
    elif isinstance(step, Copy):
        _check_range(plan, step.source, step.nbytes)
        _check_range(plan, step.destination, step.nbytes, written=True)
        if step.source.buffer == step.destination.buffer:
            apart = abs(step.source.offset - step.destination.offset) >= step.nbytes
            _require(apart, "the places of a copy overlap")
    else:
        _check_range(plan, step.destination, step.nbytes, written=True)
        _require(0 <= step.value < 256, f"a byte is not {step.value}")


def _check_range(plan: Plan, pointer: Pointer, nbytes: int, *, written: bool = False) -> None:
    buffer = plan.buffer_named.get(pointer.buffer)
    if buffer is None:
        raise PlanError(f"there is no buffer {pointer.buffer!r}")
    inside = nbytes >= 0 and 0 <= pointer.offset <= buffer.nbytes - nbytes
    _require(inside, f"{nbytes} bytes at {pointer.offset} leave the {buffer.nbytes} bytes of {buffer.name!r}")
    _require(not written or buffer.placement in ("arena", "output"), f"{buffer.name!r} must not be written")


def _check_launch(plan: Plan, launch: Launch) -> None:
    kernel = plan.kernel_of.get(launch.kernel)
    if kernel is None:
        raise PlanError(f"there is no kernel {launch.kernel[:12]}")
    for size, limit, cluster in zip(launch.grid, _GRID_LIMITS, kernel.cluster, strict=True):
        _require(0 < size <= limit and size % cluster == 0, f"a grid of {launch.grid}, clusters of {kernel.cluster}")
    _require(kernel.waits or not launch.programmatic, f"{kernel.entry} does not wait for what runs before it")
    expected, given = len(kernel.parameters), len(launch.arguments)
    _require(expected == given, f"{kernel.entry} takes {expected} arguments, not {given}")
    tiles = iter(kernel.tiles)
    for position, (kind, argument) in enumerate(zip(kernel.parameters, launch.arguments, strict=True)):
        _check_argument(plan, kind, argument, f"argument {position} of {kernel.entry}")
        if isinstance(argument, TensorMap):
            tile = next(tiles)
            fits = (tile.box, tile.swizzle, tile.element_bytes) == (
                argument.box,
                argument.swizzle,
                itemsize(argument.dtype),
            )
            _require(fits, f"argument {position} of {kernel.entry} is not of the tile {tile}")
    if kernel.scratch_bytes:
        if launch.scratch is None:
            raise PlanError(f"{kernel.entry} needs scratch memory")
        _check_range(plan, launch.scratch, kernel.scratch_bytes * math.prod(launch.grid), written=True)
    else:
        _require(launch.scratch is None, f"{kernel.entry} takes no scratch memory")


def _check_argument(plan: Plan, kind: str, argument: Argument, name: str) -> None:
    if isinstance(argument, Pointer):
        _require(kind == POINTER, f"{name} is a pointer, not {kind}")
        _check_range(plan, argument, 0)
    elif isinstance(argument, Scalar):
        _require(kind == argument.kind, f"{name} is {argument.kind}, not {kind}")
        if kind in INTEGER_RANGES:
            low, high = INTEGER_RANGES[kind]
            fits = type(argument.value) is int and low <= argument.value <= high
            _require(fits, f"{name} is {argument.value}, which is no {kind}")
        else:
            _require(type(argument.value) is float, f"{name} is {argument.value}, which is no {kind}")
    else:
        _require(kind == TENSOR_MAP, f"{name} is a tensor map, not {kind}")
        _check_tensor_map(plan, argument)


def _check_tensor_map(plan: Plan, tensor: TensorMap) -> None:
    rank = len(tensor.shape)
    _require(tensor.dtype in DTYPES, f"a tensor map of {tensor.dtype!r}")
    _require(1 <= rank <= 5 and len(tensor.strides) == len(tensor.box) == rank, f"a tensor map of {rank} dimensions")
    _require(all(0 < dim <= 256 for dim in tensor.box), f"a tensor map's box of {tensor.box}")
    _require(all(0 < dim < 2**32 for dim in tensor.shape), f"a tensor map's shape of {tensor.shape}")
    size = itemsize(tensor.dtype)
    rows_aligned = all(stride >= 0 and stride * size % 16 == 0 for stride in tensor.strides[:-1])
    _require(tensor.strides[-1] == 1 and rows_aligned, f"a tensor map's strides of {tensor.strides}")
    _require(tensor.pointer.offset % 16 == 0, "a tensor map's address is not a multiple of 16")
    _require(tensor.swizzle in (0, 1, 2, 3), f"a tensor map's swizzle of {tensor.swizzle}")
    reach = 1 + sum((dim - 1) * stride for dim, stride in zip(tensor.shape, tensor.strides, strict=True))
    _check_range(plan, tensor.pointer, reach * size)


def _check_gemm(plan: Plan, gemm: Gemm) -> None:
    m, k = (gemm.a.columns, gemm.a.rows) if gemm.transpose_a else (gemm.a.rows, gemm.a.columns)
    inner, n = (gemm.b.columns, gemm.b.rows) if gemm.transpose_b else (gemm.b.rows, gemm.b.columns)
    _require(k == inner and (gemm.d.rows, gemm.d.columns) == (m, n), f"[{m}, {k}] @ [{inner}, {n}] does not fit d")
    _require(min(m, n, k, gemm.batch) > 0, "an empty product")
    _require(gemm.epilogue in EPILOGUES, f"there is no epilogue {gemm.epilogue!r}")
    _require(gemm.a.dtype == gemm.b.dtype, "a and b differ in dtype")
    for matrix in (gemm.a, gemm.b):
        _check_matrix(plan, matrix, gemm.batch)
    _check_matrix(plan, gemm.d, gemm.batch, written=True)
    if gemm.c is not None:
        _require((gemm.c.rows, gemm.c.columns, gemm.c.dtype) == (m, n, gemm.d.dtype), "c is not of the type of d")
        _check_matrix(plan, gemm.c, gemm.batch)
    _require(gemm.c is not None or gemm.beta == 0, "beta without c")
    if gemm.bias is not None:
        _check_range(plan, gemm.bias, n * itemsize(gemm.d.dtype))
    if gemm.workspace is not None:
        _check_range(plan, gemm.workspace, gemm.workspace_bytes, written=True)
    _require(gemm.workspace is not None or gemm.workspace_bytes == 0, "the workspace has no place")
    _check_algorithm(gemm.algorithm)


def _check_algorithm(text: str) -> None:
    try:
        given = bytes.fromhex(text)
    except ValueError:
        raise PlanError("the algorithm is not hexadecimal") from None
    _require(len(given) in (0, _ALGORITHM_BYTES), f"an algorithm of {len(given)} bytes")


def _check_matrix(plan: Plan, matrix: Matrix, batch: int, *, written: bool = False) -> None:
    _require(matrix.dtype in GEMM_DTYPES, f"there is no product of {matrix.dtype!r}")
    sizes = (matrix.rows, matrix.columns, matrix.row_stride, matrix.batch_stride)
    _require(min(sizes) >= 0 and matrix.row_stride >= matrix.columns, f"a matrix of rows {matrix.row_stride} apart")
    size = itemsize(matrix.dtype)
    _require(matrix.pointer.offset % size == 0, "a matrix between two elements")
    last = (batch - 1) * matrix.batch_stride + (matrix.rows - 1) * matrix.row_stride + matrix.columns
    _check_range(plan, matrix.pointer, last * size, written=written)
    if written and batch > 1:
        _require(matrix.batch_stride >= (matrix.rows - 1) * matrix.row_stride + matrix.columns, "d overlaps itself")
