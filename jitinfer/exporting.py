"""`jitinfer.export`: a program for a GPU that need not be here, as a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from jitinfer.engines.cuda_search import CudaRecipe, arrangement
from jitinfer.engines.reference import ByNumpy
from jitinfer.engines.stages import Stages
from jitinfer.engines.tensors import array_of
from jitinfer.errors import EngineError, JitinferError, VerificationError
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.lowering.node_check import MOST_FLOPS
from jitinfer.progress import progress
from jitinfer.requests import request_of
from jitinfer.runtime import model_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.engines.protocol import Request


def export(
    function: Any,
    path: str | os.PathLike[str],
    arguments: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    *,
    target: int,
) -> None:
    """Compile `function(*arguments, **keywords)` and write the program and its weights for `jitinfer.load`.

    No device is needed, so no kernel is timed: those are taken that are expected to be fast. What was compiled here by
    `engine="cuda"` is saved, as it was tuned, by `CompiledFunction.save`.

    Args:
        function: a Layer, a method, a function; a compiled one is compiled by its options (`precision_mode`, `passes`,
            `delete_pass_lists`, `switch_ir_optim`, `side_streams`, `verify`), others by those of the environment. It
            runs once, dynamically.
        path: of the program; its weights go to `path`.weights.
        target: the compute capability, such as 80, 89, 90 or 100; the program runs on this one alone.

    Unless `verify="never"`, the graph after its passes is evaluated by NumPy and compared with the dynamic results, if
    that takes no more than about a second. Raises VerificationError where they differ (`jitinfer.bisect` with
    `engine="reference"` finds the pass to blame), TraceError for what cannot be traced or draws random numbers,
    EngineError for an operation that there is no kernel for, and OSError.
    """
    request = request_of(function, arguments, keywords or {})
    with progress(f"jitinfer: exporting {request.name}"):
        try:
            _export(request, os.fspath(path), Target.named(target))
        except (EngineError, VerificationError):
            raise
        except JitinferError as error:
            raise EngineError(f"{request.name}: {error}") from error


def _export(request: Request, path: str, target: Target) -> None:
    options = request.options
    stages = Stages(request, arrangement(options))
    graph = stages.graph(tuple(tuple(tensor.shape) for tensor in request.inputs))
    with Compiler(target, request.cache) as compiler:
        model, _ = compile_graph(graph, target, FirstThatCompiles(compiler), options.lanes)
    if options.verify != "never" and graph.flops <= MOST_FLOPS:
        failure = ByNumpy(request, arrangement(options))(CudaRecipe.of(options))
        if failure:
            raise VerificationError(f"{request.name}: its graph after all passes is wrong: {failure}")
    model_file.save(model, path, [array_of(tensor) for tensor in stages.weights(request.parameters)])
