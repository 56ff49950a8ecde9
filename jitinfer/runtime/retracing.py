"""Which step of a plan loses the device: it is run again, step by step, in a process that has not lost it yet."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import DeviceLostError, JitinferError
from jitinfer.progress import progress
from jitinfer.runtime import stepwise
from jitinfer.runtime.child_process import child_environment, ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.runtime.model import Model

SECONDS = 120.0
"""That the process may take, to start and to load included."""

MOST_BYTES = 4 * 2**30
"""Of weights that it is given; it makes random ones in place of more."""

COMMAND = ("-m", "jitinfer.runtime.stepwise")

logger = logging.getLogger("jitinfer.runtime")


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

    @property
    def place(self) -> tuple[int, int] | None:
        """The plan and the step that lose the device; None where that was not found out."""
        return (self.plan, self.step) if self.lost and self.plan is not None and self.step is not None else None

    @property
    def words(self) -> str:
        """The failure, as one of another process."""
        return self.failure + (f" (in another process, on {self.random})" if self.random else "")

    def unexplained(self, error: DeviceLostError, name: str) -> DeviceLostError:
        """What to raise for `error`, which the program `name` met, where there is no `place`."""
        how = "run again in another process, step by step" + (f" and on {self.random}" if self.random else "")
        if not self.failure:
            return DeviceLostError(
                f"{error}. No kernel of {name} is known to have done it: {how}, none does; whatever else this process "
                f"ran on the device may have"
            )
        if not self.lost or self.plan is None:
            return DeviceLostError(f"{error}. Which kernel did it is not known: {how}, {self.failure}")
        return DeviceLostError(
            f"{error}. Which kernel did it is not known: {how}, none does, but all of them one right after the other "
            f"do: {self.failure}"
        )


def search(
    name: str,
    error: DeviceLostError,
    model: Model,
    weights: Sequence[Any] | None,
    inputs: Sequence[Any] | None,
    device: int,
) -> Retrace:
    """As `retrace`, for the program `name` that met `error`, where people see that something goes on."""
    logger.info("%s: %s; looking for the kernel in another process", name, error)
    with progress(f"jitinfer: looking for the kernel of {name} that lost the device"):
        return retrace(model, weights, inputs, device)


def retrace(model: Model, weights: Sequence[Any] | None, inputs: Sequence[Any] | None, device: int) -> Retrace:
    """Runs a model again, step by step.

    Args:
        weights: NumPy arrays; None: random ones. inputs: what of them lies on the device is lost with it, and random
            then; None: all.
    """
    given = [None] * len(model.plan.inputs) if inputs is None else list(inputs)
    given = [each if isinstance(each, numpy.ndarray) else None for each in given]
    try:
        with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:
            if weights is not None and not _fit(weights, folder):
                weights = None
            random = _listed(("inputs", any(each is None for each in given)), ("weights", weights is None))
            stepwise.write(folder, model, weights, given, device)
            return _run(folder, random)
    except (OSError, ValueError, JitinferError) as error:
        return Retrace(str(error))


def _fit(weights: Sequence[Any], folder: str) -> bool:
    nbytes = sum(int(each.nbytes) for each in weights)
    return nbytes <= MOST_BYTES and 2 * nbytes <= shutil.disk_usage(folder).free


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
