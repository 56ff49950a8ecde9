"""How an engine has models made: with its options, and with the code of kernels that are not this library's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.engines.graph_search import described
from jitinfer.kernels.family import families
from jitinfer.lowering.models import ModelMaker

if TYPE_CHECKING:
    from jitinfer.engines.protocol import Request
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.device import Device


def maker_for(request: Request, device: Device, excluded: Exclusions) -> ModelMaker:
    """excluded: kernels that must not be chosen."""
    options = request.options
    return ModelMaker(device, request.cache, options.tune, excluded, options.lanes, foreign_families())


def foreign_families() -> dict[str, str]:
    """Digests of the families of kernels that are not this library's, by name."""
    foreign = {name: each for name, each in families().items() if not type(each).__module__.startswith("jitinfer.")}
    return {name: described(each) for name, each in foreign.items()}
