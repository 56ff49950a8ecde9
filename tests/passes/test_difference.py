"""What a pass has changed, as people read it: unchanged nodes stay out, and values keep their names."""

from collections import Counter

import pytest
from graphs import imported
from model_graphs import model_graph
from models import dit, unet

from jitinfer.graph import Builder, Origin, ops, parse, to_text
from jitinfer.passes import default, run_passes
from jitinfer.passes.difference import difference


def step(graph, *names):
    _, report = run_passes(graph, names, check=True)
    return report.steps[-1]


def perceptron():
    builder = Builder()
    x, w, b = builder.input("x", (5, 8)), builder.parameter("w", (8, 6)), builder.parameter("b", (6,))
    builder.origin = Origin("model.py:3", "/Linear_0")
    product = ops.matmul(x, w)
    builder.origin = Origin("model.py:4", "/Linear_0")
    y = product + b
    builder.origin = Origin("other.py:9", "/Act_0")
    y = ops.tanh(y)
    builder.origin = Origin()
    return builder.build(ops.exp(y) + ops.sin(y))


def test_the_readers_of_what_was_replaced_do_not_appear():
    assert step(perceptron(), "form_linear").diff() == (
        "model.py:3 in /Linear_0\n"
        "- %matmul_0: float32[5, 6] = matmul(%x, %w)\n"
        "+ %matmul_0: float32[5, 6] = linear(%x, %w)\n"
    )


def test_a_node_of_another_line_or_layer_says_so():
    assert step(perceptron(), "form_linear", "fuse_linear_bias").diff() == (
        "model.py:3 in /Linear_0\n"
        "- %matmul_0: float32[5, 6] = linear(%x, %w)\n"
        "- %add_0: float32[5, 6] = add(%matmul_0, %b)  # line 4\n"
        "+ %add_0: float32[5, 6] = linear(%x, %w, %b)\n"
    )
    builder = Builder()
    x = builder.input("x", (4,))
    builder.origin = Origin("model.py:3", "/Gate_0")
    y = ops.sigmoid(x)
    builder.origin = Origin("other.py:9")
    assert step(builder.build(x * y), "form_silu").diff() == (
        "other.py:9\n"
        "- %sigmoid_0: float32[4] = sigmoid(%x)  # model.py:3 in /Gate_0\n"
        "- %multiply_0: float32[4] = multiply(%x, %sigmoid_0)\n"
        "+ %multiply_0: float32[4] = silu(%x)\n"
    )


def test_places_are_told_apart_and_in_order():
    builder = Builder()
    y = builder.input("x", (4, 4))
    for line in (1, 2, 3):
        builder.origin = Origin(f"model.py:{line}")
        y = ops.matmul(y, builder.parameter(f"w_{line}", (4, 4)))
    places = list(difference(*_before_after(builder.build(y), "form_linear")))
    assert [place.origin.place for place in places] == ["model.py:1", "model.py:2", "model.py:3"]
    assert all((len(place.gone), len(place.come)) == (1, 1) for place in places)


def test_duplicates():
    builder = Builder()
    x = builder.input("x", (4,))
    graph = builder.build(ops.exp(x) + ops.exp(x))
    assert step(graph, "merge_duplicates").diff() == (
        "nowhere in the model\n"
        "- %exp_1: float32[4] = exp(%x)\n"
        "- %add_0: float32[4] = add(%exp_0, %exp_1)\n"
        "+ %add_0: float32[4] = add(%exp_0, %exp_0)\n"
    )


def test_what_only_goes():
    graph = parse(
        "graph(%x: float32[4]) parameters() {\n  %a: float32[4] = exp(%x)\n  %b: float32[4] = sin(%a)\n"
        "  %c: float32[4] = cos(%x)\n  return %c\n}\n"
    )
    assert step(graph, "eliminate_dead_nodes").diff() == (
        "nowhere in the model\n- %a: float32[4] = exp(%x)\n- %b: float32[4] = sin(%a)\n"
    )


def test_nothing():
    assert step(perceptron(), "fuse_attention").diff() == ""


def test_inside_of_control_flow():
    import paddle

    def function(x):
        if x.sum() > 0:
            x = paddle.nn.functional.sigmoid(x) * x
        return paddle.exp(x)

    graph = imported(function, {"x": paddle.ones([4])}).graph
    (place,) = difference(*_before_after(graph, "eliminate_dead_nodes", "form_silu"))
    assert place.inside.startswith("then of %conditional")
    assert [line.text.rpartition("= ")[2].partition("(")[0] for line in place.gone] == ["sigmoid", "multiply"]
    assert [line.text.rpartition("= ")[2].partition("(")[0] for line in place.come] == ["silu"]


def test_what_moves_to_the_prologue():
    builder = Builder()
    x, w = builder.input("x", (5, 8)), builder.parameter("w", (6, 8))
    graph = builder.build(ops.matmul(x, ops.transpose(w, permutation=(1, 0))))
    assert step(graph, "weight_prologue").diff() == (
        "what the graph is given\n"
        "- parameter %w: float32[6, 8]\n"
        "+ parameter %transpose_0: float32[8, 6] = %transpose_0 of the prologue\n"
        "\n"
        "nowhere in the model\n"
        "- %transpose_0: float32[8, 6] = transpose(%w, permutation=(1, 0))\n"
        "\n"
        "prologue\n"
        "+ %transpose_0: float32[8, 6] = transpose(%w, permutation=(1, 0))\n"
    )


def _before_after(graph, *names):
    last = step(graph, *names)
    return last.before, last.after


@pytest.mark.parametrize("builder", [dit, unet])
def test_every_change_of_a_model_appears_once(builder):
    _, report = run_passes(model_graph(builder).graph, default())
    for each in report.steps:
        places = [place for place in difference(each.before, each.after) if not place.inside]
        gone = [line.text for place in places for line in place.gone]
        come = [line.text for place in places for line in place.come]
        assert max([*Counter(gone).values(), *Counter(come).values()], default=1) == 1
        assert not set(gone) & set(come)
        assert len(each.before.nodes) - len(gone) == len(each.after.nodes) - len(come), each.name
        text = to_text(each.before, constants=False)
        assert all(f"  {line}" in text for line in gone)
        assert bool(each.diff()) == (each.before is not each.after)
