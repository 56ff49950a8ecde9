"""Families of kernels on a GPU, each beside torch and a copy of as many bytes, at the shapes of models and beyond.

    python benchmarks/gpu_kernels.py [--only norm,swiglu] [--most 6] [--seconds 150] [--output output/gpu]

--only: parts of the names of cases; "linear" are the products, "64 MB" and "256 MB" the large shapes. What
is offered for a case is compiled, compared with torch in float64 on the device, its results poisoned before, and timed;
the fastest is set beside torch, eager and compiled, and a copy. All are CUDA graphs over the same operands, several
copies of them in turn, together more than twice the second-level cache. Times are medians of one call. Results are
added to kernels.json as they come; the exit status tells whether anything failed, or was wrong.
"""

import argparse
import json
import pathlib
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from device_timing import in_turn, recorded
from torch.nn import functional

from jitinfer.graph import Builder, Node, View, op_named, ops
from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.kernels.assembly import plan_of_node
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.choice import Choice, offers, start
from jitinfer.lowering.rotation import Rotation
from jitinfer.runtime import Device, Executor, Weights
from jitinfer.runtime.timing import microseconds

LARGE = {"64 MB": (8, 1024, 4096), "256 MB": (32, 1024, 4096)}
DIT = {"DiT 256": (2, 256, 1152), "DiT 512": (2, 1024, 1152)}
SD3 = {"SD3 512": (2, 1024, 1536), "SD3 1024": (2, 4096, 1536)}
LLAMA = {"LLaMA": (1, 2048, 4096)}

# rows, columns, depth; bias; activation; whether gate and residual follow
PRODUCTS = {
    "DiT 256 QKV": (512, 3456, 1152, True, "none", False),
    "DiT 256 out": (512, 1152, 1152, True, "none", True),
    "DiT 256 fc1": (512, 4608, 1152, True, "gelu_tanh", False),
    "DiT 256 fc2": (512, 1152, 4608, True, "none", True),
    "DiT modulations": (2, 193536, 1152, True, "none", False),
    "DiT 512 fc1": (2048, 4608, 1152, True, "gelu_tanh", False),
    "DiT 512 fc2": (2048, 1152, 4608, True, "none", False),
    "SD3 512 QKV": (2048, 4608, 1536, True, "none", False),
    "SD3 text QKV": (308, 4608, 1536, True, "none", False),
    "SD3 1024 fc1": (8192, 6144, 1536, True, "gelu_tanh", False),
    "SD3 1024 fc2": (8192, 1536, 6144, True, "none", False),
    "Large-DiT gate and up": (512, 16384, 3072, False, "none", False),
    "LLaMA prefill gate and up": (2048, 22016, 4096, False, "none", False),
    "LLaMA decode QKV": (1, 12288, 4096, False, "none", False),
    "LLaMA decode down": (1, 4096, 11008, False, "none", False),
    "LLaMA decode 16 QKV": (16, 12288, 4096, False, "none", False),
}

MOST_ERROR = 2.0**-6
"""Of bfloat16 results, relative to the element and the root of the mean square: a product may be rounded before its
gate and residual are applied, at half of 2^-8 of a value some times larger than the mean."""


@dataclass(frozen=True, eq=False)
class Case:
    """function: the same in torch, of the tensors of `values`."""

    node: Node
    function: Any

    @property
    def values(self):
        """The node's operands, each once, with the first position that reads it."""
        found = {}
        for position, value in enumerate(self.node.inputs):
            if value is not None:
                found.setdefault(value, position)
        return found


def node_of(name, *inputs, views=(), **attributes):
    """inputs: shapes of bfloat16 tensors, or shape and dtype; None for none."""
    builder, values = Builder(), []
    for number, given in enumerate(inputs):
        if given is None:
            values.append(None)
            continue
        shape, dtype = given if isinstance(given[-1], str) else (given, "bfloat16")
        values.append(builder.input(f"x_{number}", shape, dtype).value)
    return builder.add_node(op_named(name), values, attributes, views)


