"""Time of a compiled call above that of the predictor it runs: five tensors and two guards, on one CPU. Then the time
in which a call finds that no weight of DiT-XL/2 has changed, when nothing of them is in a cache.

.venv/bin/python benchmarks/call_overhead.py
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import paddle
from paddle_dit import DiT

import jitinfer
from jitinfer.frontend.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable


@jitinfer.inference
def five(a, b, c, d, e, flag=True, mode="x"):
    return a + b * c - d * e if flag and mode == "x" else a


def microseconds(function: Callable[[], Any], repeats: int = 3000, rounds: int = 7) -> float:
    """The fastest of `rounds` means over `repeats` calls."""
    best = float("inf")
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for _ in range(repeats):
            function()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best * 1e6


def weights_microseconds(rounds: int = 60) -> float:
    """The median."""
    weights = Weights(DiT(28, 1152, 16, 32, shared=True).parameters())
    weights.remember()
    others, times = paddle.randn([1 << 24]), []
    for _ in range(rounds):
        others.add_(others)  # of what the caches may hold
        started = time.perf_counter()
        assert not weights.changed()
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times)


def main() -> None:
    tensors = [paddle.randn([4, 4]) for _ in range(5)]
    five(*tensors)
    predictor = five.specializations[0].executable._predictor
    alone = microseconds(lambda: predictor.run(tensors))
    call = microseconds(lambda: five(*tensors, flag=True, mode="x"))
    dynamic = microseconds(lambda: five.function(*tensors))
    print(f"predictor.run {alone:.1f} us, call {call:.1f} us, above it {call - alone:.1f} us; dynamic {dynamic:.1f} us")
    print(f"weights of DiT-XL/2, 3 GB, unchanged: {weights_microseconds():.0f} us")


if __name__ == "__main__":
    main()
