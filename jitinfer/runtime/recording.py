"""Work that is queued into a stream, recorded as a CUDA graph instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.errors import DeviceError
from jitinfer.runtime.driver import call, driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jitinfer.runtime.plan import Slot
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
        _, graph = driver().cuStreamEndCapture(stream)
        if graph is not None and int(graph):
            driver().cuGraphDestroy(graph)
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


def in_lanes(
    steps: Sequence[Enqueue], slots: Sequence[Slot], streams: Sequence[int], event: Callable[[], Any]
) -> list[Enqueue]:
    """The steps as work to be recorded in the stream of lane 0, each in the stream of its own lane.

    streams: of the lanes from 1 on; event: makes one. The other lanes join the recording at its beginning, and end in
    lane 0, as CUDA wants it of streams that are recorded together.
    """
    began, ended = event(), [event() for _ in streams]
    awaited = {number: event() for slot in slots for number in slot.after}

    def begin(main: int) -> None:
        call("cuEventRecord", began, main)
        for stream in streams:
            call("cuStreamWaitEvent", stream, began, 0)

    def step(number: int) -> Enqueue:
        slot, enqueue = slots[number], steps[number]

        def run(main: int) -> None:
            stream = (main, *streams)[slot.lane]
            for other in slot.after:
                call("cuStreamWaitEvent", stream, awaited[other], 0)
            enqueue(stream)
            if number in awaited:
                call("cuEventRecord", awaited[number], stream)

        return run

    def end(main: int) -> None:
        for stream, reached in zip(streams, ended, strict=True):
            call("cuEventRecord", reached, stream)
            call("cuStreamWaitEvent", main, reached, 0)

    return [begin, *map(step, range(len(steps))), end]
