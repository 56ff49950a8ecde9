"""Checks and times generated kernels on this machine's GPU, beside torch.

    OUT=/tmp/out PYTHONPATH=. python benchmarks/gpu_codegen.py [--only softmax] [--configs 4] [--seconds 170]

Each candidate is compared with the op table's reference in float64, on random data, its outputs poisoned before. Then
a CUDA graph of many calls, each with buffers of its own, which together are more than twice the L2 cache, is replayed;
the median time of a call is printed, with the bandwidth that it means for the bytes that have to move, beside torch's
copy of as many bytes and torch's own kernels (eager, replayed as a graph over as many inputs). All figures go to
$OUT/gpu_codegen.json. --dry: compile for sm_90 only, without a device.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
import traceback

import numpy

from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.types import FLOATING, numpy_dtype
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import assemble, plan_of_node, scratch_bytes, specializations
from jitinfer.kernels.family import WORKSPACE, input_name, output_name
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime.plan import Buffer, Plan, Pointer, aligned

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from generated_cases import node_of, random_array
from generated_nodes import BF16, activations, gated_residual, representative, rotary

REPLAYS = 25
MOST_BYTES = 3 * 10**9
ROUNDING = {"float32": 2e-5, "float64": 1e-12, "float16": 1e-3, "bfloat16": 4e-3, "complex64": 2e-5}


def timed_nodes():
    """What is timed, with torch functions of the operands where torch has one; the others are checked only."""
    vector = ((1152,), BF16)
    vae = {"groups": 32, "activation": "silu"}
    channels = [((128,), BF16)] * 2

    def functional():
        import torch

        return torch, torch.nn.functional

    def layer_norm(x, w, b):
        return functional()[1].layer_norm(x, x.shape[-1:], w, b, 1e-5)

    def group_norm(x, w, b):
        return functional()[1].silu(functional()[1].group_norm(x, 32, w, b))

    def softmax(x):
        return functional()[0].softmax(x, -1)

    def adaptive(x, residual, gate, scale, shift):
        total = residual + gate * x
        return total, functional()[1].layer_norm(total, x.shape[-1:], None, None, 1e-6) * (scale + 1) + shift

    def glue(x, y, b):
        f = functional()[1]
        return f.gelu(x + b, approximate="tanh") * y, f.silu(x) + y * 0.5

    def turned(x):
        return x.transpose(1, 2).contiguous()

    def joined(x, y):
        return functional()[0].cat([x, y], 1)

    def rows_of(table, indices):
        return functional()[1].embedding(indices, table)

    return {
        "copy 128 MB": (node_of("reshape", [((8192, 8192), BF16)], {"shape": (8192, 8192)}), lambda x: x.clone()),
        "silu 64 MB": (node_of("silu", [((8192, 4096), BF16)]), lambda x: functional()[1].silu(x)),
        "gelu (erf) 64 MB": (node_of("gelu", [((8192, 4096), BF16)]), lambda x: functional()[1].gelu(x)),
        "add bias 2048x1152": (node_of("add", [((2048, 1152), BF16), vector]), lambda x, b: x + b),
        "pointwise group 2048x4608": (activations(2048, 4608), glue),
        "layer norm 512x1152": (node_of("layer_norm", [((512, 1152), BF16), vector, vector]), layer_norm),
        "layer norm 8192x4096": (
            node_of("layer_norm", [((8192, 4096), BF16), ((4096,), BF16), ((4096,), BF16)]),
            layer_norm,
        ),
        "layer norm 2048x16384": (
            node_of("layer_norm", [((2048, 16384), BF16), ((16384,), BF16), ((16384,), BF16)]),
            layer_norm,
        ),
        "gated adaLN group 2x256x1152": (gated_residual(2, 256, 1152), adaptive),
        "gated adaLN group 2x4250x1536": (gated_residual(2, 4250, 1536), adaptive),
        "gated adaLN group 8x1024x4096": (gated_residual(8, 1024, 4096), adaptive),
        "softmax 32768x1024": (node_of("softmax", [((32768, 1024), BF16)]), softmax),
        "softmax 64x50257": (node_of("softmax", [((64, 50257), BF16)]), softmax),
        "group norm + silu 1x128x512x512": (
            node_of("group_norm", [((1, 128, 512, 512), BF16), *channels], vae),
            group_norm,
        ),
        "group norm + silu 2x320x64x64": (
            node_of("group_norm", [((2, 320, 64, 64), BF16), ((320,), BF16), ((320,), BF16)], vae),
            group_norm,
        ),
        "sum of all 64 MB": (node_of("sum", [((8192, 4096), BF16)], {"axes": (0, 1)}), lambda x: x.sum()),
        "mean over tokens 16x1024x1152": (
            node_of("mean", [((16, 1024, 1152), BF16)], {"axes": (1,)}),
            lambda x: x.mean(1),
        ),
        "transpose 2x4096x1536": (node_of("transpose", [((2, 4096, 1536), BF16)], {"permutation": (0, 2, 1)}), turned),
        "concat 2x4096x1536 + 2x154x1536": (
            node_of("concat", [((2, 4096, 1536), BF16), ((2, 154, 1536), BF16)], {"axis": 1}),
            joined,
        ),
        "embedding 4096 of 32000x4096": (node_of("gather", [((32000, 4096), BF16), ((4096,), "int64")]), rows_of),
        "rotary half 2x32x2048x128": (rotary(2, 32, 2048, 128, "half"), None),
        "rotary interleaved 2x32x2048x128": (rotary(2, 32, 2048, 128, "interleaved"), None),
        "argmax 16x128256": (node_of("argmax", [((16, 128256), BF16)], {"axis": 1}), lambda x: x.argmax(1)),
        "top 50 of 16x32000": (node_of("top_k", [((16, 32000), BF16)], {"k": 50}), None),
    }


def arrays_of(node):
    """Indices are small enough for every axis that they count."""
    generator = numpy.random.default_rng(0)
    most = min((value.shape[0] for value in node.inputs[:1] if value is not None and value.shape), default=1) - 1
    found = []
    for position, value in enumerate(node.inputs):
        indices = position > 0 and node.op.name.startswith(("gather", "take"))
        low, high = (
            (0, min(most, 4 if "nd" in node.op.name or "take" in node.op.name else most)) if indices else (-3, 3)
        )
        found.append(random_array(generator, value.shape, value.dtype, low, high))
    if node.op.name in ("power", "floor_divide"):
        found = [numpy.abs(each) + 1 for each in found]
    return found


def bytes_of(node):
    """That have to move: of gathers, only the rows that are read."""
    sizes = [value.type.nbytes for value in node.inputs]
    if node.op.name.startswith(("gather", "take")) or any(node.views):
        sizes = [min(sizes[0], node.outputs[0].type.nbytes), *sizes[1:]]
    return sum(sizes) + sum(value.type.nbytes for value in node.outputs)


def error_of(outputs, expected, node):
    """The largest error relative to the rounding that is allowed; NaN counts as infinite."""
    worst = 0.0
    for got, wanted, value in zip(outputs, expected, node.outputs, strict=True):
        if value.dtype not in ROUNDING:
            worst = max(worst, 0.0 if numpy.array_equal(got, wanted.astype(numpy_dtype(value.dtype))) else numpy.inf)
            continue
        wide = "complex128" if value.dtype.startswith("complex") else "float64"
        # A seventh of many elements meets every place in vectors, blocks and rows.
        step = 7 if got.size > 4_000_000 else 1
        got, wanted = got.reshape(-1)[::step].astype(wide), numpy.asarray(wanted).reshape(-1)[::step]
        room = numpy.abs(wanted) + max(1e-30, float(numpy.abs(wanted).mean()))
        error = float((numpy.abs(got - wanted) / room).max(initial=0.0)) / ROUNDING[value.dtype]
        worst = max(worst, error if numpy.isfinite(error) else numpy.inf)
    return worst


def reference(node, arrays, function):
    """In float64: torch's function on the device, which is fast, or else the op table's."""
    if function is not None and all(value.type.floating for value in node.outputs):
        try:
            import torch

            wide = [
                torch.tensor(each.astype(numpy.float32), device="cuda").double()
                if value.dtype in FLOATING
                else torch.tensor(each, device="cuda")
                for value, each in zip(node.inputs, arrays, strict=True)
            ]
            found = function(*wide)
            return [each.cpu().numpy() for each in (found if isinstance(found, tuple) else (found,))]
        except ImportError:
            pass
    wide = [
        each.astype(numpy.float64) if value.dtype in FLOATING else each
        for value, each in zip(node.inputs, arrays, strict=True)
    ]
    return evaluate_node(node, wide, "float64")


def check(node, candidate, kernels, capability, arrays, expected):
    from jitinfer.runtime import Executor
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.driver import call

    executor = Executor(plan_of_node(node, candidate, kernels, capability))
    for output in executor.outputs:
        with Device.of(0).current():
            call("cuMemsetD8", output.address, 0xA5, output.nbytes)
            call("cuCtxSynchronize")
    outputs = executor.run(arrays)
    executor.close()
    return error_of(outputs, expected, node)


def repeated(node, candidate, kernels, capability, count):
    """A plan of `count` calls, each over buffers of its own; operands are weights, so that a call takes no inputs."""
    work = aligned(candidate.workspace_bytes) + scratch_bytes(candidate, kernels)
    offset = aligned(work)
    buffers, steps = [Buffer(WORKSPACE, work, "arena")], []
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
    return Plan(capability, offset, tuple(buffers), tuple(steps), unique, (), ())


def median_us(launch, stream, count):
    from jitinfer.runtime.driver import call

    start, end = call("cuEventCreate", 0), call("cuEventCreate", 0)
    times = []
    for _ in range(REPLAYS):
        call("cuEventRecord", start, stream)
        launch()
        call("cuEventRecord", end, stream)
        call("cuEventSynchronize", end)
        times.append(1000 * float(call("cuEventElapsedTime", start, end)) / count)
    return statistics.median(times[5:])


def time_candidate(plan, weights, device, count):
    from jitinfer.runtime import Executor

    executor = Executor(plan, weights)
    with device.current():
        elapsed = median_us(lambda: executor.enqueue([]), 0, count)
    executor.close()
    return elapsed


def time_torch(function, arrays, node, count, device):
    import torch

    def tensor(array, dtype):
        plain = array.astype(numpy.float32) if dtype in FLOATING else array
        return torch.tensor(plain, device="cuda").to(getattr(torch, dtype))

    given = [tensor(array, value.dtype) for array, value in zip(arrays, node.inputs, strict=True)]
    sets = [[each.clone() for each in given] for _ in range(count)]
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*sets[0])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [function(*inputs) for inputs in sets]
    torch.cuda.synchronize()
    with device.current():
        elapsed = median_us(graph.replay, torch.cuda.current_stream().cuda_stream, count)
    del kept, graph, sets
    torch.cuda.empty_cache()
    return elapsed


class Bench:
    def __init__(self, arguments):
        self.limit = arguments.configs
        self.end = time.monotonic() + arguments.seconds
        self.records = []
        self.failures = 0
        self.device = None
        if arguments.dry:
            target = Target.named(90)
        else:
            from jitinfer.runtime import Device

            self.device = Device.of(0)
            target = Target.of(self.device)
        self.compiler = Compiler(target)

    @property
    def target(self):
        return self.compiler.target

    def candidates(self, node, limit):
        found = []
        for family in families_for(node, self.target):
            configs = family.configs(node, self.target)[:limit]
            found += [(f"{family.name} {each}", family.launches(node, each, self.target)) for each in configs]
        return found

    def compile_all(self, groups):
        """All kernels side by side, before anything is measured."""
        start = time.monotonic()
        sources = [each for group in groups for _, candidate in group for each in specializations(candidate)]
        kernels = self.compiler.try_all(sources)
        failed = [str(each) for each in kernels if isinstance(each, Exception)]
        print(f"{len(sources)} kernels compiled in {time.monotonic() - start:.0f} s, {len(failed)} failed")
        for each in failed:
            print("  ", each.splitlines()[0][:200])
        self.failures += len(failed)
        return bool(failed)

    def check_node(self, name, node, group, function=None):
        arrays = arrays_of(node)
        expected = reference(node, arrays, function)
        right = []
        for label, candidate in group:
            try:
                kernels = [self.compiler.compile(each) for each in specializations(candidate)]
                error = check(node, candidate, kernels, self.target.compute_capability, arrays, expected)
            except Exception as problem:
                self.fail(name, label, f"{type(problem).__name__}: {problem}")
                continue
            if error <= 1:
                right.append((label, candidate, kernels, error))
            else:
                self.fail(name, label, f"wrong by {error:.3g} times what rounding allows")
        return arrays, right

    def fail(self, name, label, why):
        self.failures += 1
        self.records.append({"node": name, "config": label, "error": why})
        print(f"FAILED {name}: {label}: {why[:300]}", flush=True)

    def time_node(self, name, node, function, arrays, right):
        from jitinfer.runtime import Weights

        size = bytes_of(node)
        all_bytes = sum(value.type.nbytes for value in (*node.inputs, *node.outputs))
        count = max(2, min(200, -(-3 * self.device.l2_bytes // size), MOST_BYTES // all_bytes))
        given = {f"{input_name(i)}.{n}": array for n in range(count) for i, array in enumerate(arrays)}
        weights = Weights(given, self.device)
        best = None
        for label, candidate, kernels, error in right:
            try:
                plan = repeated(node, candidate, kernels, self.target.compute_capability, count)
                elapsed = time_candidate(plan, weights, self.device, count)
            except Exception as problem:
                self.fail(name, label, f"timing: {problem}")
                continue
            self.records.append({"node": name, "config": label, "us": elapsed, "error_of_allowed": error})
            if best is None or elapsed < best[0]:
                best = (elapsed, label)
        weights.close()
        peer = None
        if function is not None:
            try:
                peer = time_torch(function, arrays, node, count, self.device)
                self.records.append({"node": name, "config": "torch eager", "us": peer})
            except Exception as problem:
                print(f"torch on {name}: {str(problem)[:200]}")
        if best is not None:
            self.row(name, size, best, peer)

    @staticmethod
    def row(name, size, best, peer):
        elapsed, label = best
        beside = "" if peer is None else f"{peer:9.2f} {peer / elapsed:5.2f}x"
        print(
            f"{name:36} {size / 1e6:8.1f} {elapsed:9.2f} {size / elapsed / 1e3:7.0f} {beside:16}  {label}", flush=True
        )

    def run(self, only):
        timed = {name: each for name, each in timed_nodes().items() if only in name}
        checked = {name: node for name, node in representative().items() if only in name}
        groups = {name: self.candidates(node, self.limit) for name, (node, _) in timed.items()}
        small = {name: self.candidates(node, 2) for name, node in checked.items()}
        self.compile_all([*groups.values(), *small.values()])
        if self.device is None:
            return
        wrong = self.failures
        for name, node in checked.items():
            self.guarded(name, lambda name=name, node=node: self.check_node(name, node, small[name]))
        print(f"checked {len(checked)} kinds of nodes, {self.failures - wrong} failures")
        print(f"{'node':36} {'MB':>8} {'us':>9} {'GB/s':>7} {'torch us':>9} {'':6}  best")
        for name, (node, function) in timed.items():
            if time.monotonic() > self.end:
                print(f"out of time before {name}")
                break

            def both(name=name, node=node, function=function):
                arrays, right = self.check_node(name, node, groups[name], function)
                self.time_node(name, node, function, arrays, right)

            self.guarded(name, both)

    def guarded(self, name, action):
        try:
            action()
        except Exception:
            self.fail(name, "", traceback.format_exc(limit=4))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--configs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    try:
        bench.run(arguments.only)
    finally:
        bench.compiler.close()
        folder = os.environ.get("OUT")
        if folder:
            pathlib.Path(folder, "gpu_codegen.json").write_text(json.dumps(bench.records, indent=1))
    raise SystemExit(bench.failures > 0)


if __name__ == "__main__":
    main()
