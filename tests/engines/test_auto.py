"""Which engine those get who name none, and on which device."""

import logging
import os
import subprocess
import sys

import paddle
import pytest
from fake_driver import installed
from reference import assert_same

import jitinfer
from jitinfer.engines import cuda_needs, tensors
from jitinfer.errors import EngineError, EngineUnavailableError, OptionError, TraceError


@pytest.fixture
def cuda(monkeypatch):
    with installed(monkeypatch) as fake:
        yield fake


def layer():
    found = paddle.nn.Sequential(paddle.nn.LayerNorm(8), paddle.nn.Silu())
    found.eval()
    return found


def description(function):
    (found,) = function.forward.specializations
    return found.description


@pytest.fixture
def no_device(monkeypatch):
    monkeypatch.setattr(cuda_needs, "device_problem", lambda: "no device")


def test_paddle_where_there_is_no_device(no_device):
    function = jitinfer.inference(layer())
    function(paddle.randn([2, 8]))
    assert "CUDA" not in description(function)


def test_cuda_where_there_is_one(cuda):
    function = jitinfer.inference(layer(), verify="never", tune="off")
    function(paddle.randn([2, 8]))
    assert description(function).startswith("CUDA, float32, fake, ")


def test_cuda_for_images(cuda):
    model = paddle.nn.Conv2D(3, 4, 3)
    model.eval()
    function = jitinfer.inference(model, verify="never", tune="off")
    function(paddle.randn([1, 3, 8, 8]))
    assert description(function).startswith("CUDA, float32, fake, ")


def test_paddle_where_the_device_computes_something_wrong(cuda, caplog):
    """The kernels of the driver in host memory compute nothing at all."""
    model, x = layer(), paddle.randn([2, 8])
    expected = model(x).numpy()
    function = jitinfer.inference(model, tune="off")
    with caplog.at_level(logging.WARNING, "jitinfer"):
        assert_same(function(x), paddle.to_tensor(expected))
    assert "CUDA" not in description(function)
    assert "not on the device, but by Paddle Inference" in caplog.text
    assert "not on the device" in str(function.forward.explain())


def test_what_is_missing_is_named(no_device, monkeypatch):
    with pytest.raises(EngineUnavailableError, match=r"engine='cuda' at .*test_auto.py:[0-9]+ cannot run: no device"):
        jitinfer.inference(layer(), engine="cuda")
    monkeypatch.setitem(cuda_needs._MODULES, "no_such.module", "no-such-package")
    with pytest.raises(EngineUnavailableError, match="no-such-package is not installed; pip install"):
        jitinfer.inference(layer(), engine="cuda")


def test_triton_is_not_imported_where_there_is_no_device():
    code = (
        "import paddle, sys, jitinfer;"
        "jitinfer.inference(paddle.nn.Silu(), verify='never')(paddle.ones([2]));"
        "assert 'triton' not in sys.modules"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=100)


def test_a_device_that_there_is_not_is_named(cuda):
    function = jitinfer.inference(layer(), engine="cuda", device=1, fallback="error", verify="never")
    with pytest.raises((EngineError, TraceError), match="there is no CUDA device 1: this process sees 1"):
        function(paddle.randn([2, 8]))
    with pytest.raises(OptionError, match="device"):
        jitinfer.inference(layer(), device=-1)


def test_tensors_on_a_device_stay_there(cuda, monkeypatch):
    """As with a GPU build: queued into Paddle's stream, and copied there before the next call writes them again."""
    function = jitinfer.inference(layer(), engine="cuda", verify="never", tune="off")
    x = paddle.randn([2, 8])
    function(x)
    (found,) = function.forward.specializations
    session = found.executable.session_of([x])
    streams, copies = [], []
    monkeypatch.setattr(session, "enqueue", lambda inputs, stream: streams.append(stream) or session.outputs)
    monkeypatch.setattr(tensors, "gpu_of", lambda given: 0)
    monkeypatch.setattr("jitinfer.engines.cuda.gpu_of", lambda given: 0)
    stream = type("Stream", (), {"stream_base": type("Base", (), {"raw_stream": 77})})
    monkeypatch.setattr(paddle.device, "current_stream", lambda: stream)

    class Result:
        def clone(self):
            copies.append(self)
            return x

    monkeypatch.setattr(paddle.utils.dlpack, "from_dlpack", lambda output: Result())
    assert found.executable.run([x]) == [x]
    assert streams == [77]
    assert len(copies) == 1
