"""What is said and done when a function loses the device: the kernel that did it is looked for, named and noted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.engines.faults import Faults
from jitinfer.engines.making import maker_for
from jitinfer.errors import DeviceLostError
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.runtime import loss
from jitinfer.runtime.plan import step_name
from jitinfer.runtime.retracing import search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.engines.protocol import Request
    from jitinfer.graph import Graph
    from jitinfer.lowering.exclusion import Exclusions
    from jitinfer.runtime.device import Device
    from jitinfer.runtime.model import Model
    from jitinfer.runtime.retracing import Retrace


@dataclass(frozen=True)
class Suspect:
    """What ran when the device was lost: the model of a graph, with these NumPy arrays as weights.

    inputs: as they were given; None where they are not known.
    """

    graph: Graph
    model: Model
    weights: Sequence[Any]
    inputs: Sequence[Any] | None = None


def explained(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect | None = None
) -> DeviceLostError:
    """`error` with what can be found out about it: a KernelFaultError, noted for the processes to come, if that is who.

    excluded: what was left out when the suspect's kernels were chosen. The first time it may take `retracing.SECONDS`;
    others wait for it meanwhile, as they are to tell the same.
    """

    def explain() -> tuple[DeviceLostError, str]:
        found = _explained(error, request, device, excluded, suspect)
        return found, found.kernel if isinstance(found, KernelFaultError) else ""

    return loss.told(request.name, explain)


def _explained(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect | None
) -> DeviceLostError:
    if not isinstance(error, KernelFaultError) and suspect is not None:
        error = _found(error, request, device, excluded, suspect)
    if not isinstance(error, KernelFaultError):
        return error
    if Faults(request.cache, device).add(error):
        return error.with_remark("The next process leaves it out")
    where = request.cache.path
    return error.with_remark(f"That cannot be noted in the cache {where}, so the next process may choose it again")


def _found(
    error: DeviceLostError, request: Request, device: Device, excluded: Exclusions, suspect: Suspect
) -> DeviceLostError:
    found = search(request.name, error, suspect.model, suspect.weights, suspect.inputs, device.index)
    if found.place is None:
        return found.unexplained(error, request.name)
    return _named(found, *found.place, request, device, excluded, suspect)


def _named(
    found: Retrace,
    plan: int,
    number: int,
    request: Request,
    device: Device,
    excluded: Exclusions,
    suspect: Suspect,
) -> DeviceLostError:
    model = suspect.model
    failure = DeviceLostError(found.words)
    maker = maker_for(request, device, excluded)
    origin = maker.origin_of_step(suspect.graph, model, plan, number)
    if origin is not None:
        return KernelFaultError.of(*origin, failure)
    step = (model.plan, *model.prologue)[plan].steps[number]
    return DeviceLostError(
        f"{step_name(number, step)} loses the device: {failure}. The next process may choose its kernel again, as the "
        f"cache {request.cache.path} does not say which that was"
    )
