"""Tuning without a device: times are made up; what is tried, chosen and kept is real."""

import contextlib
import itertools
import math

import numpy
import pytest

from jitinfer.cache import Cache
from jitinfer.errors import DeviceError, DeviceLostError, KernelError
from jitinfer.graph import Builder, ops
from jitinfer.kernels.family import Config, families
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import compile_graph, lower, tuning
from jitinfer.lowering.choice import form_of, offers
from jitinfer.lowering.fault import KernelFaultError
from jitinfer.passes import default, run_passes
from jitinfer.runtime import Device, Pointer, check

DEVICE = Device(0, "made up", 90, 132, 232448, 50 * 2**20, 80 * 2**30, 13000)


class Clock:
    """Made-up times, each shorter than the one before if none are given, and what was asked for."""

    def __init__(self, monkeypatch, times=()):
        self.asked = []
        self.limits = []
        self.turns = []
        self._times = iter(times) if times else itertools.count(100.0, -1.0)
        monkeypatch.setattr(tuning, "microseconds", self)
        monkeypatch.setattr(tuning, "_in_turn", self.in_turn)
        monkeypatch.setattr(tuning.Rotation, "weights", lambda rotation, device: NoWeights())
        monkeypatch.setattr(tuning, "outputs_of", self.outputs_of)

    def __call__(self, plan, weights, device, limit=math.inf):
        check(plan)
        self.asked.append({step.label for step in plan.steps})
        self.limits.append(limit)
        return next(self._times)

    def in_turn(self, plans, weights, device):
        assert len(weights) == len(plans)
        for plan in plans:
            check(plan)
        self.turns.append([{step.label for step in plan.steps} for plan in plans])
        return [next(self._times) for _ in plans]

    @staticmethod
    def outputs_of(plan, weights, device):
        """Always right."""
        check(plan)
        return [numpy.zeros(plan.buffer_named[name].shape, "float32") for name in plan.outputs]


class NoWeights:
    def close(self):
        pass


@pytest.fixture(scope="module")
def compiler(worker_pool):
    return Compiler(Target.named(90), workers=worker_pool)


def packed(count=3, rows=64):
    """As many activations of parts of one tensor, and a large one of its own."""
    builder = Builder()
    x, y = builder.input("x", (rows, count * 128)), builder.input("y", (4096, 1024))
    parts = [
        ops.silu(ops.slice(x, starts=(0, 128 * i), stops=(rows, 128 * (i + 1)), steps=(1, 1))) for i in range(count)
    ]
    return run_passes(builder.build(*parts, ops.tanh(y)), default())[0]


def nodes_of(graph):
    return [node for node in graph.nodes if node.op.kind.value != "creation"]


def test_nodes_at_other_places_of_a_tensor_are_timed_once(compiler, monkeypatch):
    clock = Clock(monkeypatch)
    graph = packed()
    tuner = tuning.Tuner(compiler, DEVICE, most=3)
    lowered = lower(graph, compiler.target, tuner)
    check(lowered.plan)
    assert tuner.measured == len(clock.asked) == 6
    assert len({form_of(node) for node, _ in lowered.work}) == 2
    assert len({choice.config for node, choice in lowered.work if node.op.name == "silu"}) == 1
    offsets = {argument.offset for step in lowered.plan.steps for argument in step.arguments[:1]}
    assert offsets >= {0, 512, 1024}


def test_places_that_are_aligned_otherwise_are_of_another_form():
    builder = Builder()
    x = builder.input("x", (8, 64))
    aligned, odd = ((ops.slice(x, starts=(0, i), stops=(8, i + 16), steps=(1, 1))) for i in (16, 17))
    graph = run_passes(builder.build(ops.silu(aligned), ops.silu(odd)), default())[0]
    assert len({form_of(node) for node in nodes_of(graph)}) == 2


