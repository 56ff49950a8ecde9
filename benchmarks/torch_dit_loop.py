"""The loop of `paddle_dit.py` in torch on a GPU, eager and compiled: the host's time included.

    python benchmarks/torch_dit_loop.py [--depth 28] [--width 1152] [--heads 16] [--size 32] [--steps 25]
        [--precision bfloat16] [--shared]

Once with everything on the device, and once with the latents on the host between the steps, where the CPU build of
Paddle has them. Prints a step and the loop, the median of several loops; the last line of each is the best way.
"""

import argparse
import statistics
import time

import torch
from torch_models import DiT

WAYS = {"eager": None, "default": {}, "reduce-overhead": {"mode": "reduce-overhead"}}
LOOPS = 7


def sampled(model, x, labels, steps, dtype, on_host):
    """x: [batch, 4, size, size], float32."""
    for step in range(steps):
        torch.compiler.cudagraph_mark_step_begin()
        t = torch.full([x.shape[0]], 999 - 40 * step, device="cuda")
        noise = model(x.to("cuda", dtype), t, labels).float()
        x = x - 0.02 * (noise.cpu() if on_host else noise)[:, :4]
    return x


def loop_seconds(model, given, on_host):
    x = torch.randn([2, 4, given.size, given.size], device="cpu" if on_host else "cuda")
    labels = torch.tensor([207, 1000], device="cuda")
    times = []
    for _ in range(LOOPS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        result = sampled(model, x, labels, given.steps, getattr(torch, given.precision), on_host)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        assert result.isfinite().all()
    return statistics.median(times[2:])  # the first compiles, and the second records


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("depth", 28), ("width", 1152), ("heads", 16), ("size", 32), ("steps", 25)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--shared", action="store_true")
    given = parser.parse_args()
    with torch.device("cuda"):
        model = DiT(given.depth, given.width, given.heads, given.size, shared=given.shared)
    model = model.to(getattr(torch, given.precision)).eval()
    for on_host in (False, True):
        print("latents on the host" if on_host else "latents on the device")
        found = {}
        for way, arguments in WAYS.items():
            function = model if arguments is None else torch.compile(model, fullgraph=True, **arguments)
            with torch.inference_mode():
                found[way] = 1e3 * loop_seconds(function, given, on_host)
            print(f"  {way}: {found[way] / given.steps:.2f} ms a step, {found[way]:.0f} ms the loop of {given.steps}")
        best = min(found, key=found.get)
        print(f"  best: {best}, {found[best] / given.steps:.2f} ms a step, {found[best]:.0f} ms the loop", flush=True)


if __name__ == "__main__":
    main()
