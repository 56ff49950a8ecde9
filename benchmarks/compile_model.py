"""One saved graph, compiled as `@jitinfer.inference(engine="cuda")` compiles it. Needs neither torch nor Paddle.

    python benchmarks/compile_model.py GRAPH CACHE RESULT [--dtype bfloat16] [--tune fast] [--lanes 2]

Writes seconds as JSON into the file RESULT. In a process of its own, with CACHE an empty folder, this is what a first
call costs beyond tracing, import and weights; with a folder that it has filled, what later processes pay.
"""

import argparse
import gzip
import json
import pathlib
import time

from jitinfer.cache import Cache
from jitinfer.graph import parse
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.models import ModelMaker
from jitinfer.passes import default, run_passes
from jitinfer.runtime import Device


def read(path):
    return parse(gzip.decompress(pathlib.Path(path).read_bytes()).decode())


def compiled(graph, store, dtype, tune, lanes):
    """The graph after its passes, its model, and the seconds that passes and lowering took."""
    device = Device.of(0)
    device.synchronize()  # with a context from here on
    started = time.perf_counter()
    after, _ = run_passes(graph, arranged(default(), dtype))
    passed = time.perf_counter()
    model = ModelMaker(device, store, tune, lanes=lanes).model(after)
    return after, model, {"passes": passed - started, "lowering": time.perf_counter() - passed}


def main():
    parser = argparse.ArgumentParser()
    for name in ("graph", "cache", "result"):
        parser.add_argument(name)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tune", default="fast")
    parser.add_argument("--lanes", type=int, choices=(1, 2), default=2)
    given = parser.parse_args()
    *_, seconds = compiled(read(given.graph), Cache(given.cache), given.dtype, given.tune, given.lanes)
    pathlib.Path(given.result).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
