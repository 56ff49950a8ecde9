"""Architectures that are tested as graphs, in sizes that only show their operators: builders of cases, by family."""

from collections.abc import Callable
from functools import partial

import numpy
import paddle
import ppdiffusers
from models import BUILDERS, Case
from paddle.vision import models as vision
from paddlenlp import transformers
from ppdiffusers import models as diffusion


def image_network(name, size, channels=3, **options):
    layer = getattr(vision, name)(**options)
    return Case(layer, lambda images: layer(images), {"images": paddle.randn([1, channels, size, size])})


def vision_transformer(stem, **sizes):
    """A backbone of paddlenlp, over images of 32 x 32."""
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    configuration = getattr(transformers, stem + "Config")(**{**common, "image_size": 32, "patch_size": 8, **sizes})
    layer = getattr(transformers, stem + "Model")(configuration)
    return Case(layer, layer.forward, {"pixel_values": paddle.randn([2, 3, 32, 32])})


def big_transfer():
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4}
    layer = transformers.BitModel(transformers.BitConfig(**sizes))
    return Case(layer, layer.forward, {"pixel_values": paddle.randn([1, 3, 32, 32])})


def swin():
    """The windows of CLAP's tower for sound, which is a Swin transformer."""
    sizes = {
        "window_size": 4,
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 16,
        "hidden_size": 64,
        "depths": [2, 2],
        "num_attention_heads": [2, 4],
        "projection_dim": 16,
        "num_hidden_layers": 2,
    }
    layer = transformers.ClapAudioModel(transformers.ClapAudioConfig(**sizes))
    return Case(layer, layer.forward, {"input_features": paddle.randn([1, 1, 64, 16])})


def encoder():
    layer = paddle.nn.TransformerEncoder(paddle.nn.TransformerEncoderLayer(32, 4, 64), 2)
    return Case(layer, layer.forward, {"src": paddle.randn([2, 6, 32]), "src_mask": paddle.randn([2, 4, 6, 6])})


def encoder_and_decoder(**options):
    layer = paddle.nn.Transformer(32, 4, 2, 2, 64, **options)
    tensors = {"src": paddle.randn([2, 6, 32]), "tgt": paddle.randn([2, 5, 32])}
    return Case(layer, layer.forward, {**tensors, "tgt_mask": paddle.randn([2, 4, 5, 5])})


IMAGES = {
    "LeNet": (28, 1),
    "alexnet": (224,),
    "densenet121": (32,),
    "googlenet": (224,),
    "inception_v3": (96,),
    "mobilenet_v1": (64,),
    "mobilenet_v2": (64,),
    "mobilenet_v3_large": (64,),
    "mobilenet_v3_small": (64,),
    "resnet18": (64,),
    "resnet50": (32,),
    "resnext50_32x4d": (48,),
    "shufflenet_v2_swish": (64,),
    "shufflenet_v2_x0_25": (64,),
    "squeezenet1_0": (64,),
    "squeezenet1_1": (64,),
    "vgg11": (32,),
}
NARROW = {
    "mobilenet_v1": {"scale": 0.25},
    "mobilenet_v2": {"scale": 0.25},
    "mobilenet_v3_large": {"scale": 0.25},
    "resnet50": {"width": 16},
}
"""What makes their layers narrower, and leaves all of them in place."""

VISION: dict[str, Callable[[], Case]] = {
    **{name: partial(image_network, name, *size, **NARROW.get(name, {})) for name, size in IMAGES.items()},
    "CLIP, images": partial(vision_transformer, "CLIPVision"),
    "BLIP, images": partial(vision_transformer, "BlipVision"),
    "DPT": partial(
        vision_transformer,
        "DPT",
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        is_hybrid=False,
    ),
    "BiT": big_transfer,
    "Swin": swin,
    "TransformerEncoder": encoder,
    "Transformer": encoder_and_decoder,
    "Transformer, norms first": partial(encoder_and_decoder, normalize_before=True, activation="gelu"),
}


