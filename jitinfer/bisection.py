"""`jitinfer.bisect`: which pass makes a compiled function wrong, as a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from jitinfer.cache import Cache, cache_location
from jitinfer.compilation import Call
from jitinfer.engines.configuration import Configuration
from jitinfer.engines.paddle import PaddleSearch, check_options, thread_count
from jitinfer.engines.protocol import Request
from jitinfer.engines.search import Bisection, Blame
from jitinfer.errors import TraceError
from jitinfer.frontend.capture import Reference
from jitinfer.frontend.signature import Signature
from jitinfer.frontend.tracing import trace
from jitinfer.frontend.tree import flatten_arguments, tensor_names
from jitinfer.inference import CompiledFunction
from jitinfer.options import resolve
from jitinfer.progress import progress


@dataclass(frozen=True)
class BisectionReport:
    """What came of a bisection.

    `failure`: what is wrong with Paddle's own set-up, "" if nothing; `blamed`: the passes to blame, in the order found;
    `right`: the configuration that is right, None if no set of passes is; `attempts`: configurations tried.
    """

    name: str
    start: Configuration
    failure: str
    blamed: tuple[Blame, ...]
    right: Configuration | None
    attempts: int

    def __str__(self) -> str:
        if not self.failure:
            return f"{self.name}: right with all passes ({self.start})"
        lines = [f"{self.name}: wrong with all passes ({self.start}): {self.failure}"]
        lines += [f"  {blame.name}: {blame.failure}" for blame in self.blamed]
        ending = f"right without them: {self.right}" if self.right else "wrong without any pass, too"
        return "\n".join([*lines, f"  {ending}; {self.attempts} configurations tried"])


def bisect(function: Any, *args: Any, **kwargs: Any) -> BisectionReport:
    """Find the passes of Paddle Inference that make `function(*args, **kwargs)` wrong or make it crash.

    Starts from Paddle's own list with oneDNN, known defects included, and leaves the function as it is. Every try runs
    in a child process. `function`: a Layer, a method, a function, compiled or not.

    Raises TraceError if the function cannot be traced, and whatever the function raises.
    """
    target = function.forward if isinstance(function, paddle.nn.Layer) else function
    target = target.function if isinstance(target, CompiledFunction) else target
    options = resolve({})
    check_options(options)
    signature = Signature(target)
    tree, tensors, _ = flatten_arguments(signature.names, signature.bind(args, kwargs))
    names = [
        name
        for parameter, child in zip(signature.names, tree.children, strict=True)
        for name in tensor_names(child, parameter)
    ]
    call = Call(target, (), signature, tree, tensors, names)
    reference = Reference(call.run, tensors, names)
    reference.evaluate()
    found = trace(call.run_symbolically, call.exact_types())
    if found.program.random:
        raise TraceError(f"{signature.name} draws random numbers: its results cannot be compared across processes")
    request = Request(
        program=found.program,
        parameters=found.parameters,
        inputs=tensors,
        options=options,
        cache=Cache(cache_location()),
        expected=reference.expected,
        under_the_same_randomness=reference.under_the_same_randomness,
        name=signature.name,
    )
    start = Configuration(onednn=True, threads=thread_count(options))
    search = PaddleSearch(request, [start])
    bisection = Bisection(search.failure_of)
    with progress(f"jitinfer: bisecting {signature.name}"):
        failure = bisection.ask(start)
        right = bisection.repair(start, failure) if failure else start
    return BisectionReport(signature.name, start, failure, tuple(bisection.blamed), right, bisection.attempts)
