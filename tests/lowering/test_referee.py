"""Kernels that do not agree: the reference decides, or most of them, and a warning names what is left out."""

import logging

import numpy
import pytest
from gpu import device_compiler, device_target, needs_gpu

from jitinfer.graph import Builder, ops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.rounding import node_tolerance
from jitinfer.kernels.family import Candidate, Config
from jitinfer.lowering import referee
from jitinfer.lowering.choice import Choice, offers, start
from jitinfer.lowering.node_check import disagreement
from jitinfer.lowering.referee import trusted
from jitinfer.lowering.rotation import Rotation, samples_for
from jitinfer.lowering.tuning import outputs_of
from jitinfer.runtime import Device

TILES = ("large", "small", "other")


def product(rows=8, depth=16, columns=4, dtype="float32"):
    builder = Builder()
    x, y = builder.input("x", (rows, depth), dtype), builder.input("y", (depth, columns), dtype)
    (node,) = builder.build(ops.matmul(x, y)).nodes
    return node


def choice(family, tile):
    return Choice(family, Config.of(tile=tile), Candidate(()), ())


class Results:
    """Of choices: what is right, plus what is wrong in those of `faults`; counts how often each was asked."""

    def __init__(self, node, faults):
        self.operands = [numpy.asarray(each) for each in self._random(node)]
        (self.right,) = evaluate_node(node, self.operands)
        self.faults = faults
        self.asked = []

    @staticmethod
    def _random(node):
        generator = numpy.random.default_rng(0)
        return [generator.standard_normal(value.shape).astype("float32") for value in node.inputs]

    def __call__(self, choice):
        name = f"{choice.family} {choice.config['tile']}"
        self.asked.append(name)
        result = self.right.copy()
        if name in self.faults:
            result[-1, -1] += self.faults[name]
        return [result]


def judged(ranked, faults=None, node=None):
    node = node or product()
    results = Results(node, faults or {})
    return trusted(node, ranked, results, lambda: results.operands), results


ALL = [choice("a", "large"), choice("a", "small"), choice("b", "large"), choice("b", "small")]


def test_the_fastest_that_agrees_with_another_family_is_taken_without_a_reference(monkeypatch):
    monkeypatch.setattr(referee, "failure_of", None)
    found, results = judged(ALL)
    assert found is ALL[0]
    assert results.asked == ["a large", "b large"]


def test_one_alone_is_taken_unseen():
    found, results = judged(ALL[:1])
    assert found is ALL[0]
    assert results.asked == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (["a large"], 1),
        (["a large", "a small"], 2),
        (["b large"], 0),
        (["a large", "a small", "b large"], 3),
    ],
)
def test_the_reference_decides(wrong, right, caplog):
    with caplog.at_level(logging.WARNING, "jitinfer"):
        found, _ = judged(ALL, {name: 0.5 + position for position, name in enumerate(wrong)})
    assert found is ALL[right]
    left_out = [record.getMessage() for record in caplog.records]
    assert len(left_out) == right
    for text, each in zip(left_out, ALL, strict=False):
        assert each.family in text
        assert "is left out: its result differs" in text


def test_a_number_where_none_belongs_is_found():
    found, _ = judged(ALL, {"a large": numpy.nan})
    assert found is ALL[1]


def test_rounding_is_no_disagreement():
    found, results = judged(ALL, {"a large": 1e-7})
    assert found is ALL[0]
    assert len(results.asked) == 2


def test_most_of_them_decide_where_the_reference_takes_too_long(monkeypatch, caplog):
    monkeypatch.setattr(referee, "MOST_FLOPS", 1)
    monkeypatch.setattr(referee, "failure_of", None)
    with caplog.at_level(logging.WARNING, "jitinfer"):
        found, _ = judged(ALL, {"a large": 0.5})
    assert found is ALL[1]
    assert "3 of 3 others give something else" in caplog.text


def test_without_any_that_is_right_the_fastest_is_taken_with_a_warning(caplog):
    faults = {f"{each.family} {each.config['tile']}": 1.0 + i for i, each in enumerate(ALL)}
    with caplog.at_level(logging.WARNING, "jitinfer"):
        found, _ = judged(ALL, faults)
    assert found is ALL[0]
    assert "taken all the same" in caplog.text


class TestDisagreement:
    def test_of_integers(self):
        builder = Builder()
        (node,) = builder.build(ops.equal(builder.input("x", (4,), "int32"), builder.input("y", (4,), "int32"))).nodes
        one = numpy.array([True, False, True, True])
        assert disagreement(node, [one], [one]) == ""
        assert disagreement(node, [one], [~one]) == "4 of 4 values differ"

    def test_infinities_and_what_is_no_number(self):
        node = product(1, 1, 3)
        special = numpy.array([[numpy.inf, numpy.nan, 1.0]], "float32")
        assert disagreement(node, [special], [special.copy()]) == ""
        assert "NaN or infinity" in disagreement(node, [special], [-special])
        assert "NaN or infinity" in disagreement(node, [special], [numpy.ones_like(special)])

    @pytest.mark.parametrize("place", [0, 70_000, 99_999])
    def test_of_arrays_that_are_looked_at_in_pieces(self, place):
        """The largest value, by which the gap is measured, is elsewhere."""
        node = product(1000, 1, 100)
        right = numpy.random.default_rng(0).standard_normal((1000, 100)).astype("float32")
        right.reshape(-1)[50_000] = 1000.0
        limit = node_tolerance(node) * 1000.0
        for factor, found in ((0.9, False), (1.1, True)):
            wrong = right.copy()
            wrong.reshape(-1)[place] += factor * limit
            text = disagreement(node, [wrong], [right])
            assert ("of at most 1.000e+03" in text) == bool(text) == found
        wrong.reshape(-1)[place] = numpy.nan
        assert "NaN or infinity" in disagreement(node, [wrong], [right])

    def test_narrow_dtypes(self):
        node = product(dtype="bfloat16")
        (right,) = evaluate_node(node, [numpy.ones(v.shape, "float32").astype(v_dtype(v)) for v in node.inputs])
        assert disagreement(node, [right], [right]) == ""
        wrong = right.copy()
        wrong[0, 0] = 0
        assert "they differ by" in disagreement(node, [wrong], [right])


def v_dtype(value):
    from jitinfer.graph.types import numpy_dtype

    return numpy_dtype(value.dtype)


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", ["matmul", "softmax"])
def test_on_a_device_all_offers_agree(op, dtype):
    builder = Builder()
    x = builder.input("x", (300, 520), dtype)
    graph = builder.build(
        ops.softmax(x, axis=-1) if op == "softmax" else ops.matmul(x, builder.input("y", (520, 264), dtype))
    )
    (node,) = graph.nodes
    target, device = device_target(), Device.of(0)
    rotation = Rotation([node], target)
    weights = rotation.weights(device)
    results = []
    for family, config in offers(node, target)[:6]:
        made = start(node, family, config, device_compiler()).result()
        assert isinstance(made, Choice)
        results.append(outputs_of(rotation.plan([(node, made)]), weights, device))
    weights.close()
    (expected,) = evaluate_node(node, [each.astype("float64") for each in samples_for(node)], "float64")
    for each in results:
        assert disagreement(node, each, [expected.astype(v_dtype(node.output))]) == ""
