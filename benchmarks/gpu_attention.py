"""Attention on one GPU: every configuration checked against float64, timed, and set beside torch's backends.

    OUT=results python benchmarks/gpu_attention.py [--seconds 200] [--compile-only]

Each time is the median of CUDA-graph replays over sets of operands that are together larger than twice the L2 cache.
Prints a table, and writes attention.json into the folder OUT: all configurations with times, errors and failures.
--compile-only needs no device: it compiles for sm_90 and prints what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.types import itemsize
from jitinfer.kernels import Config, Target
from jitinfer.kernels.assembly import assemble, scratch_bytes, specializations
from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.attention_decode import DecodeAttention
from jitinfer.kernels.triton.attention_problem import AttentionProblem
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime.plan import Buffer, Plan, Pointer, aligned

# batch, heads, key heads, head_dim, q_len, kv_len, causal
SHAPES = (
    (2, 16, 16, 72, 256, 256, False),
    (2, 16, 16, 72, 1024, 1024, False),
    (2, 24, 24, 64, 1178, 1178, False),
    (2, 24, 24, 64, 4250, 4250, False),
    (2, 32, 32, 96, 256, 256, False),
    *((1, 32, 32, 128, length, length, True) for length in (512, 1024, 2048, 4096, 8192)),
    *((1, 32, 8, 128, length, length, True) for length in (512, 1024, 2048, 4096, 8192)),
    (8, 12, 12, 64, 1024, 1024, True),
    (2, 16, 16, 72, 1024, 120, False),
    (1, 32, 32, 128, 1, 1024, False),
    (16, 32, 32, 128, 1, 1024, False),
    (1, 32, 8, 128, 1, 8192, False),
    (16, 32, 8, 128, 1, 8192, False),
)
REPEATS = 3
ROTATED_BYTES = 120e6


def node_of(shape):
    """Of packed operands where the lengths are equal: [batch, length, 3, heads, dim]."""
    batch, heads, kv_heads, dim, q_len, kv_len, causal = shape
    builder = Builder()
    attributes = {"scale": dim**-0.5, "causal": causal}
    if q_len == kv_len and heads == kv_heads:
        value = builder.input("packed", (batch, q_len, 3, heads, dim), "bfloat16").value
        strides = (3 * q_len * heads * dim, 3 * heads * dim, dim, 1)
        views = [View((batch, q_len, heads, dim), strides, part * heads * dim) for part in range(3)]
        return builder.add_node(op_named("attention"), [value, value, value, None], attributes, [*views, None])
    q = builder.input("q", (batch, q_len, heads, dim), "bfloat16").value
    k, v = (builder.input(name, (batch, kv_len, kv_heads, dim), "bfloat16").value for name in "kv")
    return builder.add_node(op_named("attention"), [q, k, v, None], attributes, [None] * 4)


def variants(node, target):
    """Family and configuration: what the families propose, and their neighbours."""
    problem = AttentionProblem.of(node, target)
    found = []
    if problem.q_len > 16:
        family = BlockAttention()
        configs = list(family.configs(node, target))
        maps = problem.has_tensor_maps(target)
        tiles = [(64, 64, 4), (64, 128, 4), (128, 64, 4), (128, 128, 4), (128, 64, 8), (128, 128, 8)]
        tiles += [(32, 64, 2)] if problem.q_len <= 256 else [(256, 64, 16)]
        for m, n, warps in tiles:
            tile = {"m": m, "n": n, "warps": warps, "tma": int(maps), "early": 1}
            configs += [Config.of(**tile, stages=stages) for stages in (2, 3)]
            if (n, 16 * warps) == (64, m):
                configs.append(Config.of(**{**tile, "tma": 0}, stages=3))
        found += [(family, config) for config in configs]
    if DecodeAttention().supports(node, target):
        found += [(DecodeAttention(), config) for config in DecodeAttention().configs(node, target)]
    return list(dict.fromkeys((family.name, config) for family, config in found))


def family_named(name):
    return {"block_attention": BlockAttention(), "decode_attention": DecodeAttention()}[name]


def rotating_plan(node, steps_at, kernels, workspace, target, sets):
    """The node over `sets` sets of buffers in turn, REPEATS times, as one plan; steps_at: from places to steps."""
    inputs = list(dict.fromkeys(value for value in node.inputs if value is not None))
    buffers, steps, names, outputs = [], [], [], []
    buffers.append(Buffer("workspace", workspace, "arena"))
    for turn in range(sets):
        places = {"workspace": Pointer("workspace")}
        for number, value in enumerate(inputs):
            name = f"set_{turn}_input_{number}"
            names.append(name)
            buffers.append(Buffer(name, value.type.nbytes, "input", shape=value.type.shape, dtype=value.dtype))
            for position, each in enumerate(node.inputs):
                if each is value:
                    places[f"input_{position}"] = Pointer(name)
        name, kind = f"set_{turn}_output", node.outputs[0].type
        buffers.append(Buffer(name, kind.nbytes, "output", shape=kind.shape, dtype=kind.dtype))
        places["output_0"] = Pointer(name)
        outputs.append(name)
        steps += steps_at(places)
    return Plan(
        target=target.compute_capability,
        arena_bytes=aligned(workspace),
        buffers=tuple(buffers),
        steps=tuple(steps) * REPEATS,
        kernels=tuple({kernel.digest: kernel for kernel in kernels}.values()),
        inputs=tuple(names),
        outputs=tuple(outputs),
    )


def compile_all(work, target, cache=None):
    """work: (shape, node, family name, config) each; the kernels of each, or why there are none."""
    flat, spans = [], []
    for _, node, name, config in work:
        candidate = family_named(name).launches(node, config, target)
        specs = specializations(candidate)
        spans.append((candidate, len(flat), len(specs)))
        flat += specs
    with Compiler(target, cache) as compiler:
        kernels = compiler.try_all(flat)
    results = []
    for candidate, start, count in spans:
        made = kernels[start : start + count]
        errors = [kernel for kernel in made if isinstance(kernel, Exception)]
        results.append((candidate, made, str(errors[0])[:500] if errors else None))
    return results


class Bench:
    """Operands of one shape in torch's memory, their reference, and timing."""

    def __init__(self, shape, node):
        import torch

        self.torch, self.shape, self.node = torch, shape, node
        values = list(dict.fromkeys(value for value in node.inputs if value is not None))
        nbytes = sum(value.type.nbytes for value in values) + node.outputs[0].type.nbytes
        self.nbytes = nbytes
        self.sets = int(max(2, min(40, -(-ROTATED_BYTES // nbytes))))
        torch.manual_seed(0)
        self.operands = [
            [torch.randn(value.type.shape, device="cuda", dtype=torch.bfloat16) for value in values]
            for _ in range(self.sets)
        ]
        self.reference = {turn: self._reference(*self.heads_first(turn)) for turn in (0, self.sets - 1)}

    def heads_first(self, turn):
        """q, k, v as [batch, heads, length, dim]."""
        operands = self.operands[turn]
        if len(operands) == 1:
            operands = [operands[0][:, :, part] for part in range(3)]
        return [each.transpose(1, 2) for each in operands]

    def _reference(self, q, k, v):
        torch = self.torch
        out = torch.empty(*q.shape[:3], v.shape[3], device="cuda", dtype=torch.float64)
        group = q.shape[1] // k.shape[1]
        for batch in range(q.shape[0]):
            for head in range(q.shape[1]):
                keys, values = k[batch, head // group].double(), v[batch, head // group].double()
                scores = q[batch, head].double() @ keys.T * self.node.scale
                if self.node.causal:
                    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1 + scores.shape[1] - scores.shape[0])
                    scores.masked_fill_(hidden, -float("inf"))
                out[batch, head] = scores.softmax(-1) @ values
        return out.transpose(1, 2)

    def error(self, turn, out):
        """Relative, over the whole result; nan where anything was not written."""
        reference = self.reference[turn]
        out = out.double()
        return float((out - reference).norm() / reference.norm())

    def median_us(self, replay, launches, budget=0.12):
        """Of replays of `launches` launches each."""
        torch = self.torch
        for _ in range(3):
            replay()
        torch.cuda.synchronize()
        times, end = [], time.monotonic() + budget
        while len(times) < 7 or (len(times) < 40 and time.monotonic() < end):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            # The device is kept busy until the graph is queued: the host's work is not to be timed.
            torch.cuda._sleep(2_000_000)
            start.record()
            replay()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) * 1e3 / launches)
        return statistics.median(times)

    def family(self, candidate, kernels, target):
        """As `ours`, of a family's candidate."""
        workspace = aligned(candidate.workspace_bytes) + scratch_bytes(candidate, kernels)
        return self.ours(lambda places: assemble(self.node, candidate, kernels, places), kernels, workspace, target)

    def ours(self, steps_at, kernels, workspace, target):
        """Time in µs, and the greater error of the first and the last set."""
        from jitinfer.runtime import Executor
        from jitinfer.runtime.driver import call

        torch = self.torch
        executor = Executor(rotating_plan(self.node, steps_at, kernels, workspace, target, self.sets))
        try:
            flat = [operand for operands in self.operands for operand in operands]
            for memory, operand in zip(executor.inputs, flat, strict=True):
                call("cuMemcpyDtoD", memory.address, operand.data_ptr(), operand.numel() * operand.element_size())
            for memory in executor.outputs:
                call("cuMemsetD8", memory.address, 0xFF, self.node.outputs[0].type.nbytes)
            inputs, stream = executor.inputs, torch.cuda.current_stream()
            executor.enqueue(inputs, stream.cuda_stream)
            torch.cuda.synchronize()
            errors = []
            for turn in (0, self.sets - 1):
                out = torch.empty(self.node.outputs[0].type.shape, device="cuda", dtype=torch.bfloat16)
                call("cuMemcpyDtoD", out.data_ptr(), executor.outputs[turn].address, out.numel() * out.element_size())
                errors.append(self.error(turn, out))
            microseconds = self.median_us(lambda: executor.enqueue(inputs, stream.cuda_stream), self.sets * REPEATS)
        finally:
            executor.close()
        return microseconds, max(errors, key=lambda error: (error != error, error))

    def peer(self, backend):
        torch = self.torch
        from torch.nn.attention import sdpa_kernel

        _, heads, kv_heads, *_ = self.shape
        arguments = {"is_causal": self.node.causal, "enable_gqa": heads != kv_heads}

        def once(turn):
            return torch.nn.functional.scaled_dot_product_attention(*self.heads_first(turn), **arguments)

        with sdpa_kernel(backend):
            error = self.error(0, once(0).transpose(1, 2))
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for turn in range(self.sets):
                    once(turn)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(REPEATS):
                    for turn in range(self.sets):
                        once(turn)
        return self.median_us(graph.replay, self.sets * REPEATS), error


def rate(shape, node, microseconds):
    """TFLOP/s of visible scores, or GB/s of each operand once where queries are few."""
    batch, heads, kv_heads, dim, q_len, kv_len, causal = shape
    if q_len <= 16:
        nbytes = 2 * batch * (kv_len * kv_heads + q_len * heads) * dim * itemsize("bfloat16")
        return nbytes / microseconds / 1e3, "GB/s"
    return 4 * batch * heads * q_len * kv_len * dim * (0.5 if causal else 1.0) / microseconds / 1e6, "TFLOP/s"


def measure(shape, node, rows, target, deadline):
    """One shape's record."""
    from torch.nn.attention import SDPBackend

    bench = Bench(shape, node)
    record = {"shape": shape, "sets": bench.sets, "configs": [], "peers": {}}
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        try:
            microseconds, error = bench.peer(backend)
            record["peers"][name] = {"us": microseconds, "error": error}
        except Exception as problem:
            record["peers"][name] = {"failed": str(problem)[:200]}
    for name, config, (candidate, kernels, failed) in rows:
        entry = {"family": name, "config": dict(config.values)}
        record["configs"].append(entry)
        if failed is not None or time.monotonic() > deadline:
            entry["failed"] = failed or "no time was left"
            continue
        try:
            entry["us"], entry["error"] = bench.family(candidate, kernels, target)
        except Exception as problem:
            entry["failed"] = f"{type(problem).__name__}: {problem}"[:300]
    return record


def line_of(record, node):
    """One line of the table."""
    right = [each for each in record["configs"] if each.get("error", 1.0) < 6e-3]
    wrong = [each for each in record["configs"] if "error" in each and not each["error"] < 6e-3]
    failed = [each for each in record["configs"] if "failed" in each]
    peers = {name: each["us"] for name, each in record["peers"].items() if "us" in each}
    batch, heads, kv_heads, dim, q_len, kv_len, causal = record["shape"]
    head = f"{batch}x{heads}/{kv_heads}x{dim} {q_len}x{kv_len}{' causal' if causal else ''}"
    text = " ".join(f"{name} {us:.1f}" for name, us in peers.items())
    counts = f"{len(right)} right, {len(wrong)} WRONG, {len(failed)} failed"
    if not right:
        return f"{head:28} no result | {text} | {counts}"
    best = min(right, key=lambda each: each["us"])
    first = record["configs"][0]
    value, unit = rate(record["shape"], node, best["us"])
    ratio = min(peers.values()) / best["us"] if peers else float("nan")
    config = " ".join(f"{key}={value}" for key, value in best["config"].items())
    guess = f"first guess {first['us']:.1f}" if "us" in first else "first guess failed"
    result = f"{head:28} {best['us']:7.1f} us {value:6.0f} {unit} x{ratio:.2f}"
    return f"{result} | {text} | {best['family']} {config} | {guess} | {counts}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--shapes", type=int, nargs="*", help="positions in SHAPES")
    options = parser.parse_args()
    start = time.monotonic()
    if options.compile_only:
        target = Target.named(90)
    else:
        from jitinfer.runtime import Device

        target = Target.of(Device.of(0))
    chosen = [SHAPES[i] for i in options.shapes] if options.shapes else SHAPES
    nodes = {shape: node_of(shape) for shape in chosen}
    work = [(shape, node, *variant) for shape, node in nodes.items() for variant in variants(node, target)]
    compiled = compile_all(work, target)
    failures = [(each, result[2]) for each, result in zip(work, compiled, strict=True) if result[2]]
    print(
        f"{len(work)} configurations compiled in {time.monotonic() - start:.0f} s, {len(failures)} failed", flush=True
    )
    for (shape, _, name, config), failed in failures:
        print(" failed:", shape, name, config, failed.replace("\n", " ")[-160:], flush=True)
    if options.compile_only:
        return
    records, lines = [], []
    folder = Path(os.environ.get("OUT", "."))
    for done, (shape, node) in enumerate(nodes.items()):
        left = start + options.seconds - time.monotonic()
        deadline = time.monotonic() + max(5.0, 2 * left / (len(nodes) - done))
        rows = [(each[2], each[3], result) for each, result in zip(work, compiled, strict=True) if each[0] == shape]
        try:
            record = measure(shape, node, rows, target, deadline)
        except Exception as problem:
            lines.append(f"{shape}: {type(problem).__name__}: {problem}"[:300])
            continue
        records.append(record)
        lines.append(line_of(record, node))
        print(lines[-1], flush=True)
        (folder / "attention.json").write_text(json.dumps(records, indent=1))
    print(f"\n{time.monotonic() - start:.0f} s\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
