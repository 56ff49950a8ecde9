"""A pass that makes a graph wrong, or fails, is found, dropped and named; the next process knows it."""

import dataclasses

import paddle
import pytest
from reference import MLP, assert_same

import jitinfer
from jitinfer.engines import graph_search
from jitinfer.engines.recipe import Recipe
from jitinfer.frontend.capture import Reference
from jitinfer.graph import ops
from jitinfer.passes import GraphPass, RewritePass, default, graph_pass, is_graph_pass
from jitinfer.passes.fuse_linear import FuseLinearBias


def ensure(name, cls):
    if not is_graph_pass(name):
        graph_pass(name)(cls)
    return name


class DropBias(RewritePass):
    def pattern(self, x, weight, bias):
        return ops.linear(x, weight, bias)

    def replace(self, m):
        return ops.linear(m.x, m.weight)


class Silu(RewritePass):
    def pattern(self, x):
        return ops.gelu(x)

    def replace(self, m):
        return ops.silu(m.x)


class Raises(GraphPass):
    def run(self, graph):
        raise ZeroDivisionError("in a pass")


class Breaks(GraphPass):
    """Forgets a node whose result others read."""

    def run(self, graph):
        return dataclasses.replace(graph, nodes=graph.nodes[1:]), 1


def mlp():
    layer = MLP()
    for linear in (layer.first, layer.second):
        linear.bias.set_value(paddle.randn(linear.bias.shape))
    layer.eval()
    return layer


def compiled(layer, folder, passes, **options):
    return jitinfer.inference(
        layer.forward, engine="reference", fallback="error", save_model_dir=str(folder), passes=passes, **options
    )


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("wrong", [DropBias, Raises, Breaks])
def test_a_wrong_pass_of_a_user(tmp_path, warnings_of, wrong, place):
    name = ensure(f"guilty_{wrong.__name__}", wrong)
    layer, x = mlp(), paddle.randn([3, 8])
    passes = [name, "default"] if place == "first" else ["default", name]
    fires = wrong is not DropBias or place == "last"  # before the default passes there is no linear
    function = compiled(layer, tmp_path, passes)
    assert_same(function(x), MLP.forward(layer, x))
    (specialization,) = function.specializations
    assert len(specialization.notes) == fires
    if fires:
        assert specialization.notes[0].startswith(f"{name} is dropped: with it, ")
        assert warnings_of() == [f"MLP.forward: {specialization.notes[0]}"]
        assert specialization.notes[0] in function.explain()
    assert_same(function(2 * x), MLP.forward(layer, 2 * x))
    layer.first.weight.set_value(paddle.randn(layer.first.weight.shape))
    assert_same(function(x), MLP.forward(layer, x))


def test_a_wrong_pass_of_this_library(tmp_path, warnings_of, monkeypatch):
    monkeypatch.setattr(FuseLinearBias, "replace", lambda self, m: ops.linear(m.x, m.weight))
    layer, x = mlp(), paddle.randn([3, 8])
    function = compiled(layer, tmp_path, ())
    assert_same(function(x), MLP.forward(layer, x))
    (warning,) = warnings_of()
    assert warning.startswith("MLP.forward: fuse_linear_bias is dropped: with it, result 0: differs by")
    (specialization,) = function.specializations
    (graph,) = specialization.executable.history.graphs
    assert [step.name for step in graph.report.steps] == [n for n in default() if n != "fuse_linear_bias"]


def test_two_wrong_passes(tmp_path, warnings_of):
    names = [ensure("guilty_DropBias", DropBias), ensure("guilty_Silu", Silu)]
    layer, x = mlp(), paddle.randn([3, 8])
    passes = ["eliminate_dead_nodes", "form_linear", "fuse_linear_bias", *names]
    assert_same(compiled(layer, tmp_path, passes)(x), MLP.forward(layer, x))
    assert sorted(warning.split()[1] for warning in warnings_of()) == sorted(names)


@pytest.fixture
def counted(monkeypatch):
    """How often a search was made, and a dynamic function run to compare with."""
    counts = {"searches": 0, "comparisons": 0}
    for cls, method, what in (
        (graph_search.GraphSearch, "search", "searches"),
        (Reference, "evaluate", "comparisons"),
    ):
        original = getattr(cls, method)

        def count(self, original=original, what=what):
            counts[what] += 1
            return original(self)

        monkeypatch.setattr(cls, method, count)
    return counts


