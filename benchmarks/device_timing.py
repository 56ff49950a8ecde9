"""Times on a device, taken alike for everyone who is compared, with torch's events.

What is timed is queued work, as a rule the replay of a CUDA graph. Before each measurement, memory of several times
the second-level cache is written: this empties the cache, and keeps the device busy until the host has queued the
work. Those compared take turns, so that clocks and temperature are the same for all.
"""

import statistics
from dataclasses import dataclass

import torch

FLUSHED_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Times:
    """Milliseconds: the median, the tenth and the ninetieth percentile."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(milliseconds):
        tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
        return Times(statistics.median(milliseconds), tenths[0], tenths[-1])


def in_turn(runs, rounds=30, warming=3):
    """The times of each of `runs`, functions by name that queue work into torch's current stream."""
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    names, found = list(runs), {name: [] for name in runs}
    for number in range(-warming, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flushed.zero_()
            first.record()
            runs[name]()
            last.record()
            last.synchronize()
            if number >= 0:
                found[name].append(first.elapsed_time(last))
    return {name: Times.of(each) for name, each in found.items()}


def recorded(function):
    """`function` as one CUDA graph: what replays it. Its results keep their memory as long as that lives."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()

    def replay(_kept=results):
        graph.replay()

    return replay


def ceilings(size=8192, nbytes=2**30):
    """What the device gives: bfloat16 operations per second of a square product of random numbers by cuBLAS, and bytes
    per second, read and written, of a copy.
    """
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source, copied = (torch.zeros(nbytes, dtype=torch.uint8, device="cuda") for _ in range(2))
    times = in_turn({"product": recorded(lambda: a @ b), "copy": recorded(lambda: copied.copy_(source))})
    return 2e3 * size**3 / times["product"].median, 2e3 * nbytes / times["copy"].median