def test_the_fastest_is_taken_and_kept(compiler, monkeypatch, tmp_path):
    graph = packed(count=1)
    silu, tanh = nodes_of(graph)
    Clock(monkeypatch, [3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    tuner = tuning.Tuner(compiler, DEVICE, Cache(tmp_path), most=3)
    chosen = tuner.choose([silu, tanh])
    larger, smaller = offers(tanh, compiler.target), offers(silu, compiler.target)
    assert chosen[1].config == larger[1][1]
    assert chosen[0].config == smaller[2][1]
    again = tuning.Tuner(compiler, DEVICE, Cache(tmp_path), most=3)
    known = again.choose([silu, tanh])
    assert again.measured == 0
    assert [(each.config, each.microseconds) for each in known] == [(e.config, e.microseconds) for e in chosen]


def test_what_takes_longest_comes_first_and_the_rest_is_left_when_time_is_over(compiler, monkeypatch, tmp_path):
    graph = packed(count=1)
    silu, tanh = nodes_of(graph)
    clock = Clock(monkeypatch)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: 100.0 * (len(clock.asked) >= 3))
    monkeypatch.setattr(tuning._Race, "ready", property(lambda race: len(clock.asked) > 0 or race.node is tanh))
    tuner = tuning.Tuner(compiler, DEVICE, Cache(tmp_path), most=3, seconds=10.0)
    chosen = tuner.choose([silu, tanh])
    assert clock.asked == [{"tanh"}] * 3
    assert chosen[0].config == offers(silu, compiler.target)[0][1]
    monkeypatch.undo()
    Clock(monkeypatch)
    later = tuning.Tuner(compiler, DEVICE, Cache(tmp_path), most=3)
    later.choose([silu, tanh])
    assert later.measured == 3


def test_what_runs_once_is_not_timed(compiler, monkeypatch):
    clock = Clock(monkeypatch)
    builder = Builder()
    x, w = builder.input("x", (16, 64)), builder.parameter("w", (64, 64))
    graph = builder.build(ops.matmul(x, ops.transpose(w, permutation=(1, 0)) + 1.0))
    graph = run_passes(graph, default())[0]
    model, lowered = compile_graph(graph, compiler.target, tuning.Tuner(compiler, DEVICE, most=2))
    assert len(model.prologue) == 1
    assert set().union(*clock.asked) == {node.op.name for node, _ in lowered.work}
    assert not set().union(*clock.asked) & {step.label for plan in model.prologue for step in plan.steps}


def test_a_library_s_offers_are_all_tried(compiler, monkeypatch):
    Clock(monkeypatch)
    family = families()["cublaslt"]
    proposals = [Config.of(proposal=n, programmatic=1) for n in range(5)]
    monkeypatch.setattr(type(family), "configs", lambda *_: proposals)
    launches = type(family).launches
    monkeypatch.setattr(
        type(family), "launches", lambda self, node, _, target: launches(self, node, proposals[0], target)
    )
    builder = Builder()
    graph = builder.build(ops.matmul(builder.input("x", (128, 64)), builder.parameter("w", (64, 64))))
    tuner = tuning.Tuner(compiler, DEVICE, most=1)
    tuner.choose(nodes_of(graph))
    assert tuner.measured == 5 + 1


def test_kernels_compile_while_libraries_are_asked(worker_pool, monkeypatch):
    Clock(monkeypatch)
    compiler = Compiler(Target.named(90), workers=worker_pool)
    family = families()["cublaslt"]
    configs, begun = type(family).configs, []

    def asked(self, node, target):
        begun.append(len(compiler._running))
        return configs(self, node, target)

    monkeypatch.setattr(type(family), "configs", asked)
    builder = Builder()
    x, w = builder.input("x", (144, 64)), builder.parameter("w", (64, 64))
    tuner = tuning.Tuner(compiler, DEVICE, most=3)
    tuner.choose(nodes_of(builder.build(ops.matmul(x, w), ops.silu(x))))
    assert begun[0] == len(compiler._running) == 2 * 3


def test_what_compiles_is_taken_where_the_first_offers_do_not(compiler, monkeypatch):
    Clock(monkeypatch)
    silu, _ = nodes_of(packed(count=1))
    family = families()["pointwise"]
    launches = type(family).launches
    refused = family.configs(silu, compiler.target)[0]

    def some(self, node, config, target):
        if config == refused:
            raise KernelError("not this one")
        return launches(self, node, config, target)

    monkeypatch.setattr(type(family), "launches", some)
    assert tuning.Tuner(compiler, DEVICE, most=1).choose([silu])[0].config != refused
    assert refused not in {each.config for each in tuning.Tuner(compiler, DEVICE, most=3).choose([silu])}
    monkeypatch.setattr(type(family), "launches", lambda *_: (_ for _ in ()).throw(KernelError("none")))
    with pytest.raises(KernelError, match=r"nothing that computes silu at .* compiles: none"):
        tuning.Tuner(compiler, DEVICE, most=1).choose([silu])


def chain():
    """tanh(silu(x)) as two nodes, and the same of another x."""
    builder = Builder()
    chains = []
    for name in "xy":
        first = ops.silu(builder.input(name, (64, 128)))
        chains.append((first, ops.tanh(first)))
    graph = builder.build(*(value for pair in chains for value in pair))
    return graph.nodes[:2], graph.nodes[2:]


@pytest.fixture
def sequences(compiler, monkeypatch, tmp_path):
    """A tuner by a new process, the chains of `chain` with kernels, and a clock."""

    def made(times, **limits):
        clock = Clock(monkeypatch, [100.0] * 4)
        tuner = tuning.Tuner(compiler, DEVICE, Cache(tmp_path), most=1, **limits)
        work = [list(zip(nodes, tuner.choose(nodes), strict=True)) for nodes in chain()]
        monkeypatch.setattr(clock, "_times", iter(times))
        clock.asked.clear()
        clock.turns.clear()
        return tuner, work, clock

    return made


def test_sequences_are_timed_in_turn_and_once_for_their_forms(sequences, compiler):
    tuner, (one, other), clock = sequences([300.0, 30.0])
    copies = [tuning.Rotation([node for node, _ in work], compiler.target).copies for work in (one, one[:1])]
    expected = [300.0 / copies[0], 30.0 / copies[1]]
    assert tuner.times_of([one, one[:1]]) == tuner.times_of([other, other[:1]]) == expected
    assert clock.turns == [[{"silu", "tanh"}, {"silu"}]]
    again, (one, _), clock = sequences([])
    assert again.times_of([one, one[:1]]) == expected
    assert not clock.turns


def test_sequences_with_other_kernels_are_others(sequences, compiler):
    tuner, ((first, second), _), clock = sequences([300.0, 200.0])
    node = second[0]
    others = [each for each in offers(node, compiler.target) if each[1] != second[1].config]
    changed = tuning.start(node, *others[0], compiler).result()
    assert tuner.times_of([[first, second]]) > tuner.times_of([[first, (node, changed)]])
    assert len(clock.turns) == 2


def test_sequences_are_not_timed_when_time_is_over(sequences, monkeypatch):
    tuner, (one, _), clock = sequences([300.0], seconds=1000.0)
    now = tuning.time.perf_counter()
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now + 2000.0)
    assert tuner.times_of([one, one]) == [math.inf] * 2
    assert not clock.turns
    monkeypatch.undo()
    tuner, (one, _), clock = sequences([300.0])
    (found,) = tuner.times_of([one])
    assert math.isfinite(found)


