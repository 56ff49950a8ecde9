"""Work that is queued into a stream, recorded as a CUDA graph instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.errors import DeviceError
from jitinfer.runtime.driver import call, driver

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitinfer.runtime.steps import Enqueue


def recorded(work: Iterable[Enqueue], stream: int) -> Any:
    """An executable graph of what `work` queues into `stream`, uploaded; to be given to cuGraphExecDestroy.

    Raises DeviceError where the driver cannot record or load it.
    """
    mode = driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    call("cuStreamBeginCapture", stream, mode)
    try:
        for enqueue in work:
            enqueue(stream)
    except DeviceError:
        driver().cuStreamEndCapture(stream)
        raise
    graph = call("cuStreamEndCapture", stream, step="recording the plan")
    try:
        executable = call("cuGraphInstantiate", graph, 0, step="making a graph of the plan")
    finally:
        driver().cuGraphDestroy(graph)
    try:
        call("cuGraphUpload", executable, stream)
        call("cuStreamSynchronize", stream)
    except DeviceError:
        driver().cuGraphExecDestroy(executable)
        raise
    return executable
