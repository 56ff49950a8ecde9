"""What the pipeline examples share: the two processes of a measurement, the comparison, the report.

A measurement has two processes. The first one compiles a pipeline with an empty cache, then runs it dynamically and
compiled in turn; the second one (started twice, with and without `cache_static_model`) finds the cache full, as your
program does on every day but the first.
"""

from __future__ import annotations

# ruff: noqa: E402 - what silences the imports has to stand before them
import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

warnings.filterwarnings("ignore", module="paddle.utils.cpp_extension|_distutils_hack")
os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's own notes from C++ would interrupt the report

import numpy
import paddle
from figures import draw_images, draw_timings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = {"float32": 1e-3, "bfloat16": 0.2}
"""Largest difference that is let pass, as a fraction of the image's range."""
MARKER = ".made-by-the-examples"


@dataclass(frozen=True)
class Example:
    """`build`: the pipeline, random or pretrained; `compile`: puts jitinfer in, with these options for it;
    `generate`: images of a number of steps, [batch, height, width, channels] in 0..1; `title`: one line about it;
    `figure`: the file for the timings."""

    name: str
    build: Callable[[argparse.Namespace], Any]
    compile: Callable[[Any, dict[str, Any]], None]
    generate: Callable[[Any, argparse.Namespace, int], numpy.ndarray]
    title: Callable[[Any], str]
    figure: str


class Stopwatch:
    """Stands in a pipeline in place of a model, and times its calls; the model itself does not notice."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model = model
        self.seconds: list[float] = []

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds.append(time.perf_counter() - started)
            return result

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed(self.model)(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed(self.model.decode)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@dataclass(frozen=True)
class Run:
    """One pass of the pipeline: its images, and the seconds of every call of the transformer and the decoder."""

    images: numpy.ndarray
    transformer: list[float]
    decode: list[float]
    total: float


def timed_run(example: Example, pipe: Any, arguments: argparse.Namespace, steps: int) -> Run:
    models = pipe.transformer, pipe.vae
    watches = [Stopwatch(model) for model in models]
    vars(pipe).update(transformer=watches[0], vae=watches[1])
    paddle.seed(arguments.seed)
    started = time.perf_counter()
    try:
        images = example.generate(pipe, arguments, steps)
    finally:
        vars(pipe).update(transformer=models[0], vae=models[1])
    return Run(images, watches[0].seconds, watches[1].seconds, time.perf_counter() - started)


@contextmanager
def compiled_functions_put_aside(pipe: Any, threads: int) -> Iterator[None]:
    """They stand before the methods of the classes, as attributes of the instances: without them, all is dynamic."""
    paddle.base.core.set_num_threads(threads)  # again: what Paddle Inference runs sets it back to one
    forward, decode = vars(pipe.transformer).pop("forward"), vars(pipe.vae).pop("decode")
    try:
        yield
    finally:
        pipe.transformer.forward, pipe.vae.decode = forward, decode


def difference(images: numpy.ndarray, expected: numpy.ndarray) -> float:
    """The largest difference of a pixel, as a fraction of the range of the expected image."""
    return float(numpy.abs(images - expected).max() / numpy.ptp(expected))


def build(example: Example, arguments: argparse.Namespace) -> Any:
    if arguments.pretrained and arguments.pretrained[0] in "./~" and not Path(arguments.pretrained).is_dir():
        raise SystemExit(f"--pretrained: there is no folder {arguments.pretrained}")
    try:
        pipe = example.build(arguments)
    except Exception as error:
        if not arguments.pretrained:
            raise
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise SystemExit(
            f"--pretrained: cannot load {arguments.pretrained}; it takes a network, or a local folder ({reason})"
        ) from None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def options(arguments: argparse.Namespace, *, cache_static_model: bool = True) -> dict[str, Any]:
    return {
        "save_model_dir": str(arguments.cache),
        "cache_static_model": cache_static_model,
        "precision_mode": arguments.dtype,
        "num_threads": arguments.threads,
    }


def empty_cache(folder: Path) -> None:
    """A cold start needs an empty folder; one that an example did not make itself is never touched."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise SystemExit(f"{folder} was not made by the examples, so it is not emptied; name another: --cache DIR")
        tell(f"emptying {folder} for a cold start")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def tell(what: str) -> None:
    print(what, flush=True)


