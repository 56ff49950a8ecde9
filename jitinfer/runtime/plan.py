"""What a compiled program is: buffers, kernels, and steps in order. Pure data; `jitinfer.runtime.executor` runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

ALIGNMENT = 256
"""Bytes: every buffer of a plan starts at a multiple of it."""


@dataclass(frozen=True)
class Pointer:
    """A place in a buffer; `offset` in bytes."""

    buffer: str
    offset: int = 0


@dataclass(frozen=True)
class Scalar:
    """A number given to a kernel; kind: "i1", "i8", "i16", "i32", "i64", "u8", ..., "u64", "f32" or "f64"."""

    kind: str
    value: int | float


@dataclass(frozen=True)
class TensorMap:
    """A TMA descriptor, made on the host for the pointer's address and given to a kernel by value.

    shape and strides in elements, the last stride 1; box: the tile that one copy moves; swizzle: 0 for none, 1, 2, 3
    for 32, 64, 128 bytes; nan_fill: what lies outside of the tensor reads as nan instead of 0.
    """

    pointer: Pointer
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    nan_fill: bool = False


Argument: TypeAlias = Pointer | Scalar | TensorMap
POINTER = "pointer"
TENSOR_MAP = "tensor_map"


@dataclass(frozen=True)
class Tile:
    """What a compiled kernel wants of the tensor map at one of its parameters."""

    box: tuple[int, ...]
    swizzle: int
    element_bytes: int


@dataclass(frozen=True)
class Kernel:
    """Machine code, and how it wants to be launched.

    target: the compute capability as 90; parameters: "pointer", "tensor_map" or the kind of a Scalar, one for each
    argument; tiles: one for each tensor map among them; trailing_pointers: hidden parameters behind those, of which
    the first is the scratch memory, `scratch_bytes` for each thread block, and the others are null; waits: it waits
    for the kernels before it by itself (`griddepcontrol.wait`), so it may be launched before they have ended.
    """

    cubin: bytes = field(repr=False)
    entry: str
    target: int
    num_warps: int
    shared_memory: int
    parameters: tuple[str, ...]
    tiles: tuple[Tile, ...] = ()
    cluster: tuple[int, int, int] = (1, 1, 1)
    trailing_pointers: int = 2
    scratch_bytes: int = 0
    waits: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of code and launch parameters."""
        launch = (self.entry, self.target, self.num_warps, self.shared_memory, self.parameters, self.cluster)
        rest = (self.tiles, self.trailing_pointers, self.scratch_bytes, self.waits)
        return hashlib.sha256(repr((launch, rest)).encode() + self.cubin).hexdigest()


@dataclass(frozen=True)
class Cost:
    """What the node of the graph takes that a step computes, or helps to compute: steps of one node have equal ones.

    node: its number among those of the plan; flops: multiplications and additions; nbytes: what has to be read and
    written at least.
    """

    node: int
    flops: int
    nbytes: int


@dataclass(frozen=True)
class Launch:
    """One launch of the kernel with this digest; grid in thread blocks.

    scratch: where the kernel has scratch_bytes; programmatic: may start while the step before it, on its lane, ends.
    """

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    scratch: Pointer | None = None
    programmatic: bool = False
    label: str = ""
    origin: str = ""
    cost: Cost | None = None

    @property
    def buffers(self) -> tuple[str, ...]:
        """Those that the arguments point to, each once."""
        given = [each.pointer if isinstance(each, TensorMap) else each for each in self.arguments]
        return tuple(dict.fromkeys(each.buffer for each in given if isinstance(each, Pointer)))


@dataclass(frozen=True)
class Matrix:
    """Row-major [rows, columns] of `dtype`; row_stride and batch_stride in elements."""

    pointer: Pointer
    dtype: str
    rows: int
    columns: int
    row_stride: int
    batch_stride: int = 0


