"""`jitinfer.profile`: from a program to the time of each of its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError
from jitinfer.graph.node import Origin
from jitinfer.runtime.model import Session
from jitinfer.runtime.plan import Copy, Gemm, Launch
from jitinfer.runtime.profiler import Profiler
from jitinfer.tools.arguments import require_own
from jitinfer.tools.profile_report import Profile, ProfiledStep

if TYPE_CHECKING:
    from jitinfer.runtime.plan import Plan, Step
    from jitinfer.runtime.profiler import StepTime

ROUNDS = 30


def profile(program: Any, *args: Any, rounds: int | None = None, **kwargs: Any) -> Profile:
    """The time of each kernel of a program on a CUDA device, with the layers and lines of the model that it is from.

    The main figure, `microseconds`, is a step's time in sequence: behind the step before it, with the caches as that
    one left them, launch gap included. It is read from events in a CUDA graph of all steps; what the events add is
    measured and taken off, so the steps add up to the time of a replay. `repeated` is the time of the step by itself,
    many times back to back: shorter where what it reads, weights above all, fits into the second-level cache.

    Args:
        program: what `jitinfer.load` returned, or a function that `jitinfer.inference` compiled for the CUDA engine, or
            a Layer whose `forward` that is.
        *args, **kwargs: those of a call. For what `jitinfer.load` returned: the inputs; none for those of the last run.
        rounds: that each figure is the mean of, without the slowest and the fastest quarter. Default: 30.

    Raises ArgumentError where there is no such program, DeviceError where the device fails.
    """
    if rounds is not None:
        require_own(program, rounds=rounds)
    session = _session(program, args, kwargs)
    profiler = Profiler(session)
    try:
        found = profiler.measure(ROUNDS if rounds is None else rounds)
    finally:
        profiler.close()
    plan = session.model.plan
    steps = tuple(
        _profiled(number, step, plan, time)
        for number, (step, time) in enumerate(zip(plan.steps, found.steps, strict=True))
    )
    return Profile(session.device.name, steps, found.whole, found.overhead, found.rounds)


def _session(program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Session:
    if isinstance(program, Session):
        if kwargs:
            raise ArgumentError(f"a loaded program has no argument {next(iter(kwargs))!r}: give its inputs in order")
        if args:
            program.enqueue(args)
            program.synchronize()
        return program
    function: Any = program if hasattr(program, "__jitinfer_function__") else getattr(program, "forward", None)
    if not hasattr(function, "__jitinfer_function__"):
        raise ArgumentError(f"{program!r} is neither compiled by jitinfer.inference nor loaded by jitinfer.load")
    specialization, tensors = function.specialization_of(*args, **kwargs)
    find = getattr(specialization.executable, "session_of", None)
    if find is None:
        how = f"{specialization.name} runs {specialization.description}"
        raise ArgumentError(f"{how}; only programs of engine='cuda' have kernels to profile")
    session: Session = find(tensors)
    return session


def _profiled(number: int, step: Step, plan: Plan, time: StepTime) -> ProfiledStep:
    return ProfiledStep(
        number,
        step.label,
        kernel_name(step, plan),
        Origin.parse(step.origin),
        step.grid if isinstance(step, Launch) else None,
        time.in_sequence,
        time.repeated,
        step.cost,
    )


def kernel_name(step: Step, plan: Plan) -> str:
    """Of a kernel, as other tools call it; of other steps, what does them."""
    if isinstance(step, Launch):
        return plan.kernel_of[step.kernel].entry
    if isinstance(step, Gemm):
        return "cuBLASLt"
    return "copy" if isinstance(step, Copy) else "fill"
