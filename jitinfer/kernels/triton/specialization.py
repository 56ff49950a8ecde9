"""A Triton function with everything that its machine code depends on, apart from the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triton.runtime.jit import JITFunction

from jitinfer.errors import KernelError
from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import TypedPointer
from jitinfer.runtime.plan import POINTER, TENSOR_MAP, Launch, Pointer, Scalar, TensorMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitinfer.kernels.family import KernelArgument, KernelLaunch
    from jitinfer.runtime.plan import Argument, Kernel

CONSTANT = "constexpr"
DIVISOR = 16
"""Triton makes use of pointers and integers that are multiples of it."""

TRITON_TYPES = {
    "bool": "i1",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float8_e4m3fn": "fp8e4nv",
    "float8_e5m2": "fp8e5",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
}
_SCALAR_TYPES = {"f32": "fp32", "f64": "fp64"}


@dataclass(frozen=True)
class Specialization:
    """signature: Triton's type of each parameter of `function`, "constexpr" for the constant ones; constants: their
    values; divisible: parameters that are multiples of 16; options: Triton's own, by name.
    """

    function: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The kinds of the compiled kernel's parameters, in their order, as `Kernel.parameters` has them."""
        kinds: list[str] = []
        for _, kind in self.signature:
            if kind.startswith("*"):
                kinds.append(POINTER)
            elif kind.startswith("tensordesc"):
                rank = kind.count(",") + 1
                kinds += [TENSOR_MAP, *["i32"] * rank, *["i64"] * rank]
            elif kind != CONSTANT:
                kinds.append({"fp32": "f32", "fp64": "f64"}.get(kind, kind))
        return tuple(kinds)


def specialize(launch: KernelLaunch) -> Specialization:
    """What to compile for a launch: buffers are aligned to 256 bytes, and an integer of 1 is a constant.

    Raises KernelError where the arguments are not those of the function.
    """
    if not isinstance(launch.function, JITFunction):
        raise KernelError(
            f"{launch.function!r} cannot be compiled: it is no Triton function, or TRITON_INTERPRET is set"
        )
    names = list(launch.function.arg_names)
    given = {*launch.arguments, *launch.constants}
    if set(names) != given or len(names) != len(launch.arguments) + len(launch.constants):
        wrong = ", ".join(sorted(set(names) ^ given)) or "an argument that is a constant too"
        raise KernelError(f"{launch.function.__qualname__} is not given its parameters: {wrong}")
    constants = dict(launch.constants)
    constants.update({name: 1 for name, argument in launch.arguments.items() if _is_one(argument)})
    signature = tuple((n, CONSTANT if n in constants else _triton_type(launch.arguments[n])) for n in names)
    divisible = tuple(n for n in names if n not in constants and _divisible(launch.arguments[n]))
    options: dict[str, Any] = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    if launch.num_ctas != 1:
        options["num_ctas"] = launch.num_ctas
    if launch.max_registers is not None:
        options["maxnreg"] = launch.max_registers
    ordered = tuple((name, constants[name]) for name in names if name in constants)
    return Specialization(launch.function, signature, ordered, divisible, tuple(options.items()))


def bind(
    launch: KernelLaunch,
    kernel: Kernel,
    places: Mapping[str, Pointer],
    scratch: Pointer | None,
    label: str = "",
    origin: str = "",
) -> Launch:
    """The step of a plan. places: where the candidate's buffers lie; scratch: given to a kernel that needs it."""
    arguments: list[Argument] = []
    for name in launch.function.arg_names:
        argument = launch.arguments.get(name)
        if argument is not None and not _is_one(argument):
            arguments += _bound(argument, places)
    x, y, z = launch.grid
    return Launch(
        kernel.digest,
        (x * kernel.cluster[0], y, z),
        tuple(arguments),
        scratch=scratch if kernel.scratch_bytes else None,
        programmatic=launch.programmatic and kernel.waits,
        label=label,
        origin=origin,
    )


def moved(pointer: Pointer, places: Mapping[str, Pointer]) -> Pointer:
    """The same place, by the name and offset that its buffer has in a plan."""
    base = places[pointer.buffer]
    return Pointer(base.buffer, base.offset + pointer.offset)


def _bound(argument: KernelArgument, places: Mapping[str, Pointer]) -> list[Argument]:
    if isinstance(argument, TypedPointer):
        return [moved(argument.pointer, places)]
    if isinstance(argument, Scalar):
        return [argument]
    tensor = TensorMap(
        moved(argument.pointer, places),
        argument.dtype,
        argument.shape,
        argument.strides,
        _one_copy(argument),
        argument.swizzle,
        argument.nan_fill,
    )
    # Behind the descriptor, the kernel takes what it describes once more, as numbers.
    shape = [Scalar("i32", dim) for dim in argument.shape]
    return [tensor, *shape, *(Scalar("i64", stride) for stride in argument.strides)]


def _one_copy(argument: TensorMap) -> tuple[int, ...]:
    """The box of a tile's first columns: where rows are swizzled, those that are wider come in several copies."""
    *outer, inner = argument.box
    swizzled_bytes = 16 << argument.swizzle
    return (*outer, min(inner, swizzled_bytes // itemsize(argument.dtype)) if argument.swizzle else inner)


def _is_one(argument: KernelArgument) -> bool:
    return isinstance(argument, Scalar) and type(argument.value) is int and argument.value == 1


def _triton_type(argument: KernelArgument) -> str:
    if isinstance(argument, Scalar):
        return _SCALAR_TYPES.get(argument.kind, argument.kind)
    kind = TRITON_TYPES.get(argument.dtype)
    if kind is None:
        raise KernelError(f"Triton has no {argument.dtype}")
    if isinstance(argument, TypedPointer):
        return f"*{kind}"
    return f"tensordesc<{kind}[{', '.join(map(str, argument.box))}]>"


def _divisible(argument: KernelArgument) -> bool:
    if isinstance(argument, TypedPointer):
        return argument.pointer.offset % DIVISOR == 0
    if isinstance(argument, Scalar):
        return type(argument.value) is int and argument.value % DIVISOR == 0
    return argument.pointer.offset % DIVISOR == 0 and itemsize(argument.dtype) <= DIVISOR
