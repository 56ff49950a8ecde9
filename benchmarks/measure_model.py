"""One saved graph on a device: started warm, right, and how fast beside torch. Needs torch, and no Paddle.

    python benchmarks/measure_model.py GRAPH CACHE RESULT [--dtype bfloat16] [--tune fast] [--lanes 2]
        [--one-lane-too] [--peers eager,default] [--profile]

CACHE as `compile_model.py` has left it. RESULT is written anew whenever there is more to say: a process that is
stopped leaves what it knew.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time

import compile_model
import torch
import torch_graph
import torch_models
from device_timing import ceilings, in_turn, recorded

import jitinfer
from jitinfer.cache import Cache
from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.graph.op import Kind
from jitinfer.runtime import Device
from jitinfer.runtime.model import Session, Shared


def model_flops(graph):
    """Of products, convolutions and attention alone, as imported: what any implementation of the model computes."""
    return sum(flops(node) for node in graph.nodes if node.op.kind is Kind.CONTRACTION)


def roofline(graph, most_flops, bandwidth):
    """Seconds, if each node in turn were as fast as the device computes it or moves its operands, whichever is slower.

    graph: after the passes; Williams et al., 2009, node by node.
    """
    nodes = [node for node in graph.nodes if node.op.kind is not Kind.CREATION]
    return sum(max(flops(node) / most_flops, bytes_moved(node) / bandwidth) for node in nodes)


def chosen(plan):
    """The kernels, or the algorithms of cuBLASLt, for each node."""
    found = {}
    for step in plan.steps:
        kernel = getattr(step, "kernel", None) or getattr(step, "algorithm", "")
        found.setdefault(None if step.cost is None else step.cost.node, []).append(kernel)
    return found


def host_microseconds(session, inputs, repeats=100):
    """What the host takes to queue a call."""
    stream, costs = torch.cuda.current_stream().cuda_stream, []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        session.enqueue(inputs, stream)
        costs.append(time.perf_counter() - started)
    torch.cuda.synchronize()
    return 1e6 * statistics.median(costs)


class Bench:
    """What is known of one graph; `write` puts it into the file."""

    def __init__(self, given):
        self.given = given
        self.graph = compile_model.read(given.graph)
        self.name = pathlib.Path(given.graph).name.partition(".")[0]
        self.found = {"model": self.name, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
        self.runs = {}

    def write(self):
        path = pathlib.Path(self.given.result)
        written = path.with_suffix(".part")
        written.write_text(json.dumps(self.found, indent=1))
        written.replace(path)

    def start(self):
        """The session and its inputs; what the device, the model and its start are like."""
        most_flops, bandwidth = ceilings()
        self.found.update(device_tflops=most_flops / 1e12, device_gb_per_second=bandwidth / 1e9)
        weights = torch_graph.random_weights(self.graph)
        inputs = torch_graph.random_inputs(self.graph)
        torch.cuda.synchronize()
        after, model, seconds = compile_model.compiled(
            self.graph, Cache(self.given.cache), self.given.dtype, self.given.tune, self.given.lanes
        )
        started = time.perf_counter()
        self.weights, self.shared = weights, Shared(Device.of(0))
        session = Session(model, weights, Device.of(0), shared=self.shared)
        torch.cuda.synchronize()
        seconds["loading"] = time.perf_counter() - started
        self.found["warm_seconds"] = seconds
        self.found["gflop"] = model_flops(self.graph) / 1e9
        self.found["roofline_ms"] = 1e3 * roofline(after, most_flops, bandwidth)
        self.found["memory_gb"] = session.nbytes / 1e9
        self.found["arena_mb"] = model.plan.arena_bytes / 1e6
        self.found["steps"] = len(model.plan.steps)
        self.found["steps_beside"] = sum(slot.lane > 0 for slot in model.plan.slots)
        self.compare(session, weights, inputs)
        self.found["host_us"] = host_microseconds(session, session.inputs)
        self.found["host_us_inputs_copied"] = host_microseconds(session, inputs)
        self.session = session
        stream = torch.cuda.current_stream().cuda_stream
        self.runs["jitinfer"] = lambda: session.enqueue(session.inputs, stream)
        self.time()
        return inputs

    def compare(self, session, weights, inputs):
        """Errors relative to float32 by torch, ours, and those of torch op by op in the same dtype."""
        with torch.inference_mode():
            (wanted,) = torch_graph.evaluate(self.graph, inputs, weights)
            (eager,) = torch_graph.evaluate(self.graph, inputs, weights, self.given.dtype)
        (result,) = session.enqueue(inputs)
        torch.cuda.synchronize()
        self.found["error"] = torch_graph.relative_error(torch.from_dlpack(result), wanted)
        self.found["error_of_torch"] = torch_graph.relative_error(eager, wanted)

    def one_lane(self, inputs):
        """One step after the other, in turn with the rest, whether that gives the same bits, and has the same kernels.

        What tuning had no time for is chosen anew, and may be chosen otherwise.
        """
        given = self.given
        _, model, _ = compile_model.compiled(self.graph, Cache(given.cache), given.dtype, given.tune, 1)
        session = Session(model, self.weights, Device.of(0), shared=self.shared)
        results = []
        for each in (self.session, session):
            (array,) = each.run(inputs)
            results.append(array.tobytes())
        self.found["same_bits_on_one_lane"] = results[0] == results[1]
        beside, alone = chosen(self.session.model.plan), chosen(model.plan)
        self.found["nodes_with_other_kernels_on_one_lane"] = sum(alone.get(node) != beside[node] for node in beside)
        self.found["arena_mb_on_one_lane"] = model.plan.arena_bytes / 1e6
        stream = torch.cuda.current_stream().cuda_stream
        self.runs["jitinfer on one lane"] = lambda: session.enqueue(session.inputs, stream)
        self.time()

    def peers(self, inputs, modes):
        peers = torch_models.Peers(self.name, inputs, getattr(torch, self.given.dtype))
        for mode in modes:
            started = time.perf_counter()
            function = peers.function(mode)
            with torch.inference_mode():
                function()
                torch.cuda.synchronize()
                seconds = time.perf_counter() - started
                memory = peers.memory(function)
                self.runs[f"torch {mode}"] = recorded(function)
            self.found[f"torch {mode}"] = {"compile_seconds": seconds, "memory_gb": memory / 1e9}
            self.time()

    def profile(self):
        self.found["profile"] = jitinfer.profile(self.session).table(limit=24)
        self.write()

    def time(self):
        times = in_turn(self.runs)
        self.found["ms"] = {name: dataclasses.asdict(each) for name, each in times.items()}
        self.write()


def main():
    parser = argparse.ArgumentParser()
    for name in ("graph", "cache", "result"):
        parser.add_argument(name)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tune", default="fast")
    parser.add_argument("--lanes", type=int, choices=(1, 2), default=2)
    parser.add_argument("--one-lane-too", action="store_true", help="beside the same program, one step after the other")
    parser.add_argument("--peers", default="eager,default", help=", ".join(torch_models.MODES))
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    given = parser.parse_args()
    bench = Bench(given)
    inputs = bench.start()
    torch.cuda.empty_cache()
    if given.one_lane_too:
        bench.one_lane(inputs)
    bench.peers(inputs, [mode for mode in given.peers.split(",") if mode])
    if given.profile:
        bench.profile()


if __name__ == "__main__":
    main()
