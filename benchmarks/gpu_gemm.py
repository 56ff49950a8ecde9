"""Matrix products with their epilogues, on a device: every configuration of every family, checked, then timed.

    python benchmarks/gpu_gemm.py [--only NAME,...] [--seconds 165] [--dry]

Weights are rotated through more than twice the L2 cache; a graph of some 64 products is replayed, and the median of
the replays taken. Peers, in the same run: torch's eager ops in a CUDA graph, with the epilogue and without. A table is
printed, all figures go to gemm.json in the folder that the environment variable OUT names. --dry compiles and checks
the plans, without a device.
"""

import argparse
import json
import os
import queue
import statistics
import threading
import time
from pathlib import Path

from jitinfer.errors import JitinferError
from jitinfer.graph import Builder, op_named
from jitinfer.graph.types import itemsize
from jitinfer.kernels import Target
from jitinfer.kernels.assembly import assemble, plan_of_node, scratch_bytes, specializations
from jitinfer.kernels.cublaslt import CublasLtProduct
from jitinfer.kernels.family import WORKSPACE
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.matmul import BulkCopyProduct, TiledProduct
from jitinfer.kernels.triton.matmul_small import FewRowsProduct
from jitinfer.runtime.plan import Buffer, Plan, Pointer, aligned
from jitinfer.runtime.soundness import check

ROTATED_BYTES = 120 * 2**20
STEPS = 64

# name: rows, columns, depth; epilogue; whether weights are [columns, depth]
DIT = {"residual": True, "gate": True}
SHAPES = {
    "dit qkv": (512, 3456, 1152, {}, True),
    "dit out": (512, 1152, 1152, DIT, True),
    "dit fc1": (512, 4608, 1152, {"activation": "gelu_tanh"}, True),
    "dit fc2": (512, 1152, 4608, DIT, True),
    "dit512 qkv": (2048, 3456, 1152, {}, True),
    "dit512 fc1": (2048, 4608, 1152, {"activation": "gelu_tanh"}, True),
    "dit512 fc2": (2048, 1152, 4608, DIT, True),
    "sd3 qkv": (2048, 4608, 1536, {}, True),
    "sd3 text qkv": (308, 4608, 1536, {}, True),
    "sd3 1024 fc1": (8192, 6144, 1536, {"activation": "gelu_tanh"}, True),
    "large qkv": (512, 9216, 3072, {"bias": False}, True),
    "large w13": (512, 16384, 3072, {"bias": False}, True),
    "large w2": (512, 3072, 8192, {"bias": False, **DIT}, True),
    "dit modulation": (2, 6912, 1152, {"groups": 28}, False),
    "llama qkv": (1, 12288, 4096, {"bias": False}, True),
    "llama out": (1, 4096, 4096, {"bias": False, "residual": True}, True),
    "llama w13": (1, 22016, 4096, {"bias": False}, True),
    "llama w2": (1, 4096, 11008, {"bias": False, "residual": True}, True),
    "llama w2 kn": (1, 4096, 11008, {"bias": False, "residual": True}, False),
    "llama qkv 16": (16, 12288, 4096, {"bias": False}, True),
    "llama w2 16": (16, 4096, 11008, {"bias": False, "residual": True}, True),
    "dit fc1 kn": (512, 4608, 1152, {"activation": "gelu_tanh"}, False),
}


