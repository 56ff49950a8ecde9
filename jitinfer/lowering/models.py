"""Models from the cache, or made: the same graph is lowered once on a machine."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import triton

from jitinfer.cache import Key
from jitinfer.errors import PlanError
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.choice import FirstThatCompiles
from jitinfer.lowering.compiled import compile_graph
from jitinfer.lowering.lower import located
from jitinfer.lowering.tuning import Tuner, sources_digest
from jitinfer.runtime.model_file import from_parts, to_parts
from jitinfer.version import __version__

if TYPE_CHECKING:
    from jitinfer.cache import Cache
    from jitinfer.graph import Graph
    from jitinfer.lowering.choice import Chooser
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Model

FAST_SECONDS = 20.0
"""After which `tune="fast"` takes the rest as the families guess it."""

FAST_OFFERS = 6
"""Kernels for one node that `tune="fast"` compiles and tries."""

logger = logging.getLogger("jitinfer.lowering")


def model_of(graph: Graph, device: Device, store: Cache, tune: str) -> Model:
    """The model of a graph after its passes, for `device`.

    tune: "off": as the families of kernels guess; "fast": some offers for each node are timed, within a limit of
    time; "max": all of them. Raises UnsupportedOpError for a node that no kernel can compute.
    """
    target = Target.of(device)
    key = Key(
        "model",
        {
            "graph": graph.hash,
            "weights": [value.name for value in graph.parameters],
            "device": device.name,
            "capability": target.compute_capability,
            "sm_count": target.sm_count,
            "tune": tune,
            "triton": triton.__version__,
            "jitinfer": __version__,
            "sources": sources_digest(),
        },
    )
    entry = store.get(key)
    if entry is not None:
        try:
            model = from_parts(entry.metadata, entry.blobs)
            return dataclasses.replace(model, plan=located(model.plan, graph, target))
        except PlanError as error:
            logger.warning("a model in the cache does not fit and is made anew: %s", error)
    with Compiler(target, store) as compiler:
        model, _ = compile_graph(graph, target, _chooser(compiler, device, store, tune))
    metadata, blobs = to_parts(model)
    store.put(key, blobs, metadata)
    return model


def _chooser(compiler: Compiler, device: Device, store: Cache, tune: str) -> Chooser:
    if tune == "off":
        return FirstThatCompiles(compiler)
    if tune == "fast":
        return Tuner(compiler, device, store, seconds=FAST_SECONDS, most=FAST_OFFERS)
    return Tuner(compiler, device, store)
