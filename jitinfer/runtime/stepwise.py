"""A model run step by step in a process of its own, which says what it is about to do, and what came of it.

`python -m jitinfer.runtime.stepwise FOLDER`: the folder is one that `write` made. Each line of standard output is JSON:
`{"plan": 0, "step": 3}` ahead of a step, 0 being the model's plan and others those of its prologue; `{"plan": null,
"step": null}` ahead of anything else; `{"plan": 0, "step": null}` ahead of the whole plan as one graph. The last one is
`{"failure": ..., "lost": ...}`, the failure being "" where there is none; lost: CUDA serves the process no more.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitinfer.errors import DeviceLostError, JitinferError
from jitinfer.graph.types import TensorType
from jitinfer.runtime import model_file, weight_file
from jitinfer.runtime.arena import Arena
from jitinfer.runtime.device import Device
from jitinfer.runtime.executor import Executor
from jitinfer.runtime.samples import sample
from jitinfer.runtime.weight_store import WeightStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy

    from jitinfer.runtime.model import Model

    Say = Callable[[int | None, int | None], None]

_MODEL, _INPUTS, _REQUEST = "model", "inputs", "request.json"


def write(folder: str, model: Model, weights: Sequence[Any] | None, inputs: Sequence[Any | None], device: int) -> None:
    """All that the process wants to know. weights: None for random ones; inputs: NumPy arrays, None for random ones.

    Raises OSError.
    """
    place = Path(folder)
    model_file.save(model, place / _MODEL, weights)
    table = iter(weight_file.write(place / _INPUTS, [each for each in inputs if each is not None]))
    request = {
        "device": device,
        "weights": weights is not None,
        "inputs": [None if each is None else next(table) for each in inputs],
    }
    (place / _REQUEST).write_text(json.dumps(request))


def main(folder: str) -> None:
    """Standard output is kept for what is said: whatever else writes there is lost."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(**line: Any) -> None:
        said.write(json.dumps(line) + "\n")
        said.flush()

    try:
        _run(Path(folder), lambda plan, step: tell(plan=plan, step=step))
    except DeviceLostError as error:
        tell(failure=str(error), lost=True)
    except (JitinferError, OSError) as error:
        tell(failure=str(error) or type(error).__name__, lost=False)
    else:
        tell(failure="", lost=False)


def _run(place: Path, say: Say) -> None:
    request = json.loads((place / _REQUEST).read_text())
    say(None, None)
    model, weights = model_file.load(place / _MODEL, weights=request["weights"])
    if not request["weights"]:
        weights = [sample(kind) for kind in model.weights]
    known = iter(weight_file.read(place / _INPUTS, [each for each in request["inputs"] if each is not None]))
    buffers = [model.plan.buffer_named[name] for name in model.plan.inputs]
    inputs = [
        next(known) if entry is not None else sample(TensorType(buffer.shape, buffer.dtype))
        for entry, buffer in zip(request["inputs"], buffers, strict=True)
    ]
    device = Device.of(request["device"])
    with device.telling_loss():
        run_stepwise(model, weights, inputs, device, say)


def run_stepwise(
    model: Model, weights: Sequence[Any], inputs: Sequence[Any], device: Device, say: Say
) -> list[numpy.ndarray[Any, Any]]:
    """The results of the whole plan as one graph, after each step of the prologue and of the plan has been run alone.

    say: told the plan and the number of what comes next, as the module says. Raises DeviceError.
    """
    plan_of = {stage.form: stage.plan + 1 for stage in model.stages}
    store = WeightStore(device, lambda form, step: say(plan_of[form], step))
    taken = store.take(model, weights)
    say(None, None)
    arena = Arena(device)
    Executor(model.plan, taken, device, stepwise=lambda step: say(0, step), arena=arena).run(inputs)
    say(None, None)
    whole = Executor(model.plan, taken, device, arena=arena)
    say(0, None)
    return whole.run(inputs)


if __name__ == "__main__":
    main(sys.argv[1])
