"""Weights and arena of one function, shared by the sessions of several shapes."""

import gc
from dataclasses import replace

import numpy
import pytest

from jitinfer.errors import ArgumentError, DeviceError
from jitinfer.graph.types import TensorType
from jitinfer.runtime import Buffer, Copy, Plan, Pointer
from jitinfer.runtime.device import Device
from jitinfer.runtime.model import Model, Session, Shared, Stage

ROW = TensorType((1024,), "float32")


def buffer(name, placement, rows=1, **more):
    return Buffer(name, rows * ROW.nbytes, placement, shape=(rows * 1024,), dtype="float32", **more)


JOINED = Plan(
    target=90,
    arena_bytes=0,
    buffers=(buffer("a", "input"), buffer("b", "input"), buffer("ab", "output", 2)),
    steps=(
        Copy(Pointer("a"), Pointer("ab"), ROW.nbytes),
        Copy(Pointer("b"), Pointer("ab", ROW.nbytes), ROW.nbytes),
    ),
    kernels=(),
    inputs=("a", "b"),
    outputs=("ab",),
)


def model(rows, *, form="joined", weights=(0, 1)):
    """[x, weight 2, weights 0 and 1 together], x of `rows`, by way of the arena."""
    arena, nbytes = rows * ROW.nbytes, ROW.nbytes
    steps = (
        Copy(Pointer("x"), Pointer("middle"), arena),
        Copy(Pointer("middle"), Pointer("y"), arena),
        Copy(Pointer("w"), Pointer("y", arena), nbytes),
        Copy(Pointer("ab"), Pointer("y", arena + nbytes), 2 * nbytes),
    )
    plan = Plan(
        target=90,
        arena_bytes=arena,
        buffers=(
            buffer("middle", "arena", rows, offset=0),
            buffer("x", "input", rows),
            buffer("w", "weight"),
            buffer("ab", "weight", 2),
            buffer("y", "output", rows + 3),
        ),
        steps=steps,
        kernels=(),
        inputs=("x",),
        outputs=("y",),
    )
    return Model(plan, (ROW, ROW, ROW), ((2, "w"),), (Stage(0, weights, ("ab",), form),), (JOINED,))


def values(seed=0):
    return list(numpy.random.default_rng(seed).standard_normal((3, 1024)).astype("float32"))


def require_right(session, weights):
    (x,) = (numpy.random.default_rng(7).standard_normal(each.shape).astype(each.dtype) for each in session.inputs)
    (y,) = session.run([x])
    assert numpy.array_equal(y, numpy.concatenate([x, weights[2], weights[0], weights[1]]))


@pytest.fixture
def shared(cuda):
    return Shared(Device.of(0))


def allocated(cuda):
    """Bytes, without those by which the fake driver aligns."""
    return sum(each.nbytes - 256 for each in cuda.held.values() if isinstance(each, numpy.ndarray))


def test_a_second_shape_takes_no_memory_for_weights_and_computes_nothing(cuda, shared):
    first = Session(model(2), values(), shared=shared)
    assert shared.weights.nbytes == 3 * ROW.nbytes
    held, launches = allocated(cuda), cuda.launches
    second = Session(model(5), values(), shared=shared)
    own = (5 + 5 + 3) * ROW.nbytes  # its inputs and outputs
    assert allocated(cuda) - held == own
    assert second.nbytes == shared.nbytes + own
    assert cuda.launches == launches
    for session in (first, second, first):
        require_right(session, values())


def test_new_values_are_seen_by_all(cuda, shared):
    sessions = [Session(model(rows), values(), shared=shared) for rows in (2, 5)]
    before = cuda.launches
    sessions[0].refresh(values(1))
    assert cuda.launches == before + 1
    for session in sessions:
        require_right(session, values(1))
    shared.refresh(values(2))
    for session in sessions:
        require_right(session, values(2))


@pytest.mark.parametrize("other", [{"form": "others"}, {"weights": (1, 0)}])
def test_what_is_computed_otherwise_is_another_tensor(shared, other):
    first, second = Session(model(2), values(), shared=shared), Session(model(2, **other), values(), shared=shared)
    assert shared.weights.nbytes == 5 * ROW.nbytes
    require_right(first, values())
    weights = values()
    require_right(second, [weights[i] for i in (*other.get("weights", (0, 1)), 2)])


