"""Operators that Paddle's passes and its fused layers make of several: here they are several again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.movement import cut
from jitinfer.frontend.converters.pointwise import activated
from jitinfer.frontend.converters.registry import PirOp, converter, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer


@converter("fc", "gemm_epilogue")
def fc(importer: Importer, op: PirOp, x: Any, weight: Any, bias: Any = None) -> Any:
    """activation(x @ weight + bias), over all axes of x but the first `in_num_col_dims`."""
    supported(not op.attributes["padding_weights"], "weights with padding")
    y = _flattened(x, op.attributes["in_num_col_dims"]) @ weight
    y = y if bias is None else y + ops.reshape(bias, shape=(math.prod(bias.shape),))
    return activated(op.attributes["activation_type"], y)


@converter("matmul_with_flatten")
def matmul_with_flatten(importer: Importer, op: PirOp, x: Any, y: Any) -> Any:
    split = op.attributes["y_num_col_dims"]
    matrix = ops.reshape(y, shape=(math.prod(y.shape[:split]), math.prod(y.shape[split:])))
    product = _flattened(x, op.attributes["x_num_col_dims"]) @ matrix
    return ops.reshape(product, shape=(*product.shape[:-1], *y.shape[split:]))


def _flattened(x: Any, kept: int) -> Any:
    """x with all axes after the first `kept` as one."""
    return ops.reshape(x, shape=(*x.shape[:kept], math.prod(x.shape[kept:]))) if kept + 1 != len(x.shape) else x


@converter("addmm")
def addmm(importer: Importer, op: PirOp, z: Any, x: Any, y: Any) -> Any:
    """beta * z + alpha * x @ y"""
    return _times(z, op.attributes["beta"]) + _times(x @ y, op.attributes["alpha"])


@converter("fused_gemm_epilogue")
def fused_gemm_epilogue(importer: Importer, op: PirOp, x: Any, y: Any, bias: Any) -> list[Any]:
    """activation(x @ y + bias). GELU is its approximation by tanh here, as in the library that runs it."""
    supported(not op.attributes["trans_x"] or len(x.shape) == 2, "a transposed batch")
    product = ops.matmul(x, y, transpose_x=op.attributes["trans_x"], transpose_y=op.attributes["trans_y"]) + bias
    if op.attributes["activation"] == "gelu":
        return [ops.gelu(product, approximate="tanh")]
    return [activated(op.attributes["activation"], product)]


@converter("fused_bias_act")
def fused_bias_act(importer: Importer, op: PirOp, x: Any, bias: Any, scales: Any, shift: Any, smooth: Any) -> Any:
    """activation(x + bias); of "geglu" and "swiglu", the first half of x is activated, and multiplied by the other."""
    unquantised = scales is None and shift is None and smooth is None and op.attributes["quant_scale"] <= 0
    supported(unquantised and op.attributes["compute_dtype"] in ("default", "fp16", "bf16", "fp32"), "a quantiser")
    name = op.attributes["act_method"]
    x = x if bias is None else x + bias
    if name not in ("geglu", "swiglu"):
        return activated(name, x)
    last, half = len(x.shape) - 1, x.shape[-1] // 2
    gate, up = cut(x, last, 0, half), cut(x, last, half, x.shape[-1])
    return activated("gelu" if name == "geglu" else "silu", gate) * up


@converter("fused_dropout_add")
def fused_dropout_add(importer: Importer, op: PirOp, x: Any, y: Any, seed: Any) -> list[Any]:
    return [_kept(op, x, "p", "mode") + y]


def _kept(op: PirOp, x: Any, probability: str, mode: str) -> Any:
    """x after dropout in eval mode, given the names of its attributes."""
    dropped = op.attributes[probability]
    supported(dropped == 0.0 or op.attributes["is_test"], "dropout while training")
    return x if op.attributes[mode] == "upscale_in_train" else _times(x, 1.0 - dropped)


def _times(x: Any, factor: float) -> Any:
    return x if factor == 1.0 else x * float(factor)


@converter("skip_layernorm")
def skip_layernorm(importer: Importer, op: PirOp, x: Any, y: Any, scale: Any, bias: Any) -> Any:
    return normalised(op, "layer_norm", x + y, scale, bias)


def normalised(op: PirOp, norm: str, x: Any, scale: Any, bias: Any, epsilon: str = "epsilon") -> Any:
    """By a norm over the axes from `begin_norm_axis`, the last one by default."""
    last = len(x.shape) - 1
    shape = x.shape[op.attributes.get("begin_norm_axis", last) % len(x.shape) :]
    shaped = [None if each is None else ops.reshape(each, shape=shape) for each in (scale, bias)]
    return getattr(ops, norm)(x, *shaped, axes=len(shape), epsilon=op.attributes[epsilon])


@converter("fused_bias_residual_layernorm", "fused_rms_norm_quant")
def fused_bias_residual_norm(
    importer: Importer, op: PirOp, x: Any, bias: Any, residual: Any, scale: Any, norm_bias: Any
) -> list[Any]:
    """norm(x + bias + alpha * residual), and the sum itself."""
    supported(op.attributes["quant_scale"] <= 0, "a quantiser")
    supported(bias is None or residual is not None, "a bias without a residual, which kernels leave out")
    supported(scale is not None, "a sum without a norm")
    norm = "layer_norm" if op.name == "pd_op.fused_bias_residual_layernorm" else "rms_norm"
    if residual is None:
        return [normalised(op, norm, x, scale, norm_bias)]
    x = x if bias is None else x + bias
    x = x + _times(residual, op.attributes.get("residual_alpha", 1.0))
    return [normalised(op, norm, x, scale, norm_bias), x]


@converter("fused_bias_dropout_residual_layer_norm")
def fused_bias_dropout_residual_layer_norm(
    importer: Importer, op: PirOp, x: Any, residual: Any, bias: Any, scale: Any, norm_bias: Any
) -> list[Any]:
    """layer_norm(residual + dropout(x + bias)), and the sum itself."""
    x = residual + _kept(op, x if bias is None else x + bias, "dropout_rate", "dropout_implementation")
    return [normalised(op, "layer_norm", x, scale, norm_bias, "ln_epsilon"), x]


@converter("fused_fc_elementwise_layernorm")
def fused_fc_elementwise_layernorm(
    importer: Importer, op: PirOp, x: Any, weight: Any, y: Any, bias: Any, scale: Any, norm_bias: Any
) -> list[Any]:
    """layer_norm(activation(x @ weight + bias) + y)"""
    product = _flattened(x, op.attributes["x_num_col_dims"]) @ weight
    product = activated(op.attributes["activation_type"], product if bias is None else product + bias)
    return [normalised(op, "layer_norm", ops.reshape(product, shape=y.shape) + y, scale, norm_bias)]


@converter("add_group_norm_silu")
def add_group_norm_silu(importer: Importer, op: PirOp, x: Any, residual: Any, scale: Any, bias: Any) -> list[Any]:
    """activation(group_norm(x + residual)), and the sum itself."""
    supported(op.attributes["data_format"] == "NCHW", "channels in the last place")
    x = x if residual is None else x + residual
    y = ops.group_norm(x, scale, bias, groups=op.attributes["groups"], epsilon=op.attributes["epsilon"])
    return [activated(op.attributes["activation"], y), None if residual is None else x]


@converter("add_n")
def add_n(importer: Importer, op: PirOp, xs: Any) -> Any:
    """From left to right."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total