def language_model(stem, decoded=False, **sizes):
    """paddlenlp's model over two sequences, one of them with padding, which most leave out of attention."""
    layer = getattr(transformers, stem + "Model")(getattr(transformers, stem + "Config")(**sizes))
    tokens = numpy.random.default_rng(0).integers(1, 90, (2, 12))
    tensors = {"input_ids": paddle.to_tensor(tokens)}
    if decoded:
        return Case(layer, layer.forward, {**tensors, "decoder_input_ids": paddle.to_tensor(tokens[:, :7])})
    tokens[1, 8:] = 0
    return Case(layer, layer.forward, {"input_ids": paddle.to_tensor(tokens)})


SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
LETTERS = {"vocab_size": 100, "n_layer": 2, "n_head": 4}
BOTH = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 40,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "decoded": True,
}
GLM = {"num_layers": 2, "ffn_hidden_size": 64, "kv_channels": 8, "seq_length": 40, "padded_vocab_size": 100}
STEMS = {
    "BERT": ("Bert", SIZES),
    "ERNIE": ("Ernie", SIZES),
    "RoBERTa": ("Roberta", SIZES),
    "ELECTRA": ("Electra", {**SIZES, "embedding_size": 16}),
    "ALBERT": ("Albert", {**SIZES, "embedding_size": 16}),
    "DistilBERT": ("DistilBert", SIZES),
    "MPNet": ("MPNet", SIZES),
    "GPT": ("GPT", SIZES),
    "LLaMA": ("Llama", SIZES),
    "LLaMA with grouped queries": ("Llama", {**SIZES, "num_key_value_heads": 2}),
    "BLOOM": ("Bloom", {**LETTERS, "hidden_size": 32}),
    "ERNIE-M": ("ErnieM", SIZES),
    "RoFormer": ("RoFormer", {**SIZES, "embedding_size": 32}),
    "RoFormer v2": ("RoFormerv2", SIZES),
    "DeBERTa": ("Deberta", SIZES),
    "DeBERTa v2": ("DebertaV2", SIZES),
    "ConvBERT": ("ConvBert", {**SIZES, "embedding_size": 32}),
    "MegatronBERT": ("MegatronBert", SIZES),
    "TinyBERT": ("TinyBert", SIZES),
    "LayoutLM": ("LayoutLM", SIZES),
    "SKEP": ("Skep", SIZES),
    "FNet": ("FNet", SIZES),
    "GAU-alpha": ("GAUAlpha", SIZES),
    "XLM": ("XLM", {**SIZES, "emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "XLNet": ("XLNet", {**LETTERS, "d_model": 32, "d_inner": 64}),
    "CTRL": ("CTRL", {**LETTERS, "n_positions": 40, "n_embd": 32, "dff": 64}),
    "ChatGLM2": ("ChatGLMv2", {**SIZES, **GLM, "multi_query_group_num": 2}),
    "T5": (
        "T5",
        {"vocab_size": 100, "d_model": 24, "d_kv": 6, "num_layers": 2, "num_heads": 4, "d_ff": 48, "decoded": True},
    ),
    "BART": ("Bart", BOTH),
    "Pegasus": ("Pegasus", BOTH),
}
LANGUAGE: dict[str, Callable[[], Case]] = {
    name: partial(language_model, stem, **sizes) for name, (stem, sizes) in STEMS.items()
}

UNET = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
CROSS_DOWN, CROSS_UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")


def noisy(size, **more):
    return {"sample": paddle.randn([2, 4, size, size]), "timestep": paddle.to_tensor(5), **more}


def without_zeros(layer):
    """Weights that begin as zeros, and hide what comes before them, take other values."""
    for parameter in layer.parameters():
        if not paddle.any(parameter != 0):
            parameter.set_value(0.2 * paddle.randn(parameter.shape))
    return layer


def unet_of_images():
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    layer = ppdiffusers.UNet2DModel(**UNET, **blocks, in_channels=4, out_channels=4, attention_head_dim=8)
    return Case(layer, layer.forward, noisy(8))


def stable_diffusion_xl():
    layer = ppdiffusers.UNet2DConditionModel(
        **UNET,
        down_block_types=CROSS_DOWN,
        up_block_types=CROSS_UP,
        cross_attention_dim=20,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=58,
    )

    def function(sample, timestep, encoder_hidden_states, text_embeds, time_ids):
        conditions = {"text_embeds": text_embeds, "time_ids": time_ids}
        return layer(sample, timestep, encoder_hidden_states, added_cond_kwargs=conditions)

    texts = {"encoder_hidden_states": paddle.randn([2, 5, 20]), "text_embeds": paddle.randn([2, 10])}
    return Case(layer, function, noisy(8, **texts, time_ids=paddle.randn([2, 6])))


def controlnet():
    layer = ppdiffusers.ControlNetModel(
        **UNET,
        in_channels=4,
        down_block_types=CROSS_DOWN,
        cross_attention_dim=20,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(16, 32),
    )
    conditions = {"encoder_hidden_states": paddle.randn([2, 5, 20]), "controlnet_cond": paddle.randn([2, 3, 16, 16])}
    return Case(without_zeros(layer), layer.forward, noisy(8, **conditions))


def adapter():
    sizes = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 8, "adapter_type": "full_adapter"}
    layer = diffusion.T2IAdapter(in_channels=3, **sizes)
    return Case(layer, layer.forward, {"x": paddle.randn([1, 3, 32, 32])})


def prior():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 16}
    layer = diffusion.PriorTransformer(**sizes, num_embeddings=7, additional_embeddings=4)
    texts = {"proj_embedding": paddle.randn([2, 16]), "encoder_hidden_states": paddle.randn([2, 7, 16])}
    return Case(
        layer, layer.forward, {"hidden_states": paddle.randn([2, 16]), "timestep": paddle.to_tensor(5), **texts}
    )


