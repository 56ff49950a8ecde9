"""Class-conditional images by a DiT, with and without jitinfer: what `make demo` runs.

A real DiTPipeline of ppdiffusers with random weights: width 384, depth 12, 256 tokens, batch 2 for classifier-free
guidance, latents of 4x32x32 decoded to 256x256 pixels. `--pretrained facebook/DiT-XL-2-256` takes the real one.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pipelines import Example, main
from ppdiffusers import DDIMScheduler, DiTPipeline, Transformer2DModel
from random_models import autoencoder, with_random_weights

import jitinfer

if TYPE_CHECKING:
    import numpy

LABEL = 207
"""The class of ImageNet to draw: golden retriever. Random weights do not know."""


def compile_models(pipe: Any, options: dict[str, Any]) -> None:
    """All that a program has to change: the transformer as a Layer, the decoder as a bound method."""
    pipe.transformer = jitinfer.inference(pipe.transformer, **options)
    pipe.vae.decode = jitinfer.inference(pipe.vae.decode, **options)


def build(arguments: argparse.Namespace) -> DiTPipeline:
    if arguments.pretrained:
        return DiTPipeline.from_pretrained(arguments.pretrained)
    transformer = Transformer2DModel(
        num_attention_heads=2 if arguments.small else 6,
        attention_head_dim=16 if arguments.small else 64,
        in_channels=4,
        out_channels=8,
        num_layers=2 if arguments.small else 12,
        attention_bias=True,
        sample_size=8 if arguments.small else 32,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    widths = (16, 32) if arguments.small else (32, 64, 128, 128)
    vae = autoencoder(widths, 8 * transformer.config.sample_size, latent_channels=4)
    return DiTPipeline(
        with_random_weights(transformer, arguments.seed),
        with_random_weights(vae, arguments.seed + 1),
        DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )


def generate(pipe: Any, _arguments: argparse.Namespace, steps: int) -> numpy.ndarray:
    return pipe(class_labels=[LABEL], num_inference_steps=steps, output_type="np").images


def title(pipe: Any) -> str:
    config = pipe.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    tokens = (config.sample_size // config.patch_size) ** 2
    return f"DiT of width {width}, depth {config.num_layers}, {tokens} tokens, batch 2"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sys.exit(main(Example("dit", build, compile_models, generate, title, "before_after.png"), parser))
