"""Times every configuration of a kernel family on this machine's GPU, beside torch where it is installed.

    python benchmarks/kernels.py [--op adaptive_layer_norm] [--shape 2x256x1152] [--dtype bfloat16] [--configs 6]

Each candidate is first compared with the op table's NumPy reference in float64. Then a CUDA graph of many calls, each
with its own inputs and outputs, which together do not fit into the L2 cache, is replayed; the median time of a call
is printed, with the bandwidth that it means for the bytes that have to move.
"""

import argparse
import importlib.util
import itertools
import statistics
import time

import numpy

from jitinfer.cache import Cache, cache_location
from jitinfer.graph import Builder, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import assemble, plan_of_node, scratch_bytes, specializations
from jitinfer.kernels.family import WORKSPACE, input_name, output_name
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime import Buffer, Device, Executor, Plan, Pointer, Weights
from jitinfer.runtime.driver import call
from jitinfer.runtime.plan import aligned
from jitinfer.testing import random_array

REPLAYS = 30
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
OPS = ("layer_norm", "rms_norm", "adaptive_layer_norm", "gated_residual_adaptive_layer_norm")
SHAPES = ("2x256x1152", "2x1024x1152", "2x4250x1536", "16x1024x4096")


def node_of(op, shape, dtype):
    """Modulations are chunks of [batch, 1, width]; layer and rms norm have weight and bias."""
    builder = Builder()
    width = shape[-1:]
    modulation = (shape[0], 1, *width)
    if op in ("layer_norm", "rms_norm"):
        shapes = [shape, width, width]
    elif op == "adaptive_layer_norm":
        shapes = [shape, modulation, modulation]
    else:
        shapes = [shape, shape, modulation, modulation, modulation]
    inputs = [builder.input(f"x{i}", each, dtype).value for i, each in enumerate(shapes)]
    return builder.add_node(op_named(op), inputs, {"epsilon": 1e-6})


def check(node, plan, arrays, expected):
    """The largest error relative to the rounding that is allowed; raises where it is above 1."""
    executor = Executor(plan)
    outputs = executor.run(arrays)
    executor.close()
    worst = 0.0
    for got, wanted, value in zip(outputs, expected, node.outputs, strict=True):
        error = numpy.abs(got.astype(numpy.float64) - wanted) / (1 + numpy.abs(wanted))
        worst = max(worst, float(error.max()) / ROUNDING[value.dtype])
    if not worst <= 1:
        raise SystemExit(f"wrong by {worst:.2f} times what rounding allows")
    return worst


def bytes_of(node):
    return sum(value.type.nbytes for value in (*node.inputs, *node.outputs))