def temporal_transformer():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16, "num_layers": 1}
    layer = diffusion.TransformerTemporalModel(**sizes, norm_num_groups=4, cross_attention_dim=16)
    return Case(layer, layer.forward, {"hidden_states": paddle.randn([3, 16, 4, 4])}, {"num_frames": 3})


def quantised_autoencoder():
    sizes = {"layers_per_block": 1, "latent_channels": 3, "norm_num_groups": 4, "num_vq_embeddings": 20}
    layer = ppdiffusers.VQModel(**VAE, **sizes, block_out_channels=(16, 32))
    return Case(layer, layer.forward, {"sample": paddle.randn([1, 3, 8, 8])})


def tiny_autoencoder():
    blocks = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    layer = ppdiffusers.AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    return Case(layer, layer.forward, {"sample": paddle.randn([1, 3, 16, 16])})


def asymmetric_autoencoder():
    channels = {"down_block_out_channels": (16, 32), "up_block_out_channels": (16, 32)}
    layer = ppdiffusers.AsymmetricAutoencoderKL(**VAE, **channels, latent_channels=4, norm_num_groups=4)
    return Case(layer, layer.decode, {"z": paddle.randn([1, 4, 4, 4])})


def video_autoencoder():
    sizes = {"block_out_channels": (32, 32), "layers_per_block": 1, "latent_channels": 4}
    blocks = {name: VAE[name] for name in ("in_channels", "out_channels", "down_block_types")}
    layer = ppdiffusers.AutoencoderKLTemporalDecoder(**blocks, **sizes)
    return Case(layer, layer.decode, {"z": paddle.randn([2, 4, 4, 4])}, {"num_frames": 2})


NAMES = {
    "DiT": "dit",
    "Transformer2D": "transformer_2d",
    "PixArt": "pixart",
    "Stable Diffusion 3": "sd3",
    "Large-DiT": "large_dit",
    "Stable Diffusion": "unet",
    "AutoencoderKL": "vae_decode",
    "CLIP, texts": "clip_text",
    "CLIP, texts with projection": "clip_text_projection",
    "T5 encoder": "t5_encoder",
}
BUILT = {builder.__name__: builder for builder in BUILDERS}
DIFFUSION: dict[str, Callable[[], Case]] = {
    "UNet2D": unet_of_images,
    "Stable Diffusion XL": stable_diffusion_xl,
    "ControlNet": controlnet,
    "T2I-Adapter": adapter,
    "Prior transformer": prior,
    "Temporal transformer": temporal_transformer,
    "VQ model": quantised_autoencoder,
    "AutoencoderTiny": tiny_autoencoder,
    "Asymmetric AutoencoderKL": asymmetric_autoencoder,
    "AutoencoderKL, videos": video_autoencoder,
}
PIPELINES: dict[str, Callable[[], Case]] = {name: BUILT[builder] for name, builder in NAMES.items()}
"""Tested as models, in test_importing."""
