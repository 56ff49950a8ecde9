"""`jitinfer profile FILE`: a saved program, measured, or run for Nsight Systems and Nsight Compute to look at."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.tools.profile_report import GROUPINGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from jitinfer.runtime.model import Session
    from jitinfer.runtime.plan import Step
    from jitinfer.tools.profile_report import Profile

_NVTX_ROUNDS = 3
_KERNELS = 3
"""That the command line for Nsight Compute names."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a program, as CompiledFunction.save writes it")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the CUDA device (default: 0)")
    parser.add_argument("--rounds", type=_positive, default=None, metavar="N", help="rounds to measure (default: 30)")
    parser.add_argument("--by", choices=GROUPINGS, default="layer", help="what makes a row (default: layer)")
    parser.add_argument("--top", type=_positive, default=40, metavar="N", help="rows to print (default: 40)")
    parser.add_argument("--trace", type=Path, metavar="JSON", help="write a timeline for Perfetto or chrome://tracing")
    parser.add_argument("--json", action="store_true", help="machine-readable output: every step")
    parser.add_argument(
        "--nvtx", action="store_true", help="measure nothing: run the steps one by one in NVTX ranges, for nsys"
    )
    parser.add_argument("--once", action="store_true", help="measure nothing: run the steps once, one by one, for ncu")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Raises JitinferError for a file that is no program, or one that the device cannot run; or OSError."""
    if (arguments.nvtx or arguments.once) and (arguments.trace or arguments.json):
        raise ArgumentError("--nvtx and --once measure nothing that --trace or --json could write")
    session = _loaded(arguments.file, arguments.device)
    if arguments.nvtx or arguments.once:
        rounds = 1 if arguments.once else arguments.rounds or _NVTX_ROUNDS
        sys.stdout.write(_run_stepwise(session, rounds, nvtx=arguments.nvtx))
        return 0
    from jitinfer.tools.profiling import profile

    found = profile(session, rounds=arguments.rounds)
    if arguments.trace:
        found.save_trace(arguments.trace)
    if arguments.json:
        sys.stdout.write(json.dumps(_document(found), indent=2) + "\n")
    else:
        sys.stdout.write(found.table(arguments.by, arguments.top) + "\n" + further(arguments.file, found))
    return 0


def further(file: Path, profile: Profile) -> str:
    """Command lines that look deeper, ready for a shell."""
    times: Counter[str] = Counter()
    for step in profile.steps:
        if step.grid is not None:
            times[step.kernel] += round(1000 * step.microseconds)
    own = ["jitinfer", "profile", str(file)]
    timeline = ["nsys", "profile", "-t", "cuda,nvtx", "-o", "report", *own, "--nvtx"]
    lines = ["# a timeline with the layers as ranges, in Nsight Systems", shlex.join(timeline)]
    if times:
        names = "|".join(re.escape(name) for name, _ in times.most_common(_KERNELS))
        counters = ["ncu", "--set", "full", "--kernel-name", f"regex:^({names})$", "-o", "report", *own, "--once"]
        lines += ["# what bounds the longest kernels, in Nsight Compute", shlex.join(counters)]
    return "\n".join(lines) + "\n"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _loaded(file: Path, device: int) -> Session:
    """With the saved weights, and random inputs in place."""
    from jitinfer.graph.types import TensorType
    from jitinfer.loading import load
    from jitinfer.runtime.samples import sample

    session = load(file, device=device)
    session.enqueue([sample(TensorType(given.shape, given.dtype)) for given in session.inputs])
    session.synchronize()
    return session


def _run_stepwise(session: Session, rounds: int, *, nvtx: bool) -> str:
    """What was done, as a sentence."""
    from jitinfer.runtime.profiler import Profiler

    ranges = _nvtx() if nvtx else None
    profiler = Profiler(session)
    try:
        for _ in range(rounds):
            profiler.run(ranges)
    finally:
        profiler.close()
    count = f"{len(session.model.plan.steps)} steps"
    within = "" if not nvtx else " in NVTX ranges" if ranges else " without ranges"
    return f"ran {count} {'once' if rounds == 1 else f'{rounds} times'}, one by one{within}\n"


def _nvtx() -> Callable[[int, Step], AbstractContextManager[object]] | None:
    """Ranges of the package nvtx, called by layer and operation; None, and a word about it, where it is missing."""
    try:
        nvtx: Any = importlib.import_module("nvtx")
    except ImportError:
        sys.stderr.write("jitinfer: there are no NVTX ranges without the package nvtx: pip install nvtx\n")
        return None

    @contextlib.contextmanager
    def around(number: int, step: Step) -> Any:
        nvtx.push_range(range_name(number, step), domain="jitinfer")
        try:
            yield
        finally:
            nvtx.pop_range(domain="jitinfer")

    return around


def range_name(number: int, step: Step) -> str:
    """Such as "17 matmul /DiT_0/Block_3/Linear_0"."""
    from jitinfer.graph.node import Origin

    origin = Origin.parse(step.origin)
    return f"{number} {step.label} {origin.layer or origin.place}".strip()


def _document(profile: Profile) -> dict[str, Any]:
    document = {**dataclasses.asdict(profile), "total": profile.total}
    for step in document["steps"]:
        del step["origin"]["operation"]  # which says something of a trace alone
    return document
