"""What a program depends on besides its arguments: a change is seen at the next call, and nothing is held back."""

import gc
import threading
import weakref

import numpy
import paddle
import pytest
from reference import MLP, assert_same, compiled

import jitinfer

FACTOR = 2.0


def scaled(x):
    return x * FACTOR


def test_a_changed_global(monkeypatch):
    function = jitinfer.inference(scaled)
    x = paddle.randn([3])
    assert_same(function(x), x * 2.0)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert_same(function(x), x * 3.0)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert_same(function(x), x * 2.0)
    assert compiled(function) == 2


def helper(x):
    return x + 1


def uses_helper(x):
    return helper(x) * 2


def test_a_redefined_helper(monkeypatch):
    function = jitinfer.inference(uses_helper)
    x = paddle.randn([3])
    assert_same(function(x), (x + 1) * 2)
    monkeypatch.setitem(globals(), "helper", lambda x: x - 5)
    assert_same(function(x), (x - 5) * 2)


def test_a_changed_closure():
    offset = 1.0
    tensor = paddle.ones([3])

    @jitinfer.inference
    def function(x):
        return x + offset + tensor

    x = paddle.randn([3])
    assert_same(function(x), x + 2)
    offset = 5.0
    assert_same(function(x), x + 6)
    tensor = paddle.full([3], 10.0)
    assert_same(function(x), x + 15)
    tensor.add_(tensor)
    assert_same(function(x), x + 25)
    assert compiled(function) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "scale", 3.0),
        lambda m: m.flags.update(negate=True),
        lambda m: setattr(m, "flags", {"negate": True}),
        lambda m: m.words.add("double"),
        lambda m: m.factors.append(3.0),
        lambda m: m.array.fill(2.0),
        lambda m: setattr(m, "second", paddle.nn.Linear(16, 8, bias_attr=False)),
        lambda m: setattr(m, "first", paddle.nn.Sequential(paddle.nn.Linear(8, 16), paddle.nn.ReLU())),
        lambda m: m.first.register_forward_post_hook(lambda layer, args, out: out * 2),
    ],
    ids=["attribute", "dict-in-place", "dict-replaced", "set", "list", "array", "sublayer", "sublayer-class", "hook"],
)
def test_a_changed_layer(mlp, change):
    jitinfer.inference(mlp)
    x = paddle.randn([2, 8])
    before = mlp(x)
    change(mlp)
    expected = MLP.forward(mlp, x)
    assert not numpy.allclose(before.numpy(), expected.numpy())
    assert_same(mlp(x), expected)
    assert_same(mlp(x), expected)
    assert compiled(mlp.forward) == 2


def test_an_int_that_becomes_a_float_of_equal_value(mlp):
    mlp.scale = 2
    function = jitinfer.inference(lambda x: x * mlp.scale)
    x = paddle.to_tensor([1, 2, 3])
    assert function(x).dtype == paddle.int64
    mlp.scale = 2.0
    assert function(x).dtype == (x * 2.0).dtype == paddle.float32


def test_the_training_flag():
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 4), paddle.nn.Dropout(0.5))
    jitinfer.inference(layer)
    x = paddle.ones([64, 4])
    layer.eval()
    assert_same(layer(x), layer(x))
    layer.train()
    paddle.seed(7)
    one = layer(x)
    two = layer(x)
    assert not numpy.array_equal(one.numpy(), two.numpy())
    assert (one.numpy() == 0).any()
    layer.eval()
    assert not (layer(x).numpy() == 0).any()
    assert compiled(layer.forward) == 2


def test_default_dtype_and_amp_and_shape_and_rank():
    function = jitinfer.inference(lambda x: x.matmul(x) + paddle.ones([1]))
    x = paddle.randn([4, 4])
    plain = function(x)
    paddle.set_default_dtype("float64")
    try:
        assert_same(function(x), function.function(x))
    finally:
        paddle.set_default_dtype("float32")
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        mixed, expected = function(x), function.function(x)
        mixed_again = function(x)
    assert_same(mixed, expected)
    assert_same(mixed_again, expected, relative=1e-2)
    assert_same(function(x), plain)
    for shape in ([3, 3], [2, 3, 3], [4, 4]):
        y = paddle.randn(shape)
        assert_same(function(y), function.function(y))


