"""What `paddle.incubate.jit.inference` 3.3.1 gets wrong, one test each, and Paddle's own tests for it."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import numpy
import paddle
import pytest
from reference import MLP, assert_same, compiled

import jitinfer


def run_python(source, tmp_path, **environment):
    """Run a script in a process of its own, which shares this test's cache; its standard output."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "JITINFER_CACHE_DIR": str(tmp_path / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_second_process_hits_the_disk_cache(tmp_path):
    source = """
        import paddle, jitinfer, logging, io
        log = io.StringIO()
        logging.basicConfig(level=logging.INFO, stream=log, force=True)
        logging.getLogger("jitinfer").setLevel(logging.INFO)
        class Net(paddle.nn.Layer):
            def __init__(self):
                super().__init__()
                self.fn = paddle.nn.Linear(4, 4)
            def forward(self, x):
                return self.fn(x) * 2
        paddle.seed(1)
        net = Net().eval()
        x = paddle.randn([2, 4])
        expected = net(x).numpy()
        jitinfer.inference(net, cache_static_model=True)
        assert abs(net(x).numpy() - expected).max() < 1e-5
        print("hit" if "trace found in the cache" in log.getvalue() else "miss", "traced in" in log.getvalue())
    """
    assert run_python(source, tmp_path) == "miss True\n"
    assert run_python(source, tmp_path) == "hit False\n"


def test_two_layers_whose_methods_have_one_name_stay_apart(tmp_path):
    class Plus(paddle.nn.Layer):
        def forward(self, x):
            return x + 1

    class Times(paddle.nn.Layer):
        def forward(self, x):
            return x * 3

    x = paddle.randn([2, 2])
    options = {"save_model_dir": str(tmp_path), "cache_static_model": True}
    plus, times = jitinfer.inference(Plus(), **options), jitinfer.inference(Times(), **options)
    for _ in range(2):
        assert_same(plus(x), x + 1)
        assert_same(times(x), x * 3)


def test_each_instance_has_its_own_weights():
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fn = paddle.nn.Linear(3, 3)

        @jitinfer.inference()
        def forward(self, x):
            return self.fn(x)

    one, two = Net(), Net()
    x = paddle.randn([2, 3])
    assert_same(one(x), paddle.nn.functional.linear(x, one.fn.weight, one.fn.bias))
    assert_same(two(x), paddle.nn.functional.linear(x, two.fn.weight, two.fn.bias))
    assert_same(one(x), paddle.nn.functional.linear(x, one.fn.weight, one.fn.bias))
    assert compiled(one.forward) == compiled(two.forward) == 1


def update_set_value(layer):
    layer.first.weight.set_value(layer.first.weight.numpy() * 2)


def update_state_dict(layer):
    layer.set_state_dict({name: paddle.to_tensor(value.numpy() + 0.5) for name, value in layer.state_dict().items()})


def update_in_place(layer):
    with paddle.no_grad():
        layer.second.bias.add_(paddle.ones_like(layer.second.bias))


