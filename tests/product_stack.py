"""Products of few tiles and the norms that read them, as in a small diffusion transformer."""

from jitinfer.graph import Builder, Origin, ops
from jitinfer.passes import default, run_passes


def stack(blocks=3, rows=256, depth=2304, width=1024):
    """A graph after its passes: blocks without attention, each with a sum of `depth` before the norm of the next."""
    builder = Builder()
    h = builder.input("x", (2, rows // 2, width), "bfloat16")
    modulation = builder.input("c", (2, 1, 3 * width), "bfloat16")
    gate, scale, shift = (
        ops.slice(modulation, starts=(0, 0, i * width), stops=(2, 1, (i + 1) * width), steps=(1, 1, 1))
        for i in range(3)
    )
    y = h
    for number in range(blocks):
        builder.origin = Origin("blocks.py:5", f"/Block_{number}/Linear_1")
        up = builder.parameter(f"up{number}", (width, depth), "bfloat16")
        down, bias = (
            builder.parameter(f"{n}{number}", s, "bfloat16") for n, s in (("w", (depth, width)), ("b", (width,)))
        )
        y = ops.linear(ops.gelu(ops.matmul(y, up), approximate="tanh"), down, bias)
        h, y = ops.gated_residual_adaptive_layer_norm(y, h, gate, scale, shift, epsilon=1e-6)
    return run_passes(builder.build(h, y), default())[0]
