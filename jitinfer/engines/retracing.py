"""Which step of a plan loses the device: it is run again, step by step, in a process that has not lost it yet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.engines.trial import child_environment, ending
from jitinfer.errors import JitinferError
from jitinfer.runtime import stepwise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.runtime.model import Model

SECONDS = 120.0
"""That the process may take, to start and to load included."""

MOST_BYTES = 4 * 2**30
"""Of weights that it is given; it makes random ones in place of more."""

COMMAND = ("-m", "jitinfer.runtime.stepwise")


@dataclass(frozen=True)
class Retrace:
    """What came of it.

    failure: "" where all went well; lost: whether it was the device, else the process did not get to the end. plan and
    step: what was running (0 is the model's plan, others are those of its prologue; no step: the whole plan as one
    graph); None where nothing was. random: what was not as in the first run, in words.
    """

    failure: str
    lost: bool = False
    plan: int | None = None
    step: int | None = None
    random: str = ""


def retrace(model: Model, weights: Sequence[Any], inputs: Sequence[Any] | None, device: int) -> Retrace:
    """Runs a model again, step by step.

    Args:
        weights: NumPy arrays. inputs: what of them lies on the device is lost with it, and random then; None: all.
    """
    given = [None] * len(model.plan.inputs) if inputs is None else list(inputs)
    given = [each if isinstance(each, numpy.ndarray) else None for each in given]
    try:
        with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:
            nbytes = sum(each.nbytes for each in weights)
            fits = nbytes <= MOST_BYTES and 2 * nbytes <= shutil.disk_usage(folder).free
            random = _listed(("inputs", any(each is None for each in given)), ("weights", not fits))
            stepwise.write(folder, model, weights if fits else None, given, device)
            return _run(folder, random)
    except (OSError, ValueError, JitinferError) as error:
        return Retrace(str(error))


def _listed(*named: tuple[str, bool]) -> str:
    found = [name for name, present in named if present]
    return f"random {' and '.join(found)}" if found else ""


def _run(folder: str, random: str) -> Retrace:
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, *COMMAND, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(),
        )
        failure = ""
        try:
            output, _ = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            failure = f"it had not come to its end after {SECONDS:.0f} s"
        finally:
            if child.poll() is None:
                child.kill()
            if failure:
                output, _ = child.communicate()
        place: dict[str, Any] = {"plan": None, "step": None}
        for said in map(_said, output.splitlines()):
            if said.keys() == {"failure", "lost"}:
                return Retrace(str(said["failure"]), bool(said["lost"]), **place, random=random)
            if said.keys() == place.keys():
                place = said
        return Retrace(failure or f"the process {ending(child.wait(), errors)}", False, **place, random=random)


def _said(line: bytes) -> dict[str, Any]:
    """Nothing where the line was interrupted, or is not the process's own: what Python starts with may print too."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
