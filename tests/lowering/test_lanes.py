"""Branches of graphs on a second lane: those that gain by it, and nothing that is not right in any order."""

import itertools
from dataclasses import replace

import numpy
import pytest
from generated_cases import TARGET
from gpu import POISON, device_target, needs_gpu
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.errors import PlanError
from jitinfer.graph import Builder, evaluate, ops
from jitinfer.kernels.device_library import numpy_device_library
from jitinfer.kernels.family import Config, KernelLaunch, families_for
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph, lower
from jitinfer.lowering.choice import Choice
from jitinfer.lowering.estimate import KERNEL_MICROSECONDS, Estimate, estimate
from jitinfer.lowering.lanes import (
    CHANGE_MICROSECONDS,
    LEAST_MICROSECONDS,
    Branch,
    assigned,
    branches,
    elapsed,
    longest_way,
    needs_of,
)
from jitinfer.lowering.lower import Outline
from jitinfer.lowering.slots import in_slots, written_by
from jitinfer.passes import converting, default, run_passes
from jitinfer.runtime import Copy, Device, Launch, Pointer, Region, Slot, TensorMap, check, regions
from jitinfer.runtime.model import Session
from jitinfer.runtime.profiler import Profiler
from jitinfer.runtime.regions import overlap
from jitinfer.testing import random_array

SMALL = Estimate(10.0, 0.25)
WHOLE = Estimate(10.0, 1.0)


@st.composite
def graphs(draw):
    count = draw(st.integers(0, 20))
    needs = [sorted(draw(st.sets(st.integers(0, n - 1), max_size=3))) if n else [] for n in range(count)]
    durations = st.floats(0.5, 100.0)
    return needs, [Estimate(draw(durations), draw(st.floats(0.0, 1.0))) for _ in range(count)]


@given(graphs())
@settings(max_examples=400, deadline=None)
def test_what_a_node_needs_has_ended_when_it_begins(graph):
    needs, estimates = graph
    lanes = assigned(needs, estimates)
    order = lanes.order
    for number, needed in enumerate(needs):
        assert all(order.precedes(each, number) for each in needed)
        for wait in lanes.after[number]:
            assert wait < number
            assert lanes.lanes[wait] != lanes.lanes[number]
    before, now = lanes.microseconds
    if any(lanes.lanes):
        assert now <= before - LEAST_MICROSECONDS + 1e-6
        assert before == pytest.approx(sum(each.microseconds for each in estimates))
        longest = sum(estimates[each].microseconds for each in longest_way(needs, estimates))
        assert now >= max(longest, sum(each.microseconds * each.share for each in estimates)) - 1e-6
        assert not any(lanes.lanes[each] for each in longest_way(needs, estimates))


@given(graphs())
@settings(max_examples=300, deadline=None)
def test_the_longest_way_is_the_longest(graph):
    needs, estimates = graph
    ends = []
    for needed, each in zip(needs, estimates, strict=True):
        ends.append(each.microseconds + max((ends[need] for need in needed), default=0.0))
    way = longest_way(needs, estimates)
    assert sum(estimates[each].microseconds for each in way) == pytest.approx(max(ends, default=0.0))
    assert all(one in needs[other] for one, other in itertools.pairwise(way))


def test_kernels_that_leave_room_run_side_by_side_and_others_slow_each_other_down():
    needs = [[], [], [0, 1]]

    def taken(*estimates):
        return elapsed(range(2), [0, 1, 0], needs, estimates) - CHANGE_MICROSECONDS

    assert taken(SMALL, SMALL) == 10.0
    assert taken(WHOLE, WHOLE) == 20.0
    assert taken(Estimate(10.0, 0.75), Estimate(20.0, 0.75)) == 15.0 + 10.0
    assert elapsed(range(3), [0, 0, 0], needs, [SMALL] * 3) == 30.0
    assert elapsed(range(3), [0, 1, 0], needs, [SMALL] * 3) == 20.0 + CHANGE_MICROSECONDS


TWO_STREAMS = [[], [0], [1], [0], [3], [2, 4], [5], [6], [5], [8], [7, 9]]
"""Twice a fork, two nodes on either side, and a join: 0, 1 2, 3 4, 5, 6 7, 8 9, 10."""


def test_branches_are_what_two_nodes_of_the_longest_way_have_between_them():
    estimates = [WHOLE if number in (1, 2, 6, 7) else SMALL for number in range(11)]
    assert longest_way(TWO_STREAMS, [replace(each, microseconds=each.share * 40) for each in estimates]) == [
        0, 1, 2, 5, 6, 7, 10,
    ]  # fmt: skip
    found = branches(TWO_STREAMS, [0, 1, 2, 5, 6, 7, 10])
    assert found == [Branch(0, 5, (3, 4)), Branch(5, 10, (8, 9))]
    assert branches([[], [], [0]], [0, 2]) == [Branch(-1, 3, (1,))]


