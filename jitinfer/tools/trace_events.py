"""A profile in the trace event format of Chromium, which Perfetto and chrome://tracing show as a timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jitinfer.tools.profile_report import Profile, ProfiledStep

_PLACE = {"pid": 0, "tid": 0}


def document(profile: Profile) -> dict[str, Any]:
    """One process, the device, with one track: each step as a complete event behind the one before."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", **_PLACE, "args": {"name": profile.device}},
        {"name": "thread_name", "ph": "M", **_PLACE, "args": {"name": "steps"}},
    ]
    start = 0.0
    for step in profile.steps:
        events.append(_event(step, start))
        start += step.microseconds
    summary = {"replay_us": profile.whole, "steps_us": profile.total, "event_overhead_us": profile.overhead}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {**summary, "rounds": profile.rounds}}


def _event(step: ProfiledStep, start: float) -> dict[str, Any]:
    details: dict[str, Any] = {"step": step.number, "kernel": step.kernel, "repeated_us": step.repeated}
    if step.grid is not None:
        details["grid"] = list(step.grid)
    if step.cost is not None:
        details.update(node=step.cost.node, flops=step.cost.flops, bytes=step.cost.nbytes)
    details.update(layer=step.origin.layer, place=step.origin.place)
    return {
        "name": step.operation,
        "cat": "step",
        "ph": "X",
        "ts": start,
        "dur": step.microseconds,
        **_PLACE,
        "args": details,
    }
