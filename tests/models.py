"""Real models of ppdiffusers in small random configurations: one builder for each kind that users run."""

import importlib.util
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import paddle
import ppdiffusers
from ppdiffusers.models.dit_llama import DiTLLaMA2DModel
from ppdiffusers.transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

# ppdiffusers sets numpy.bool to Python's bool, on which numpy.testing (and comparisons of bfloat16 arrays) fail.
numpy.bool = numpy.bool_

_EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
_spec = importlib.util.spec_from_file_location("random_models", _EXAMPLES / "random_models.py")
random_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(random_models)
random_models.install_shims()


def install_more_shims() -> None:
    """What PixArt's caption projection and Large-DiT's rotary table need beyond: sizes as arguments, int64 factors."""
    randn, outer = paddle.randn, paddle.outer

    def randn_of_sizes(shape, *rest, **keywords):
        sizes = [size for size in rest if isinstance(size, int)] if isinstance(shape, int) else []
        return randn([shape, *sizes], **keywords) if sizes else randn(shape, *rest, **keywords)

    def outer_of_floats(x, y, name=None):
        return outer(x.astype(y.dtype) if y.is_floating_point() else x, y)

    paddle.randn, paddle.outer = randn_of_sizes, outer_of_floats


install_more_shims()


@dataclass
class Case:
    layer: paddle.nn.Layer
    function: Callable[..., Any]
    tensors: dict[str, paddle.Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)

    def dynamic(self):
        with paddle.no_grad():
            return self.function(**self.tensors, **self.arguments)


TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "num_layers": 2,
    "attention_bias": True,
    "sample_size": 12,
    "patch_size": 2,
    "out_channels": 8,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
}


def dit():
    layer = ppdiffusers.Transformer2DModel(**TRANSFORMER, norm_type="ada_norm_zero")
    x = paddle.randn([3, 4, 12, 12])
    steps, labels = paddle.to_tensor([7, 7, 900]), paddle.to_tensor([1, 1000, 3])
    return Case(layer, layer.forward, {"hidden_states": x, "timestep": steps, "class_labels": labels})


def transformer_2d():
    layer = ppdiffusers.Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=24,
        num_layers=2,
        cross_attention_dim=20,
        norm_num_groups=6,
    )
    tensors = {"hidden_states": paddle.randn([1, 24, 6, 6]), "encoder_hidden_states": paddle.randn([1, 5, 20])}
    return Case(layer, layer.forward, tensors)


def pixart():
    layer = ppdiffusers.Transformer2DModel(
        **TRANSFORMER, norm_type="ada_norm_single", cross_attention_dim=48, caption_channels=20, norm_eps=1e-6
    )
    tensors = {
        "hidden_states": paddle.randn([2, 4, 12, 12]),
        "encoder_hidden_states": paddle.randn([2, 5, 20]),
        "timestep": paddle.to_tensor([3, 3]),
        "encoder_attention_mask": paddle.to_tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    }
    sizes = {"resolution": None, "aspect_ratio": None}
    return Case(layer, layer.forward, tensors, {"added_cond_kwargs": sizes})


def sd3():
    layer = ppdiffusers.SD3Transformer2DModel(
        sample_size=12,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=24,
        num_attention_heads=2,
        joint_attention_dim=20,
        caption_projection_dim=48,
        pooled_projection_dim=28,
        out_channels=4,
        pos_embed_max_size=12,
    )
    tensors = {
        "hidden_states": paddle.randn([2, 4, 12, 12]),
        "encoder_hidden_states": paddle.randn([2, 7, 20]),
        "pooled_projections": paddle.randn([2, 28]),
        "timestep": paddle.to_tensor([400.0, 400.0]),
    }
    return Case(layer, layer.forward, tensors, {"joint_attention_kwargs": None, "return_dict": False})


def large_dit():
    layer = DiTLLaMA2DModel(
        sample_size=12,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=24,
        mlp_ratio=4.0,
        n_kv_heads=None,
        multiple_of=16,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        class_dropout_prob=0.1,
        num_classes=10,
        learn_sigma=True,
        qk_norm=True,
    )
    tensors = {
        "hidden_states": paddle.randn([2, 4, 12, 12]),
        "timestep": paddle.to_tensor([5, 5]),
        "class_labels": paddle.to_tensor([1, 3]),
    }
    return Case(layer, layer.forward, tensors)


def unet():
    layer = ppdiffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=12,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=20,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    tensors = {
        "sample": paddle.randn([2, 4, 12, 12]),
        "timestep": paddle.to_tensor(5),
        "encoder_hidden_states": paddle.randn([2, 5, 20]),
    }
    return Case(layer, layer.forward, tensors)


def vae_decode():
    layer = ppdiffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=24,
    )
    return Case(layer, layer.decode, {"z": paddle.randn([2, 4, 6, 6])})


def _clip(kind):
    return kind(
        CLIPTextConfig(
            hidden_size=24,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            vocab_size=90,
            max_position_embeddings=12,
        )
    )


def clip_text():
    layer = _clip(CLIPTextModel)
    return Case(layer, layer.forward, {"input_ids": paddle.randint(0, 89, [3, 12])})


def clip_text_projection():
    layer = _clip(CLIPTextModelWithProjection)
    return Case(layer, layer.forward, {"input_ids": paddle.randint(0, 89, [3, 12])}, {"output_hidden_states": True})


def t5_encoder():
    layer = T5EncoderModel(
        T5Config(d_model=24, d_kv=6, num_layers=2, num_heads=4, d_ff=48, vocab_size=90, feed_forward_proj="gated-gelu")
    )
    return Case(layer, layer.forward, {"input_ids": paddle.randint(0, 89, [3, 12])})


BUILDERS = [
    dit,
    transformer_2d,
    pixart,
    sd3,
    large_dit,
    unet,
    vae_decode,
    clip_text,
    clip_text_projection,
    t5_encoder,
]


def build(builder, seed=0):
    paddle.seed(seed)
    case = builder()
    case.layer.eval()
    return case
