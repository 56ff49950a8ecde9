"""Tensors as arrays without a copy, and arrays as tensors with one."""

import ml_dtypes
import numpy
import paddle
import pytest
from reference import assert_same

import jitinfer
from jitinfer.engines.tensors import array_of, tensor_of

DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "bool", "complex64", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [[], [3], [2, 5], [0, 4]])
def test_there_and_back(dtype, shape):
    tensor = (paddle.randn(shape) * 3).astype(dtype)
    array = array_of(tensor)
    assert array.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else numpy.dtype(dtype))
    assert list(array.shape) == shape
    again = tensor_of(array)
    assert again.dtype == tensor.dtype
    assert numpy.array_equal(again.numpy(), tensor.numpy())
    assert not numpy.shares_memory(array_of(again), array) or array.size == 0


def test_memory_is_shared():
    tensor = paddle.randn([4, 5])
    assert array_of(tensor).ctypes.data == tensor.data_ptr()


def test_a_parameter():
    layer = paddle.nn.Linear(3, 4)
    array = array_of(layer.weight)
    numpy.testing.assert_array_equal(array, layer.weight.numpy())
    assert array.ctypes.data == layer.weight.data_ptr()
    assert not layer.weight.stop_gradient


def test_a_tensor_without_memory():
    """As recurrent layers have one, for the state of their dropout."""
    (state,) = paddle.nn.LSTM(3, 4).buffers()
    assert not state._is_initialized()
    array = array_of(state)
    assert (array.shape, array.dtype, array.tolist()) == ((), numpy.uint8, 0)


def test_parameters_without_memory_and_strided_ones_in_a_program():
    class Recurrent(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.lstm, self.table = paddle.nn.LSTM(3, 4), paddle.randn([64, 4]).T

        def forward(self, x):
            return self.lstm(x)[0] @ self.table

    model = Recurrent()
    x = paddle.randn([2, 5, 3])
    fast = jitinfer.inference(model, engine="paddle", verify="never", fallback="error", switch_ir_optim=False)
    assert_same(fast(x), Recurrent.forward(model, x))


def test_a_transposed_tensor():
    tensor = paddle.randn([4, 5]).T
    numpy.testing.assert_array_equal(array_of(tensor), tensor.numpy())
