"""What a node takes: counted by hand."""

import pytest

from jitinfer.graph import Builder, Origin, View, ops
from jitinfer.graph.cost import bytes_moved, flops
from jitinfer.graph.node import Node, Value
from jitinfer.graph.types import TensorType


def last(make):
    builder = Builder()
    return builder.build(make(builder)).nodes[-1]


def test_a_product():
    node = last(lambda b: ops.matmul(b.input("x", (4, 8)), b.parameter("w", (8, 16))))
    assert flops(node) == 2 * 4 * 8 * 16
    assert bytes_moved(node) == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def test_what_is_read_twice_counts_once():
    def square(builder):
        x = builder.input("x", (4, 8))
        return x * x

    assert bytes_moved(last(square)) == 2 * 4 * 8 * 4


def test_a_lookup_reads_rows_not_the_table():
    node = last(lambda b: ops.gather(b.parameter("table", (1000, 8)), b.input("i", (3,), "int64"), axis=0))
    assert bytes_moved(node) == 2 * 3 * 8 * 4 + 3 * 8


def test_a_view_that_a_kernel_computes_is_a_copy():
    node = last(lambda b: ops.broadcast_to(b.input("x", (1, 8)), shape=(4, 8)))
    assert bytes_moved(node) == 4 * (8 + 32)


def test_through_a_view_only_what_it_reads():
    packed, result = Value(TensorType((2, 24), "float32"), "packed"), Value(TensorType((2, 8), "float32"), "y")
    op = last(lambda b: ops.exp(b.input("x", (2, 8)))).op
    node = Node(op, (packed,), {}, (result,), views=(View((2, 8), (24, 1)),))
    assert bytes_moved(node) == 2 * 2 * 8 * 4


def test_a_result_that_is_a_part_of_a_larger_tensor():
    x, whole = Value(TensorType((2, 8), "float32"), "x"), Value(TensorType((2, 24), "float32"), "whole")
    op = last(lambda b: ops.exp(b.input("x", (2, 8)))).op
    node = Node(op, (x,), {}, (whole,), stores=(View((2, 8), (24, 1)),))
    assert bytes_moved(node) == 2 * 2 * 8 * 4
    assert flops(node) == flops(last(lambda b: ops.exp(b.input("x", (2, 8)))))


@pytest.mark.parametrize(
    "origin",
    [
        Origin(),
        Origin("model.py:41"),
        Origin("model.py:41", "/DiT_0/Block_3"),
        Origin("", "/DiT_0"),
        Origin("/a in b/model.py:7", "/DiT_0"),
        Origin("/a in /b/model.py:7", ""),
    ],
)
def test_an_origin_is_read_back(origin):
    assert Origin.parse(str(origin)) == origin