def test_a_short_stream_beside_a_long_one():
    times = [Estimate(10.0, 0.5) if n in (3, 4, 8, 9) else Estimate(30.0, 0.5) for n in range(11)]
    lanes = assigned(TWO_STREAMS, times)
    assert lanes.lanes == (0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0)
    assert lanes.after == ((), (), (), (0,), (), (4,), (), (), (5,), (), (9,))
    assert lanes.microseconds[0] - lanes.microseconds[1] == pytest.approx(40.0 - 2 * CHANGE_MICROSECONDS)


@pytest.mark.parametrize(
    "times",
    [
        [Estimate(30.0, 1.0)] * 11,  # no kernel leaves room for another
        [Estimate(1.5, 0.1)] * 11,  # nothing is long enough to be worth a change
        [Estimate(10.0 if n in (3, 4, 8, 9) else 300.0, 0.5) for n in range(11)],  # 36 us of 2140 are too few
    ],
)
def test_nothing_changes_where_nothing_is_gained(times):
    lanes = assigned(TWO_STREAMS, times)
    assert not any(lanes.lanes)
    assert not any(lanes.after)


def test_a_branch_with_time_to_spare_begins_late():
    """What it writes would take memory all the while."""
    chain = 20
    needs = [[], *([each] for each in range(chain)), [0], [chain, chain + 1]]
    times = [Estimate(10.0, 0.5)] * len(needs)
    lanes = assigned(needs, times)
    assert lanes.lanes == (*([0] * (chain + 1)), 1, 0)
    (wait,) = lanes.after[chain + 1]
    assert 0 < wait < chain - 3


def test_measured_times_go_before_estimated_ones_and_small_grids_leave_room():
    target = Target.named(90)
    builder = Builder()
    x, w = builder.input("x", (2048, 1536), "bfloat16"), builder.parameter("w", (1536, 6144), "bfloat16")
    (node,) = builder.build(ops.matmul(x, w)).nodes
    with Compiler(target, workers=1) as compiler:
        (choice,) = FirstThatCompiles(compiler).choose([node])
    found = estimate(node, choice, target)
    ideal = 1e6 * 2 * 2048 * 1536 * 6144 / target.flops
    assert ideal < found.microseconds < 1.5 * ideal + KERNEL_MICROSECONDS
    assert 0.7 < found.share <= 1.0
    slow = estimate(node, replace(choice, microseconds=3 * ideal), target)
    assert slow.microseconds == 3 * ideal
    copied = Choice("moves", choice.config, replace(choice.candidate, steps=(Copy(Pointer("a"), Pointer("b"), 8),)), ())
    assert estimate(node, copied, target).share == 1.0


def test_parts_of_values_that_nodes_write():
    builder = Builder()
    x, y = (builder.input(name, (2, rows, 8), "bfloat16") for name, rows in (("x", 3), ("y", 5)))
    weight = builder.parameter("w", (8, 8), "bfloat16")
    graph = run_passes(builder.build(ops.silu(ops.concat(ops.matmul(x, weight), ops.matmul(y, weight), axis=1))), [])[0]
    outline = Outline(graph, Target.named(90))
    one, other = (written_by(node) for node in outline.nodes[:2])
    assert one == [Region(one[0].buffer, 0, 3 * 16, ((2, 8 * 16),))]
    assert other == [Region(one[0].buffer, 3 * 16, 5 * 16, ((2, 8 * 16),))]
    assert not overlap(one[0], other[0])
    assert needs_of(outline.nodes) == [[], [], [0, 1]]


def interpretable(candidate):
    """Not by a library, or with tensor maps."""
    launches = [step for step in candidate.steps if isinstance(step, KernelLaunch)]
    maps = [each for step in launches for each in step.arguments.values() if isinstance(each, TensorMap)]
    return len(launches) == len(candidate.steps) and not maps


