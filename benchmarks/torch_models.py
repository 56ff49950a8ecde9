"""The networks of `graph_passes.py` as one would write them in torch: what jitinfer is measured beside.

Queries, keys and values are one product, and so are gate and value of a gated unit; attention is torch's own.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def attend(qkv, heads):
    batch, tokens, width = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    y = functional.scaled_dot_product_attention(q, k, v)
    return y.transpose(1, 2).reshape(batch, tokens, width // 3)


def plain_norm(width, epsilon=1e-6):
    return nn.LayerNorm(width, elementwise_affine=False, eps=epsilon)


class Embedding(nn.Module):
    """Timestep and, beside it, a class or a pooled text."""

    def __init__(self, width, other):
        super().__init__()
        self.first, self.second, self.other = nn.Linear(256, width), nn.Linear(width, width), other

    def forward(self, t, other):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=t.device, dtype=torch.float32) / 128)
        angles = t.float()[:, None] * frequencies
        embedded = torch.cat([angles.cos(), angles.sin()], -1).to(self.first.weight.dtype)
        return self.second(functional.silu(self.first(embedded))) + self.other(other)


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """Peebles and Xie, 2023."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm_1, self.norm_2, self.mlp = plain_norm(width), plain_norm(width), Mlp(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, c):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(functional.silu(c)).chunk(6, 1)
        attended = attend(self.qkv(modulate(self.norm_1(x), shift_1, scale_1)), self.heads)
        x = x + gate_1[:, None] * self.out(attended)
        return x + gate_2[:, None] * self.mlp(modulate(self.norm_2(x), shift_2, scale_2))


