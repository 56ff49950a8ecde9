"""The interpreter of candidates: it catches what is wrong, and leaves Triton as it was."""

import numpy
import pytest
import triton
import triton.language as tl

from jitinfer.errors import KernelError
from jitinfer.graph import Builder, ops
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import Candidate, KernelLaunch
from jitinfer.kernels.family import TypedPointer
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.frontend import triton_ir
from jitinfer.kernels.triton.specialization import specialize
from jitinfer.runtime import Copy, Fill, Gemm, Matrix, Pointer, Scalar

COUNT = 40


@triton.jit
def _double(value):
    return tl.maximum(value, value) * 2


@triton.jit
def negate(x, y, start, count, CHANGE_X: tl.constexpr):
    i = tl.arange(0, 64)
    value = tl.load(x + i, i < 40, other=0.0)
    largest = tl.max(_double(value).to(tl.float32), axis=0)
    tl.store(y + start + i, (-value.to(tl.float32) + 0 * largest).to(y.dtype.element_ty), i < count)
    if CHANGE_X:
        tl.store(x + i, value + 1, i < 40)


@triton.jit
def _computed(a, b, OPERATION: tl.constexpr):
    if OPERATION == "add":
        a = a + b
    elif OPERATION == "sub":
        a = a - b
    else:
        a = a * b
    return a


@triton.jit
def fill_with(x, y, a, b, OPERATION: tl.constexpr):
    i = tl.arange(0, 64)
    tl.store(y + i, (_computed(a, b, OPERATION) + 0 * i).to(tl.float32), i < 40)


def node(dtype="float32"):
    builder = Builder()
    x = builder.input("x", (COUNT,), dtype)
    builder.build(ops.negative(x))
    return builder.nodes[0]


def launch(start=0, count=COUNT, change=False, dtype="float32"):
    arguments = {
        "x": TypedPointer(Pointer("input_0"), dtype),
        "y": TypedPointer(Pointer("output_0"), dtype),
        "start": Scalar("i32", start),
        "count": Scalar("i32", count),
    }
    return KernelLaunch(negate, arguments, {"CHANGE_X": change}, (1, 1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_functions_that_call_functions(dtype):
    each = node(dtype)
    x = numpy.linspace(-3, 3, COUNT).astype(numpy_dtype(dtype))
    (y,) = interpret(each, Candidate((launch(dtype=dtype),)), [x])
    assert y.dtype == x.dtype
    assert numpy.array_equal(y.astype(numpy.float32), -x.astype(numpy.float32))


def test_what_is_not_written_is_poison():
    x = numpy.zeros(COUNT, numpy.float32)
    (y,) = interpret(node(), Candidate((launch(count=COUNT - 1),)), [x])
    assert (y[:-1] == 0).all()
    assert y.view(numpy.uint32)[-1] == 0xA5A5A5A5


@pytest.mark.parametrize("start", [-1, 1])
def test_writing_outside_is_caught(start):
    with pytest.raises(KernelError, match="outside of output_0"):
        interpret(node(), Candidate((launch(start=start),)), [numpy.ones(COUNT, numpy.float32)])


def test_writing_into_an_operand_is_caught():
    with pytest.raises(KernelError, match="into its operand input_0"):
        interpret(node(), Candidate((launch(change=True),)), [numpy.ones(COUNT, numpy.float32)])


@pytest.mark.parametrize(
    ("operation", "kind", "a", "b", "result"),
    [
        ("add", "i32", 2**31 - 2, 1, 2**31 - 1),
        ("add", "i32", 2**31 - 1, 1, None),
        ("sub", "i32", -(2**31) + 1, 1, -(2**31)),
        ("sub", "i32", -(2**31), 1, None),
        ("mul", "i32", 2**16, 2**14, 2**30),
        ("mul", "i32", 2**16, 2**15, None),
        ("mul", "i64", 2**16, 2**15, 2**31),
    ],
)
def test_integers_that_overflow_are_caught(operation, kind, a, b, result):
    arguments = {
        "x": TypedPointer(Pointer("input_0"), "float32"),
        "y": TypedPointer(Pointer("output_0"), "float32"),
        "a": Scalar(kind, a),
        "b": Scalar(kind, b),
    }
    candidate = Candidate((KernelLaunch(fill_with, arguments, {"OPERATION": operation}, (1, 1, 1)),))
    if result is None:
        with pytest.raises(KernelError, match=f"{operation} of int32 overflows"):
            interpret(node(), candidate, [numpy.zeros(COUNT, numpy.float32)])
    else:
        (y,) = interpret(node(), candidate, [numpy.zeros(COUNT, numpy.float32)])
        assert (y == numpy.float32(result)).all()


def test_copies_and_fills():
    steps = (
        Copy(Pointer("input_0"), Pointer("workspace", 8), 4 * COUNT),
        Fill(Pointer("output_0"), 4 * COUNT, 0),
        Copy(Pointer("workspace", 8), Pointer("output_0", 4), 4 * COUNT - 4),
    )
    x = numpy.arange(1, COUNT + 1, dtype=numpy.float32)
    (y,) = interpret(node(), Candidate(steps, workspace_bytes=4 * COUNT + 8), [x])
    assert numpy.array_equal(y, numpy.concatenate([[0], x[:-1]]))


def test_products_run_on_devices_only():
    matrix = Matrix(Pointer("input_0"), "float32", 4, 4, 4)
    with pytest.raises(KernelError, match="on a device"):
        interpret(node(), Candidate((Gemm(matrix, matrix, matrix),)), [numpy.zeros(COUNT, numpy.float32)])


def test_interpreting_changes_nothing_of_what_is_compiled():
    names = set(globals())
    before = triton_ir(specialize(launch()), 90)
    interpret(node(), Candidate((launch(),)), [numpy.zeros(COUNT, numpy.float32)])
    assert triton_ir(specialize(launch()), 90) == before
    assert set(globals()) == names
    with pytest.raises(RuntimeError):
        _double(1)