def first_process(example: Example, arguments: argparse.Namespace) -> dict[str, Any]:
    pipe = build(example, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    empty_cache(arguments.cache)
    tell(f"{example.title(pipe)}; {arguments.dtype}, {arguments.threads} threads on both sides\n")
    tell("1. compiled, the cache empty")
    example.compile(pipe, options(arguments))
    cold = timed_run(example, pipe, arguments, 1)
    tell("2. dynamic and compiled in turn, twice each")
    runs: dict[str, list[Run]] = {"dynamic": [], "compiled": []}
    for _ in range(2):
        with compiled_functions_put_aside(pipe, arguments.threads):
            runs["dynamic"].append(timed_run(example, pipe, arguments, arguments.steps))
        runs["compiled"].append(timed_run(example, pipe, arguments, arguments.steps))
    dynamic, compiled = runs["dynamic"][0], runs["compiled"][0]
    tell("3. compiled in a second process")
    again = [second_process(arguments, dynamic, static) for static in (False, True)]
    draw_images(dynamic.images[0], compiled.images[0], arguments.output / f"{example.name}.png")
    return {
        "example": example.name,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "steps": arguments.steps,
        "seconds": {  # of the fastest call, the one least disturbed by what else the machine does
            "transformer, one step": [min(min(run.transformer) for run in side) for side in runs.values()],
            "VAE, one decode": [min(min(run.decode) for run in side) for side in runs.values()],
            f"one image, {arguments.steps} steps": [min(run.total for run in side) for side in runs.values()],
        },
        "first_call_seconds": {
            "empty cache": [cold.transformer[0], cold.decode[0]],
            "second process": again[0]["first_call"],
            "second process, cache_static_model": again[1]["first_call"],
        },
        "difference": difference(compiled.images, dynamic.images),
        "difference_second_process": max(each["difference"] for each in again),
        "limit": LIMITS[arguments.dtype],
        "transformer_runs_by": how(pipe.transformer.forward),
        "vae_runs_by": how(pipe.vae.decode),
    }


def how(compiled: Any) -> list[list[str]]:
    """For each specialisation: the configuration that was chosen, and the passes that were dropped."""
    return [[each.description, *each.notes] for each in compiled.specializations]


def second_process(arguments: argparse.Namespace, dynamic: Run, static: bool) -> dict[str, Any]:
    """Run this script once more, with the cache full, and compare its images with the dynamic ones."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.npz")
        command = [sys.executable, *sys.argv, "--answer", str(answer)]
        subprocess.run([*command, "--cache-static-model"] if static else command, check=True)
        with numpy.load(answer) as found:
            return {
                "first_call": found["first_call"].tolist(),
                "difference": difference(found["images"], dynamic.images),
            }


def answer_first_process(example: Example, arguments: argparse.Namespace) -> None:
    pipe = build(example, arguments)
    example.compile(pipe, options(arguments, cache_static_model=arguments.cache_static_model))
    run = timed_run(example, pipe, arguments, arguments.steps)
    numpy.savez(arguments.answer, images=run.images, first_call=[run.transformer[0], run.decode[0]])


def report(found: dict[str, Any]) -> None:
    print(f"\n{'':36}{'dynamic':>12}{'compiled':>12}{'ratio':>9}")
    for name, (dynamic, compiled) in found["seconds"].items():
        print(f"{name:36}{dynamic * 1e3:9.0f} ms{compiled * 1e3:9.0f} ms{dynamic / compiled:8.1f}x")
    print(f"\n{'first call':36}{'transformer':>12}{'VAE':>12}")
    for name, (transformer, vae) in found["first_call_seconds"].items():
        print(f"{name:36}{transformer:10.1f} s{vae:10.1f} s")
    limit = f"as a fraction of their range; the limit is {found['limit']:g}"
    print(f"\n{'largest difference of the images':36}{found['difference']:12.1e}  {limit}")
    print(f"{'of those of the second process':36}{found['difference_second_process']:12.1e}")
    print()
    for model in ("transformer", "vae"):
        for way, *dropped in found[f"{model}_runs_by"]:
            print(f"{model}: {way}")
            for note in dropped:
                print("    " + textwrap.shorten(note, 112, placeholder=" ..."))


def parse(example: Example, parser: argparse.ArgumentParser) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--steps", type=int, default=8, help="denoising steps (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the noise")
    parser.add_argument("--dtype", choices=LIMITS, default="float32", help="arithmetic of the compiled program")
    parser.add_argument("--threads", type=int, default=cores, help="for both sides (default: the usable cores)")
    parser.add_argument("--pretrained", metavar="NAME", help="a pipeline to load in place of the random one")
    parser.add_argument("--small", action="store_true", help="tiny models, for the tests")
    parser.add_argument("--cache", type=Path, default="output/cache", help="emptied first (default: output/cache)")
    parser.add_argument("--output", type=Path, default="output", help="folder of the results (default: output)")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # the second process: where its results go
    parser.add_argument("--cache-static-model", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main(example: Example, parser: argparse.ArgumentParser) -> int:
    """The exit code: 0 if dynamic and compiled images agree, 1 if not."""
    logging.getLogger("jitinfer").setLevel(logging.WARNING)  # importing Paddle makes every logger tell all it does
    arguments = parse(example, parser)
    if arguments.answer:
        answer_first_process(example, arguments)
        return 0
    found = first_process(example, arguments)
    report(found)
    draw_timings(found, arguments.output / example.figure)
    (arguments.output / f"{example.name}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nwritten to {arguments.output}: {example.name}.png, {example.figure}, {example.name}.json")
    if agree(found):
        return 0
    print("the images differ by more than the limit")
    return 1


def agree(found: dict[str, Any]) -> bool:
    return all(found[name] < found["limit"] for name in ("difference", "difference_second_process"))
