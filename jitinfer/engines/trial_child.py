"""The child of `trial`: `python -m jitinfer.engines.trial_child`, requests on standard input, answers on its output."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy
import paddle

from jitinfer.engines.configuration import Configuration
from jitinfer.engines.paddle import as_arrays, create_predictor, last_line

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Answer until standard input ends. Standard output is kept for answers: whatever else writes there is lost."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        answers.write(json.dumps(_attempt(json.loads(line))) + "\n")
        answers.flush()


def _attempt(request: dict[str, Any]) -> dict[str, Any]:
    try:
        configuration = Configuration.restore(request["configuration"])
        predictor = create_predictor(request["program"], request["parameters"], configuration)
        with numpy.load(request["inputs"], allow_pickle=False) as arrays:
            inputs = [
                paddle.to_tensor(arrays[f"arr_{position}"], dtype=dtype)
                for position, dtype in enumerate(request["dtypes"])
            ]
        results = predictor.run(inputs)
        seconds = _fastest(lambda: predictor.run(inputs))
        numpy.savez(request["results"], *as_arrays(results))
    except Exception as error:  # noqa: BLE001 - whatever Paddle raises is the answer
        return {"failure": last_line(error)}
    return {"seconds": seconds}


def _fastest(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of up to nine runs, or of as many as fit into half a second."""
    best, begun = float("inf"), time.perf_counter()
    for _ in range(9):
        started = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - started)
        if now - begun > 0.5:
            break
    return best


if __name__ == "__main__":
    main()
