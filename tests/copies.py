"""Plans of copies, which need no kernels: of inputs of three dtypes to outputs, and of what only copies do."""

import numpy

from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.runtime import Buffer, Copy, Plan, Pointer

SHAPES = {"x": ((4, 6), "float32"), "t": ((2,), "int64"), "h": ((3, 1, 2), "bfloat16")}


def plan_of(shapes):
    """shapes: of each input, by name, with its dtype."""

    def buffer(name, placement, of):
        shape, dtype = shapes[of]
        return Buffer(name, int(numpy.prod(shape)) * numpy_dtype(dtype).itemsize, placement, 0, shape, dtype)

    inputs = [buffer(name, "input", name) for name in shapes]
    return Plan(
        target=90,
        arena_bytes=0,
        buffers=(*inputs, *(buffer(f"{name}_out", "output", name) for name in shapes)),
        steps=tuple(Copy(Pointer(each.name), Pointer(f"{each.name}_out"), each.nbytes) for each in inputs),
        kernels=(),
        inputs=tuple(shapes),
        outputs=tuple(f"{name}_out" for name in shapes),
    )


PLAN = plan_of(SHAPES)


def arrays(seed=0):
    generator = numpy.random.default_rng(seed)
    return [
        generator.standard_normal((4, 6)).astype("float32"),
        generator.integers(0, 99, 2),
        generator.standard_normal((3, 1, 2)).astype(numpy_dtype("bfloat16")),
    ]


class Moves(Family):
    """Copies whole tensors."""

    name = "moves"
    ops = ("reshape", "broadcast_to")

    def supports(self, node, target):
        return node.plain

    def configs(self, node, target):
        return [Config.of()]

    def launches(self, node, config, target):
        return Candidate((Copy(Pointer("input_0"), Pointer("output_0"), node.output.type.nbytes),))
