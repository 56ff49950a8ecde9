"""A DiT in Paddle, sampled in a loop with the CUDA engine; the CPU build of Paddle is enough.

    python benchmarks/paddle_dit.py [--depth 28] [--width 1152] [--heads 16] [--size 32] [--steps 25]
        [--engine cuda] [--precision bfloat16] [--shared]

Each block embeds timestep and label anew, as in ppdiffusers; with --shared that is done once, as in the paper. Prints
the first call (traced, compiled, compared with the dynamic model), a call, and the loop with what Paddle computes
between the calls, the median of several loops.
"""

import argparse
import math
import statistics
import time

import paddle
from paddle import nn

import jitinfer

LOOPS = 7


class Block(nn.Layer):
    """A transformer block with adaptive norms (Peebles and Xie, 2023)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, epsilon=1e-6, weight_attr=False, bias_attr=False)
        self.norm_2 = nn.LayerNorm(width, epsilon=1e-6, weight_attr=False, bias_attr=False)
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x, c):
        parts = self.modulation(nn.functional.silu(c)).unsqueeze(1).chunk(6, axis=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        y = self.norm_1(x) * (1 + scale_1) + shift_1
        shape = [x.shape[0], x.shape[1], self.heads, -1]
        q, k, v = (layer(y).reshape(shape) for layer in (self.to_q, self.to_k, self.to_v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).reshape(x.shape)
        x = x + gate_1 * self.out(y)
        y = self.norm_2(x) * (1 + scale_2) + shift_2
        return x + gate_2 * self.down(nn.functional.gelu(self.up(y), approximate=True))


class Embedding(nn.Layer):
    """Timestep and label."""

    def __init__(self, width):
        super().__init__()
        self.time_1, self.time_2 = nn.Linear(256, width), nn.Linear(width, width)
        self.labels = nn.Embedding(1001, width)

    def forward(self, t, y):
        frequencies = paddle.exp(-math.log(10000) * paddle.arange(128, dtype="float32") / 128)
        angles = t.unsqueeze(1).astype("float32") * frequencies
        embedded = paddle.concat([angles.cos(), angles.sin()], axis=-1)
        return self.time_2(nn.functional.silu(self.time_1(embedded))) + self.labels(y)


class DiT(nn.Layer):
    """shared: timestep and label are embedded once; otherwise by each block."""

    def __init__(self, depth, width, heads, size, *, shared=False):
        super().__init__()
        self.size = size
        self.patches = nn.Conv2D(4, width, 2, 2)
        self.places = self.create_parameter([1, (size // 2) ** 2, width], default_initializer=nn.initializer.Normal())
        self.embeddings = nn.LayerList([Embedding(width) for _ in range(1 if shared else depth)])
        self.blocks = nn.LayerList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, epsilon=1e-6, weight_attr=False, bias_attr=False)
        self.last_modulation, self.last = nn.Linear(width, 2 * width), nn.Linear(width, 32)

    def forward(self, x, t, y):
        x = self.patches(x).flatten(2).transpose([0, 2, 1]) + self.places
        conditions = [embedding(t, y) for embedding in self.embeddings]
        for number, block in enumerate(self.blocks):
            x = block(x, conditions[number % len(conditions)])
        shift, scale = self.last_modulation(nn.functional.silu(conditions[0])).unsqueeze(1).chunk(2, axis=-1)
        x = self.last(self.norm(x) * (1 + scale) + shift)
        side = self.size // 2
        x = x.reshape([x.shape[0], side, side, 2, 2, 8]).transpose([0, 5, 1, 3, 2, 4])
        return x.reshape([x.shape[0], 8, self.size, self.size])


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("depth", 28), ("width", 1152), ("heads", 16), ("size", 32), ("steps", 25)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--engine", default="cuda")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--shared", action="store_true")
    given = parser.parse_args()
    paddle.seed(0)
    model = DiT(given.depth, given.width, given.heads, given.size, shared=given.shared)
    model.eval()
    compiled = jitinfer.inference(
        DiT.forward, engine=given.engine, precision_mode=given.precision, fallback="error"
    ).__get__(model)
    x = paddle.randn([2, 4, given.size, given.size])
    labels = paddle.to_tensor([207, 1000])
    started = time.perf_counter()
    compiled(x, paddle.full([2], 999, "int64"), labels)
    print(f"first call: {time.perf_counter() - started:.1f} s")
    steps, loops = [], []
    for _ in range(LOOPS):
        latents = x
        started = time.perf_counter()
        for step in range(given.steps):
            before = time.perf_counter()
            noise = compiled(latents, paddle.full([2], 999 - 40 * step, "int64"), labels)
            steps.append(time.perf_counter() - before)
            latents = latents - 0.02 * noise[:, :4]
        loops.append(time.perf_counter() - started)
    loop = 1e3 * statistics.median(loops)
    print(
        f"a call: {1e3 * statistics.median(steps):.2f} ms; {loop / given.steps:.2f} ms a step, {loop:.0f} ms the loop"
    )
    print(compiled.explain())


if __name__ == "__main__":
    main()