def test_the_next_process_neither_searches_nor_compares(tmp_path, counted, monkeypatch):
    layer, x = mlp(), paddle.randn([3, 8])
    monkeypatch.setattr(FuseLinearBias, "replace", lambda self, m: ops.linear(m.x, m.weight))
    notes = []
    for searches in (1, 0, 0):
        counted.update(searches=0, comparisons=0)
        function = compiled(layer, tmp_path, ())
        assert_same(function(x), MLP.forward(layer, x))
        assert counted["searches"] == searches
        assert bool(counted["comparisons"]) == bool(searches)
        notes.append(function.specializations[0].notes)
    assert notes[0] == notes[1] == notes[2] != []
    layer.scale = 0.5  # another state: compared again
    counted.update(searches=0, comparisons=0)
    assert_same(compiled(layer, tmp_path, ())(x), MLP.forward(layer, x))
    assert counted["comparisons"]


def test_with_a_pass_of_a_user_results_are_compared_in_each_process(tmp_path, counted):
    """It may depend on more than a key can name."""
    name = ensure("guilty_DropBias", DropBias)
    layer, x = mlp(), paddle.randn([3, 8])
    for searches in (1, 0):
        counted.update(searches=0, comparisons=0)
        function = compiled(layer, tmp_path, ["default", name])
        assert_same(function(x), MLP.forward(layer, x))
        assert (counted["searches"], bool(counted["comparisons"])) == (searches, True)
        assert len(function.specializations[0].notes) == 1


class Mended(GraphPass):
    wrong = True

    def run(self, graph):
        if not self.wrong:
            return graph, 0
        return DropBias().run(graph)


def test_a_pass_that_was_mended_runs_again(tmp_path, monkeypatch):
    name = ensure("guilty_Mended", Mended)
    layer, x = mlp(), paddle.randn([3, 8])
    dropped = []
    for wrong in (True, False, True):
        monkeypatch.setattr(Mended, "wrong", wrong)
        function = compiled(layer, tmp_path, ["default", name])
        assert_same(function(x), MLP.forward(layer, x))
        dropped.append(len(function.specializations[0].notes))
    assert dropped == [1, 0, 1]


def test_another_state_may_make_another_verdict_which_is_kept(tmp_path, counted, monkeypatch):
    """Biases of zeros hide that a pass drops them."""
    monkeypatch.setattr(FuseLinearBias, "replace", lambda self, m: ops.linear(m.x, m.weight))
    x = paddle.randn([3, 8])
    hidden, layer = mlp(), mlp()
    for linear in (hidden.first, hidden.second):
        linear.bias.set_value(paddle.full(linear.bias.shape, 1e-12))
    layer.scale = hidden.scale = 0.5
    layer.flags["unread"] = True  # so that the state has another name
    seen = []
    for each in (hidden, hidden, layer, layer, hidden, hidden):
        counted.update(searches=0, comparisons=0)
        function = compiled(each, tmp_path, ())
        assert_same(function(x), MLP.forward(each, x))
        seen.append((counted["searches"], bool(counted["comparisons"]), len(function.specializations[0].notes)))
    assert seen == [(1, True, 0), (0, False, 0), (1, True, 1), (0, False, 1), (0, True, 1), (0, False, 1)]


def test_bisect(tmp_path):
    name = ensure("guilty_DropBias", DropBias)
    layer, x = mlp(), paddle.randn([3, 8])
    jitinfer.inference(layer, engine="reference", passes=["default", name])
    report = jitinfer.bisect(layer, x)
    assert [blame.name for blame in report.blamed] == [name]
    assert isinstance(report.right, Recipe)
    assert report.right.dropped == (name,)
    assert "is wrong: result 0: differs by" in report.failure
    assert f"right without them: reference, float32, without {name}; {report.attempts} configurations" in str(report)
    right = jitinfer.bisect(jitinfer.inference(MLP.forward, engine="reference"), layer, x)
    assert str(right) == "MLP.forward: right with all passes (reference, float32)"


def test_bisect_of_what_has_no_reference():
    report = jitinfer.bisect(jitinfer.inference(lambda x: paddle.linalg.inv(x), engine="reference"), paddle.eye(3))
    assert (report.blamed, report.right) == ((), None)
    assert "pd_op.inverse has no reference" in report.failure
    assert "wrong without any pass, too" in str(report)
