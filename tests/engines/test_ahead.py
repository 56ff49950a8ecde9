"""The device computes while state and weights are looked at: nothing of that may be seen."""

import threading

import paddle
import pytest
from copies import Moves
from fake_driver import installed
from reference import assert_same

import jitinfer
from jitinfer.kernels import catalogue
from jitinfer.runtime.executor import Executor


class Shaped(paddle.nn.Layer):
    """Gives its input and its weight back, in shapes that an attribute says."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([6, 4], default_initializer=paddle.nn.initializer.Normal())
        self.rows = 4

    def forward(self, x):
        return {"x": paddle.reshape(x, [self.rows, -1]), "weight": paddle.reshape(self.weight, [self.rows, -1])}


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (Moves(),))
    with installed(monkeypatch) as fake:
        yield fake


@pytest.fixture
def layer(cuda):
    found = jitinfer.inference(Shaped(), engine="cuda", tune="off", fallback="error")
    found.eval()
    require_right(found)
    return found


@pytest.fixture
def begun(monkeypatch):
    """Counts what is begun and finished."""
    counts = {"begin": 0, "finish": 0}

    def counted(name):
        plain = getattr(Executor, name)

        def call(self, *arguments):
            counts[name.strip("_")] += 1
            return plain(self, *arguments)

        monkeypatch.setattr(Executor, name, call)

    counted("begin")
    counted("_finish")
    return counts


def require_right(layer):
    x = paddle.randn([6, 4])
    found, wanted = layer(x), layer.forward.function(x)
    for name in ("x", "weight"):
        assert_same(found[name], wanted[name])


def test_a_call_runs_once(layer, begun):
    for calls in range(1, 4):
        require_right(layer)
        assert begun == {"begin": calls, "finish": calls}
    assert layer.forward.specializations[0].calls == 4


def test_what_was_begun_for_another_state_is_thrown_away(layer, begun):
    layer.rows = 8
    require_right(layer)
    assert len(layer.forward.specializations) == 2
    assert begun["begin"] == begun["finish"] + 1
    layer.rows = 4
    require_right(layer)


@pytest.mark.parametrize("count", [1, 3])
def test_weights_that_changed_are_seen_by_the_same_call(layer, begun, count):
    for _ in range(count):
        layer.weight.set_value(paddle.randn([6, 4]))
        require_right(layer)
    layer.weight = layer.create_parameter([6, 4], default_initializer=paddle.nn.initializer.Normal())
    require_right(layer)
    assert begun["begin"] > begun["finish"]
    assert len(layer.forward.specializations) == 1


def test_an_error_while_looking_lets_others_go_on(layer, monkeypatch):
    (specialization,) = layer.forward.specializations
    x = paddle.randn([6, 4])
    with monkeypatch.context() as patched:
        patched.setattr(type(specialization.weights), "changed", lambda self: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            layer(x)
    thread = threading.Thread(target=require_right, args=(layer,))
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_device_that_fails_meanwhile(cuda):
    layer = jitinfer.inference(Shaped(), engine="cuda", tune="off")
    require_right(layer)
    cuda.lost = True
    require_right(layer)
    assert layer.forward.specializations[0].executable is None


def test_many_threads(layer):
    failures = []

    def work():
        try:
            for _ in range(20):
                require_right(layer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert failures == []
