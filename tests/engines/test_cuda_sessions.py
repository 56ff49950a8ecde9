"""What the CUDA engine loads for several shapes, over a driver in host memory, whose kernels compute nothing."""

import ctypes

import numpy
import paddle
import pytest
from fake_driver import installed

import jitinfer


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