def test_kernels_write_nothing_beside_the_parts_that_are_said_of_them():
    """Of rows that do not fill a block, in the middle of a larger tensor."""
    builder = Builder()
    shapes = {"a": (2, 5, 24), "b": (2, 11, 24), "c": (2, 3, 24)}
    given = [builder.input(name, shape) for name, shape in shapes.items()]
    functions = [ops.silu, ops.layer_norm, lambda y: ops.softmax(y, axis=-1), lambda y: ops.cumsum(y, axis=-1)]
    graph = builder.build(*(ops.concat(*map(function, given), axis=1) for function in functions))
    seen = set()
    for node in Outline(graph, TARGET).nodes:
        (region,) = written_by(node)
        assert region.repeats
        starts, nbytes = regions.runs(region)
        inside = numpy.zeros(node.output.type.nbytes, bool)
        for start in starts:
            inside[start : start + nbytes] = True
        arrays = [random_array(value.type, seed) for seed, value in enumerate(node.inputs)]
        for family in families_for(node, TARGET):
            first = dict(family.configs(node, TARGET)[0].values)
            config = Config.of(**{**first, **{name: 0 for name in ("programmatic", "host_maps") if name in first}})
            candidate = family.launches(node, config, TARGET)
            if interpretable(candidate):
                with numpy_device_library():
                    (found,) = interpret(node, candidate, arrays)
                written = found.view(numpy.uint8).reshape(-1)
                assert (written[~inside] == POISON).all()
                assert not (written[inside] == POISON).all()
                seen.add(node.op.name)
    assert seen == {"silu", "layer_norm", "softmax", "cumsum"}


def test_what_waits_is_not_launched_early():
    def launch(*names):
        return Launch("k", (1, 1, 1), tuple(map(Pointer, names)), programmatic=True)

    lanes = assigned([[], [], [0, 1]], [Estimate(30.0, 0.2), Estimate(20.0, 0.2), SMALL])
    steps = [[launch("x", "a")], [launch("x", "w"), launch("w", "b")], [launch("a", "b", "y"), launch("y", "z")]]
    written = [[Region("a", 0, 4)], [Region("b", 0, 4), Region("w", 0, 4)], [Region("y", 0, 4), Region("z", 0, 4)]]
    placed, slots = in_slots(steps, written, lanes)
    assert [step.programmatic for step in placed] == [True, True, True, False, True]
    assert slots == (
        Slot(0, (), (Region("a", 0, 4),)),
        Slot(1, (), (Region("w", 0, 4),)),
        Slot(1, (), (Region("b", 0, 4), Region("w", 0, 4))),
        Slot(0, (2,), (Region("y", 0, 4),)),
        Slot(0, (), (Region("y", 0, 4), Region("z", 0, 4))),
    )


