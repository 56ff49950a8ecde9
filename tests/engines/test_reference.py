"""engine="reference": the graph after its passes, by NumPy, behind the same decorator."""

import logging

import numpy
import paddle
import pytest
from models import build, dit
from reference import MLP, assert_same

import jitinfer
from jitinfer.errors import OptionError
from jitinfer.graph import ops
from jitinfer.passes import GraphPass, RewritePass, chosen, default, graph_pass, is_graph_pass, pass_named


def compiled(target, **options):
    return jitinfer.inference(target, engine="reference", fallback="error", **options)


def test_a_layer_gives_the_dynamic_results():
    model = MLP()
    model.eval()
    x = paddle.randn([3, 8])
    expected = model(x)
    assert_same(compiled(model)(x), expected)
    assert_same(model(x, residual=False), MLP.forward(model, x, residual=False))


def test_a_diffusion_transformer():
    case = build(dit)
    expected = case.function(**case.tensors, **case.arguments)
    actual = compiled(case.layer)(**case.tensors, **case.arguments)
    assert_same(actual, expected, relative=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int32", "bool"])
def test_dtypes_come_back_as_they_are(dtype):
    x = paddle.to_tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 5.0]]).astype(dtype)

    def function(x):
        return paddle.concat([x, x], axis=0)

    result = compiled(function)(x)
    assert result.dtype == x.dtype
    assert numpy.array_equal(result.astype("float32").numpy(), numpy.tile(x.astype("float32").numpy(), (2, 1)))


def test_new_weights_are_taken_up():
    model = MLP()
    model.eval()
    x = paddle.randn([3, 8])
    fast = compiled(model)
    fast(x)
    with paddle.no_grad():
        model.first.weight.set_value(paddle.randn(model.first.weight.shape))
    assert_same(fast(x), MLP.forward(model, x))


def test_dynamic_shapes_share_one_program():
    def function(x):
        return paddle.nn.functional.softmax(x * 2.0, axis=-1)

    fast = compiled(function, dynamic_shapes={"x": {0: None}})
    for rows in (2, 5, 3):
        x = paddle.randn([rows, 4])
        assert_same(fast(x), function(x))


def test_what_has_no_reference_runs_dynamically(caplog):
    def function(x):
        return paddle.linalg.inv(x) * 2.0

    x = paddle.eye(3) * 2.0
    with caplog.at_level(logging.WARNING):
        result = jitinfer.inference(function, engine="reference")(x)
    assert_same(result, function(x))
    assert "pd_op.inverse has no reference" in caplog.text


def ensure(name, cls):
    if not is_graph_pass(name):
        graph_pass(name)(cls)


class DoubleTanh(RewritePass):
    """Wrong on purpose."""

    def pattern(self, x):
        return ops.tanh(x)

    def replace(self, m):
        return ops.sigmoid(m.x) * 2.0


class Seen(GraphPass):
    graphs = ()

    def run(self, graph):
        Seen.graphs = (*Seen.graphs, graph)
        return graph, 0


def test_a_wrong_pass_of_the_user_is_found_out():
    ensure("double_tanh", DoubleTanh)

    def function(x):
        return paddle.tanh(x)

    x = paddle.randn([4])
    assert_same(compiled(function, passes=["default", "double_tanh"])(x), function(x))
    assert_same(compiled(function, passes="double_tanh")(x), function(x))
    with pytest.raises(AssertionError):
        assert_same(compiled(function, passes="double_tanh", verify="never")(x), function(x))


def test_the_users_passes_run_in_their_order():
    ensure("seen", Seen)

    def function(x):
        return paddle.matmul(x, x) + x

    x = paddle.randn([4, 4])
    Seen.graphs = ()
    compiled(function, passes=["seen", "default", "seen"])(x)
    before, after = Seen.graphs
    assert before.counts()["matmul"] == 1
    assert after.counts()["linear"] == 1
    Seen.graphs = ()
    compiled(function, passes=["default", "seen"], delete_pass_lists=["form_linear"])(x)
    assert Seen.graphs[0].counts()["matmul"] == 1


def test_the_list_of_passes():
    ensure("seen", Seen)
    assert chosen() == chosen(["inplace_pass"]) == default()
    assert chosen(["seen"]) == ["seen"]
    assert chosen(["seen", "default"]) == ["seen", *default()]
    assert chosen(["inplace_pass", "simplify"], ["simplify"]) == []
    assert "form_linear" not in chosen((), ["form_linear", "inplace_pass"])
    assert pass_named("seen").name == "seen"


def test_graph_passes_do_not_concern_the_paddle_engine():
    model = MLP()
    model.eval()
    x = paddle.randn([3, 8])
    expected = model(x)
    fast = jitinfer.inference(model, engine="paddle", fallback="error", passes=["simplify"])
    assert_same(fast(x), expected)
    with pytest.raises(OptionError, match="no pass 'no_such_pass'"):
        jitinfer.inference(model, engine="reference", passes="no_such_pass")
