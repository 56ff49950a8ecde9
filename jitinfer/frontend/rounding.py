"""How many roundings a program's results have gone through, from which a tolerance follows."""

from __future__ import annotations

from typing import Any

from jitinfer.graph.rounding import Rounding

_PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8, "complex128": 53, "complex64": 24}
_NO_ARITHMETIC = frozenset(
    {
        "assign",
        "combine",
        "concat",
        "constant",
        "data",
        "embedding",
        "expand",
        "feed",
        "fetch",
        "flatten",
        "full",
        "full_int_array",
        "gather",
        "parameter",
        "reshape",
        "shadow_output",
        "shape",
        "shape64",
        "slice",
        "split",
        "split_with_num",
        "squeeze",
        "stack",
        "tile",
        "transpose",
        "unbind",
        "unsqueeze",
        "unstack",
    }
)
_REDUCTIONS = frozenset(
    {"softmax", "layer_norm", "group_norm", "rms_norm", "mean", "sum", "logsumexp", "norm", "p_norm"}
)
_UNKNOWN_LENGTH = 4096
"""Taken for the length of a reduction over dims that are not known before the call."""


def rounding_of(program: Any) -> Rounding:
    """Walks the program once; the chain with the most accumulations counts, so the bound is for the worst result."""
    chains: dict[Any, tuple[int, int]] = {}
    coarsest = ""
    longest = (0, 0)
    for op in program.global_block().ops:
        depth, accumulations = 0, 0
        for operand in op.operands_source():
            if operand is not None and operand.initialized():
                before = chains.get(operand.id, (0, 0))
                depth, accumulations = max(depth, before[0]), max(accumulations, before[1])
        inner = [inner for block in op.blocks() for inner in block.ops]
        for each in [op, *inner]:
            if each.name().partition(".")[2].rstrip("_") not in _NO_ARITHMETIC:
                depth, accumulations = depth + 1, accumulations + _length(each)
        for result in op.results():
            chains[result.id] = (depth, accumulations)
            name = _dtype(result)
            if name in _PRECISION and (not coarsest or _PRECISION[name] < _PRECISION[coarsest]):
                coarsest = name
        longest = (max(longest[0], depth), max(longest[1], accumulations))
    return Rounding(longest[0], longest[1], coarsest)


def _dtype(value: Any) -> str:
    try:
        return str(value.dtype).rpartition(".")[2].lower()
    except (AttributeError, RuntimeError, ValueError):  # a vector of tensors, or no tensor at all
        return ""


def _length(op: Any) -> int:
    """How many products or terms one element of the result is summed over."""
    name = op.name().partition(".")[2].rstrip("_")
    operands = [operand for operand in op.operands_source() if operand is not None and operand.initialized()]
    if name in ("matmul", "bmm", "mm", "addmm", "fc") and operands:
        return _size(_shape(operands[0])[-1:])
    if name in ("conv2d", "conv3d", "depthwise_conv2d", "conv2d_transpose") and len(operands) > 1:
        return _size(_shape(operands[1])[1:])
    if name in _REDUCTIONS and operands:
        return _size(_shape(operands[0])[1:]) if name == "group_norm" else _size(_shape(operands[0])[-1:])
    return 1


def _shape(value: Any) -> list[int]:
    try:
        return list(value.shape)
    except (AttributeError, RuntimeError, ValueError):
        return []


def _size(dims: list[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim if dim > 0 else _UNKNOWN_LENGTH
    return size
