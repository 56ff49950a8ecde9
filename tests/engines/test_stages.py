"""Paddle's passes on the program, then graph passes on the graph, in one list of names."""

import inspect
import logging

import paddle
import pytest
from reference import MLP, assert_same

import jitinfer
from jitinfer.cache import Cache, cache_location
from jitinfer.engines import stages
from jitinfer.engines.configuration import program_passes
from jitinfer.engines.protocol import Request
from jitinfer.engines.stages import Stages
from jitinfer.engines.trial import TrialProcess
from jitinfer.errors import EngineError
from jitinfer.frontend.program_passes import Rewritten
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.graph import Origin
from jitinfer.options import resolve

X = [3, 8]


class Twice(paddle.nn.Layer):
    """Computes the same twice, and something that nobody reads."""

    def __init__(self):
        super().__init__()
        self.unread, self.linear, self.last = (paddle.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        self.unread(x)
        y = paddle.tanh(self.linear(x)) * paddle.tanh(self.linear(x))  # twice
        return paddle.exp(self.last(y))  # end


def line(of, text):
    lines, first = inspect.getsourcelines(of)
    return f"{__file__}:{first + next(i for i, each in enumerate(lines) if text in each)}"


def request_of(model, cache=None, x=X, **options):
    model.eval()
    tensors = [paddle.randn(x)]
    options = resolve({"engine": "reference", **options}, {})
    found = trace(
        lambda symbols: translated_root(model.forward)(*symbols),
        [type_of(tensor) for tensor in tensors],
        model.parameters(),
        prune=not options.skip_prune_program,
    )
    return Request(
        found.program,
        found.parameters,
        tensors,
        options,
        cache or Cache(cache_location(None)),
        None,
        lambda call: call(),
        "model",
        origins=found.origins,
    )


def graph_of(request):
    return Stages(request).graph(tuple(tuple(tensor.shape) for tensor in request.inputs))


def test_no_pass_of_paddle_runs_unless_it_is_named(monkeypatch):
    monkeypatch.setattr(stages, "trial_process", lambda: pytest.fail("a pass of Paddle runs"))
    graph = graph_of(request_of(Twice(), passes=["eliminate_dead_nodes"]))
    assert graph.counts()["tanh"] == 2


def test_those_that_are_named_run_before_the_graph_passes():
    names = ["common_subexpression_elimination_pass", "eliminate_dead_nodes"]
    request = request_of(Twice(), passes=names)
    found = Stages(request)
    graph = found.graph(((3, 8),))
    assert graph.counts()["tanh"] == 1
    (program,), (steps,) = found.history.program, found.history.graphs
    assert (program.name, program.before - program.after) == (names[0], 3)
    assert program.before == request.program.operations
    assert [step.name for step in steps.report.steps] == names[1:]
    assert (steps.shapes, steps.graph) == (((3, 8),), graph)


def test_which_passes_run_on_the_program():
    named = ["inplace_pass", "default", "simplify", "dead_code_elimination_pass", "inplace_pass"]
    assert program_passes(resolve({"passes": named}, {})) == (named[0], named[3], named[4])
    assert program_passes(resolve({"passes": named, "delete_pass_lists": "inplace_pass"}, {})) == (named[3],)
    assert program_passes(resolve({"passes": named, "switch_ir_optim": False}, {})) == ()
    assert program_passes(resolve({}, {})) == ()


def test_parameters_that_a_pass_drops_shift_the_others():
    model = Twice()
    request = request_of(model, passes=["dead_code_elimination_pass", "default"], skip_prune_program=True)
    found = Stages(request)
    read = {id(each) for layer in (model.linear, model.last) for each in layer.parameters()}
    assert len(request.parameters) == 6
    assert {id(each) for each in found.weights(request.parameters)} == read
    x = paddle.randn(X)
    expected = model(x)
    fast = jitinfer.inference(
        model,
        engine="reference",
        fallback="error",
        passes=["dead_code_elimination_pass", "default"],
        skip_prune_program=True,
    )
    assert_same(fast(x), expected)
    with paddle.no_grad():
        model.last.bias.set_value(paddle.randn([8]))
    assert_same(fast(x), Twice.forward(model, x))


def test_operations_keep_their_origins_and_new_ones_have_none():
    graph = graph_of(request_of(Twice(), passes=["matmul_add_act_fuse_pass", "eliminate_dead_nodes"]))
    origins = {}
    for node in graph.nodes:
        origins.setdefault(getattr(node, "operator", node.op.name), set()).add(node.origin)
    assert origins["tanh"] == {Origin(line(Twice.forward, "# twice"))}
    assert origins["exp"] == {Origin(line(Twice.forward, "# end"))}
    fused = {name for name in origins if name in ("pd_op.fc", "matmul")}
    assert fused
    assert all(origins[name] == {Origin()} for name in fused)


def test_graphs_of_the_engine_have_origins_without_any_pass_of_paddle():
    graph = graph_of(request_of(Twice()))
    assert all(node.origin.place for node in graph.nodes)
    assert {node.origin.layer for node in graph.nodes if node.op.name == "linear"} == {"/Linear_1", "/Linear_3"}


def test_a_pass_that_throws_is_named():
    with pytest.raises(
        EngineError, match=r"'constant_folding_pass' fails on this program: .*place attribute is required"
    ):
        Stages(request_of(MLP(), passes="constant_folding_pass"))


def test_a_pass_that_crashes_is_named_and_costs_the_child_only(tmp_path, monkeypatch):
    request = request_of(
        Twice(), Cache(tmp_path), passes=["common_subexpression_elimination_pass", "eliminate_dead_nodes"]
    )
    read_line = TrialProcess._read_line

    def killed(self, child, patience):
        child.kill()
        return read_line(self, child, patience)

    with monkeypatch.context() as patched:
        patched.setattr(TrialProcess, "_read_line", killed)
        with pytest.raises(EngineError, match=r"'common_subexpression_elimination_pass' .*died of SIGKILL"):
            Stages(request)
    assert graph_of(request).counts()["tanh"] == 1


def test_passes_for_onednn_are_refused_and_dropped(caplog):
    model = MLP()
    model.eval()
    x = paddle.randn(X)
    expected = model(x)
    with caplog.at_level(logging.WARNING):
        passes = ["matmul_elementwise_add_fuse_pass"]
        fast = jitinfer.inference(model, engine="reference", fallback="error", passes=passes)
        assert_same(fast(x), expected)
    assert "matmul_elementwise_add_fuse_pass is dropped: with it, Paddle's pass" in caplog.text
    assert "operators of oneDNN" in caplog.text


def test_a_pass_that_takes_the_results_away_is_refused():
    with pytest.raises(EngineError, match=r"'replace_fetch_with_shadow_output_pass' .* other results"):
        Stages(request_of(MLP(), passes="replace_fetch_with_shadow_output_pass"))


def test_what_the_passes_made_is_kept_on_disk(tmp_path, monkeypatch):
    model, cache = Twice(), Cache(tmp_path)
    options = {"passes": ["common_subexpression_elimination_pass"]}
    first = Stages(request_of(model, cache, **options))
    monkeypatch.setattr(stages, "trial_process", lambda: pytest.fail("the pass runs again"))
    second = Stages(request_of(model, cache, **options))
    assert first.history.program == second.history.program
    assert first.graph(((3, 8),)).hash == second.graph(((3, 8),)).hash
    with pytest.raises(pytest.fail.Exception):
        Stages(request_of(model, cache, passes=["dead_code_elimination_pass"]))


def test_dynamic_shapes_and_passes_of_paddle():
    def function(x):
        return paddle.nn.functional.softmax(x * 2.0, axis=-1) + paddle.nn.functional.softmax(x * 2.0, axis=-1)

    options = {"dynamic_shapes": {"x": {0: None}}, "passes": ["common_subexpression_elimination_pass", "default"]}
    fast = jitinfer.inference(function, engine="reference", fallback="error", **options)
    for rows in (2, 5):
        x = paddle.randn([rows, 4])
        assert_same(fast(x), function(x))
    (specialization,) = fast.specializations
    assert [each.shapes for each in specialization.executable.history.graphs] == [((2, 4),), ((5, 4),)]


def test_passes_in_a_row_as_one():
    first = Rewritten(b"", (0, 2, 3), (None, None, None, 4, 6, None, 7))
    second = Rewritten(b"end", (1, 2), (None, None, 3, None, 5, 6))
    assert second.after(first) == Rewritten(b"end", (2, 3), (None, None, 4, None, None, 7))
    assert second.after(Rewritten.nothing(b"", 3, 7)) == second


def test_an_error_names_the_line_of_the_model():
    def function(x):
        return paddle.linalg.inv(x) * 2.0  # inverse

    with pytest.raises(EngineError, match="pd_op.inverse has no reference.*at " + line(function, "# inverse")):
        jitinfer.inference(function, engine="reference", fallback="error")(paddle.eye(3) * 2.0)
