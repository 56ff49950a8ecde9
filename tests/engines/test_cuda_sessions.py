"""What the CUDA engine loads for several shapes, over a driver in host memory, whose kernels compute nothing."""

import ctypes

import numpy
import paddle
import pytest
from copies import Moves
from fake_driver import installed

import jitinfer
from jitinfer.errors import EngineError
from jitinfer.kernels import catalogue


@pytest.fixture
def cuda(monkeypatch):
    with installed(monkeypatch) as fake:
        yield fake


class Scaled(paddle.nn.Layer):
    """One weight as it is, and one that is computed of two."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (self.create_parameter([2**18]) for _ in range(3))

    def forward(self, x):
        return paddle.nn.functional.silu(x) * (self.a + self.b) + self.c


def test_two_shapes_have_their_weights_on_the_device_once(cuda):
    layer = Scaled()
    layer.eval()
    compiled = jitinfer.inference(layer, engine="cuda", verify="never", tune="off", fallback="error")
    x = paddle.randn([1, 2**18])
    compiled(x)
    executables = [found.executable for found in compiled.forward.specializations]
    before = allocated(cuda)
    executables[0].run([paddle.randn([2, 2**18])])
    (executable,) = executables
    first, second = executable._sessions.values()
    (shared,) = executable._shared.values()
    weights = shared.weights
    nbytes = 2**18 * 4
    assert weights.nbytes == 2 * nbytes
    names = {buffer.name for buffer in first.model.plan.weights}
    for name in names:
        assert first._executor.weights[name] is second._executor.weights[name]
    assert allocated(cuda) - before == 2 * second._executor.nbytes  # what is pinned on the host is as large
    (direct,) = (array for source, array in weights._held.items() if not source.form)
    for factor in (1.0, 2.0):
        layer.c.set_value(paddle.full_like(layer.c, factor))
        compiled.forward.refresh_weights()
        assert (contents(direct) == factor).all()


class TwoChains(paddle.nn.Layer):
    """Sums of sums, twice: neither needs the other before the end."""

    def forward(self, x, y):
        for _ in range(6):
            x, y = paddle.cumsum(x, axis=-1), paddle.cumsum(y, axis=-1)
        return x + y


@pytest.mark.parametrize(("side_streams", "lanes"), [(True, 2), (False, 1)])
def test_branches_run_side_by_side_unless_they_must_not(cuda, side_streams, lanes):
    options = {"engine": "cuda", "verify": "never", "tune": "off", "fallback": "error", "side_streams": side_streams}
    compiled = jitinfer.inference(TwoChains(), **options)
    compiled(paddle.randn([4, 96]), paddle.randn([4, 96]))
    (specialization,) = compiled.forward.specializations
    (session,) = specialization.executable._sessions.values()
    assert session.model.plan.lanes == lanes
    nodes = cuda.graphs[-1]
    starts = [node for node in nodes if not node.after]
    assert len(starts) == lanes


def contents(array):
    return numpy.ctypeslib.as_array((ctypes.c_float * (array.nbytes // 4)).from_address(array.address))


def allocated(cuda):
    return sum(each.nbytes - 256 for each in cuda.held.values() if isinstance(each, numpy.ndarray))


class Reshaped(paddle.nn.Layer):
    """What is computed of one weight, and another as it is: both in the results."""

    def __init__(self):
        super().__init__()
        self.a, self.b = self.create_parameter([4, 6]), self.create_parameter([7])

    def forward(self, x):
        return paddle.reshape(x, [-1]), paddle.reshape(self.a, [-1]), paddle.broadcast_to(self.b, [7])


@pytest.fixture
def moving(cuda, monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (Moves(),))
    layer = Reshaped()
    layer.eval()
    return layer


def filled(layer, value):
    for parameter in layer.parameters():
        parameter.set_value(paddle.full_like(parameter, value))


def contents_of(results):
    return [sorted(set(each.numpy().tolist())) for each in results]


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("undone", [False, True])
def test_a_refresh_that_fails_anywhere_is_done_again_by_the_next_call(cuda, moving, undone, explicit):
    """At each of its calls of the driver in turn. undone: the old values are back before the next call."""
    x = paddle.full([3], 5.0)
    layer = jitinfer.inference(moving, engine="cuda", tune="off", fallback="error")
    filled(layer, 0.0)
    assert contents_of(layer(x)) == [[5.0], [0.0], [0.0]]
    (specialization,) = layer.forward.specializations
    failures = 0
    for number in range(1, 1000):
        filled(layer, float(number))
        cuda.failing_call = cuda.calls + number
        try:
            if explicit:
                layer.forward.refresh_weights()
            else:
                layer(x)
        except EngineError:
            failures += 1
        reached = cuda.calls >= cuda.failing_call
        cuda.failing_call = None
        if not reached:
            break
        value = float(number)
        if undone:
            value -= 1.0
            filled(layer, value)
        assert contents_of(layer(x)) == [[5.0], [value], [value]]
        assert specialization.executable is not None
        filled(layer, float(number))
        layer(x)
    else:
        pytest.fail("a refresh has no end")
    assert failures > 20


def test_what_is_mixed_does_not_run(cuda, moving):
    """Nor does what is made for other shapes meanwhile."""
    x = paddle.full([3], 5.0)
    layer = jitinfer.inference(moving, engine="cuda", tune="off", fallback="error")
    layer(x)
    (specialization,) = layer.forward.specializations
    executable, weights = specialization.executable, specialization.weights.tensors
    filled(layer, 1.0)
    cuda.failing_call = cuda.calls + 30
    with pytest.raises(EngineError):
        executable.refresh(weights)
    assert executable.begin([x]) is None
    for rows in (3, 4):
        with pytest.raises(EngineError, match="some of its weights are new and some are not"):
            executable.run([paddle.full([rows], 5.0)])
    executable.refresh(weights)
    for rows in (3, 4):
        assert contents_of(executable.run([paddle.full([rows], 5.0)])) == [[5.0], [1.0], [1.0]]


def test_a_refresh_that_fails_in_a_call_runs_dynamically(cuda, moving, warnings_of):
    x = paddle.full([3], 5.0)
    layer = jitinfer.inference(moving, engine="cuda", tune="off")
    layer(x)
    filled(layer, 1.0)
    cuda.failing_call = cuda.calls + 30
    for _ in range(2):
        assert contents_of(layer(x)) == [[5.0], [1.0], [1.0]]
    assert ["runs dynamically" in each for each in warnings_of()] == [True]
