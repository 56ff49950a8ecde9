"""Large models at full size, without memory for their weights: what import and passes make of them, and how fast.

    .venv/bin/python benchmarks/graph_passes.py [--models dit,dit_single,dit_512,sd3,sd3_1024,large_dit]

Nodes are counted before and after the default passes.
"""

import argparse
import importlib.util
import pathlib
import time

import paddle
import ppdiffusers
from ppdiffusers.models.dit_llama import DiTLLaMA2DModel

from jitinfer.frontend.importing import import_program
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.passes import run_passes

FIXTURES = pathlib.Path(__file__).parents[1] / "tests" / "models.py"


def dit(layers=28, size=32, batch=2):
    """DiT-XL/2, 256 x 256 pixels; `size` is that of the latent image, an eighth of it."""
    layer = ppdiffusers.Transformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=size,
        patch_size=2,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    tensors = {
        "hidden_states": paddle.randn([batch, 4, size, size]),
        "timestep": paddle.to_tensor([7] * batch),
        "class_labels": paddle.to_tensor([1, 1000][:batch]),
    }
    return layer, tensors, {}


def dit_single(layers=28):
    """DiT-XL/2, 256 x 256 pixels, one image without guidance."""
    return dit(layers, batch=1)


def dit_512(layers=28):
    """DiT-XL/2, 512 x 512 pixels."""
    return dit(layers, 64)


def sd3(layers=24, size=64):
    """Stable Diffusion 3 medium, 512 x 512 pixels."""
    layer = ppdiffusers.SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=layers,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
    )
    tensors = {
        "hidden_states": paddle.randn([2, 16, size, size]),
        "encoder_hidden_states": paddle.randn([2, 154, 4096]),
        "pooled_projections": paddle.randn([2, 2048]),
        "timestep": paddle.to_tensor([400.0, 400.0]),
    }
    return layer, tensors, {"joint_attention_kwargs": None, "return_dict": False}


def sd3_1024(layers=24):
    """Stable Diffusion 3 medium, 1024 x 1024 pixels."""
    return sd3(layers, 128)


def large_dit(layers=32):
    """Large-DiT-3B, 256 x 256 pixels."""
    layer = DiTLLaMA2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        num_attention_heads=32,
        attention_head_dim=96,
        mlp_ratio=4.0,
        n_kv_heads=None,
        multiple_of=256,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        class_dropout_prob=0.1,
        num_classes=1000,
        learn_sigma=True,
        qk_norm=True,
    )
    tensors = {
        "hidden_states": paddle.randn([2, 4, 32, 32]),
        "timestep": paddle.to_tensor([5, 5]),
        "class_labels": paddle.to_tensor([1, 3]),
    }
    return layer, tensors, {}


MODELS = {each.__name__: each for each in (dit, dit_single, dit_512, sd3, sd3_1024, large_dit)}


def megabytes(values):
    return sum(value.type.nbytes for value in values) / 1e6


def traced(name, **sizes):
    """The program of a model whose parameters have types and no memory."""
    with paddle.LazyGuard():
        layer, tensors, arguments = MODELS[name](**sizes)
    layer.eval()
    names = list(tensors)

    def call(symbols):
        return translated_root(layer.forward)(**dict(zip(names, symbols, strict=True)), **arguments)

    return trace(call, [type_of(each) for each in tensors.values()], [*layer.parameters(), *layer.buffers()])


def measure(name):
    started = time.perf_counter()
    found = traced(name)
    ready = time.perf_counter()
    graph = import_program(found.program, origins=found.origins)
    imported = time.perf_counter()
    after, report = run_passes(graph)
    finished = time.perf_counter()
    print(f"\n{MODELS[name].__doc__}  {name}")
    print(
        f"traced in {ready - started:.1f} s, imported in {imported - ready:.2f} s, passes {finished - imported:.2f} s"
    )
    print(f"nodes: {len(graph.nodes)} -> {len(after.nodes)}, {graph.flops / 1e9:.0f} -> {after.flops / 1e9:.0f} GFLOP")
    print(f"weights: {megabytes(graph.weights):.0f} MB -> parameters {megabytes(after.parameters):.0f} MB")
    print("all:", ", ".join(f"{op} {count}" for op, count in after.counts().most_common()))
    slowest = sorted(report.steps, key=lambda step: -step.seconds)[:4]
    print("slowest passes:", ", ".join(f"{step.name} {1e3 * step.seconds:.0f} ms" for step in slowest))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    specification = importlib.util.spec_from_file_location("models", FIXTURES)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))  # its shims for ppdiffusers
    for name in parser.parse_args().models.split(","):
        measure(name)


if __name__ == "__main__":
    main()
