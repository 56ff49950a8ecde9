"""Images from text by Stable Diffusion 3, with and without jitinfer, as in dit_pipeline.py.

A real StableDiffusion3Pipeline of ppdiffusers with random weights; in place of a prompt it takes random embeddings, so
it needs no text encoders. For the real one:
`--pretrained stabilityai/stable-diffusion-3-medium-diffusers --prompt "a golden retriever on a beach"`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pipelines import Example, main
from ppdiffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from random_models import autoencoder, random_tensor, with_random_weights

import jitinfer

if TYPE_CHECKING:
    import numpy

TEXT_TOKENS = 77


def compile_models(pipe: Any, options: dict[str, Any]) -> None:
    """Both models as bound methods."""
    pipe.transformer.forward = jitinfer.inference(pipe.transformer.forward, **options)
    pipe.vae.decode = jitinfer.inference(pipe.vae.decode, **options)


def build(arguments: argparse.Namespace) -> StableDiffusion3Pipeline:
    if arguments.pretrained:
        return StableDiffusion3Pipeline.from_pretrained(arguments.pretrained)
    heads, head_dim = (2, 16) if arguments.small else (6, 64)
    transformer = SD3Transformer2DModel(
        sample_size=8 if arguments.small else 32,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2 if arguments.small else 4,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        caption_projection_dim=heads * head_dim,
        joint_attention_dim=256,
        pooled_projection_dim=128,
        pos_embed_max_size=32,
    )
    widths = (16, 32) if arguments.small else (32, 64, 128, 128)
    vae = autoencoder(widths, 8 * transformer.config.sample_size, latent_channels=16, scaling_factor=1.5305)
    vae.register_to_config(shift_factor=0.0609)
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    return StableDiffusion3Pipeline(
        transformer=with_random_weights(transformer, arguments.seed),
        vae=with_random_weights(vae, arguments.seed + 1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(names),
    )


def generate(pipe: Any, arguments: argparse.Namespace, steps: int) -> numpy.ndarray:
    if arguments.pretrained:
        text = {"prompt": arguments.prompt}
    else:
        config = pipe.transformer.config
        words, whole = [1, TEXT_TOKENS, config.joint_attention_dim], [1, config.pooled_projection_dim]
        text = {
            "prompt_embeds": random_tensor(words),
            "negative_prompt_embeds": random_tensor(words),
            "pooled_prompt_embeds": random_tensor(whole),
            "negative_pooled_prompt_embeds": random_tensor(whole),
        }
    return pipe(**text, num_inference_steps=steps, output_type="np").images


def title(pipe: Any) -> str:
    config = pipe.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    tokens = (config.sample_size // config.patch_size) ** 2
    return f"SD3 of width {width}, depth {config.num_layers}, {tokens} image tokens and {TEXT_TOKENS} of text, batch 2"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a golden retriever on a beach", help="for a pretrained pipeline")
    sys.exit(main(Example("sd3", build, compile_models, generate, title, "sd3_timings.png"), parser))
