"""Of two lanes and one, the faster plan is what the cache has: made without a device, where times are made up."""

import math
from typing import ClassVar

import pytest
from product_stack import stack

from jitinfer.cache import Cache
from jitinfer.errors import DeviceLostError
from jitinfer.graph import Builder, ops
from jitinfer.kernels.target import Target
from jitinfer.lowering import FirstThatCompiles, models
from jitinfer.lowering.choice import form_of
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.fault import ModelFaultError
from jitinfer.lowering.models import FAST_SECONDS, LANES_SECONDS, ModelMaker
from jitinfer.lowering.parts import questions
from jitinfer.runtime import Device

DEVICE = Device(0, "made up", 90, 132, 232448, 50 * 2**20, 80 * 2**30, 13000)


def two_chains(length=3):
    """Of products that leave most of a device idle, and one of other rows, which comes last."""
    builder = Builder()
    w = builder.parameter("w", (4096, 4096), "bfloat16")
    results = []
    for name in "ab":
        y = builder.input(name, (128, 4096), "bfloat16")
        for _ in range(length):
            y = ops.matmul(y, w)
        results.append(y)
    return builder.build(*results)


class Untuned(FirstThatCompiles):
    """In place of the tuner, whose time it notes."""

    def __init__(self, compiler, device, store, *, seconds, most, excluded, foreign, most_parts):
        super().__init__(compiler, excluded)
        self.seconds.append(seconds)
        self.most_parts = most_parts

    def times_of(self, sequences):
        """Three parts are best, then two."""
        shapes = [work[-2][0].output.shape for work in sequences]
        return [{3: 10.0, 2: 11.0}.get(shape[0] if len(shape) == 4 else 1, 12.0) for shape in shapes]

    seconds: ClassVar = []


class Comparison:
    """In place of `faster`: takes this one of the two plans; notes what it was asked."""

    def __init__(self, taken=0, loses=False):
        self.taken = taken
        self.loses = loses
        self.asked = []

    def __call__(self, *given):
        *plans, device, seconds = given
        self.asked.append((plans, device, seconds))
        if self.loses:
            raise DeviceLostError("step 3 failed")
        return plans[self.taken]


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A model by a new maker, as another process has it, and what the comparison was asked meanwhile."""
    monkeypatch.setattr(models, "Tuner", Untuned)
    Untuned.seconds.clear()
    graph = two_chains()

    def make(tune="fast", lanes=2, **comparison):
        compare = Comparison(**comparison)
        monkeypatch.setattr(models, "faster", compare)
        return ModelMaker(DEVICE, Cache(tmp_path), tune, lanes=lanes).model(graph), compare.asked

    return make


@pytest.mark.parametrize("taken", [0, 1])
def test_the_faster_one_is_kept_and_not_measured_again(made, taken):
    model, asked = made(taken=taken)
    (((two, one), device, seconds),) = asked
    assert (two.lanes, one.lanes) == (2, 1)
    assert device is DEVICE
    assert seconds == LANES_SECONDS
    assert Untuned.seconds == [FAST_SECONDS - LANES_SECONDS]
    assert two.kernels == one.kernels
    assert model.plan == (two, one)[taken]
    again, asked = made(taken=1 - taken)
    assert again == model
    assert not asked


def test_there_is_time_where_everything_is_timed(made):
    _, asked = made("max")
    assert [seconds for _, _, seconds in asked] == [math.inf]
    assert Untuned.seconds == [math.inf]


def test_nothing_is_compared_that_is_not_to_be_timed_or_has_one_lane(made):
    model, asked = made("off", taken=1)
    assert model.plan.lanes == 2
    assert not asked
    model, asked = made(lanes=1, taken=1)
    assert model.plan.lanes == 1
    assert not asked
    assert Untuned.seconds == [FAST_SECONDS]


def test_a_device_that_is_lost_by_the_whole_plan(made):
    """The next process has the plan of the estimate, and does not lose its device by timing it."""
    with pytest.raises(ModelFaultError, match="step 3 failed") as raised:
        made(loses=True)
    assert raised.value.model.plan.lanes == 2
    model, asked = made(loses=True)
    assert model == raised.value.model
    assert not asked


@pytest.mark.parametrize(("tune", "parts"), [("off", None), ("fast", 2), ("max", 3)])
def test_products_in_parts_are_the_same_in_the_next_process(monkeypatch, tmp_path, tune, parts):
    monkeypatch.setattr(models, "Tuner", Untuned)
    graph, store = stack(), Cache(tmp_path)
    model = ModelMaker(DEVICE, store, tune).model(graph)
    monkeypatch.setattr(Untuned, "choose", lambda *_: pytest.fail("nothing is to be chosen any more"))
    maker = ModelMaker(DEVICE, store, tune)
    assert maker.model(graph) == model
    work = maker.kernels(graph)
    found = [node for node, _ in work if node.op.name == "linear" and node.unrounded]
    assert [node.output.shape[0] for node in found] == ([] if parts is None else [parts] * 3)
    for number, step in enumerate(model.plan.steps):
        node, family, config = maker.origin_of_step(graph, model, 0, number)
        kept, choice = work[step.cost.node]
        assert (node.op, family, config) == (kept.op, choice.family, choice.config)
        assert str(node.origin) == step.origin
        assert form_of(node) == form_of(kept)


def test_what_is_excluded_of_products_in_parts_concerns_the_model():
    """Though no node of the graph is of that form."""
    graph = stack()
    asked = questions(graph.nodes, graph.outputs, Target.of(DEVICE), 2)
    excluded = tuple(Exclusion(form_of(node), "cublaslt") for node in asked[0].nodes)
    other = Exclusion("another form", "cublaslt")
    assert ModelMaker(DEVICE, None, "fast", (*excluded, other)).concerned(graph) == [*excluded]
    assert ModelMaker(DEVICE, None, "off", (*excluded, other)).concerned(graph) == []