def norms():
    def layer_norm(x, weight, bias):
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    def rms_norm(x, weight):
        return functional.rms_norm(x, x.shape[-1:], weight, 1e-5)

    def adaptive(x, scale, shift):
        return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def gated(x, residual, gate, scale, shift):
        total = residual + gate * x
        return total, adaptive(total, scale, shift)

    def gated_parts(parts, residual, gate, scale, shift, x_bias):
        return gated((parts.sum(0) + x_bias).to(residual.dtype), residual, gate, scale, shift)

    for name, shape in (DIT | LARGE).items():
        width = shape[-1:]
        yield f"layer norm, {name}", Case(node_of("layer_norm", shape, width, width), layer_norm)
    for name, shape in (LLAMA | LARGE).items():
        yield f"RMS norm, {name}", Case(node_of("rms_norm", shape, shape[-1:]), rms_norm)
    for name, shape in (DIT | SD3 | LARGE).items():
        row = (shape[0], 1, shape[2])
        node = node_of("adaptive_layer_norm", shape, row, row, epsilon=1e-6)
        yield f"adaptive norm, {name}", Case(node, adaptive)
        node = node_of("gated_residual_adaptive_layer_norm", shape, shape, row, row, row, epsilon=1e-6)
        yield f"gated residual adaptive norm, {name}", Case(node, gated)
    shape, row = DIT["DiT 256"], (2, 1, 1152)
    inputs = ((2, *shape), "float32"), shape, row, row, row, None, None, shape[-1:]
    node = node_of("gated_residual_adaptive_layer_norm_of_parts", *inputs, epsilon=1e-6)
    yield "gated residual adaptive norm of 2 parts, DiT 256", Case(node, gated_parts)

    def group_norm(x, weight, bias):
        return functional.silu(functional.group_norm(x, 32, weight, bias))

    shapes = {"UNet": (2, 320, 64, 64), "VAE": (1, 512, 64, 64), "VAE, 64 MB": (1, 128, 512, 512)}
    for name, shape in (shapes | {"VAE, 256 MB": (4, 128, 512, 512)}).items():
        node = node_of("group_norm", shape, shape[1:2], shape[1:2], groups=32, activation="silu")
        yield f"group norm and SiLU, {name}", Case(node, group_norm)


def rows():
    def softmax(x):
        return functional.softmax(x, -1)

    shapes = {"SD3 512 scores": (2, 24, 1178, 1178), "LLaMA logits": (64, 32000)}
    for name, shape in (shapes | LARGE).items():
        yield f"softmax, {name}", Case(node_of("softmax", shape), softmax)
    for name, shape in (DIT | LARGE).items():
        yield f"mean over tokens, {name}", Case(node_of("mean", shape, axes=(1,)), lambda x: x.mean(1))
    for name, shape in (LLAMA | LARGE).items():
        yield f"sum of rows, {name}", Case(node_of("sum", shape, axes=(2,)), lambda x: x.sum(2))


def pointwise():
    def swiglu(packed):
        gate, up = packed.chunk(2, -1)
        return functional.silu(gate) * up

    shapes = {"Large-DiT": (2, 256, 8192), "LLaMA": (1, 2048, 11008)}
    for name, shape in (shapes | LARGE).items():
        packed, width = (*shape[:-1], 2 * shape[-1]), shape[-1]
        halves = [View(shape, (packed[1] * packed[2], packed[2], 1), part * width) for part in range(2)]
        builder = Builder()
        value = builder.input("packed", packed, "bfloat16").value
        yield f"SwiGLU, {name}", Case(builder.add_node(op_named("swiglu"), [value, value], {}, halves), swiglu)

    def neighbours(x, cos, sin):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-b, a], -1).flatten(-2) * sin

    def halves_apart(x, cos, sin):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    shapes = {
        "interleaved, Large-DiT": (2, 256, 32, 96),
        "half, LLaMA": (1, 2048, 32, 128),
        "half, 64 MB": (8, 1024, 32, 128),
        "half, 256 MB": (32, 1024, 32, 128),
    }
    for name, shape in shapes.items():
        style, table = name.partition(",")[0], (1, shape[1], 1, shape[3])
        function = halves_apart if style == "half" else neighbours
        yield f"rotary, {name}", Case(node_of("rotary", shape, table, table, style=style), function)

    def glue(x, y, bias):
        return functional.gelu(x + bias, approximate="tanh") * y + x

    for name, shape in (DIT | LLAMA | LARGE).items():
        builder = Builder()
        x, y = (builder.input(each, shape, "bfloat16") for each in "xy")
        bias = builder.input("bias", shape[-1:], "bfloat16")
        body = builder.build(ops.gelu(x + bias, approximate="tanh") * y + x)
        yield f"pointwise group, {name}", Case(node_of("group", shape, shape, shape[-1:], body=body), glue)


