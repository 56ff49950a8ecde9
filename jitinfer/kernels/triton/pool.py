"""Processes that compile, side by side."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jitinfer.errors import KernelError
from jitinfer.kernels.triton.assembler import VARIABLES, assembler

if TYPE_CHECKING:
    from jitinfer.cache import JSON

TIME_LIMIT = 300.0
"""Seconds for one kernel; then its process is ended, and the kernel has failed."""

MOST_PROCESSES = 32
"""Each takes some 200 MB and two seconds to start: for the 200 kernels of a model, more gain nothing."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time, and in how many: cgroup v2, as in containers."""

_CHANGING = ("TRITON_", "PTXAS_", "DISABLE_PTXAS_", "DISABLE_LLVM_", "NVPTX_")
"""How the names of variables begin that Triton, or what it calls, may make other code by."""

Answer = dict[str, Any]


class WorkerPool:
    """At most `size` processes, started when there is work for them, reused, and ended with this object.

    They are new Python processes, never forks: this one may hold CUDA, locks and threads.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or min(available_cores(), MOST_PROCESSES)
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._alive: list[_Worker] = []
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._alive)

    def submit(self, request: dict[str, JSON]) -> Future[Answer]:
        """The answer, once it is there; {"error": why} where there is none.

        Requests are taken up in their order; one that is not yet can be cancelled.
        """
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.size, "jitinfer-compile")
            return self._threads.submit(self._answer, request)

    def prepare(self, requests: int) -> None:
        """Starts processes for so many requests to come, which then need not wait for their imports."""
        with self._lock:
            while len(self._alive) < min(requests, self.size):
                try:
                    worker = _Worker()
                except (OSError, KernelError):
                    return  # what is submitted will say so
                self._alive.append(worker)
                self._idle.put(worker)

    def close(self) -> None:
        """Ends the processes, and what waits for one; the next `submit` starts others. Idempotent."""
        with self._lock:
            threads, self._threads = self._threads, None
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
            _end(self._alive)
            self._idle = queue.LifoQueue()

    def _answer(self, request: dict[str, JSON]) -> Answer:
        try:
            worker = self._take()
        except (OSError, KernelError) as error:
            return {"error": f"no process could be started to compile: {error}"}
        answer = worker.ask(request)
        if worker.lost:
            with self._lock:
                if worker in self._alive:
                    self._alive.remove(worker)
        else:
            self._idle.put(worker)
        return answer

    def _take(self) -> _Worker:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                if self._threads is None:
                    raise KernelError("the pool is closed") from None
                worker = _Worker()
                self._alive.append(worker)
                return worker


class _Worker:
    def __init__(self) -> None:
        if not sys.executable:
            raise KernelError("this program does not know its Python interpreter")
        code = "from jitinfer.kernels.triton.worker import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            text=True,
            encoding="utf-8",
        )
        self.lost = False

    def ask(self, request: dict[str, JSON]) -> Answer:
        watch = threading.Timer(TIME_LIMIT, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            stdin, stdout = self._streams()
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        finally:
            watch.cancel()
        if line.endswith("\n"):
            answer: Answer = json.loads(line)
            return answer
        self.end()
        return {"error": f"the process that compiled it ended with code {self._process.returncode}"}

    def kill(self) -> None:
        """Without waiting for its end."""
        self._process.kill()

    def end(self) -> None:
        self.lost = True
        self._process.kill()
        self._process.wait()
        for stream in self._streams():
            with_suppressed_close(stream)

    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def _environment() -> dict[str, str]:
    """This process's, but for what would change the code: the key of a kernel does not say it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CHANGING)}
    kept.update(dict.fromkeys(VARIABLES, assembler().path))
    return {**kept, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def with_suppressed_close(stream: IO[str]) -> None:
    """Closing flushes, which fails when the reader is gone."""
    try:
        stream.close()
    except OSError:
        return


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.kill()
    while workers:
        workers.pop().end()


def available_cores() -> int:
    """Cores that this process may use, by its affinity and by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # there is none: "max" is no number
        return cores
