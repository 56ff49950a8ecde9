"""Convolutions and group norms of images with channels last, on a device: every configuration, checked, then timed.

    python benchmarks/gpu_conv.py [--only NAME,...] [--seconds 55] [--most 6] [--dry]

Peers, in the same run: torch's convolution by cuDNN (`torch.backends.cudnn.benchmark`), with channels last and
contiguous, and what follows it as ops of its own; each, as ours, ROUNDS times in a CUDA graph on the same tensors. A
table is printed, all figures go to conv.json in the folder that the environment variable OUT names. --most: offers of
a family for a shape. --dry compiles and checks the plans, without a device.
"""

import argparse
import json
import os
import queue
import threading
import time
from dataclasses import replace
from pathlib import Path

from gpu_gemm import measured, median, offered

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.node import Node, Value
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime.soundness import check

ROUNDS = 16

# name: batch, channels, size of the square image, outputs, window, stride, more
SHAPES = {
    "unet 320 64": (2, 320, 64, 320, 3, 1, {}),
    "unet 640 32": (2, 640, 32, 640, 3, 1, {}),
    "unet 1280 16": (2, 1280, 16, 1280, 3, 1, {}),
    "unet 1280 8": (2, 1280, 8, 1280, 3, 1, {}),
    "unet 640 64 -> 320": (2, 640, 64, 320, 3, 1, {"residual": True}),
    "unet 2560 16 -> 1280": (2, 2560, 16, 1280, 3, 1, {}),
    "unet 320 64 s2": (2, 320, 64, 320, 3, 2, {}),
    "unet in": (2, 4, 64, 320, 3, 1, {}),
    "unet out": (2, 320, 64, 4, 3, 1, {}),
    "unet 1x1 960 -> 320": (2, 960, 64, 320, 1, 1, {}),
    "vae 512 64": (1, 512, 64, 512, 3, 1, {"residual": True}),
    "vae 512 128": (1, 512, 128, 512, 3, 1, {}),
    "vae 256 256": (1, 256, 256, 256, 3, 1, {"residual": True}),
    "vae 128 512": (1, 128, 512, 128, 3, 1, {}),
    "vae out": (1, 128, 512, 3, 3, 1, {}),
    "resnet stem": (8, 3, 224, 64, 7, 2, {"activation": "relu"}),
    "resnet 64 56": (8, 64, 56, 64, 3, 1, {"activation": "relu"}),
    "resnet 256 14": (8, 256, 14, 256, 3, 1, {"activation": "relu"}),
    "resnet 512 7": (8, 512, 7, 512, 3, 1, {"activation": "relu"}),
    "resnet 1x1 64 -> 256": (8, 64, 56, 256, 1, 1, {"activation": "relu", "residual": True}),
    "resnext 128 56": (8, 128, 56, 128, 3, 1, {"activation": "relu", "groups": 32}),
    "depthwise 96 56": (8, 96, 56, 96, 3, 1, {"activation": "relu", "groups": 96}),
    "norm 320 64": (2, 320, 64, 0, 0, 0, {"norm": 32}),
    "norm 1280 16": (2, 1280, 16, 0, 0, 0, {"norm": 32}),
    "norm 128 512": (1, 128, 512, 0, 0, 0, {"norm": 32}),
}


def last(builder, name, shape):
    """A value with channels last, and the view through which it is read as of `shape`."""
    batch, channels, height, width = shape
    value = builder.input(name, (batch, height, width, channels), "bfloat16").value
    return value, View.of(value.shape).transpose((0, 3, 1, 2))


