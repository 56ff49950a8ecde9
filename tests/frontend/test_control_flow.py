"""Branches and loops of a traced function: nested graphs where they depend on data, followed where not."""

import weakref

import paddle
import pytest
from graphs import imported
from paddle.base import core

from jitinfer.graph.parser import parse
from jitinfer.passes import run_passes

LINEAR = paddle.nn.Linear(4, 4)


def two_branches(x):
    if x.sum() > 0:
        y = LINEAR(x) * 2
        z = x + 1
    else:
        y = x - 1
        z = y
    return y + z


def one_branch(x):
    if x.sum() > 0:
        x = paddle.transpose(x, [1, 0]).reshape([2, 4])
    return x * 3


def nested_loops(x, n):
    i = paddle.zeros([1], "int32")
    while i < n:
        j = paddle.zeros([1], "int32")
        while j < n:
            x = x + 0.1 * paddle.tanh(LINEAR(x))
            j = j + 1
        i = i + 1
    return x


def branch_in_a_loop(x, n):
    total = paddle.zeros_like(x)
    i = paddle.zeros([], "int32")
    while i < n:
        if i % 2 == 0:  # noqa: SIM108 (Paddle translates statements, not expressions)
            total = total + x * 2
        else:
            total = total - LINEAR(x)
        i = i + 1
    return total


def counted(x):
    i = paddle.zeros([1], "int32")
    while i < 3:
        x = x + x.mean()
        i = i + 1
    return x


def known_branch(x):
    if paddle.full([], 1.0) > 0:
        return x + 1
    return x - 1


def only_for_paddle(x):
    if x.sum() > 0:  # noqa: SIM108
        y = paddle.unique(x)[:1] * x
    else:
        y = x
    return y * 2


def of_any_length(x):
    if x.sum() > 0:  # noqa: SIM108
        y = paddle.unique(x)
    else:
        y = x.flatten()
    return y * 2


def number(n):
    return paddle.to_tensor(n, dtype="int32")


def positive():
    return paddle.rand([2, 4]) + 0.1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("function", [two_branches, one_branch])
def test_a_branch_on_data_is_a_nested_graph(function, sign):
    case = imported(function, {"x": sign * positive()}, layer=LINEAR)
    assert case.graph.counts()["conditional"] == 1
    assert case.error_of(case.graph) < 1e-6
    after, _ = run_passes(case.graph, check=True)
    assert case.error_of(after) < 1e-6


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("function", [nested_loops, branch_in_a_loop])
def test_a_loop_on_data_is_a_nested_graph(function, n):
    case = imported(function, {"x": positive(), "n": number(n)}, layer=LINEAR)
    assert case.graph.counts()["while_loop"] == 1
    assert case.error_of(case.graph) < 1e-6
    after, _ = run_passes(case.graph, check=True)
    assert case.error_of(after) < 1e-6
    assert parse(str(after)).hash == after.hash


def test_no_object_that_borrows_memory_is_left_when_a_loop_gets_its_results(monkeypatch):
    """pybind11 would give it out for one of them, where they come to lie at its address."""
    borrowed, left = [], []
    arguments, update = core.pir.Block.args, core.pir.WhileOp.optimize_update

    def args(block):
        found = arguments(block)
        borrowed.extend(map(weakref.ref, found))
        return found

    def optimize_update(loop):
        left.append(sum(each() is not None for each in borrowed))
        return update(loop)

    monkeypatch.setattr(core.pir.Block, "args", args)
    monkeypatch.setattr(core.pir.WhileOp, "optimize_update", optimize_update)
    case = imported(nested_loops, {"x": positive(), "n": number(1)}, layer=LINEAR)
    assert case.error_of(case.graph) < 1e-6
    assert len(borrowed) == 8  # two loops with two arguments each, asked for twice
    assert left == [0, 0]
    assert core.pir.Block.args is args


def test_passes_reach_into_branches_and_bodies():
    case = imported(two_branches, {"x": positive()}, layer=LINEAR)
    after, _ = run_passes(case.graph)
    assert "linear" in {node.op.name for node in after.walk()}
    assert "linear" not in after.counts()


def test_what_depends_on_constants_alone_is_followed():
    for function in (counted, known_branch):
        case = imported(function, {"x": positive()})
        assert not {"conditional", "while_loop"} & set(case.graph.counts())
        assert case.error_of(case.graph) < 1e-6


def test_a_branch_may_hold_what_only_paddle_knows():
    case = imported(only_for_paddle, {"x": positive()})
    assert "pd_op.unique" in case.opaque
    assert (case.graph.counts()["conditional"], case.graph.counts()["paddle"]) == (1, 0)
    assert case.graph.outputs[0].shape == (2, 4)


def test_branches_of_any_length_go_to_paddle_as_a_whole():
    case = imported(of_any_length, {"x": positive()})
    assert case.opaque == {"pd_op.if", "pd_op.scale"}
    node, _ = [each for each in case.graph.nodes if each.op.name == "paddle"]
    assert [value.name for value in node.inputs[1:]] == ["in_0"]
    assert str(node.output.type) == "float32[?]"
