"""A plan that copies its inputs, of three dtypes, to its outputs: it needs no kernels."""

import numpy

from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Buffer, Copy, Plan, Pointer

SHAPES = {"x": ((4, 6), "float32"), "t": ((2,), "int64"), "h": ((3, 1, 2), "bfloat16")}


def buffer(name, placement, of):
    shape, dtype = SHAPES[of]
    return Buffer(name, int(numpy.prod(shape)) * numpy_dtype(dtype).itemsize, placement, 0, shape, dtype)


PLAN = Plan(
    target=90,
    arena_bytes=0,
    buffers=tuple(buffer(name, "input", name) for name in SHAPES)
    + tuple(buffer(f"{name}_out", "output", name) for name in SHAPES),
    steps=tuple(Copy(Pointer(name), Pointer(f"{name}_out"), buffer(name, "input", name).nbytes) for name in SHAPES),
    kernels=(),
    inputs=tuple(SHAPES),
    outputs=tuple(f"{name}_out" for name in SHAPES),
)


def arrays(seed=0):
    generator = numpy.random.default_rng(seed)
    return [
        generator.standard_normal((4, 6)).astype("float32"),
        generator.integers(0, 99, 2),
        generator.standard_normal((3, 1, 2)).astype(numpy_dtype("bfloat16")),
    ]
