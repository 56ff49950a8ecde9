"""Padding, resizing and pooling, by the interpreter."""

import numpy
import pytest
from generated_cases import check, node_of, random_arrays

from jitinfer.graph import View
from jitinfer.kernels.triton.padding import PadAndResize
from jitinfer.kernels.triton.pooling import Pools

PAD, POOL = PadAndResize(), Pools()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        ((4, 5), (1, 2), (0, 3)),
        ((2, 3, 40), (0, 0, 1), (0, 0, 0)),
        ((3, 4), (7, 0), (9, 5)),
        ((1, 2, 3, 3), (0, 0, 1, 1), (0, 0, 1, 1)),
    ],
)
def test_pad(shape, low, high, mode, dtype):
    attributes = {"low": low, "high": high, "mode": mode, "value": 1.5 if dtype not in ("bool", "int64") else 1}
    node = node_of("pad", [(shape, dtype)], attributes)
    check(PAD, node, random_arrays(node))


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (2, 3), (4, 6)])
def test_resize_nearest(size):
    node = node_of("resize_nearest", [((2, 3, 4, 6), "bfloat16")], {"size": size})
    check(PAD, node, random_arrays(node))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), ((0, 0), (0, 0))),
        ((3, 3), (2, 2), ((1, 1), (1, 1))),
        ((3, 2), (1, 3), ((1, 0), (0, 1))),
        ((9, 10), (1, 1), ((0, 0), (0, 0))),
    ],
)
def test_average(window, strides, padding, count_padding, dtype):
    attributes = {"window": window, "strides": strides, "padding": padding, "count_padding": count_padding}
    node = node_of("average_pool2d", [((2, 3, 9, 10), dtype)], attributes)
    check(POOL, node, random_arrays(node), slack=16.0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
def test_largest(dtype):
    attributes = {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}
    node = node_of("max_pool2d", [((2, 3, 9, 10), dtype)], attributes)
    arrays = random_arrays(node, 1, -9, 3)
    check(POOL, node, arrays)


@pytest.mark.parametrize(
    ("family", "name", "attributes"),
    [
        (POOL, "max_pool2d", {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}),
        (POOL, "average_pool2d", {"window": (2, 2), "strides": (2, 2)}),
        (PAD, "resize_nearest", {"size": (18, 20)}),
        (PAD, "pad", {"low": (0, 0, 1, 1), "high": (0, 0, 0, 2), "mode": "reflect"}),
    ],
)
def test_channels_last(family, name, attributes):
    """Read, and written, through strides."""
    plain = node_of(name, [((2, 6, 9, 10), "float32")], attributes)
    batch, channels, *size = plain.output.shape
    view = View.of((2, 9, 10, 6)).transpose((0, 3, 1, 2))
    store = View.of((batch, *size, channels)).transpose((0, 3, 1, 2))
    node = node_of(name, [((2, 9, 10, 6), "float32")], attributes, [view], [store])
    check(family, node, random_arrays(node), slack=16.0)


def test_largest_with_nan():
    node = node_of("max_pool2d", [((1, 1, 4, 4), "float32")], {"window": (2, 2), "strides": (2, 2)})
    arrays = random_arrays(node)
    arrays[0][0, 0, 1, 1] = numpy.nan
    arrays[0][0, 0, 2:, 2:] = -numpy.inf
    check(POOL, node, arrays)