def rotation(node, device):
    """How many sets of buffers are three times the L2 cache; at least 8, at most 400, at most 4 GB."""
    size = bytes_of(node)
    return max(8, min(400, -(-3 * device.l2_bytes // size), 4 * 10**9 // size))


def repeated(node, candidate, kernels, target, count):
    """A plan of `count` calls, each over buffers of its own; operands are weights, so that a call takes no inputs."""
    buffers, steps = [], []
    work = aligned(candidate.workspace_bytes) + scratch_bytes(candidate, kernels)
    offset = aligned(work)
    buffers.append(Buffer(WORKSPACE, work, "arena"))
    for number in range(count):
        places = {WORKSPACE: Pointer(WORKSPACE)}
        for position, value in enumerate(node.inputs):
            name = f"{input_name(position)}.{number}"
            buffers.append(Buffer(name, value.type.nbytes, "weight", shape=value.shape, dtype=value.dtype))
            places[input_name(position)] = Pointer(name)
        for position, value in enumerate(node.outputs):
            name = f"{output_name(position)}.{number}"
            buffers.append(Buffer(name, value.type.nbytes, "arena", offset))
            offset += aligned(value.type.nbytes)
            places[output_name(position)] = Pointer(name)
        steps += assemble(node, candidate, kernels, places)
    unique = tuple({kernel.digest: kernel for kernel in kernels}.values())
    return Plan(target, offset, tuple(buffers), tuple(steps), unique, (), ())


def median_us(launch, stream, count):
    """Of one call among the `count` that `launch` queues, in microseconds."""
    start, end = call("cuEventCreate", 0), call("cuEventCreate", 0)
    times = []
    for _ in range(REPLAYS):
        call("cuEventRecord", start, stream)
        launch()
        call("cuEventRecord", end, stream)
        call("cuEventSynchronize", end)
        times.append(1000 * float(call("cuEventElapsedTime", start, end)) / count)
    return statistics.median(times[5:])


def operands(arrays, count):
    return {f"{input_name(i)}.{number}": array for number in range(count) for i, array in enumerate(arrays)}


def time_plan(plan, weights, device, count):
    executor = Executor(plan, weights)
    with device.current():
        elapsed = median_us(lambda: executor.enqueue([]), 0, count)
    executor.close()
    return elapsed


def torch_function(op, torch):
    def norm(x, weight=None, bias=None):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)

    def gated(x, residual, gate, scale, shift):
        total = residual + gate * x
        return total, norm(total) * (1 + scale) + shift

    return {
        "layer_norm": norm,
        "rms_norm": lambda x, w, b: torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6) + b,
        "adaptive_layer_norm": lambda x, scale, shift: norm(x) * (1 + scale) + shift,
        "gated_residual_adaptive_layer_norm": gated,
    }[op]


def time_torch(node, dtype, count, device):
    """Eager and compiled torch, replayed as CUDA graphs over as many sets of inputs."""
    import torch

    kind = getattr(torch, dtype)
    sets = [[torch.randn(value.shape, dtype=kind, device="cuda") for value in node.inputs] for _ in range(count)]
    results = {}
    function = torch_function(node.op.name, torch)
    for name, each in (("torch eager", function), ("torch.compile", torch.compile(function, dynamic=False))):
        with torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    each(*sets[0])
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                kept = [each(*inputs) for inputs in sets]
        torch.cuda.synchronize()
        with device.current():
            results[name] = median_us(graph.replay, torch.cuda.current_stream().cuda_stream, count)
        del kept, graph
    return results


def report(name, elapsed, size, note=""):
    print(f"  {name:44} {elapsed:9.2f} us {size / elapsed / 1e3:8.0f} GB/s  {note}", flush=True)


def measure(op, shape, dtype, limit, compiler, device):
    node = node_of(op, shape, dtype)
    target, size, count = compiler.target, bytes_of(node), rotation(node, device)
    floor = size / target.bandwidth * 1e6
    print(f"{op} {'x'.join(map(str, shape))} {dtype}: {size / 1e6:.1f} MB, floor {floor:.2f} us")
    arrays = [random_array(value.type, seed) for seed, value in enumerate(node.inputs)]
    expected = evaluate_node(node, [array.astype(numpy.float64) for array in arrays], "float64")
    weights = Weights(operands(arrays, count), device)
    for family in families_for(node, target):
        candidates = [(each, family.launches(node, each, target)) for each in family.configs(node, target)[:limit]]
        compiler.try_all([source for _, candidate in candidates for source in specializations(candidate)])
        for config, candidate in candidates:
            kernels = [compiler.compile(source) for source in specializations(candidate)]
            plan = plan_of_node(node, candidate, kernels, target.compute_capability)
            worst = check(node, plan, arrays, expected)
            plan = repeated(node, candidate, kernels, target.compute_capability, count)
            elapsed = time_plan(plan, weights, device, count)
            report(f"{family.name} {config}", elapsed, size, f"error {worst:.2f} of allowed")
    weights.close()
    if importlib.util.find_spec("torch") is None:
        print("  torch is not installed")
        return
    for name, elapsed in time_torch(node, dtype, count, device).items():
        report(name, elapsed, size)


def host_cost(device, compiler):
    """Microseconds of the host for one queued call of a plan of many kernels, inputs in place."""
    node = node_of("adaptive_layer_norm", (2, 16, 64), "bfloat16")
    (family,) = families_for(node, compiler.target)
    candidate = family.launches(node, family.configs(node, compiler.target)[0], compiler.target)
    kernels = [compiler.compile(source) for source in specializations(candidate)]
    for count in (1, 300):
        plan = repeated(node, candidate, kernels, compiler.target.compute_capability, count)
        executor = Executor(plan, operands([random_array(value.type, 0) for value in node.inputs], count), device)
        times = []
        for _ in range(200):
            start = time.perf_counter()
            executor.enqueue([])
            times.append(1e6 * (time.perf_counter() - start))
            device.synchronize()
        print(f"host: {statistics.median(times):.1f} us to queue a graph of {count} kernels")
        executor.close()
    executor = Executor(plan_of_node(node, candidate, kernels, compiler.target.compute_capability), device=device)
    inputs = executor.inputs
    times = []
    for _ in range(200):
        start = time.perf_counter()
        executor.enqueue(inputs)
        times.append(1e6 * (time.perf_counter() - start))
        device.synchronize()
    print(f"host: {statistics.median(times):.1f} us to queue one kernel with {len(inputs)} inputs in place")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", choices=OPS)
    parser.add_argument("--shape", action="append", help="such as 2x256x1152")
    parser.add_argument("--dtype", default="bfloat16", choices=list(ROUNDING))
    parser.add_argument("--configs", type=int, default=6, help="of each family, best guess first")
    arguments = parser.parse_args()
    device = Device.of(0)
    print(device)
    with Compiler(Target.of(device), Cache(cache_location())) as compiler:
        host_cost(device, compiler)
        for op, shape in itertools.product(arguments.op or OPS, arguments.shape or SHAPES):
            dims = tuple(int(dim) for dim in shape.split("x"))
            measure(op, dims, arguments.dtype, arguments.configs, compiler, device)


if __name__ == "__main__":
    main()