def test_a_specialisation_dies_with_its_instance():
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fn = paddle.nn.Linear(3, 3)

        @jitinfer.inference
        def forward(self, x):
            return self.fn(x)

    @jitinfer.inference
    def apply(layer, x):
        return layer(x)

    method, replaced, argument = Net(), paddle.nn.Linear(3, 3), MLP(3)
    jitinfer.inference(replaced)
    x = paddle.randn([2, 3])
    method(x), replaced(x), apply(argument, x)
    held = [weakref.ref(method.forward.specializations[0]), weakref.ref(apply.specializations[0])]
    held += [weakref.ref(replaced.forward.specializations[0])]
    held += [weakref.ref(each) for each in (method, replaced, argument, method.fn.weight)]
    del method, replaced, argument
    gc.collect()
    assert [each() for each in held] == [None] * len(held)
    assert apply.specializations == []


def test_the_least_recently_used_specialisation_goes():
    function = jitinfer.inference(lambda x: x * 2, max_specializations=2)
    for size in (1, 2, 1, 3):
        function(paddle.ones([size]))
    assert [each.signature for each in function.specializations] == ["x: float32[1]", "x: float32[3]"]
    assert_same(function(paddle.ones([2])), paddle.ones([2]) * 2)


def test_why_a_specialisation_was_made():
    function = jitinfer.inference(lambda x, mode="a": x * 2)
    function(paddle.ones([2, 3]))
    function(paddle.ones([4, 3]))
    function(paddle.ones([4, 3], dtype="int32"))
    function(paddle.ones([4], dtype="int32"))
    function(paddle.ones([4], dtype="int32"), mode="b")
    reasons = [each.reason for each in function.specializations]
    assert reasons == [
        "first call",
        "x.shape[0] was 2, is 4",
        "x.dtype was float32, is int32",
        "x had 2 dims, has 1",
        "mode was 'a', is 'b'",
    ]
    text = function.explain()
    assert all(reason in text for reason in reasons)
    table = function._repr_html_()
    assert "mode was &#x27;a&#x27;, is &#x27;b&#x27;" in table
    assert table.count("<tr>") == 6


def test_four_threads_on_one_function(mlp):
    """The first calls compile while the others call; the threads compare in NumPy, as Paddle itself is not theirs
    while one of them traces."""
    jitinfer.inference(mlp)
    inputs = [paddle.randn([rows, 8]) for rows in (1, 2, 3, 4)]
    expected = [MLP.forward(mlp, x).numpy() for x in inputs]
    failures = []

    def work(start):
        try:
            for step in range(40):
                which = (start + step) % 4
                numpy.testing.assert_allclose(mlp(inputs[which]).numpy(), expected[which], rtol=1e-4, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert compiled(mlp.forward) == 4


def test_a_deep_copy_has_its_own_weights(mlp):
    import copy

    jitinfer.inference(mlp)
    x = paddle.randn([2, 8])
    mlp(x)
    other = copy.deepcopy(mlp)
    other.first.weight.set_value(other.first.weight.numpy() * 3)
    assert_same(other(x), MLP.forward(other, x))
    assert_same(mlp(x), MLP.forward(mlp, x))


def test_refresh_weights_takes_over_an_edit_that_no_counter_shows():
    layer = paddle.nn.Linear(512, 512)
    layer.eval()
    jitinfer.inference(layer)
    x = paddle.ones([1, 512])
    layer(x)
    weight = layer.weight.numpy().copy()
    weight[300, 200] += 100.0
    layer.weight.set_value(weight)
    layer.forward.refresh_weights()
    assert_same(layer(x), paddle.nn.functional.linear(x, layer.weight, layer.bias))


def test_a_single_edited_element_is_found_within_some_calls():
    layer = paddle.nn.Linear(512, 512)
    layer.eval()
    jitinfer.inference(layer)
    x = paddle.ones([1, 512])
    layer(x)
    weight = layer.weight.numpy().copy()
    weight[300, 200] += 100.0
    layer.weight.set_value(weight)
    expected = paddle.nn.functional.linear(x, layer.weight, layer.bias)
    calls = next(n for n in range(1, 20) if numpy.allclose(layer(x).numpy(), expected.numpy(), atol=1e-3))
    assert calls <= 5  # 1 MB of weights, 256 KB checked at every call


def test_the_users_number_of_math_threads_stays(mlp):
    from paddle.base import core

    from jitinfer.engines.paddle import _openmp

    library = _openmp()
    assert library is not None
    jitinfer.inference(mlp)
    for threads in (2, 1, 3):
        core.set_num_threads(threads)
        mlp(paddle.ones([threads, 8]))
        assert library.omp_get_max_threads() == threads
    core.set_num_threads(1)