def test_what_only_a_closed_session_used_is_given_back(cuda, shared):
    first, second = (Session(model(2, form=form), values(), shared=shared) for form in ("joined", "others"))
    second.close()
    second.close()
    assert shared.weights.nbytes == 3 * ROW.nbytes
    shared.refresh(values(3))
    require_right(first, values(3))
    with pytest.raises(DeviceError, match="closed"):
        second.run([numpy.zeros(2048, "float32")])
    del first
    gc.collect()
    assert shared.weights.nbytes == 0


def test_everything_is_given_back(cuda):
    sessions = [Session(model(rows), values()) for rows in (2, 5)]
    for session in sessions:
        require_right(session, values())
    sessions[0].close()
    del sessions, session
    gc.collect()
    assert not cuda.held
    assert cuda.mapped == 0


def test_the_arena_is_as_large_as_the_largest_and_stays_where_it_is(cuda, shared):
    first = Session(model(2), values(), shared=shared)
    assert shared.arena.nbytes == cuda.mapped == 2 * ROW.nbytes
    second = Session(model(5), values(), shared=shared)
    third = Session(model(3), values(), shared=shared)
    assert shared.arena.nbytes == cuda.mapped == 5 * ROW.nbytes
    assert len({session._executor._addresses["middle"] for session in (first, second, third)}) == 1
    for session in (first, second, third, first):
        require_right(session, values())


def test_a_device_that_cannot_map_memory_has_an_arena_for_each(cuda, shared):
    cuda.maps_memory = 0
    from jitinfer.runtime import device

    device._device.cache_clear()
    shared = Shared(Device.of(0))
    sessions = [Session(model(rows), values(), shared=shared) for rows in (2, 5)]
    assert len({session._executor._addresses["middle"] for session in sessions}) == 2
    for session in sessions:
        require_right(session, values())


def test_an_arena_that_is_too_large(cuda, shared):
    session = Session(model(2), values(), shared=shared)
    with pytest.raises(DeviceError, match="computed within a call on fake: cuda_error_out_of_memory"):
        shared.arena.reserve(2**31)
    require_right(session, values())


def test_results_stay_when_another_shape_runs(cuda, shared):
    first, second = (Session(model(rows), values(), shared=shared) for rows in (2, 5))
    x = numpy.arange(2048, dtype="float32")
    (kept,) = first.enqueue([x])
    second.enqueue([numpy.zeros(5 * 1024, "float32")])
    import ctypes

    found = numpy.ctypeslib.as_array((ctypes.c_float * 2048).from_address(kept.address))
    assert numpy.array_equal(found, x)


def test_what_does_not_fit_is_refused(cuda, shared):
    session = Session(model(2), values(), shared=shared)
    for wrong in (values()[:2], [each.astype("float64") for each in values()]):
        with pytest.raises(ArgumentError, match="weight"):
            session.refresh(wrong)
        with pytest.raises(ArgumentError, match="weight"):
            Session(model(3), wrong, shared=shared)
    fewer = replace(model(2), weights=(ROW, ROW, replace(ROW, shape=(2048,))))
    with pytest.raises(ArgumentError, match="same weights"):
        Session(fewer, values(), shared=shared)
    require_right(session, values())


def test_a_refresh_that_fails_anywhere_leaves_nothing_that_runs(cuda, shared):
    """At each of its calls of the driver in turn: nothing has changed, or no session runs before another one, or all of
    it was done and what failed came afterwards."""
    sessions = [Session(model(rows), values(), shared=shared) for rows in (2, 5)]
    outcomes = {"as before": 0, "refused": 0, "done": 0}
    reached = True
    while reached:
        number = sum(outcomes.values()) + 1
        cuda.failing_call = cuda.calls + number
        outcome = "done"
        try:
            shared.refresh(values(number))
        except DeviceError:
            outcome = "refused" if shared.arena.turns.refused else "as before"
        reached = cuda.calls >= cuda.failing_call
        cuda.failing_call = None
        outcomes[outcome] += 1
        with pytest.raises(ArgumentError):
            shared.refresh(values()[:2])
        for session in sessions:
            if outcome == "refused":
                with pytest.raises(DeviceError, match="some of the weights on the device are new and some are not"):
                    session.run([numpy.zeros(each.shape, each.dtype) for each in session.inputs])
            else:
                require_right(session, values(number if outcome == "done" else 0))
        for each in (number + 1, 0):
            shared.refresh(values(each))
            for session in sessions:
                require_right(session, values(each))
    assert outcomes["refused"] > 20
    assert outcomes["done"] > 1
    assert outcomes["as before"] > 0