def node_of(rows, columns, depth, epilogue, transposed):
    builder = Builder()
    groups = epilogue.get("groups")
    lead = () if groups is None else (groups,)
    batch = 2 if rows % 2 == 0 and rows > 16 else 1
    x = (*lead, batch, rows // batch, depth)
    shapes = {
        "x": x,
        "weight": (*lead, *((columns, depth) if transposed else (depth, columns))),
        "bias": (*lead, columns) if epilogue.get("bias", True) else None,
        "residual": (*x[:-1], columns) if epilogue.get("residual") else None,
        "gate": (batch, 1, columns) if epilogue.get("gate") else None,
    }
    inputs = [None if s is None else builder.input(n, s, "bfloat16").value for n, s in shapes.items()]
    activation = epilogue.get("activation", "none")
    attributes = {
        "activation": activation,
        "negative_slope": 0.01,
        "contraction": 1,
        "transpose_weight": transposed,
    }
    return builder.add_node(op_named("linear"), inputs, attributes)


def rotating_plan(node, candidate, kernels, capability):
    """STEPS products or more, each by the next of so many copies of the weights; the number of products with it."""
    weight = node.inputs[1].type
    copies = max(1, -(-ROTATED_BYTES // weight.nbytes))
    rounds = max(1, -(-STEPS // copies)) if weight.nbytes < ROTATED_BYTES else 4
    single = plan_of_node(node, candidate, kernels, capability)
    buffers = [buffer for buffer in single.buffers if buffer.name != "input_1"]
    names = [f"weight_{copy}" for copy in range(copies)]
    buffers += [Buffer(name, weight.nbytes, "input", shape=weight.shape, dtype=weight.dtype) for name in names]
    places = {buffer.name: Pointer(buffer.name) for buffer in buffers}
    steps = []
    for name in names * rounds:
        steps += assemble(node, candidate, kernels, {**places, "input_1": Pointer(name)})
    inputs = tuple(name for name in single.inputs if name != "input_1") + tuple(names)
    workspace = aligned(candidate.workspace_bytes) + scratch_bytes(candidate, kernels)
    assert single.buffer_named[WORKSPACE].nbytes == workspace
    plan = Plan(capability, single.arena_bytes, tuple(buffers), tuple(steps), single.kernels, inputs, single.outputs)
    return plan, copies * rounds


def offered(family, node, config, target):
    try:
        return family.launches(node, config, target)
    except JitinferError as error:
        print(f"  {family.name} {config}: {error}", flush=True)
        return None


def offers(node, target):
    """(family, config, candidate) for all that is worth a run."""
    found = []
    for family in (CublasLtProduct(), BulkCopyProduct(), FewRowsProduct(), TiledProduct()):
        if not family.supports(node, target):
            continue
        most = 2 if isinstance(family, TiledProduct) else 12
        if isinstance(family, BulkCopyProduct) and node.inputs[0].shape[-2] <= 16:
            most = 2
        for config in family.configs(node, target)[:most]:
            candidate = offered(family, node, config, target)
            if candidate is not None:
                found.append((family.name, config, candidate))
    return found


def compiled(names, target):
    """Shape by shape, compiled ahead of the measuring in a thread of its own: (name, node, [(offer, kernels)])."""
    ready = queue.Queue()

    def work():
        try:
            with Compiler(target) as compiler:
                for name in names:
                    node = node_of(*SHAPES[name])
                    found = offers(node, target)
                    wanted = [specializations(candidate) for _, _, candidate in found]
                    kernels = iter(compiler.try_all([each for group in wanted for each in group]))
                    ready.put(
                        (name, node, [(o, [next(kernels) for _ in g]) for o, g in zip(found, wanted, strict=True)])
                    )
        except Exception as error:
            ready.put(error)
        ready.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class Peers:
    """torch: the operands, the reference in float64, and its own times."""

    def __init__(self, node):
        import torch

        self.torch, self.node = torch, node
        torch.manual_seed(0)
        self.tensors = []
        for position, value in enumerate(node.inputs):
            scale = 1.0 if position != 1 else node.inputs[0].shape[-1] ** -0.5
            made = value and scale * torch.randn(value.shape, device="cuda", dtype=torch.float32)
            self.tensors.append(None if value is None else made.to(torch.bfloat16))
        self.tensors += [None] * (5 - len(self.tensors))

    def product(self, x, weight, bias, activation="none", residual=None, gate=None):
        functional = self.torch.nn.functional
        weight = weight.mT if self.node.transpose_weight else weight
        if weight.dim() == 3:
            y = self.torch.matmul(x, weight[:, None])
            y = y if bias is None else y + bias[:, None, None]
        elif bias is None or x.dtype == self.torch.float64:
            y = x @ weight
            y = y if bias is None else y + bias
        else:
            y = functional.linear(x, weight.mT, bias)
        if activation == "gelu_tanh":
            y = functional.gelu(y, approximate="tanh")
        y = y if gate is None else gate * y
        return y if residual is None else residual + y

    def reference(self):
        x, weight, bias, residual, gate = (None if t is None else t.double() for t in self.tensors)
        return self.product(x, weight, bias, self.node.activation, residual, gate)

    def microseconds(self, whole):
        torch = self.torch
        x, weight, bias, residual, gate = self.tensors
        copies = max(1, -(-ROTATED_BYTES // (2 * weight.numel())))
        rounds = max(1, -(-STEPS // copies)) if copies > 1 else 4
        weights = [weight.clone() for _ in range(copies)]
        extra = (self.node.activation, residual, gate) if whole else ()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.product(x, weight, bias, *extra)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for each in weights * rounds:
                    self.product(x, each, bias, *extra)
        return median(torch, graph.replay) / (copies * rounds)


def median(torch, run, count=15):
    """Microseconds of `run`, which queues work, behind a pause in which the host gets ahead."""
    times = []
    for number in range(count + 3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(400_000)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(start.elapsed_time(stop) * 1e3)
    return statistics.median(times)


def measured(plan, count, peers, reference):
    """Microseconds of one product, and its error relative to float64, over what the executor left of poison."""
    from jitinfer.runtime import Executor
    from jitinfer.runtime.arrays import DeviceArray

    torch = peers.torch
    executor = Executor(plan)
    try:
        stream = torch.cuda.current_stream().cuda_stream
        shared = {f"input_{i}": t for i, t in enumerate(peers.tensors) if t is not None}
        given = [shared.get(name, peers.tensors[1]) for name in plan.inputs]
        place = executor.outputs[0]
        bits = torch.as_tensor(DeviceArray(place.address, place.shape, "int16"), device="cuda")
        executor.enqueue(given, stream)
        bits.fill_(-1)
        inputs = executor.inputs
        executor.enqueue(inputs, stream)
        torch.cuda.synchronize()
        actual = bits.view(torch.bfloat16).double()
        error = ((actual - reference).norm() / reference.norm()).item()
        return median(torch, lambda: executor.enqueue(inputs, stream)) / count, error
    finally:
        executor.close()


def bench(name, node, found, capability, results):
    import torch

    peers = Peers(node)
    reference = peers.reference()
    alone, whole = peers.microseconds(whole=False), peers.microseconds(whole=True)
    rows = []
    for (family, config, candidate), kernels in found:
        row = {"shape": name, "family": family, "config": dict(config.values)}
        rows.append(row)
        failed = [kernel for kernel in kernels if isinstance(kernel, Exception)]
        try:
            if failed:
                raise failed[0]
            plan, count = rotating_plan(node, candidate, kernels, capability)
            row["microseconds"], row["error"] = measured(plan, count, peers, reference)
            row["right"] = row["error"] < 5e-3
        except Exception as error:
            row["failure"] = f"{type(error).__name__}: {error}"[:400]
    results.append({"shape": name, "torch_product": alone, "torch_whole": whole, "rows": rows})
    _print(name, node, alone, whole, rows)
    torch.cuda.empty_cache()


def _print(name, node, alone, whole, rows):
    flops = node.op.flops([v and v.type for v in node.inputs], [node.output.type], **node.attributes)
    weight_bytes = node.inputs[1].type.size * itemsize("bfloat16")
    right = [row for row in rows if row.get("right")]
    print(f"{name:15} torch product {alone:7.2f} us, with epilogue {whole:7.2f} us", flush=True)
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = sorted((r for r in right if r["family"] == family), key=lambda row: row["microseconds"])
        bad = sum("failure" in r for r in rows if r["family"] == family)
        wrong = sum(r.get("right") is False for r in rows if r["family"] == family)
        tail = f"{bad} failed, {wrong} WRONG" if bad or wrong else ""
        if not mine:
            print(f"  {family:18} nothing right; {tail}")
            continue
        us = mine[0]["microseconds"]
        config = " ".join(f"{k}={v}" for k, v in mine[0]["config"].items() if v)
        speed = f"{flops / us / 1e6:6.0f} TFLOP/s {weight_bytes / us / 1e3:6.0f} GB/s"
        print(
            f"  {family:18} {us:8.2f} us {speed}  x{min(alone, whole) / us:.2f} of torch  {config}  {tail}", flush=True
        )
    for row in rows:
        if "failure" in row:
            print(f"    failed: {row['family']} {row['config']}: {row['failure'][:160]}")
            break


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=165)
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
    for name, node, found in compiled(names, target):
        if options.dry:
            for (family, config, candidate), kernels in found:
                failed = [kernel for kernel in kernels if isinstance(kernel, Exception)]
                if failed:
                    print(f"{name}: {family} {config}: {failed[0]}"[:300])
                else:
                    check(rotating_plan(node, candidate, kernels, target.compute_capability)[0])
            print(f"{name}: {len(found)} offers", flush=True)
        else:
            bench(name, node, found, target.compute_capability, results)
            Path(os.environ.get("OUT", "."), "gemm.json").write_text(json.dumps(results, indent=1))
        if time.monotonic() - began > options.seconds:
            print(f"{options.seconds} s are over after {name!r}")
            break


if __name__ == "__main__":
    main()
