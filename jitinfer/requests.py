"""A function and arguments -> what an engine is asked, outside of any compiled function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle

from jitinfer.cache import Cache, cache_location
from jitinfer.compilation import Call
from jitinfer.dispatch import named
from jitinfer.engines.paddle import check_options
from jitinfer.engines.protocol import Request
from jitinfer.errors import TraceError
from jitinfer.frontend.capture import Reference
from jitinfer.frontend.signature import Signature
from jitinfer.frontend.tracing import trace
from jitinfer.frontend.tree import flatten_arguments
from jitinfer.inference import CompiledFunction
from jitinfer.options import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def request_of(function: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Request:
    """`function`: a Layer, a method, a function, compiled or not; it runs once, dynamically.

    Raises TraceError if it cannot be traced, or draws random numbers, and whatever the function raises.
    """
    target = function.forward if isinstance(function, paddle.nn.Layer) else function
    compiled = isinstance(target, CompiledFunction)
    options, plain = (target.options, target.function) if compiled else (resolve({}), target)
    check_options(options)
    signature = Signature(plain)
    tree, tensors, _ = flatten_arguments(signature.names, signature.bind(tuple(arguments), dict(keywords)))
    call = named(Call(plain, (), signature, tree, tensors, []))
    reference = Reference(call.run, tensors, call.names)
    reference.evaluate()
    found = trace(call.run_symbolically, call.exact_types())
    if found.program.random:
        raise TraceError(f"{signature.name} draws random numbers: its results cannot be compared across processes")
    return Request(
        program=found.program,
        parameters=found.parameters,
        inputs=tensors,
        options=options,
        cache=Cache(cache_location(options.save_model_dir)),
        expected=reference.expected,
        under_the_same_randomness=reference.under_the_same_randomness,
        name=signature.name,
        origins=found.origins,
    )
