"""A model of products and norms, compiled for the device that is there."""

from gpu import device_compiler

from jitinfer.graph import Builder, Origin, ops
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.passes import default, run_passes

ROWS, WIDTH = 2048, 1024


def stack(blocks):
    """In float32; each block is a product, [2048, 1024] by [1024, 1024], and a norm of the sum with its operand."""
    builder = Builder()
    x = builder.input("x", (ROWS, WIDTH))
    for block in range(blocks):
        builder.origin = Origin("stack.py:7", f"/Stack_0/Block_{block}/Linear_0")
        y = ops.matmul(x, builder.parameter(f"w{block}", (WIDTH, WIDTH)))
        builder.origin = Origin("stack.py:8", f"/Stack_0/Block_{block}")
        x = ops.layer_norm(y + x)
    compiler = device_compiler()
    return compile_graph(run_passes(builder.build(x), default())[0], compiler.target, FirstThatCompiles(compiler))[0]
