"""A UNet and a decoder of images in miniature, as importers give them: for tests where Paddle is not installed."""

import numpy

from jitinfer.graph import Builder, ops

ONE = ((1, 1), (1, 1))


class _Layers:
    """The layers of Stable Diffusion over images [batch, channels, height, width], with parameters of their own."""

    def __init__(self, groups=4):
        self.builder = Builder()
        self.groups = groups
        self.count = 0

    def parameter(self, *shape):
        self.count += 1
        return self.builder.parameter(f"p_{self.count}", shape)

    def linear(self, x, columns):
        return ops.matmul(x, self.parameter(x.shape[-1], columns)) + self.parameter(columns)

    def convolution(self, x, channels, window=3, **attributes):
        weight = self.parameter(channels, x.shape[1], window, window)
        padding = ONE if window == 3 else ((0, 0), (0, 0))
        y = ops.conv2d(x, weight, **{"padding": padding, **attributes})
        return y + ops.reshape(self.parameter(channels), shape=(1, channels, 1, 1))

    def norm(self, x):
        channels = x.shape[1]
        return ops.group_norm(x, self.parameter(channels), self.parameter(channels), groups=self.groups)

    def residual_block(self, x, channels, embedding=None):
        y = self.convolution(ops.silu(self.norm(x)), channels)
        if embedding is not None:
            shift = self.linear(ops.silu(embedding), channels)
            y = y + ops.reshape(shift, shape=(x.shape[0], channels, 1, 1))
        y = self.convolution(ops.silu(self.norm(y)), channels)
        return y + (x if x.shape[1] == channels else self.convolution(x, channels, 1))

    def attention(self, x, context=None, heads=2):
        """Of the pixels to each other, and to `context` [batch, tokens, width] where there is one."""
        batch, channels, height, width = x.shape
        tokens = ops.reshape(self.norm(x), shape=(batch, channels, height * width))
        y = self.linear(ops.transpose(tokens, permutation=(0, 2, 1)), channels)
        for source in (None, context) if context is not None else (None,):
            normal = ops.layer_norm(y, self.parameter(channels), self.parameter(channels))
            given = normal if source is None else source
            query, key, value = (
                ops.transpose(
                    ops.reshape(self.linear(each, channels), shape=(batch, each.shape[1], heads, channels // heads)),
                    permutation=(0, 2, 1, 3),
                )
                for each in (normal, given, given)
            )
            scores = ops.softmax(ops.matmul(query, key, transpose_y=True) * (channels / heads) ** -0.5, axis=-1)
            mixed = ops.transpose(ops.matmul(scores, value), permutation=(0, 2, 1, 3))
            y = y + self.linear(ops.reshape(mixed, shape=y.shape), channels)
        image = ops.reshape(ops.transpose(self.linear(y, channels), permutation=(0, 2, 1)), shape=x.shape)
        return image + x

    def upsampled(self, x):
        height, width = x.shape[2:]
        return self.convolution(ops.resize_nearest(x, size=(2 * height, 2 * width)), x.shape[1])

    def downsampled(self, x):
        padded = ops.pad(x, low=(0, 0, 0, 0), high=(0, 0, 1, 1))
        return self.convolution(padded, x.shape[1], padding=((0, 0), (0, 0)), strides=(2, 2))


def unet(batch=2, size=8, channels=16):
    """Noise and its embedding and a text in, noise out; skip connections are concatenated."""
    layers = _Layers()
    x = layers.builder.input("x", (batch, 4, size, size))
    embedding = layers.linear(ops.silu(layers.linear(layers.builder.input("t", (batch, 8)), 32)), 32)
    context = layers.builder.input("context", (batch, 5, 12))
    first = layers.convolution(x, channels)
    second = layers.residual_block(first, channels, embedding)
    y = layers.attention(layers.residual_block(layers.downsampled(second), 2 * channels, embedding), context)
    y = layers.upsampled(layers.residual_block(y, 2 * channels, embedding))
    for skip in (second, first):
        y = layers.residual_block(ops.concat(y, skip, axis=1), channels, embedding)
    return layers.builder.build(layers.convolution(ops.silu(layers.norm(y)), 4))


def decoder(batch=1, size=5, channels=16):
    """Latents in, an image of twice the size out."""
    layers = _Layers()
    y = layers.convolution(layers.builder.input("z", (batch, 4, size, size)), 4, 1)
    y = layers.convolution(y, 2 * channels)
    y = layers.attention(layers.residual_block(y, 2 * channels), heads=1)
    y = layers.residual_block(layers.upsampled(layers.residual_block(y, 2 * channels)), channels)
    return layers.builder.build(layers.convolution(ops.silu(layers.norm(y)), 3))


GRAPHS = {"unet": unet, "decoder": decoder}


def random_values(graph):
    """Inputs, and weights that keep values of the size of one."""
    generator = numpy.random.default_rng(0)
    inputs = [generator.standard_normal(value.shape).astype("float32") for value in graph.inputs]
    weights = []
    for value in graph.parameters:
        summed = numpy.prod(value.shape[1:]) if len(value.shape) == 4 else value.shape[0]
        scale = summed**-0.5 if len(value.shape) > 1 else 0.5
        weights.append((scale * generator.standard_normal(value.shape)).astype("float32"))
    return inputs, weights
