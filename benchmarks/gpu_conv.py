"""Convolutions and group norms of images with channels last on a GPU, beside torch's and a copy of as many bytes.

    python benchmarks/gpu_conv.py [--only unet,vae] [--most 6] [--seconds 55] [--output output/gpu] [--dry]

--only: parts of the names of shapes; "norm" are the group norms. What is offered for a shape is compiled, compared
with torch in float32, its results poisoned before, and timed; the fastest, and the first, are set beside torch with
channels last and contiguous (`torch.backends.cudnn.benchmark`), what follows the convolution as ops of its own, and
beside a copy of as many bytes. Each is ROUNDS times in a CUDA graph on the same operands. Results are added to
conv.json as they come; the exit status tells whether anything failed, or was wrong. --dry compiles and checks the
plans, without a device.
"""

import argparse
import json
import pathlib
import sys
import time
from dataclasses import replace

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.graph.node import Node, Value
from jitinfer.kernels import Target
from jitinfer.kernels.assembly import plan_of_node
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.choice import Choice, offers, start
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
    "norm 640 32": (2, 640, 32, 0, 0, 0, {"norm": 32}),
    "norm 1920 16": (2, 1920, 16, 0, 0, 0, {"norm": 32}),
    "norm 1280 16": (2, 1280, 16, 0, 0, 0, {"norm": 32}),
    "norm 1280 8": (2, 1280, 8, 0, 0, 0, {"norm": 32}),
    "norm 512 64": (1, 512, 64, 0, 0, 0, {"norm": 32}),
    "norm 512 128": (1, 512, 128, 0, 0, 0, {"norm": 32}),
    "norm 256 256": (1, 256, 256, 0, 0, 0, {"norm": 32}),
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


def repeated(node, choice, capability):
    plan = plan_of_node(node, choice.candidate, choice.kernels, capability)
    return replace(plan, steps=plan.steps * ROUNDS)


def function_of(node):
    """The node in torch, of operands as the op sees them."""
    from torch.nn import functional

    def norm(x, scale, bias):
        return functional.silu(functional.group_norm(x, node.groups, scale, bias, node.epsilon))

    def convolution(x, weight, bias, residual=None):
        (pad, _), _ = node.padding
        y = functional.conv2d(x, weight, bias, node.strides, (pad, pad), groups=node.groups)
        y = y if residual is None else y + residual
        return functional.relu(y) if node.activation == "relu" else y

    return norm if node.op.name == "group_norm" else convolution


def random_operands(node):
    """As they lie in memory; weights keep the size of what they are given."""
    import torch

    torch.manual_seed(0)
    made = []
    for position, value in enumerate(node.inputs):
        weight = position == 1 and len(value.shape) == 4
        scale = (value.shape[0] / value.type.size) ** 0.5 if weight else 1.0
        made.append((scale * torch.randn(value.shape, device="cuda", dtype=torch.float32)).to(torch.bfloat16))
    return made


def seen(operands):
    """With the channels second, as torch takes them."""
    return [each.permute(0, 3, 1, 2) if each.dim() == 4 else each for each in operands]


