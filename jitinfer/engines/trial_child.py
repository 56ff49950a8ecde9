"""The child of `trial`: `python -m jitinfer.engines.trial_child`, requests on standard input, answers on its output."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import paddle

from jitinfer.engines.configuration import Configuration
from jitinfer.engines.paddle import as_arrays, create_predictor, last_line
from jitinfer.frontend.program_passes import run_program_pass

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Answer until standard input ends. Standard output is kept for answers: whatever else writes there is lost."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _TASKS[request["task"]](request)
        except Exception as error:  # noqa: BLE001 - whatever Paddle raises is the answer
            answer = {"failure": last_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _configuration(request: dict[str, Any]) -> dict[str, Any]:
    configuration = Configuration.restore(request["configuration"])
    predictor = create_predictor(request["program"], request["parameters"], configuration)
    with numpy.load(request["inputs"], allow_pickle=False) as arrays:
        inputs = [
            paddle.to_tensor(arrays[f"arr_{position}"], dtype=dtype) for position, dtype in enumerate(request["dtypes"])
        ]
    results = predictor.run(inputs)
    seconds = _fastest(lambda: predictor.run(inputs))
    numpy.savez(request["results"], *as_arrays(results))
    return {"seconds": seconds}


def _pass(request: dict[str, Any]) -> dict[str, Any]:
    text = Path(request["program"]).read_bytes()
    started = time.perf_counter()
    found = run_program_pass(text, request["pass"], request["inputs"], request["outputs"])
    seconds = time.perf_counter() - started
    Path(request["result"]).write_bytes(found.text)
    return {"parameters": found.parameters, "operations": found.operations, "seconds": seconds}


_TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"configuration": _configuration, "pass": _pass}


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