def test_sequences_that_do_not_run(sequences, monkeypatch):
    """They are tried again by another process; where the device is lost, the last kernel is named."""
    monkeypatch.setattr(Device, "telling_loss", lambda device: contextlib.nullcontext())
    for error, expected in ((DeviceError("too large"), None), (DeviceLostError("gone"), KernelFaultError)):
        tuner, (one, _), _ = sequences([])

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(tuning, "_in_turn", fail)
        if expected is None:
            assert tuner.times_of([one, one]) == [math.inf] * 2
        else:
            with pytest.raises(expected, match=r"tanh.* loses the device: gone"):
                tuner.times_of([one, one])
    tuner, (one, _), _ = sequences([300.0])
    assert all(map(math.isfinite, tuner.times_of([one])))


def test_what_is_ready_is_not_kept_waiting_by_what_is_not(monkeypatch):
    class Race:
        def __init__(self, name, after):
            self.name = name
            self.after = after

        @property
        def ready(self):
            return clock[0] >= self.after

    clock = [0.0]
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(tuning.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 1.0))
    races = [Race("slow", 3.0), Race("fast", 0.0), Race("later", 1.0), Race("never", 99.0), Race("at the end", 98.0)]
    order = [(race.name, clock[0]) for race in tuning._as_they_get_ready(races, 10.0)]
    assert order == [("fast", 0.0), ("later", 1.0), ("slow", 3.0), ("never", 10.0), ("at the end", 10.0)]