@dataclass(frozen=True)
class Gemm:
    """d = epilogue(alpha * op(a) @ op(b) + beta * c + bias), by cuBLASLt, for each of `batch` matrices.

    op(a): [m, k], op(b): [k, n], c and d: [m, n], bias: [n] of d's dtype. epilogue: "none", "relu" or "gelu" (the
    tanh form). algorithm: the 64 bytes of a cublasLtMatmulAlgo_t as hexadecimal text, "" for the first one that
    cuBLASLt proposes. tf32: float32 operands may be rounded to tf32.
    """

    a: Matrix
    b: Matrix
    d: Matrix
    c: Matrix | None = None
    transpose_a: bool = False
    transpose_b: bool = False
    batch: int = 1
    alpha: float = 1.0
    beta: float = 0.0
    bias: Pointer | None = None
    epilogue: str = "none"
    tf32: bool = False
    algorithm: str = ""
    workspace: Pointer | None = None
    workspace_bytes: int = 0
    label: str = ""
    origin: str = ""
    cost: Cost | None = None


@dataclass(frozen=True)
class Copy:
    """`nbytes` from one place to another; the places do not overlap."""

    source: Pointer
    destination: Pointer
    nbytes: int
    label: str = ""
    origin: str = ""
    cost: Cost | None = None


@dataclass(frozen=True)
class Fill:
    """`nbytes` bytes of one value."""

    destination: Pointer
    nbytes: int
    value: int = 0
    label: str = ""
    origin: str = ""
    cost: Cost | None = None


Step: TypeAlias = Launch | Gemm | Copy | Fill
"""`label` and `origin` are for people: the op, and where in the model it comes from, as `graph.Origin` prints."""


@dataclass(frozen=True)
class Region:
    """`nbytes` bytes of a buffer from `offset` on, and as many again at each multiple of strides in bytes.

    repeats: (count, stride) of each axis along which these bytes stand `count` times: a part of a tensor's rows is one
    run of bytes for each row.
    """

    buffer: str
    offset: int
    nbytes: int
    repeats: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Slot:
    """Where a step stands in a plan of several lanes.

    It begins when the steps before it on the same lane have ended, and those of other lanes that `after` numbers.
    writes: what a Launch writes beside its scratch memory, which its arguments do not tell; it reads whatever else they
    point to, and of the same buffers no more than it writes. Other steps tell it themselves.
    """

    lane: int = 0
    after: tuple[int, ...] = ()
    writes: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Buffer:
    """Memory under a name.

    placement: "arena" (at `offset` of it, which others may use at other times), "input", "output", "weight" (given
    when the plan is loaded) or "constant" (its bytes are in the plan). shape and dtype say what a caller gives or
    gets; an arena buffer needs none.
    """

    name: str
    nbytes: int
    placement: str
    offset: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class Plan:
    """A program for one compute capability (`target`, such as 90) and fixed shapes.

    inputs: names of the input buffers, in the order of the call; outputs: names of buffers of any placement but
    "arena", in the order of the results; constants: name and bytes; versions: name and text, for the reader; slots: one
    for each step where steps of several lanes may run side by side, none where all run in their order. That order is
    right in any case.
    """

    target: int
    arena_bytes: int
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    kernels: tuple[Kernel, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[tuple[str, bytes], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    slots: tuple[Slot, ...] = ()

    @cached_property
    def buffer_named(self) -> dict[str, Buffer]:
        return {buffer.name: buffer for buffer in self.buffers}

    @cached_property
    def kernel_of(self) -> dict[str, Kernel]:
        """By digest."""
        return {kernel.digest: kernel for kernel in self.kernels}

    @property
    def lanes(self) -> int:
        """How many there are."""
        return 1 + max((slot.lane for slot in self.slots), default=0)

    @property
    def weights(self) -> tuple[Buffer, ...]:
        """What has to be given when it is loaded."""
        return tuple(buffer for buffer in self.buffers if buffer.placement == "weight")


def step_name(number: int, step: Step) -> str:
    """For messages: "step 3, adaptive_layer_norm (model.py:41)"."""
    text = f"step {number}, {step.label or type(step).__name__.lower()}"
    return f"{text} ({step.origin})" if step.origin else text


def aligned(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
