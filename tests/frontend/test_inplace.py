"""Operators that write into an operand's memory, where others read it afterwards."""

import paddle
import pytest

from jitinfer.frontend.inplace import overwritten
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root


def read_after(x):
    y = x * 2
    z = paddle.nn.functional.relu(y)
    return z + y


def fetched(x):
    y = x * 2
    return paddle.nn.functional.relu(y), y


def read_before(x):
    y = x * 2
    before = y + 1
    return paddle.nn.functional.relu(y) + before


@pytest.mark.parametrize(
    ("function", "found"), [(read_after, "pd_op.relu_"), (fetched, "pd_op.relu_"), (read_before, "")]
)
def test_what_is_read_after_it_was_written_over(function, found):
    x = paddle.randn([3])
    text = trace(lambda symbols: translated_root(function)(*symbols), [type_of(x)], ()).program.text
    assert overwritten(text) == ""
    in_place = text.replace(b'"1.relu"', b'"1.relu_"')
    assert in_place != text
    assert overwritten(in_place) == found
