"""Products by cuBLASLt against float64."""

import itertools

import numpy
import pytest
from gpu import device_target, needs_gpu, poison

from jitinfer.errors import DeviceError
from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Buffer, Device, Executor, Gemm, Matrix, Plan, Pointer
from jitinfer.runtime.cublaslt import Product

WORKSPACE = 32 * 2**20


def plan_of(gemm, shapes, dtype):
    """a, b, c and bias are inputs where they are in `shapes`; d is the output."""
    size = numpy_dtype(dtype).itemsize

    def buffer(name, placement):
        return Buffer(name, int(numpy.prod(shapes[name])) * size, placement, shape=shapes[name], dtype=dtype)

    inputs = [name for name in shapes if name != "d"]
    return Plan(
        target=device_target().compute_capability,
        arena_bytes=WORKSPACE,
        buffers=(
            Buffer("work", WORKSPACE, "arena"),
            *(buffer(name, "input") for name in inputs),
            buffer("d", "output"),
        ),
        steps=(gemm,),
        kernels=(),
        inputs=tuple(inputs),
        outputs=("d",),
    )


def run(gemm, shapes, dtype, arrays):
    executor = Executor(plan_of(gemm, shapes, dtype))
    poison(executor.outputs[0])
    (d,) = executor.run(list(arrays.values()))
    return d.astype(numpy.float64)


def reference(gemm, arrays):
    a, b = (arrays[name].astype(numpy.float64) for name in "ab")
    a = a.swapaxes(-1, -2) if gemm.transpose_a else a
    b = b.swapaxes(-1, -2) if gemm.transpose_b else b
    d = gemm.alpha * (a @ b)
    if gemm.c is not None:
        d = d + gemm.beta * arrays["c"].astype(numpy.float64)
    if gemm.bias is not None:
        d = d + arrays["bias"].astype(numpy.float64)
    if gemm.epilogue == "relu":
        return numpy.maximum(d, 0)
    if gemm.epilogue == "gelu":
        return 0.5 * d * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi) * (d + 0.044715 * d**3)))
    return d


def require_close(actual, gemm, arrays, dtype):
    expected = reference(gemm, arrays)
    assert numpy.isfinite(actual).all()
    rounding = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    assert numpy.abs(actual - expected).max() <= rounding * numpy.abs(expected).max()


def arrays_of(shapes, dtype):
    generator = numpy.random.default_rng(1)
    return {n: generator.standard_normal(s).astype(numpy_dtype(dtype)) for n, s in shapes.items() if n != "d"}


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), itertools.product([False, True], repeat=2))
@pytest.mark.parametrize("epilogue", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
def test_layouts_and_epilogues(dtype, transpose_a, transpose_b, epilogue, bias):
    m, n, k = 72, 40, 24
    shapes = {"a": (k, m) if transpose_a else (m, k), "b": (n, k) if transpose_b else (k, n), "d": (m, n)}
    if bias:
        shapes["bias"] = (n,)
    gemm = Gemm(
        Matrix(Pointer("a"), dtype, *shapes["a"], shapes["a"][1]),
        Matrix(Pointer("b"), dtype, *shapes["b"], shapes["b"][1]),
        Matrix(Pointer("d"), dtype, m, n, n),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        bias=Pointer("bias") if bias else None,
        epilogue=epilogue,
        workspace=Pointer("work"),
        workspace_bytes=WORKSPACE,
    )
    arrays = arrays_of(shapes, dtype)
    require_close(run(gemm, shapes, dtype, arrays), gemm, arrays, dtype)


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_and_a_residual(dtype):
    batch, m, n, k = 3, 16, 32, 64
    shapes = {"a": (batch, m, k), "b": (k, n), "c": (batch, m, n), "d": (batch, m, n)}
    gemm = Gemm(
        Matrix(Pointer("a"), dtype, m, k, k, m * k),
        Matrix(Pointer("b"), dtype, k, n, n, 0),
        Matrix(Pointer("d"), dtype, m, n, n, m * n),
        c=Matrix(Pointer("c"), dtype, m, n, n, m * n),
        batch=batch,
        alpha=0.5,
        beta=2.0,
    )
    arrays = arrays_of(shapes, dtype)
    require_close(run(gemm, shapes, dtype, arrays), gemm, arrays, dtype)


@needs_gpu
def test_a_part_of_a_packed_matrix_at_any_place():
    m, n, k = 24, 16, 32
    shapes = {"a": (m, 3 * k), "b": (k, n), "d": (m, n)}
    arrays = arrays_of(shapes, "bfloat16")
    for start in (0, k, 5):
        gemm = Gemm(
            Matrix(Pointer("a", 2 * start), "bfloat16", m, k, 3 * k),
            Matrix(Pointer("b"), "bfloat16", k, n, n),
            Matrix(Pointer("d"), "bfloat16", m, n, n),
        )
        actual = run(gemm, shapes, "bfloat16", arrays)
        part = {**arrays, "a": arrays["a"][:, start : start + k]}
        require_close(actual, gemm, part, "bfloat16")


@needs_gpu
def test_every_proposed_algorithm_is_right():
    m, n, k = 512, 1152, 1152
    shapes = {"a": (m, k), "b": (n, k), "bias": (n,), "d": (m, n)}
    base = {
        "a": Matrix(Pointer("a"), "bfloat16", m, k, k),
        "b": Matrix(Pointer("b"), "bfloat16", n, k, k),
        "d": Matrix(Pointer("d"), "bfloat16", m, n, n),
        "transpose_b": True,
        "bias": Pointer("bias"),
        "workspace": Pointer("work"),
        "workspace_bytes": WORKSPACE,
    }
    device = Device.of(0)
    with device.current():
        product = Product(Gemm(**base), lambda pointer: 2**32, device)
        proposals = product.algorithms(8, WORKSPACE)
        product.close()
    assert len({each.code for each in proposals}) == len(proposals) > 1
    arrays = arrays_of(shapes, "bfloat16")
    for each in proposals:
        gemm = Gemm(**base, algorithm=each.code)
        require_close(run(gemm, shapes, "bfloat16", arrays), gemm, arrays, "bfloat16")


@needs_gpu
def test_an_algorithm_that_is_none_is_refused():
    gemm = Gemm(
        Matrix(Pointer("a"), "bfloat16", 8, 8, 8),
        Matrix(Pointer("b"), "bfloat16", 8, 8, 8),
        Matrix(Pointer("d"), "bfloat16", 8, 8, 8),
        algorithm="ff" * 64,
        label="odd",
    )
    with pytest.raises(DeviceError, match="step 0, odd"):
        Executor(plan_of(gemm, {"a": (8, 8), "b": (8, 8), "d": (8, 8)}, "bfloat16"))
