"""Whole models on a GPU, from saved graphs: right, and how fast. Needs torch there, and no Paddle.

    python benchmarks/gpu_models.py FOLDER [--models dit,sd3] [--tune 60] [--dtype bfloat16] [--peers eager,default]

FOLDER holds graphs as text (`NAME.graph.gz`), as `benchmarks/save_graphs.py` writes them. For each: passes, lowering
with kernels timed on the device, results against torch in float32 beside torch's own error in the same dtype, the time
of a replay, and where it goes.
"""

import argparse
import collections
import faulthandler
import gzip
import json
import logging
import os
import pathlib
import statistics
import time
import traceback

import torch
import torch_graph
import torch_models

from jitinfer.cache import Cache
from jitinfer.graph import parse
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import compile_graph
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.tuning import Tuner
from jitinfer.passes import default, run_passes
from jitinfer.runtime import Device
from jitinfer.runtime.model import Session


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def replay_time(session, inputs, repeats=30):
    stream = torch.cuda.Stream()
    times = []
    with torch.cuda.stream(stream):
        for _ in range(5):
            session.enqueue(inputs, stream.cuda_stream)
        for _ in range(repeats):
            first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            session.enqueue(inputs, stream.cuda_stream)
            second.record()
            second.synchronize()
            times.append(first.elapsed_time(second))
    return statistics.median(times)


def host_time(session, inputs, repeats=200):
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    costs = []
    for _ in range(repeats):
        started = time.perf_counter()
        session.enqueue(inputs, stream.cuda_stream)
        costs.append(time.perf_counter() - started)
        torch.cuda.synchronize()
    return statistics.median(costs)


def measure(path, dtype, seconds, most, store, modes):
    report = {}
    graph = parse(gzip.decompress(path.read_bytes()).decode())
    weights, inputs = torch_graph.random_weights(graph), torch_graph.random_inputs(graph)
    with torch.inference_mode():
        (wanted,) = torch_graph.evaluate(graph, inputs, weights)
        (eager,) = torch_graph.evaluate(graph, inputs, weights, dtype)
    report["error of torch"] = relative(eager, wanted)
    started = time.perf_counter()
    after, _ = run_passes(graph, arranged(default(), dtype))
    passed = time.perf_counter()
    device = Device.of(0)
    with Compiler(Target.of(device), store) as compiler:
        tuner = Tuner(compiler, device, store, seconds=seconds, most=most)
        model, lowered = compile_graph(after, compiler.target, tuner)
        compiled = time.perf_counter()
        report["kernels compiled"], report["offers timed"] = compiler.compiled, tuner.measured
    session = Session(model, weights, device)
    ready = time.perf_counter()
    report.update(passes=passed - started, lowering=compiled - passed, loading=ready - compiled)
    (result,) = session.enqueue(inputs)
    torch.cuda.synchronize()
    report["error"] = relative(torch.from_dlpack(result), wanted)
    report["ms"], report["ms, inputs copied"] = replay_time(session, session.inputs), replay_time(session, inputs)
    report["host us"] = 1e6 * host_time(session, session.inputs)
    report["host us, inputs copied"] = 1e6 * host_time(session, inputs)
    report["arena MB"], report["lower bound MB"] = lowered.plan.arena_bytes / 1e6, lowered.lower_bound / 1e6
    report["steps"] = len(lowered.plan.steps)
    parts = collections.defaultdict(list)
    for node, choice in lowered.work:
        types = " ".join(str(kind) for kind in node.input_types()[:2])
        parts[f"{node.op.name} {types} | {choice.family} {choice.config}"].append(choice.microseconds)
    report["nodes"] = sorted(
        ({"node": name, "count": len(times), "us": times[0]} for name, times in parts.items()),
        key=lambda each: -each["count"] * (each["us"] if each["us"] == each["us"] else 0),
    )
    session.close()
    name = path.name.partition(".")[0]
    if modes and name in torch_models.MODELS:
        found = torch_models.measure(name, inputs, getattr(torch, dtype), modes)
        report.update({f"torch {mode} ms": milliseconds for mode, (milliseconds, _) in found.items()})
        report.update({f"torch {mode} compiled s": compiled for mode, (_, compiled) in found.items()})
        report["ratio to the best"] = min(milliseconds for milliseconds, _ in found.values()) / report["ms"]
    return report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--models", default="dit,sd3,large_dit")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tune", type=float, default=60.0)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--cache", default=None)
    parser.add_argument("--peers", default="eager,default", help="modes of torch.compile, and eager")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    store = Cache(arguments.cache) if arguments.cache else None
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    if arguments.verbose:
        faulthandler.dump_traceback_later(40, repeat=True)
    reports, modes = {}, tuple(filter(None, arguments.peers.split(",")))
    for name in arguments.models.split(","):
        try:
            path = arguments.folder / f"{name}.graph.gz"
            reports[name] = measure(path, arguments.dtype, arguments.tune, arguments.most, store, modes)
        except Exception:
            reports[name] = {"failed": traceback.format_exc()}
        report = reports[name]
        print(f"\n{name}")
        for key, value in report.items():
            if key == "nodes":
                for each in value[:14]:
                    print(f"    {each['count']:4} x {each['us']:8.1f} us  {each['node'][:150]}")
            else:
                print(f"  {key}: {value if isinstance(value, (int, str)) else format(value, '.4g')}")
        (pathlib.Path(os.environ.get("OUT", ".")) / "models.json").write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
