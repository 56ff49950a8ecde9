"""How Paddle Inference is set up for one program, and which set-ups are known to be wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.passes import is_graph_pass

if TYPE_CHECKING:
    from jitinfer.options import Options

# What Paddle Inference 3.3 runs on a CPU, in its order: with oneDNN, then on every program, then after lowering.
ONEDNN_PASSES = (
    "add_shadow_output_after_dead_parameter_pass",
    "delete_quant_dequant_linear_op_pass",
    "delete_weight_dequant_linear_op_pass",
    "depthwise_conv_onednn_pass",
    "squeeze_transpose_onednn_fuse_pass",
    "conv2d_bn_onednn_fuse_pass",
    "conv2d_bias_bn_onednn_fuse_pass",
    "conv2d_bias_fuse_pass",
    "conv2d_transpose_bn_fuse_pass",
    "conv2d_transpose_bias_bn_fuse_pass",
    "conv2d_transpose_bias_fuse_pass",
    "conv3d_bias_fuse_pass",
    "conv_elementwise_add_onednn_fuse_pass",
    "conv_activation_onednn_fuse_pass",
    "conv_concat_activation_onednn_fuse_pass",
    "matmul_scale_fuse_pass",
    "scale_matmul_fuse_pass",
    "reshape_transpose_matmul_fuse_pass",
    "matmul_transpose_reshape_fuse_pass",
    "matmul_add_act_fuse_pass",
    "matmul_reshape_add_fuse_pass",
    "fc_onednn_enable_pass",
    "matmul_elementwise_add_fuse_pass",
    "matmul_activation_fuse_pass",
    "fc_activation_fuse_pass",
    "self_attention_fuse_pass",
    "batch_norm_act_fuse_pass",
    "softplus_activation_fuse_pass",
    "shuffle_channel_detect_pass",
    "elementwise_act_onednn_fuse_pass",
    "operator_scale_onednn_fuse_pass",
    "operator_unsqueeze_onednn_fuse_pass",
    "operator_reshape_onednn_fuse_pass",
    "onednn_placement_pass",
)
BFLOAT16_PASSES = (
    "cpu_bfloat16_placement_pass",
    "cpu_bfloat16_pass",
    "cpu_bfloat16_type_placement_pass",
    "cpu_special_ops_bf16_pass",
    "cpu_bf16_quantize_squash_pass",
)
PLAIN_PASSES = ONEDNN_PASSES[:3]
FRAMEWORK_PASSES = (
    "transfer_layout_pass",
    "common_subexpression_elimination_pass",
    "constant_folding_pass",
    "dead_code_elimination_pass",
    "inplace_pass",
)
REQUIRED_PASSES = ("params_sync_among_devices_pass", "replace_fetch_with_shadow_output_pass", "remove_shadow_feed_pass")
LEGACY_PASSES = ("trt_prompt_tuning_embedding_eltwise_layernorm_fuse_pass", "add_support_int8_pass")
"""Of Paddle's old IR; `paddle.incubate.jit.inference` deletes them by default, so scripts name them."""


@dataclass(frozen=True)
class Defect:
    """A pass that is never run in some set-up, although it may look right on one set of values."""

    name: str
    onednn: bool
    reason: str


KNOWN_DEFECTS = (
    Defect(
        "inplace_pass",
        onednn=True,
        reason="reuses buffers that oneDNN's kernels still read; which results suffer depends on the values, "
        "so a comparison on one input cannot clear it",
    ),
)


@dataclass(frozen=True)
class Configuration:
    """One complete set-up. `custom`: the exact list of passes to run in place of Paddle's own, if not empty."""

    onednn: bool
    bfloat16: bool = False
    optimise: bool = True
    deleted: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()
    threads: int = 1
    debug: bool = False
    memory_pool_mb: int = 1000
    gpu: int | None = None
    precision: str = "float32"
    cutlass: bool = False

    @property
    def arithmetic(self) -> str:
        if self.gpu is not None:
            return self.precision
        return "bfloat16" if self.bfloat16 else "float32"

    def passes(self) -> tuple[str, ...]:
        """What runs, in order, less what is deleted: the candidates for blame."""
        if not self.optimise:
            return ()
        own = self.custom or engine_passes(self.onednn, self.bfloat16)
        return tuple(name for name in dict.fromkeys(own + FRAMEWORK_PASSES) if name not in self.deleted)

    def without(self, *names: str) -> Configuration:
        return dataclasses.replace(
            self,
            deleted=tuple(dict.fromkeys(self.deleted + names)),
            custom=tuple(name for name in self.custom if name not in names),
        )

    def __str__(self) -> str:
        if self.gpu is not None:
            kind = f"GPU {self.gpu}, {self.precision}"
        else:
            kind = ("oneDNN bfloat16" if self.bfloat16 else "oneDNN") if self.onednn else "plain kernels"
        kind += "" if self.optimise else ", no passes"
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}"
        return kind + threads + (f", without {', '.join(self.deleted)}" if self.deleted else "")

    def document(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @staticmethod
    def restore(document: Any) -> Configuration:
        """The inverse of `document`; raises TypeError if it is not one."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return Configuration(**fields)


def engine_passes(onednn: bool, bfloat16: bool) -> tuple[str, ...]:
    if not onednn:
        return PLAIN_PASSES
    return ONEDNN_PASSES + (BFLOAT16_PASSES if bfloat16 else ())


def _of_paddle(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of Paddle's passes among `names`, which may hold graph passes too."""
    return tuple(name for name in names if not is_graph_pass(name))


def program_passes(options: Options) -> tuple[str, ...]:
    """Those of `passes` that run on the traced program of an engine with a graph, in their order; by default none."""
    if not options.switch_ir_optim:
        return ()
    dropped = ("default", *LEGACY_PASSES, *options.delete_pass_lists)
    return tuple(name for name in _of_paddle(options.passes) if name not in dropped)


def deleted_passes(options: Options) -> tuple[str, ...]:
    """Those of `delete_pass_lists` that this Paddle has."""
    return tuple(name for name in _of_paddle(options.delete_pass_lists) if name not in LEGACY_PASSES)


def cpu_configurations(options: Options, threads: int, bfloat16: bool) -> list[Configuration]:
    """What to try on a CPU, the fastest first; known defects are left out from the start."""
    tried = []
    for onednn, optimise in ((True, True), (False, True), (False, False)):
        if optimise and not options.switch_ir_optim:
            continue
        deleted = list(deleted_passes(options))
        deleted += [defect.name for defect in KNOWN_DEFECTS if defect.onednn and onednn and optimise]
        tried.append(
            Configuration(
                onednn=onednn,
                bfloat16=bfloat16 and onednn,
                optimise=optimise,
                deleted=tuple(dict.fromkeys(deleted)),
                custom=_custom(options, onednn, bfloat16 and onednn) if optimise else (),
                threads=threads,
                debug=options.switch_ir_debug,
            )
        )
    return tried


def _custom(options: Options, onednn: bool, bfloat16: bool) -> tuple[str, ...]:
    """The user's `passes` with `default` replaced by the engine's own list, or () where the user named none."""
    given = _of_paddle(options.passes)
    if not given:
        return ()
    named = given if "default" in given else (*given, "default")
    order: list[str] = []
    for name in named:
        own = [p for p in engine_passes(onednn, bfloat16) if p not in given]
        order += own if name == "default" else [name]
    return tuple(name for name in order if name not in options.delete_pass_lists)