def test_those_that_are_about_as_fast_are_timed_in_turn(compiler, monkeypatch):
    """The first measurement says 1 2 0, turns 2 1: what is not close to the first stays behind."""
    silu, _ = nodes_of(packed(count=1))
    first, second, third = offers(silu, compiler.target)[:3]
    clock = Clock(monkeypatch, [40.0, 30.0, 31.0, 33.0, 32.0])
    (chosen,) = tuning.Tuner(compiler, DEVICE, most=3).choose([silu])
    assert clock.turns == [[{"silu"}] * 2]
    copies = tuning.Rotation([silu], compiler.target).copies
    assert (chosen.config, chosen.microseconds) == (third[1], 32.0 / copies)
    clock = Clock(monkeypatch, [40.0, 30.0, 31.0, 29.0, 35.0])
    (chosen,) = tuning.Tuner(compiler, DEVICE, most=3).choose([silu])
    assert (chosen.config, chosen.microseconds) == (second[1], 29.0 / copies)
    assert len({first[1], second[1], third[1]}) == 3


def test_what_takes_next_to_no_time_is_not_told_apart(compiler, monkeypatch):
    """The small one of two; the large one is."""
    builder = Builder()
    x, y = builder.input("x", (8, 128)), builder.input("y", (4096, 4096))
    silu, tanh = builder.build(ops.silu(x), ops.tanh(y)).nodes
    clock = Clock(monkeypatch, [30.0] * 9)
    tuning.Tuner(compiler, DEVICE, most=3).choose([silu, tanh])
    assert clock.turns == [[{"tanh"}] * 3]
    assert len(clock.asked) == 6


def test_kernels_that_fail_when_timed_in_turn_stay_in_their_order(compiler, monkeypatch):
    silu, _ = nodes_of(packed(count=1))
    Clock(monkeypatch, [30.0, 30.5, 29.5])
    monkeypatch.setattr(Device, "telling_loss", lambda device: contextlib.nullcontext())

    def fail(*_):
        raise DeviceError("too large")

    monkeypatch.setattr(tuning, "_in_turn", fail)
    (chosen,) = tuning.Tuner(compiler, DEVICE, most=3).choose([silu])
    assert chosen.config == offers(silu, compiler.target)[2][1]


def test_what_is_far_behind_is_measured_in_a_few_replays(compiler, monkeypatch):
    silu, _ = nodes_of(packed(count=1))
    clock = Clock(monkeypatch, [30.0, 20.0, 90.0])
    tuning.Tuner(compiler, DEVICE, most=3).choose([silu])
    assert clock.limits == [math.inf, 1.25 * 30.0, 1.25 * 20.0]


def test_what_nodes_give_each_other_is_no_operand_of_a_sequence(compiler):
    (first, second), _ = chain()
    rotation = tuning.Rotation([first, second], compiler.target)
    assert rotation.operands == first.inputs
    work = [
        (node, tuning.start(node, *offers(node, compiler.target)[0], compiler).result()) for node in (first, second)
    ]
    plan = rotation.plan(work)
    check(plan)
    assert len(plan.steps) == 2 * rotation.copies
    assert len(plan.outputs) == 1
    for one, two in zip(plan.steps[::2], plan.steps[1::2], strict=True):
        assert {each.buffer for each in one.arguments if isinstance(each, Pointer)} & {
            each.buffer for each in two.arguments if isinstance(each, Pointer)
        } == {rotation.name(first.output, plan.steps.index(one) // 2)}


def test_forms_of_sequences_say_what_gives_what():
    builder = Builder()
    x, y = builder.input("x", (8,)), builder.input("y", (8,))
    one, two, three = ops.silu(x), ops.silu(y), None
    three = ops.tanh(one)
    nodes = builder.build(one, two, three).nodes
    assert form_of(nodes[0]) == form_of(nodes[1])
    assert form_of(nodes[0], nodes[2]) != form_of(nodes[1], nodes[2])
    assert form_of(nodes[0], nodes[2]) != form_of(nodes[2])