def movement():
    for name, count in {"LLaMA": 2048, "64 MB": 8192, "256 MB": 32768}.items():
        node = node_of("gather", (32000, 4096), ((count,), "int64"))
        yield f"embedding, {name}", Case(node, lambda table, indices: functional.embedding(indices, table))
    for name, tokens in {"SD3 512": (1024, 154), "SD3 1024": (4096, 154), "256 MB": (14000, 154)}.items():
        node = node_of("concat", *((2, each, 4608) for each in tokens), axis=1)
        yield f"concat, {name}", Case(node, lambda x, y: torch.cat([x, y], 1))


def products():
    for name, (count, columns, depth, bias, activation, gated) in PRODUCTS.items():
        batch = 2 if count % 2 == 0 else 1
        x = (batch, count // batch, depth)
        operands = [x, (columns, depth), (columns,) if bias else None]
        operands += [(*x[:2], columns), (batch, 1, columns)] if gated else []
        builder = Builder()
        values = [s and builder.input(f"x_{i}", s, "bfloat16").value for i, s in enumerate(operands)]
        attributes = {"activation": activation, "transpose_weight": True}

        def function(x, weight, bias=None, residual=None, gate=None, activation=activation):
            y = functional.linear(x, weight, bias)
            y = functional.gelu(y, approximate="tanh") if activation == "gelu_tanh" else y
            return y if residual is None else residual + gate * y

        yield f"linear, {name}", Case(builder.add_node(op_named("linear"), values, attributes), function)


def cases():
    for some in (norms, rows, pointwise, movement, products):
        yield from some()


def random_operands(case, copies):
    """[copies][operands] on the device; a product's weights keep the size of what they are given."""
    torch.manual_seed(0)
    first = []
    for value, position in case.values.items():
        if value.dtype == "int64":
            first.append(torch.randint(0, case.node.inputs[0].shape[0], value.shape, device="cuda"))
            continue
        scale = value.shape[-1] ** -0.5 if case.node.op.name == "linear" and position == 1 else 1.0
        made = scale * torch.randn(value.shape, device="cuda", dtype=torch.float32)
        first.append(made.to(getattr(torch, value.dtype)))
    return [first, *([each.clone() for each in first] for _ in range(copies - 1))]


def results_of(function, operands):
    found = function(*operands)
    return list(found) if isinstance(found, tuple) else [found]


def error_of(plan, operands, wanted):
    """The largest of all elements, in the measure of MOST_ERROR; what is not written is poison, and wrong."""
    executor = Executor(plan)
    try:
        stream = torch.cuda.current_stream().cuda_stream
        executor.enqueue(operands, stream)
        outputs = []
        for placed in executor.outputs:
            outputs.append(torch.from_dlpack(placed))
            outputs[-1].view(torch.uint8).fill_(0xFF)
        executor.enqueue(executor.inputs, stream)
        worst = 0.0
        for output, reference in zip(outputs, wanted, strict=True):
            room = reference.abs() + reference.square().mean().sqrt()
            error = float(((output.double() - reference).abs() / room).max())
            worst = error if error != error or error > worst else worst
        return worst
    finally:
        executor.close()


class Bench:
    def __init__(self, most):
        self.device = Device.of(0)
        self.target = Target.of(self.device)
        self.compiler = Compiler(self.target)
        self.most = most

    def compiled(self, chosen):
        """Choices, and why there are none, by the names of cases; all side by side."""
        started = {
            name: [start(case.node, *each, self.compiler) for each in self.offers(case)]
            for name, case in chosen.items()
        }
        return {name: [each.result() for each in those] for name, those in started.items()}

    def offers(self, case):
        """What libraries offer, and so many as are to be compiled."""
        found = offers(case.node, self.target)
        compiled = [offer for offer in found if offer[0].compiled][: self.most]
        return [offer for offer in found if not offer[0].compiled or offer in compiled]

    def measured(self, case, choices):
        """What is known of a case, as JSON."""
        rotation = Rotation([case.node], self.target)
        operands = random_operands(case, rotation.copies)
        weights = Weights(
            {
                rotation.name(value, copy): tensor
                for copy, tensors in enumerate(operands)
                for value, tensor in zip(case.values, tensors, strict=True)
            },
            self.device,
        )
        wide = [each.double() if each.is_floating_point() else each for each in operands[0]]
        wanted = results_of(case.function, wide)
        best, problems = None, []
        for choice in choices:
            if not isinstance(choice, Choice):
                problems.append(str(choice)[:300])
                continue
            label = f"{choice.family} {choice.config}"
            try:
                plan = plan_of_node(case.node, choice.candidate, choice.kernels, self.target.compute_capability)
                error = error_of(plan, operands[0], wanted)
                if not error <= MOST_ERROR:
                    problems.append(f"{label} is WRONG by {error:.3g}")
                    continue
                elapsed = microseconds(rotation.plan([(case.node, choice)]), weights, self.device)
            except Exception as problem:
                problems.append(f"{label}: {type(problem).__name__}: {problem}"[:300])
                continue
            if best is None or elapsed < best[0]:
                best = (elapsed, choice, label, error)
        found = {"mb": bytes_moved(case.node) / 1e6, "gflop": flops(case.node) / 1e9, "problems": problems}
        if best is None:
            return found
        _, choice, found["kernel"], found["error"] = best
        found["us"] = self.beside(case, rotation, choice, weights, operands)
        return found

    def beside(self, case, rotation, choice, weights, operands):
        """Microseconds of one call: ours, a copy of as many bytes, and torch's."""
        half = max(1, bytes_moved(case.node) // 2)
        pairs = [torch.zeros(2, half, dtype=torch.uint8, device="cuda") for _ in operands]
        executor = Executor(rotation.plan([(case.node, choice)]), weights, self.device)
        stream = torch.cuda.current_stream().cuda_stream
        torch._dynamo.reset()
        fast = torch.compile(case.function, dynamic=False)
        try:
            with torch.inference_mode():
                runs = {
                    "ours": lambda: executor.enqueue([], stream),
                    "copy": recorded(lambda: [pair[0].copy_(pair[1]) for pair in pairs]),
                    "torch": recorded(lambda: [case.function(*each) for each in operands]),
                    "torch.compile": recorded(lambda: [fast(*each) for each in operands]),
                }
            return {name: 1e3 * each.median / len(operands) for name, each in in_turn(runs, rounds=15).items()}
        finally:
            executor.close()


def line(name, found):
    if "us" not in found:
        return f"{name:44} nothing right"
    us = found["us"]
    best = min(us["torch"], us["torch.compile"])
    speed = f"{found['gflop'] / us['ours'] * 1e3:6.0f} TFLOP/s" if name.startswith("linear") else " " * 14
    return (
        f"{name:44} {found['mb']:7.1f} {us['ours']:8.2f} {1e3 * found['mb'] / us['ours']:6.0f} {speed}"
        f" {us['copy'] / us['ours']:6.2f} {us['torch']:9.2f} {us['torch.compile']:9.2f} {best / us['ours']:6.2f}"
        f"  {found['kernel']}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--most", type=int, default=6, help="offers of one case that are tried")
    parser.add_argument("--seconds", type=float, default=150.0, help="after which no further case is begun")
    default = pathlib.Path(__file__).parents[1] / "output" / "gpu"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    given = parser.parse_args()
    began = time.monotonic()
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "kernels.json"
    every = json.loads(path.read_text()) if path.exists() else {}
    wanted = given.only.split(",")
    chosen = {name: case for name, case in cases() if any(part in name for part in wanted)}
    bench, failed = Bench(given.most), False
    with bench.compiler:
        choices = bench.compiled(chosen)
    print(f"{bench.device.name}; {sum(map(len, choices.values()))} kernels after {time.monotonic() - began:.0f} s")
    print(f"{'':44} {'MB':>7} {'us':>8} {'GB/s':>6} {'':14} {'copy':>6} {'torch':>9} {'compile':>9} {'ratio':>6}")
    for name, case in chosen.items():
        if time.monotonic() - began > given.seconds:
            print(f"no time is left for {name} and what follows")
            break
        try:
            found = bench.measured(case, choices[name])
        except Exception:
            found = {"problems": [traceback.format_exc(limit=4)]}
        print(line(name, found), flush=True)
        for problem in found["problems"]:
            print(f"    {problem}", flush=True)
        failed = failed or bool(found["problems"])
        every[name] = found
        path.write_text(json.dumps(every, indent=1))
        torch.cuda.empty_cache()
    sys.exit(failed)


if __name__ == "__main__":
    main()