def exact(function, operands):
    """In float32 without shorter factors, as the result lies in memory."""
    import torch

    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return function(*(each.float() for each in seen(operands))).permute(0, 2, 3, 1).contiguous().double()
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def measured(name, node, choices, target):
    """What is known of a shape, as JSON; prints it."""
    import torch
    from device_timing import in_turn, recorded
    from gpu_kernels import MOST_ERROR, error_of

    from jitinfer.runtime import Executor

    operands, function = random_operands(node), function_of(node)
    wanted = exact(function, operands)
    stream = torch.cuda.current_stream().cuda_stream
    problems, times = [], {}

    def microseconds(runs, rounds):
        return {label: 1e3 * each.median / ROUNDS for label, each in in_turn(runs, rounds=rounds, warming=1).items()}

    for choice in choices:
        label = f"{getattr(choice, 'family', '')} {getattr(choice, 'config', choice)}"
        try:
            if not isinstance(choice, Choice):
                raise choice
            plan = plan_of_node(node, choice.candidate, choice.kernels, target.compute_capability)
            error = error_of(plan, operands, [wanted])
            if not error <= MOST_ERROR:
                problems.append(f"{label} is WRONG by {error:.3g}")
                continue
            executor = Executor(repeated(node, choice, target.compute_capability))
            try:
                executor.enqueue(operands, stream)
                inputs = executor.inputs
                times |= microseconds({label: lambda e=executor, i=inputs: e.enqueue(i, stream)}, 5)
            finally:
                executor.close()
        except Exception as problem:
            problems.append(f"{label}: {type(problem).__name__}: {problem}"[:300])
    with torch.inference_mode():
        last_, contiguous = seen(operands), [each.contiguous() for each in seen(operands)]
        pair = torch.zeros(2, max(1, bytes_moved(node) // 2), dtype=torch.uint8, device="cuda")
        runs = {
            "copy": recorded(lambda: [pair[0].copy_(pair[1]) for _ in range(ROUNDS)]),
            "torch, channels last": recorded(lambda: [function(*last_) for _ in range(ROUNDS)]),
            "torch, contiguous": recorded(lambda: [function(*contiguous) for _ in range(ROUNDS)]),
        }
        peers = microseconds(runs, 9)
    found = {
        "us": times,
        "copy": peers.pop("copy"),
        "torch": peers,
        "gflop": flops(node) / 1e9,
        "mb": bytes_moved(node) / 1e6,
    }
    print(line(name, found), flush=True)
    for problem in problems:
        print(f"    {problem}", flush=True)
    torch.cuda.empty_cache()
    return found | {"problems": problems}


def line(name, found):
    peers = " ".join(f"{us:9.2f}" for us in found["torch"].values())
    if not found["us"]:
        return f"{name:22} nothing right; torch {peers}"
    best = min(found["us"], key=found["us"].get)
    us, first = found["us"][best], next(iter(found["us"].values()))
    speed = f"{1e3 * found['gflop'] / us:6.0f} TFLOP/s {1e3 * found['mb'] / us:6.0f} GB/s"
    ratios = f"{min(found['torch'].values()) / us:6.2f} {found['copy'] / us:6.2f}"
    return f"{name:22} {us:9.2f} {speed} {first:9.2f} {peers} {ratios}  {best}"


def started(names, target, compiler, most):
    """Offers whose kernels are being compiled, by the names of shapes; `most` of each family."""
    found = {}
    for name in names:
        node, taken = node_of(*SHAPES[name]), {}
        for family, config in offers(node, target):
            taken[family.name] = taken.get(family.name, 0) + 1
            if taken[family.name] <= most:
                found.setdefault(name, (node, []))[1].append(start(node, family, config, compiler))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--most", type=int, default=6, help="offers of one family for a shape that are tried")
    parser.add_argument("--seconds", type=float, default=55.0, help="after which no further shape is begun")
    default = pathlib.Path(__file__).parents[1] / "output" / "gpu"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    names = [name for name in SHAPES if any(part in name for part in given.only.split(","))]
    began = time.monotonic()
    target = Target.named(90)
    if not given.dry:
        import torch

        from jitinfer.runtime import Device

        torch.backends.cudnn.benchmark = True
        target = Target.of(Device.of(0))
        print(f"{Device.of(0).name}; us: ours, first offer, torch channels last, contiguous; torch and copy, ratios")
    given.output.mkdir(parents=True, exist_ok=True)
    results, failed = {}, False
    with Compiler(target) as compiler:
        for name, (node, waiting) in started(names, target, compiler, given.most).items():
            choices = [each.result() for each in waiting]
            if given.dry:
                for choice in choices:
                    check(repeated(node, choice, target.compute_capability))
                print(f"{name}: {len(choices)} offers", flush=True)
            else:
                results[name] = measured(name, node, choices, target)
                failed = failed or bool(results[name]["problems"])
                (given.output / "conv.json").write_text(json.dumps(results, indent=1))
            if time.monotonic() - began > given.seconds:
                print(f"no time is left for what follows {name}")
                break
    sys.exit(failed)


if __name__ == "__main__":
    main()