def update_optimizer(layer):
    optimizer = paddle.optimizer.SGD(0.5, parameters=layer.parameters())
    MLP.forward(layer, paddle.ones([2, 8])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


def update_replaced(layer):
    layer.first.weight = layer.first.create_parameter([8, 16])


def update_copy(layer):
    layer.first.weight.copy_(paddle.ones([8, 16]), True)


@pytest.mark.parametrize(
    "update",
    [update_set_value, update_state_dict, update_in_place, update_optimizer, update_replaced, update_copy],
    ids=lambda f: f.__name__,
)
def test_updated_weights_are_seen_at_the_next_call(mlp, update):
    x = paddle.randn([2, 8])
    jitinfer.inference(mlp)
    mlp(x)
    before = mlp(x)
    update(mlp)
    expected = MLP.forward(mlp, x)
    assert not numpy.allclose(before.numpy(), expected.numpy())
    assert_same(mlp(x), expected)
    assert_same(mlp(x), expected)
    assert compiled(mlp.forward) == 1


def test_a_changed_bool_changes_the_result(mlp):
    jitinfer.inference(mlp)
    x = paddle.randn([2, 8])
    for residual in (True, False, True):
        assert_same(mlp(x, residual), MLP.forward(mlp, x, residual))
    assert compiled(mlp.forward) == 2


def test_none_then_a_tensor_also_after_a_restart(tmp_path):
    source = """
        import sys, paddle, jitinfer
        @jitinfer.inference(cache_static_model=True)
        def add(x, bias=None):
            return x if bias is None else x + bias
        x = paddle.ones([2])
        calls = {"none": lambda: add(x), "tensor": lambda: add(x, x)}
        print([float(calls[name]().sum()) for name in sys.argv[1:] or ORDER])
    """
    assert run_python(source.replace("ORDER", "['none', 'tensor']"), tmp_path) == "[2.0, 4.0]\n"
    assert run_python(source.replace("ORDER", "['tensor', 'none']"), tmp_path) == "[4.0, 2.0]\n"


def test_a_list_of_another_length():
    total = jitinfer.inference(lambda parts: sum(parts[1:], parts[0]))
    x = paddle.randn([3])
    for count in (2, 4, 1, 2):
        assert_same(total([x] * count), x * count)


def test_another_dtype():
    double = jitinfer.inference(lambda x: x * 2)
    for dtype in ("float32", "float64", "int32", "int64"):
        x = paddle.arange(6).astype(dtype)
        assert_same(double(x), x * 2)
    assert compiled(double) == 4


def test_arguments_of_every_kind():
    @jitinfer.inference
    def combine(x, count, factor, *rest, mode="plus", nested=None, **extra):
        y = x * factor + count
        for each in rest:
            y = y + each
        y = y + nested["tensors"][0] * nested["power"] if nested else y
        for name in sorted(extra):
            y = y - extra[name]
        return y if mode == "plus" else -y

    x = paddle.randn([3])
    calls = [
        ((x, 2, 1.5), {}),
        ((x, 3, 1.5), {}),
        ((x, 3, 2.5), {"mode": "minus"}),
        ((x, 3, 2.5, x, x), {}),
        ((x,), {"factor": 1.5, "count": 2}),
        ((x, 1, 1.0), {"nested": {"tensors": [x, x], "power": 2}}),
        ((x, 1, 1.0), {"nested": {"tensors": [x, x], "power": 3}}),
        ((x, 1, 1.0), {"a": x, "b": x}),
    ]
    for args, kwargs in calls * 2:
        assert_same(combine(*args, **kwargs), combine.function(*args, **kwargs))
    assert compiled(combine) == 7  # the fifth call is the first one in another spelling


def test_a_missing_argument_is_named():
    function = jitinfer.inference(lambda x, mask: x + mask)
    with pytest.raises(
        jitinfer.ArgumentError, match=r"missing a required argument: 'mask'.*test_replaces_incubate.py:"
    ):
        function(paddle.ones([2]))
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'maks'"):
        function(paddle.ones([2]), paddle.ones([2]), maks=paddle.ones([2]))


def test_output_structures_come_back_whole():
    @dataclasses.dataclass
    class Output:
        sample: paddle.Tensor
        scale: float
        rest: tuple

    @jitinfer.inference
    def forward(x):
        return {"out": Output(x * 2, 0.5, (x + 1, [None, "text", x])), "n": 3}

    x = paddle.randn([2, 3])
    for _ in range(2):
        result = forward(x)
        assert_same(result, forward.function(x))
        assert result["out"].rest[1][1] == "text"
    assert compiled(forward) == 1


def test_a_free_function_under_the_decorator():
    @jitinfer.inference()
    def square(x):
        """The square."""
        return x * x

    assert square.__name__ == "square"
    assert square.__doc__ == "The square."
    x = paddle.randn([4])
    assert_same(square(x), x * x)


def test_the_receiver_may_have_any_name():
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.fn = paddle.nn.Linear(3, 3)

        @jitinfer.inference
        def forward(this, x):
            return this.fn(x)

    net = Net()
    x = paddle.randn([2, 3])
    assert_same(net(x), net.fn(x))
    assert compiled(net.forward) == 1


def test_functions_without_source():
    scope = {}
    exec("def triple(x):\n    return x * 3\n", scope)
    function = jitinfer.inference(scope["triple"])
    x = paddle.randn([2])
    assert_same(function(x), x * 3)
    assert compiled(function) == 1


def test_nothing_is_printed_and_the_environment_stays(capfd, mlp):
    before = dict(os.environ)
    jitinfer.inference(mlp)
    x = paddle.randn([2, 8])
    mlp(x)
    mlp(x)
    assert capfd.readouterr().out == ""
    assert dict(os.environ) == before


# -- Paddle's own tests of its decorator, in this library's terms ----------------------------------------------------


class Paddles(paddle.nn.Layer):
    def __init__(self, width):
        super().__init__()
        self.fn = paddle.nn.Linear(width, width, bias_attr=True)

    def forward(self, x):
        for _ in range(5):
            x = paddle.nn.functional.softmax(x, -1)
        x = x.cast("float32")
        return self.func(x)

    def func(self, x):
        return self.fn(x)


class PaddlesList(paddle.nn.Layer):
    def __init__(self, width):
        super().__init__()
        self.fn = paddle.nn.Linear(width, width, bias_attr=True)

    def forward(self, pair):
        x = pair[0]
        for _ in range(5):
            x = paddle.nn.functional.softmax(x, -1)
        return self.fn(x.cast("float32")) + pair[1]


def test_paddles_layer():
    layer = Paddles(64)
    x = paddle.rand([256, 64])
    expected = layer(x)
    jitinfer.inference(layer)
    assert_same(layer(x), expected)


def test_paddles_inner_method_with_another_batch():
    layer = Paddles(64)
    x, y = paddle.rand([256, 64]), paddle.rand([257, 64])
    expected = layer(x), layer(y)
    layer.func = jitinfer.inference(layer.func)
    assert_same((layer(x), layer(y)), expected)
    assert compiled(layer.func) == 2


def test_paddles_list_of_inputs():
    layer = PaddlesList(64)
    x = paddle.rand([256, 64])
    expected = layer([x, x])
    jitinfer.inference(layer)
    assert_same(layer([x, x]), expected)


def test_paddles_tensorrt_is_refused_where_there_is_none():
    assert paddle.inference.get_trt_compile_version() == (0, 0, 0)
    with pytest.raises(jitinfer.OptionError, match=r"with_trt=True at .*no TensorRT"):
        jitinfer.inference(Paddles(4), with_trt=True)