class DiT(nn.Module):
    """shared: timestep and class are embedded once, as in the paper; otherwise by each block, as in ppdiffusers."""

    def __init__(self, layers=28, width=1152, heads=16, size=32, shared=False):
        super().__init__()
        self.size = size
        self.patches = nn.Conv2d(4, width, 2, 2)
        self.places = nn.Parameter(torch.randn(1, (size // 2) ** 2, width))
        self.embeddings = nn.ModuleList(
            Embedding(width, nn.Embedding(1001, width)) for _ in range(1 if shared else layers)
        )
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(layers))
        self.norm, self.modulation, self.last = plain_norm(width), nn.Linear(width, 2 * width), nn.Linear(width, 32)

    def forward(self, x, t, y):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        embedded = [embedding(t, y) for embedding in self.embeddings]
        for number, block in enumerate(self.blocks):
            x = block(x, embedded[number % len(embedded)])
        shift, scale = self.modulation(functional.silu(embedded[0])).chunk(2, 1)
        return unpatched(self.last(modulate(self.norm(x), shift, scale)), self.size)


def unpatched(x, size):
    side = size // 2
    x = x.view(x.shape[0], side, side, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(x.shape[0], -1, size, size)


class JointBlock(nn.Module):
    """Esser et al., 2024. last: its text stream ends with the attention."""

    def __init__(self, width, heads, last):
        super().__init__()
        self.heads, self.last = heads, last
        self.modulations = nn.ModuleList([nn.Linear(width, 6 * width), nn.Linear(width, (2 if last else 6) * width)])
        self.norms = nn.ModuleList(plain_norm(width) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(1 if last else 2))
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(1 if last else 2))

    def forward(self, x, text, c):
        c = functional.silu(c)
        parts = self.modulations[0](c).chunk(6, 1)
        text_parts = self.modulations[1](c).chunk(2 if self.last else 6, 1)
        streams = (modulate(self.norms[0](x), *parts[:2]), modulate(self.norms[1](text), *text_parts[:2]))
        joint = attend(torch.cat([layer(each) for layer, each in zip(self.qkv, streams, strict=True)], 1), self.heads)
        x = x + parts[2][:, None] * self.out[0](joint[:, : x.shape[1]])
        x = x + parts[5][:, None] * self.mlps[0](modulate(self.norms[2](x), *parts[3:5]))
        if not self.last:
            text = text + text_parts[2][:, None] * self.out[1](joint[:, x.shape[1] :])
            text = text + text_parts[5][:, None] * self.mlps[1](modulate(self.norms[3](text), *text_parts[3:5]))
        return x, text


class SD3(nn.Module):
    def __init__(self, layers=24, width=1536, heads=24, size=64):
        super().__init__()
        self.size = size
        self.patches = nn.Conv2d(16, width, 2, 2)
        self.places = nn.Parameter(torch.randn(1, (size // 2) ** 2, width))
        pooled = nn.Sequential(nn.Linear(2048, width), nn.SiLU(), nn.Linear(width, width))
        self.embedding, self.text = Embedding(width, pooled), nn.Linear(4096, width)
        self.blocks = nn.ModuleList(JointBlock(width, heads, i == layers - 1) for i in range(layers))
        self.norm, self.modulation, self.last = plain_norm(width), nn.Linear(width, 2 * width), nn.Linear(width, 64)

    def forward(self, x, text, pooled, t):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        c, text = self.embedding(t, pooled), self.text(text)
        for block in self.blocks:
            x, text = block(x, text, c)
        scale, shift = self.modulation(functional.silu(c)).chunk(2, 1)
        return unpatched(self.last(modulate(self.norm(x), shift, scale)), self.size)


class LargeDiTBlock(nn.Module):
    """Gao et al., 2024 (Lumina-T2X): a LLaMA block with modulations, and norms of queries and keys."""

    def __init__(self, width, heads, hidden, condition):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(condition, 6 * width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x, c, cos, sin):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(functional.silu(c)).chunk(6, 1)
        q, k, v = self.qkv(modulate(self.norm_1(x), shift_1, scale_1)).chunk(3, -1)
        shape = (*x.shape[:2], self.heads, -1)
        q, k = (rotated(norm(y).view(shape), cos, sin) for norm, y in ((self.q_norm, q), (self.k_norm, k)))
        y = functional.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v.view(shape))))
        x = x + gate_1[:, None] * self.out(y.transpose(1, 2).reshape(x.shape))
        gate, value = self.up(modulate(self.norm_2(x), shift_2, scale_2)).chunk(2, -1)
        return x + gate_2[:, None] * self.down(functional.silu(gate) * value)


def rotated(x, cos, sin):
    """Neighbours as complex numbers, times those of the position."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class LargeDiT(nn.Module):
    def __init__(self, layers=32, width=3072, heads=32, size=32):
        super().__init__()
        self.size = size
        condition, hidden = min(width, 1024), 256 * -(-int(2 * 4 * width / 3) // 256)
        self.patches = nn.Linear(16, width)
        self.embedding = Embedding(condition, nn.Embedding(1001, condition))
        self.blocks = nn.ModuleList(LargeDiTBlock(width, heads, hidden, condition) for _ in range(layers))
        self.norm, self.modulation, self.last = plain_norm(width), nn.Linear(condition, 2 * width), nn.Linear(width, 32)
        steps = torch.arange(0, width // heads, 2).float() / (width // heads)
        angles = torch.outer(torch.arange((size // 2) ** 2).float(), 10000.0**-steps)
        self.register_buffer("cos", angles.cos()[None, :, None])
        self.register_buffer("sin", angles.sin()[None, :, None])

    def forward(self, x, t, y):
        batch, side = x.shape[0], self.size // 2
        x = x.view(batch, 4, side, 2, side, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, 16)
        x, c = self.patches(x), self.embedding(t, y)
        for block in self.blocks:
            x = block(x, c, self.cos, self.sin)
        shift, scale = self.modulation(functional.silu(c)).chunk(2, 1)
        return unpatched(self.last(modulate(self.norm(x), shift, scale)), self.size)


MODELS = {
    "dit": DiT,
    "dit_512": functools.partial(DiT, size=64),
    "sd3": SD3,
    "sd3_1024": functools.partial(SD3, size=128),
    "large_dit": LargeDiT,
}
MODES = {
    "eager": None,
    "default": {},
    "max-autotune": {"mode": "max-autotune-no-cudagraphs"},  # a graph is recorded of all of them
    "coordinate-descent": {"options": {"coordinate_descent_tuning": True}},
}
"""Arguments of torch.compile; None: the model as it is."""


def model_named(name):
    """That of a saved graph: `dit`, or `dit_2`, of two layers."""
    if name in MODELS:
        return MODELS[name]()
    name, _, layers = name.rpartition("_")
    return MODELS[name](layers=int(layers))


class Peers:
    """A model on the device with random weights, and its inputs: those of a graph of the model, in its order."""

    def __init__(self, name, inputs, dtype):
        before = torch.cuda.memory_allocated()
        with torch.device("cuda"):
            self.model = model_named(name).to(dtype).eval()
        self.resident = torch.cuda.memory_allocated() - before
        self.inputs = [x.to(dtype) if x.is_floating_point() and x.dim() > 1 else x for x in inputs]
        self._compiled = []  # a recorded graph does not keep its kernels

    def function(self, mode):
        """A function without arguments: a forward, compiled at its first call."""
        arguments = MODES[mode]
        model = self.model if arguments is None else torch.compile(self.model, fullgraph=True, **arguments)
        self._compiled.append(model)
        return lambda: model(*self.inputs)

    def memory(self, function):
        """Bytes that a call has on the device at most, weights included."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return self.resident + torch.cuda.max_memory_allocated() - before
