"""Trying a configuration, or one of Paddle's passes, in a child process, so that a crash costs the child and not us.

One child serves a whole process; it starts when it is first needed (importing Paddle takes it seconds, so `start`
may be called ahead) and is started anew after a crash. Requests and answers are lines of JSON; tensors travel in
files of NumPy's format, without pickle.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy

from jitinfer.errors import EngineError
from jitinfer.frontend.program_passes import Rewritten
from jitinfer.runtime.child_process import child_environment, ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.engines.configuration import Configuration

logger = logging.getLogger("jitinfer.engines")

STARTING = 120.0
"""Seconds that the child may take to import Paddle."""
ANSWERING = 600.0
"""Seconds that one try may take before it counts as a crash."""


@dataclass(frozen=True)
class Outcome:
    """What became of one try: `results`, or `failure` in words. `crashed`: the process died or hung."""

    results: list[Any] | None = None
    failure: str = ""
    crashed: bool = False
    seconds: float = field(default=0.0, compare=False)


class TrialProcess:
    """The child and the conversation with it; one try at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._turn = threading.Lock()
        self._owner = os.getpid()

    def start(self) -> None:
        """Begin to start the child, without waiting for it. Does nothing if it runs already."""
        with self._turn:
            self._start()

    def _start(self) -> None:
        if self._owner != os.getpid():  # after a fork: the child belongs to the parent
            self._child, self._owner = None, os.getpid()
        if self._child is not None and self._child.poll() is None:
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "jitinfer.engines.trial_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
        )

    def attempt(
        self, program: str, parameters: str, inputs: str, dtypes: Sequence[str], configuration: Configuration
    ) -> Outcome:
        """Run a program once. All arguments but the last two are paths that the child can open."""
        with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:
            results = os.path.join(folder, "results.npz")
            request = {
                "program": program,
                "parameters": parameters,
                "inputs": inputs,
                "dtypes": list(dtypes),
                "configuration": configuration.document(),
                "results": results,
            }
            started = time.perf_counter()
            answer = self._ask("configuration", request)
            seconds = time.perf_counter() - started
            if isinstance(answer, str):
                return Outcome(failure=answer, crashed=True, seconds=seconds)
            if answer.get("failure"):
                return Outcome(failure=str(answer["failure"]), seconds=seconds)
            with numpy.load(results, allow_pickle=False) as arrays:
                found = [arrays[f"arr_{position}"] for position in range(len(arrays.files))]
            return Outcome(results=found, seconds=float(answer["seconds"]))

    def run_pass(self, text: bytes, name: str, inputs: int, outputs: int) -> tuple[Rewritten, float]:
        """`frontend.program_passes.run_program_pass` in the child, and the seconds that it took there.

        Raises EngineError where the pass throws or crashes, naming it.
        """
        with tempfile.TemporaryDirectory(prefix="jitinfer-") as folder:
            program, result = os.path.join(folder, "program.json"), os.path.join(folder, "result.json")
            Path(program).write_bytes(text)
            request = {"pass": name, "program": program, "inputs": inputs, "outputs": outputs, "result": result}
            answer = self._ask("pass", request)
            failure = answer if isinstance(answer, str) else answer.get("failure")
            if isinstance(answer, str) or failure:
                raise EngineError(f"Paddle's pass {name!r} fails on this program: {failure}; leave it out of passes=")
            rewritten = Rewritten(Path(result).read_bytes(), tuple(answer["parameters"]), tuple(answer["operations"]))
            return rewritten, float(answer["seconds"])

    def _ask(self, task: str, request: dict[str, Any]) -> dict[str, Any] | str:
        """The child's answer, or in words how it died."""
        with self._turn:
            return self._exchange({"task": task, **request})

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any] | str:
        try:
            fresh = self._child is None or self._child.poll() is not None
            self._start()
            child = self._child
            assert child is not None
            assert child.stdin is not None
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = self._read_line(child, ANSWERING + (STARTING if fresh else 0.0))
        except (OSError, ValueError) as error:
            return f"the process could not be asked: {error}" + self._bury()
        if not line:
            return "the process " + self._bury()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_line(self, child: subprocess.Popen[bytes], patience: float) -> bytes:
        assert child.stdout is not None
        deadline = time.monotonic() + patience
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                return b""
            line += part
        return line

    def _bury(self) -> str:
        """End the child and say how it ended."""
        child, self._child = self._child, None
        if child is None:
            return "was not there"
        try:
            code = child.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return f"gave no answer in {ANSWERING:.0f} s"
        finally:
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()
        return ending(code, self._errors)

    def stop(self) -> None:
        """End the child; the next try starts another."""
        with self._turn:
            child, self._child = self._child, None
            if child is not None and self._owner == os.getpid():
                child.kill()
                child.wait()
                for stream in (child.stdin, child.stdout):
                    if stream is not None:
                        stream.close()


_PROCESS = TrialProcess()
atexit.register(_PROCESS.stop)


def trial_process() -> TrialProcess:
    """The child of this process."""
    return _PROCESS