def two_streams(blocks=2, width=64, tokens=(96, 20), heads=4, dtype="bfloat16"):
    """Blocks of two streams of tokens with an attention of both to both, as in Stable Diffusion 3; after its passes."""
    builder = Builder()
    streams = [builder.input(name, (2, count, width)) for name, count in zip("xt", tokens, strict=True)]
    c = builder.input("c", (2, width))

    def linear(y, name, columns):
        weight = builder.parameter(name + "_w", (y.shape[-1], columns))
        return ops.matmul(y, weight) + builder.parameter(name + "_b", (columns,))

    def head(y):
        return ops.transpose(ops.reshape(y, shape=(2, y.shape[1], heads, width // heads)), permutation=(0, 2, 1, 3))

    def part(m, i):
        sliced = ops.slice(m, starts=(0, i * width), stops=(2, (i + 1) * width), steps=(1, 1))
        return ops.reshape(sliced, shape=(2, 1, width))

    def modulated(y, m, i):
        return ops.layer_norm(y, epsilon=1e-6) * (1.0 + part(m, i)) + part(m, i + 1)

    for block in range(blocks):
        ms = [linear(ops.silu(c), f"m{block}{name}", 6 * width) for name in "xt"]
        normed = [modulated(y, m, 0) for y, m in zip(streams, ms, strict=True)]
        q, k, v = (
            head(
                ops.concat(
                    *(linear(y, f"{of}{block}{name}", width) for y, name in zip(normed, "xt", strict=True)), axis=1
                )
            )
            for of in "qkv"
        )
        scores = ops.softmax(ops.matmul(q, k, transpose_y=True) * (width / heads) ** -0.5, axis=-1)
        mixed = ops.transpose(ops.matmul(scores, v), permutation=(0, 2, 1, 3))
        mixed = ops.reshape(mixed, shape=(2, sum(tokens), width))
        starts = (0, tokens[0])
        for i, (name, start) in enumerate(zip("xt", starts, strict=True)):
            own = ops.slice(mixed, starts=(0, start, 0), stops=(2, start + tokens[i], width), steps=(1, 1, 1))
            y = streams[i] + part(ms[i], 2) * linear(own, f"o{block}{name}", width)
            inner = ops.gelu(linear(modulated(y, ms[i], 3), f"f{block}{name}", 4 * width), approximate="tanh")
            streams[i] = y + part(ms[i], 5) * linear(inner, f"g{block}{name}", width)
    graph = builder.build(*streams)
    names = default() if dtype == "float32" else converting(default(), dtype)
    return graph, run_passes(graph, names, check=True)[0]


def test_the_shorter_stream_runs_beside_the_longer_one():
    _, graph = two_streams(blocks=3, width=256, tokens=(2048, 308))
    target = Target.named(90)
    with Compiler(target) as compiler:
        chooser = FirstThatCompiles(compiler)
        lowered = lower(graph, target, chooser, lanes=2)
        plain = lower(graph, target, chooser)
    plan = lowered.plan
    check(plan)
    assert plain.plan.slots == ()
    assert plain.lanes.lanes == (0,) * len(plain.work)
    assert [replace(step, programmatic=False) if isinstance(step, Launch) else step for step in plan.steps] == [
        replace(step, programmatic=False) if isinstance(step, Launch) else step for step in plain.plan.steps
    ]
    assert plan.lanes == 2
    # One part of each product of queries, keys and values is that of the text, and they are the smaller ones.
    beside = [node for (node, _), lane in zip(lowered.work, lowered.lanes.lanes, strict=True) if lane]
    assert all(308 in value.shape or 2048 not in value.shape for node in beside for value in node.outputs)
    joins = [number for number, (node, _) in enumerate(lowered.work) if node.op.name == "attention"]
    assert len(joins) == 3
    assert all(lowered.lanes.lanes[number] == 0 and lowered.lanes.after[number] for number in joins)
    assert lowered.lower_bound <= plan.arena_bytes
    assert plain.lower_bound <= lowered.lower_bound
    for number, slot in enumerate(plan.slots):
        for wait in slot.after:
            fewer = replace(slot, after=tuple(each for each in slot.after if each != wait))
            with pytest.raises(PlanError):
                check(replace(plan, slots=(*plan.slots[:number], fewer, *plan.slots[number + 1 :])))
    for number, step in enumerate(plan.steps):
        if isinstance(step, Launch) and plan.slots[number].after:
            assert not step.programmatic


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_device_both_lanes_give_what_one_gives(dtype):
    """The same kernels on the same numbers: the same bits, whenever they run; and no less exact than the model."""
    before, graph = two_streams(width=512, tokens=(1024, 154), heads=8, dtype=dtype)
    plain = before if dtype == "float32" else run_passes(before, [f"convert_to_{dtype}"])[0]
    target = device_target()
    with Compiler(target) as compiler:
        models = [compile_graph(graph, target, FirstThatCompiles(compiler), lanes)[0] for lanes in (1, 2)]
    assert [model.plan.lanes for model in models] == [1, 2]
    weights = [
        (random_array(value.type, 100 + seed) / max(value.shape[0] ** 0.5, 1)).astype("float32")
        for seed, value in enumerate(before.parameters)
    ]
    sessions = [Session(model, weights, Device.of(0)) for model in models]
    for round_ in range(50):
        inputs = [random_array(value.type, 10 * round_ + seed) for seed, value in enumerate(before.inputs)]
        one, both = (session.run(inputs) for session in sessions)
        for wanted, found in zip(one, both, strict=True):
            assert wanted.tobytes() == found.tobytes()
    exact, rounded = evaluate(before, inputs, weights, arithmetic="float64"), evaluate(plain, inputs, weights)
    for wanted, near, found in zip(exact, rounded, both, strict=True):
        error, explained = (numpy.linalg.norm(each - wanted) / numpy.linalg.norm(wanted) for each in (found, near))
        assert error <= max(1.2 * explained, 2e-6)
    for session in sessions:
        session.close()


@needs_gpu
def test_on_a_device_branches_that_leave_room_take_their_time_side_by_side():
    """Two chains of products of 16 thread blocks or so each, on a device of many more multiprocessors."""
    builder = Builder()
    results = []
    for name in "ab":
        y = builder.input(name, (128, 2048), "bfloat16")
        for number in range(24):
            y = ops.matmul(y, builder.parameter(f"{name}{number}", (2048, 2048), "bfloat16"))
        results.append(y)
    graph = builder.build(*results)
    target = device_target()
    with Compiler(target) as compiler:
        models = [compile_graph(graph, target, FirstThatCompiles(compiler), lanes)[0] for lanes in (1, 2)]
    assert [model.plan.lanes for model in models] == [1, 2]
    weights = [random_array(value.type, seed) for seed, value in enumerate(graph.parameters)]
    weights = [(each / 2048**0.5).astype(each.dtype) for each in weights]
    times = []
    for model in models:
        session = Session(model, weights, Device.of(0))
        profiler = Profiler(session)
        found = profiler.measure(rounds=20)
        times.append(found.whole)
        assert sum(each.in_sequence for each in found.steps) == pytest.approx(times[0], rel=0.25)
        profiler.close()
        session.close()
    assert times[1] < 0.9 * times[0], times  # 0.79 on an H100