def node_of(batch, channels, size, outputs, window, stride, more):
    builder = Builder()
    x, view = last(builder, "x", (batch, channels, size, size))
    if "norm" in more:
        vectors = [builder.input(name, (channels,), "bfloat16").value for name in ("scale", "bias")]
        attributes = {"groups": more["norm"], "activation": "silu"}
        return written_last(builder.add_node(op_named("group_norm"), [x, *vectors], attributes, [view]))
    groups, pad = more.get("groups", 1), window // 2
    weight, weight_view = last(builder, "weight", (outputs, channels // groups, window, window))
    inputs, views = [x, weight, builder.input("bias", (outputs,), "bfloat16").value], [view, weight_view, None]
    if more.get("residual"):
        smaller = (size + 2 * pad - window) // stride + 1
        residual, residual_view = last(builder, "residual", (batch, outputs, smaller, smaller))
        inputs, views = [*inputs, residual], [*views, residual_view]
    attributes = {
        "strides": (stride, stride),
        "padding": ((pad, pad), (pad, pad)),
        "groups": groups,
        "activation": more.get("activation", "none"),
    }
    return written_last(builder.add_node(op_named("conv2d"), inputs, attributes, views))


def written_last(node):
    batch, channels, height, width = node.output.shape
    value = Value(node.output.type.with_shape((batch, height, width, channels)), node.output.name)
    store = View.of(value.shape).transpose((0, 3, 1, 2))
    return Node(node.op, node.inputs, node.attributes, (value,), node.origin, node.views, (store,))


def repeated(node, candidate, kernels, capability):
    plan = plan_of_node(node, candidate, kernels, capability)
    return replace(plan, steps=plan.steps * ROUNDS)


def compiled(names, target, most):
    """Shape by shape, compiled ahead of the measuring in a thread of its own: (name, node, [(offer, kernels)])."""
    ready = queue.Queue()

    def work():
        try:
            with Compiler(target) as compiler:
                for name in names:
                    node = node_of(*SHAPES[name])
                    tried = [
                        (f, config) for f in families_for(node, target) for config in f.configs(node, target)[:most]
                    ]
                    found = [(f.name, config, offered(f, node, config, target)) for f, config in tried]
                    found = [each for each in found if each[2] is not None]
                    wanted = [specializations(candidate) for _, _, candidate in found]
                    kernels = iter(compiler.try_all([each for group in wanted for each in group]))
                    made = [(offer, [next(kernels) for _ in group]) for offer, group in zip(found, wanted, strict=True)]
                    ready.put((name, node, made))
        except Exception as error:
            ready.put(error)
        ready.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class Peers:
    """torch: the operands in memory, the reference, and its own times."""

    def __init__(self, node):
        import torch

        self.torch, self.node = torch, node
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.tensors = []
        for position, value in enumerate(node.inputs):
            image = position == 1 and len(value.shape) == 4
            scale = value.type.size**-0.5 * value.shape[0] ** 0.5 if image else 1.0
            made = scale * torch.randn(value.shape, device="cuda", dtype=torch.float32)
            self.tensors.append(made.to(torch.bfloat16))

    def operands(self):
        """As the op sees them, channels last in memory."""
        return [t.permute(0, 3, 1, 2) if t.dim() == 4 else t for t in self.tensors]

    def result(self, x, second, bias, residual=None):
        functional, node = self.torch.nn.functional, self.node
        if node.op.name == "group_norm":
            return functional.silu(functional.group_norm(x, node.groups, second, bias, 1e-5))
        (pad, _), _ = node.padding
        y = functional.conv2d(x, second, bias, node.strides, (pad, pad), groups=node.groups)
        y = y if residual is None else y + residual
        return functional.relu(y) if node.activation == "relu" else y

    def reference(self):
        """In float32 without shorter factors, as it lies in memory: far more exact than what is compared with it."""
        allowed = self.torch.backends.cudnn.allow_tf32
        self.torch.backends.cudnn.allow_tf32 = False
        try:
            y = self.result(*(t.float() for t in self.operands()))
        finally:
            self.torch.backends.cudnn.allow_tf32 = allowed
        return y.permute(0, 2, 3, 1).contiguous().double()

    def microseconds(self, contiguous):
        torch = self.torch
        given = [t.contiguous() for t in self.operands()] if contiguous else self.operands()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self.result(*given)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(ROUNDS):
                    self.result(*given)
        return median(torch, graph.replay, 9) / ROUNDS


def bench(name, node, found, capability):
    import torch

    peers = Peers(node)
    reference = peers.reference()
    torch_last, torch_contiguous = peers.microseconds(contiguous=False), peers.microseconds(contiguous=True)
    rows = []
    for (family, config, candidate), kernels in found:
        row = {"shape": name, "family": family, "config": dict(config.values)}
        rows.append(row)
        try:
            failed = [kernel for kernel in kernels if isinstance(kernel, Exception)]
            if failed:
                raise failed[0]
            plan = repeated(node, candidate, kernels, capability)
            row["microseconds"], row["error"] = measured(plan, ROUNDS, peers, reference)
            row["right"] = row["error"] < 5e-3
        except Exception as error:
            row["failure"] = f"{type(error).__name__}: {error}"[:400]
    _print(name, node, torch_last, torch_contiguous, rows)
    torch.cuda.empty_cache()
    return {"shape": name, "torch_last": torch_last, "torch_contiguous": torch_contiguous, "rows": rows}


def _print(name, node, torch_last, torch_contiguous, rows):
    types = node.op.output_types(node.input_types(), node.attributes)
    flops = node.op.flops(node.input_types(), types, **node.attributes)
    nbytes = sum(value.type.nbytes for value in (*node.inputs, *node.outputs))
    print(f"{name:22} torch channels last {torch_last:8.2f} us, contiguous {torch_contiguous:8.2f} us", flush=True)
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        bad, wrong = sum("failure" in r for r in mine), sum(r.get("right") is False for r in mine)
        tail = f"{bad} failed, {wrong} WRONG" if bad or wrong else ""
        right = sorted((r for r in mine if r.get("right")), key=lambda row: row["microseconds"])
        if not right:
            print(f"  {family:18} nothing right; {tail}")
            continue
        us = right[0]["microseconds"]
        config = " ".join(f"{k}={v}" for k, v in right[0]["config"].items() if v)
        speed = f"{flops / us / 1e6:6.0f} TFLOP/s {nbytes / us / 1e3:6.0f} GB/s"
        ratio = min(torch_last, torch_contiguous) / us
        first = mine[0].get("microseconds", float("nan"))
        print(
            f"  {family:18} {us:8.2f} us {speed}  x{ratio:.2f} of torch  first {first:.2f}  {config}  {tail}",
            flush=True,
        )
    for row in rows:
        if "failure" in row:
            print(f"    failed: {row['family']} {row['config']}: {row['failure'][:160]}")
            break


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=55)
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    names = [name for name in SHAPES if not options.only or name in options.only.split(",")]
    began = time.monotonic()
    results = []
    if options.dry:
        target = Target.named(90)
    else:
        from jitinfer.runtime import Device

        target = Target.of(Device.of(0))
        print(Device.of(0).name, flush=True)
    for name, node, found in compiled(names, target, options.most):
        if options.dry:
            for (family, config, candidate), kernels in found:
                failed = [kernel for kernel in kernels if isinstance(kernel, Exception)]
                if failed:
                    print(f"{name}: {family} {config}: {failed[0]}"[:300])
                else:
                    check(repeated(node, candidate, kernels, target.compute_capability))
            print(f"{name}: {len(found)} offers", flush=True)
        else:
            results.append(bench(name, node, found, target.compute_capability))
            Path(os.environ.get("OUT", "."), "conv.json").write_text(json.dumps(results, indent=1))
        if time.monotonic() - began > options.seconds:
            print(f"{options.seconds} s are over after {name!r}")
            break


if __name__ == "__main__":
    main()
