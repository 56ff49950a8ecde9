"""Changes of weights are seen at once where most values change, and in a few calls where one does."""

import numpy
import paddle
import pytest

from jitinfer.frontend.weights import Weights


def weights_of(*tensors):
    weights = Weights(tensors)
    weights.remember()
    assert not any(weights.changed() for _ in range(10))
    return weights


def calls_until_seen(weights, most=200):
    return next((call for call in range(1, most) if weights.changed()), None)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(1,), (3,), (7, 11), (300, 301), (257, 1031)])
def test_all_values(shape, dtype):
    first, second = (paddle.zeros(shape, dtype) for _ in range(2))
    weights = weights_of(first, second)
    second.set_value(paddle.ones(shape, dtype))
    assert weights.changed()


@pytest.mark.parametrize("position", [0, 1, 5, 6])
def test_one_value_of_a_small_tensor(position):
    """Seven elements of two bytes: a word and a rest."""
    tensor = paddle.zeros([7], "float16")
    weights = weights_of(tensor)
    array = tensor.numpy()
    array[position] = 1
    tensor.set_value(array)
    assert weights.changed()


@pytest.mark.parametrize("position", [0, 1234, 333_333, 999_998, 999_999])
def test_one_value_of_a_large_tensor_is_found_by_the_full_check(position):
    tensor = paddle.zeros([1_000_000])
    weights = weights_of(tensor, paddle.zeros([3]))
    array = tensor.numpy()
    array[position] = 1
    tensor.set_value(array)
    assert calls_until_seen(weights) <= 17  # as many slices as there are, and one


def test_a_change_of_every_hundredth_value_is_seen_in_a_few_calls():
    tensor = paddle.zeros([4000, 1000])
    weights = weights_of(tensor)
    array = tensor.numpy()
    array[::100] = 1
    tensor.set_value(array)
    assert calls_until_seen(weights) <= 62


@pytest.mark.parametrize("size", [30, 3000])
def test_memory_that_begins_between_words(size):
    array = numpy.zeros(size, "float16")
    tensor = paddle.utils.dlpack.from_dlpack(array[1:])
    assert tensor.data_ptr() % 8
    weights = weights_of(tensor, paddle.zeros([100]))
    array[:] = 1
    assert weights.changed()


def test_other_memory_and_counters():
    tensor, other = paddle.zeros([50, 50]), paddle.zeros([50, 50])
    weights = weights_of(tensor)
    tensor._share_buffer_to(other)
    assert not weights.changed()
    tensor.add_(paddle.zeros([50, 50]))
    assert weights.changed()
    moved = weights_of(other)
    paddle.zeros([50, 50])._share_buffer_to(other)
    assert moved.changed()


def test_none_and_nothing():
    assert not Weights([]).changed()
    assert not weights_of(paddle.zeros([0, 4]), paddle.zeros([2])).changed()


def test_a_matrix_of_zeros_is_told():
    assert Weights([paddle.zeros([4, 4])]).degenerate()
    assert not Weights([paddle.zeros([4]), paddle.ones([2, 2])]).degenerate()
    assert not Weights([paddle.to_tensor(numpy.eye(3, dtype="float16"))]).degenerate()
