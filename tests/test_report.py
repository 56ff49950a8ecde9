"""What `explain()` tells of the passes."""

import re

import paddle
import pytest
from reference import MLP

import jitinfer
from jitinfer.errors import PassError


def explained(model, x, *, engine="reference", **options):
    model.eval()
    jitinfer.inference(model, engine=engine, fallback="error", **options)
    model(x)
    return model.forward


PASSES = ("eliminate_dead_nodes", "form_rms_norm", "form_linear", "fuse_attention", "fuse_linear_bias")


def test_what_each_pass_did():
    text = explained(MLP(), paddle.randn([3, 8]), passes=PASSES).explain()
    rows = re.findall(r"^   (\w+) +(\d+) +(\d+) -> (\d+) +[\d.]+ ms$", text, re.MULTILINE)
    assert rows == [
        ("eliminate_dead_nodes", "4", "10", "6"),
        ("form_linear", "2", "6", "6"),
        ("fuse_linear_bias", "2", "6", "4"),
        ("all", "8", "10", "4"),
    ]
    assert re.search(r"^   2 that found nothing +[\d.]+ ms$", text, re.MULTILINE)
    assert "passes on the program" not in text
    assert "matmul(" not in text


def test_the_default_passes_are_told():
    function = explained(MLP(), paddle.randn([3, 8]))
    (specialization,) = function.specializations
    (graph,) = specialization.executable.history.graphs
    assert [step.name for step in graph.report.steps] == jitinfer.passes.default()


def test_passes_of_paddle_are_told_apart():
    options = {"passes": ["common_subexpression_elimination_pass", "default"]}
    function = explained(MLP(), paddle.randn([3, 8]), **options)
    assert re.search(r"common_subexpression_elimination_pass +Paddle +16 -> 13 ", function.explain())


def test_the_changes_of_one_pass():
    function = explained(MLP(), paddle.randn([3, 8]))
    text = function.explain(passes="form_linear")
    line = MLP.forward.__code__.co_firstlineno + 1
    assert f"reference.py:{line} in /Linear_0\n     - %matmul_0: float32[3, 16] = matmul(" in text
    assert "= add(" not in text
    several = function.explain(passes=["form_linear", "fuse_linear_bias"])
    assert "= add(" in several
    everything = function.explain(passes=True)
    assert text.partition("   form_linear\n\n")[2] in everything
    assert 'activation="gelu"' in everything


def test_the_graph():
    text = explained(MLP(), paddle.randn([3, 8]), passes=["eliminate_dead_nodes"]).explain(graph=True)
    assert "the graph\n\n     graph(%in_0: float32[3, 8]) parameters(" in text
    assert "= gelu(%add_0)  # " in text


def test_a_pass_that_did_not_run():
    function = explained(MLP(), paddle.randn([3, 8]), delete_pass_lists=["form_linear"])
    with pytest.raises(PassError, match=r"no graph pass 'form_linear' ran for MLP.forward; those that did are elim"):
        function.explain(passes="form_linear")


def test_an_engine_without_a_graph():
    function = explained(MLP(), paddle.randn([3, 8]), engine="paddle", verify="never")
    assert "passes on" not in function.explain(passes=True)
    with pytest.raises(PassError, match="it runs without a graph"):
        function.explain(passes="form_linear")


def test_before_the_first_call():
    assert jitinfer.inference(lambda x: x, engine="reference").explain(passes="simplify").endswith("called yet.\n")


def test_several_shapes_are_told_apart():
    function = jitinfer.inference(
        lambda x: paddle.reshape(paddle.reshape(x, [-1]), [-1, 4]) + paddle.tanh(x),
        engine="reference",
        fallback="error",
        dynamic_shapes={"x": {0: None}},
    )
    for rows in (2, 3):
        function(paddle.randn([rows, 4]))
    text = function.explain(passes="simplify")
    for rows in (2, 3):
        assert f"passes on the graph for [{rows}, 4] " in text
        assert f"simplify for [{rows}, 4]\n" in text


def test_in_a_notebook():
    html = explained(MLP(), paddle.randn([3, 8]))._repr_html_()
    assert "<details><summary>passes for x: float32[3, 8]</summary><pre>" in html
    assert "form_linear" in html
    assert " -&gt; " in html
