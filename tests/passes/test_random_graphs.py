"""Random graphs, made of what models are made of, mean the same after the whole pipeline."""

import contextlib
import dataclasses
import os

import numpy
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from jitinfer.graph import Builder, Constant, Graph, Value, evaluate, ops, parse
from jitinfer.passes import converting, default, run_passes

GRAPHS = int(os.environ.get("JITINFER_RANDOM_GRAPHS", "500"))
SHAPES = [(2, 6, 8), (1, 4, 8), (3, 8), (2, 2, 4, 4)]
ACTIVATIONS = ["silu", "relu", "tanh", "sigmoid", "gelu"]


class Writer:
    """Adds one random step after another; every step takes tensors that are there and adds one."""

    def __init__(self, draw):
        self.draw = draw
        self.builder = Builder()
        shape = self.one_of(SHAPES)
        self.tensors = [self.builder.input(f"x{i}", shape) for i in range(2)]
        if self.one_of([False, True]):
            self.tensors.append(self.builder.input("y", (*shape[:-2], 1, shape[-1])))
        self.weights = 0

    def one_of(self, choices):
        return self.draw(st.sampled_from(choices))

    def any(self, at_least=1):
        return self.one_of([each for each in self.tensors if len(each.shape) >= at_least])

    def like(self, x):
        """A tensor, maybe a weight, that broadcasts to x."""
        fitting = [each for each in self.tensors if _broadcasts(each.shape, x.shape)]
        return self.one_of([*fitting, None]) or self.weight(self.one_of([x.shape[-1:], x.shape]))

    def weight(self, shape):
        self.weights += 1
        return self.builder.parameter(f"p{self.weights}", shape)

    def product(self):
        x = self.any(2)
        columns = self.one_of([4, 8])
        turned = self.one_of([False, True])
        weight = self.weight((columns, x.shape[-1]) if turned else (x.shape[-1], columns))
        y = ops.matmul(x, weight, transpose_y=turned)
        if self.one_of([True, True, False]):
            y = y + self.weight((columns,))
        return y

    def projections(self):
        """Several products of one operand, as queries, keys and values."""
        x = self.any(2)
        for _ in range(2):
            self.tensors.append(ops.matmul(x, self.weight((x.shape[-1], 8))) + self.weight((8,)))
        return ops.matmul(x, self.weight((x.shape[-1], 8))) + self.weight((8,))

    def activation(self):
        return getattr(ops, self.one_of(ACTIVATIONS))(self.any())

    def activation_written_out(self):
        """Not those with constants that float32 rounds: they have the tolerance of that."""
        x = self.any()
        return x * ops.sigmoid(x)

    def norm(self):
        x = self.any()
        form = self.one_of(["op", "affine", "written out", "rms"])
        if form == "op":
            return ops.layer_norm(x, axes=1, epsilon=1e-5)
        if form == "affine":
            return ops.layer_norm(x, axes=1) * self.weight(x.shape[-1:]) + self.weight(x.shape[-1:])
        last = (len(x.shape) - 1,)
        if form == "rms":
            return x * ops.rsqrt(ops.mean(x * x, axes=last, keepdims=True) + 1e-5)
        centred = x - ops.mean(x, axes=last, keepdims=True)
        return centred / ops.sqrt(ops.mean(centred * centred, axes=last, keepdims=True) + 1e-5)

    def modulated(self):
        x = self.any()
        return ops.layer_norm(x, axes=1) * (1.0 + self.like(x)) + self.like(x)

    def gated(self):
        x = self.any()
        return self.like(x) + self.like(x) * x

    def arithmetic(self):
        x = self.any()
        function = self.one_of([ops.add, ops.multiply, ops.subtract, ops.maximum])
        other = self.one_of([self.like(x), self.builder.constant(self.one_of([0.0, 1.0, 0.5]), "float32")])
        return function(x, other) if self.one_of([False, True]) else function(other, x)

    def turned(self):
        x = self.any()
        return ops.transpose(x, permutation=tuple(self.draw(st.permutations(range(len(x.shape))))))

    def reshaped(self):
        x = self.any()
        size = int(numpy.prod(x.shape))
        shapes = [(size,), (1, size), (size // x.shape[-1], x.shape[-1])]
        shapes += [(*x.shape[:-1], x.shape[-1] // 2, 2)] if x.shape[-1] % 2 == 0 else []
        return ops.reshape(x, shape=self.one_of(shapes))

    def part(self):
        x = self.any()
        axis = self.one_of(range(len(x.shape)))
        start = self.draw(st.integers(0, x.shape[axis] - 1))
        stop = self.draw(st.integers(start + 1, x.shape[axis]))
        starts, stops = [0] * len(x.shape), list(x.shape)
        starts[axis], stops[axis] = start, stop
        return ops.slice(x, starts=tuple(starts), stops=tuple(stops), steps=(1,) * len(x.shape))

    def joined(self):
        x = self.any()
        return ops.concat(x, self.one_of([each for each in self.tensors if each.shape == x.shape]), axis=0)

    def attention(self):
        return self.attended(["none", "weight"])

    def masked_attention(self):
        return self.attended(["boolean", "later", "filled", "another"])

    def attended(self, masks):
        """From projections of one tensor or of two, with heads or without."""
        x = self.any(2)
        if len(x.shape) != 3:
            return self.activation()
        batch, tokens, width = x.shape
        heads = self.one_of([1, 2])

        def head(weighted):
            taken = ops.reshape(weighted, shape=(batch, tokens, heads, 8 // heads))
            return ops.transpose(taken, permutation=(0, 2, 1, 3))

        q, k, v = (head(ops.matmul(x, self.weight((width, 8)))) for _ in range(3))
        scores = ops.matmul(q * 0.5 if self.one_of([True, False]) else q, k, transpose_y=True)
        scores = scores * 0.25 if self.one_of([True, False]) else scores
        scores = self.masked(scores, tokens, self.one_of(masks))
        out = ops.transpose(ops.matmul(ops.softmax(scores, axis=-1), v), permutation=(0, 2, 1, 3))
        return ops.reshape(out, shape=(batch, tokens, 8))

    def masked(self, scores, tokens, form):
        """By a weight; by what comes later, added or filled in; by what is no causal mask; or not at all."""
        if form == "none":
            return scores
        if form == "weight":
            return scores + self.weight((tokens, tokens))
        if form == "boolean":  # each token sees itself at least
            zero, lowest = (self.builder.constant(number, "float32") for number in (0.0, -numpy.inf))
            some = ops.greater(self.weight((tokens, tokens)), zero)
            visible = ops.logical_or(some, self.builder.constant(numpy.eye(tokens, dtype=bool)))
            return ops.where(visible, scores, lowest)
        visible = numpy.tri(tokens, tokens, 1 if form == "another" else 0, dtype=bool)
        zero, lowest = (self.builder.constant(x, "float32") for x in (0.0, numpy.finfo("float32").min))
        if form == "filled":
            return ops.where(self.builder.constant(visible), scores, lowest)
        return scores + ops.where(self.builder.constant(visible), zero, lowest)

    def patches(self):
        """Of an image: a convolution, or a product with patches moved together; then tokens, or an image."""
        x = self.one_of([*(each for each in self.tensors if _image(each.shape)), None])
        if x is None:
            return self.activation()
        batch, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        if self.one_of([True, False]):
            image = ops.conv2d(x, self.weight((8, channels, 2, 2)), self.weight((8,)), strides=(2, 2))
            if self.one_of([True, False]):
                return image
            tokens = ops.transpose(ops.reshape(image, shape=(batch, 8, rows * columns)), permutation=(0, 2, 1))
        else:
            parts = ops.reshape(x, shape=(batch, channels, rows, 2, columns, 2))
            parts = ops.transpose(parts, permutation=(0, 2, 4, 1, 3, 5))
            flat = ops.reshape(parts, shape=(batch, rows * columns, 4 * channels))
            tokens = ops.matmul(flat, self.weight((4 * channels, 8))) + self.weight((8,))
        return tokens + self.weight((rows * columns, 8)) if self.one_of([True, False]) else tokens

    def timesteps(self):
        """Their embedding, in either order, with frequencies that float32 has exactly."""
        x = self.any()
        row = ops.slice(
            x, starts=(0,) * len(x.shape), stops=(*[1] * (len(x.shape) - 1), x.shape[-1]), steps=(1,) * len(x.shape)
        )
        count = x.shape[-1]
        t = ops.reshape(row, shape=(count,))
        frequencies = self.builder.constant(2.0 ** -numpy.arange(4)[None], "float32")
        angles = ops.reshape(t, shape=(count, 1)) * frequencies
        angles = angles * 2.0 if self.one_of([True, False]) else angles
        y = ops.concat(ops.cos(angles), ops.sin(angles), axis=1)
        if self.one_of([True, False]):
            halves = [ops.slice(y, starts=(0, at), stops=(count, at + 4), steps=(1, 1)) for at in (4, 0)]
            y = ops.concat(*halves, axis=1)
        return y

    def block(self):
        """residual + gate * x, and its adaptive norm, with modulations that are one row for all tokens."""
        residual = self.any(2)
        x = self.one_of([each for each in self.tensors if each.shape == residual.shape])
        row = (*residual.shape[:-2], 1, residual.shape[-1])
        gate, scale, shift = (self.weight(row) for _ in range(3))
        total = residual + gate * x
        self.tensors.append(total)
        return ops.layer_norm(total, axes=1) * (1.0 + scale) + shift

    def of_constants(self):
        x = self.any()
        table = self.builder.constant(numpy.arange(x.shape[-1]) / 4, "float32")
        return x * (table * 2.0 + 0.5)  # exact in float32, so that folding rounds nothing

    def grouped_attention(self):
        """Two heads of keys and values, each read by two heads of queries."""
        x = self.any(2)
        if len(x.shape) != 3:
            return self.activation()
        batch, tokens, width = x.shape
        q = ops.reshape(ops.matmul(x, self.weight((width, 8))), shape=(batch, tokens, 4, 2))
        repeated = []
        for _ in range(2):
            few = ops.reshape(ops.matmul(x, self.weight((width, 4))), shape=(batch, tokens, 2, 1, 2))
            many = ops.broadcast_to(few, shape=(batch, tokens, 2, 2, 2))
            repeated.append(ops.reshape(many, shape=(batch, tokens, 4, 2)))
        q, k, v = (ops.transpose(each, permutation=(0, 2, 1, 3)) for each in (q, *repeated))
        scores = ops.softmax(ops.matmul(q, k, transpose_y=True) * 0.5, axis=-1)
        return ops.reshape(ops.transpose(ops.matmul(scores, v), permutation=(0, 2, 1, 3)), shape=(batch, tokens, 8))

    def gated_unit(self):
        x = self.any(2)
        return ops.silu(ops.matmul(x, self.weight((x.shape[-1], 8)))) * ops.matmul(x, self.weight((x.shape[-1], 8)))

    def rotary(self):
        x = self.one_of([each for each in self.tensors if each.shape[-1] % 2 == 0])
        half = x.shape[-1] // 2
        form = self.one_of(["half", "halves", "pairs", "partial"])
        axis = len(x.shape) - 1
        if form == "partial":
            width = max(half // 2 * 2, 2)
            turned = ops.rotary(_part(x, 0, width), self.weight((width,)), self.weight((width,)))
            return ops.concat(turned, _part(x, width, 2 * half), axis=axis)
        if form == "half":
            turned = ops.concat(_part(x, half, 2 * half) * -1.0, _part(x, 0, half), axis=axis)
            return x * self.weight(x.shape[-1:]) + turned * self.weight(x.shape[-1:])
        cos, sin = self.weight((half,)), self.weight((half,))
        if form == "halves":
            a, b = _part(x, 0, half), _part(x, half, 2 * half)
            return ops.concat(a * cos - b * sin, b * cos + a * sin, axis=axis)
        pairs = ops.reshape(x, shape=(*x.shape[:-1], half, 2))
        a, b = (ops.reshape(_part(pairs, i, i + 1), shape=pairs.shape[:-1]) for i in range(2))
        parts = (ops.reshape(each, shape=(*a.shape, 1)) for each in (a * cos - b * sin, a * sin + b * cos))
        return ops.reshape(ops.concat(*parts, axis=axis + 1), shape=x.shape)

    def embedders(self):
        """Blocks that embed one tensor by weights of their own, each for its own use."""
        x = self.any(2)
        activation = self.one_of(ACTIVATIONS)
        for _ in range(self.one_of([2, 3])):
            hidden = getattr(ops, activation)(ops.matmul(x, self.weight((x.shape[-1], 4))) + self.weight((4,)))
            self.tensors.append(ops.matmul(hidden, self.weight((4, self.one_of([8, 8, 6])))))
        return self.arithmetic()

    def joint(self):
        """Parts of two streams, joined part by part."""
        x = self.any(2)
        if len(x.shape) != 3 or x.shape[-1] < 2:
            return self.activation()
        y = self.one_of([x, ops.silu(x)])
        half = x.shape[-1] // 2
        bounds = self.one_of([[(0, half), (half, 2 * half)], [(0, half), (0, half)]])
        first, second = (ops.concat(_part(x, *bound), _part(y, *bound), axis=1) for bound in bounds)
        return first * second

    def of_weights(self):
        a = self.weight((4, 8))
        return ops.transpose(a * 2.0, permutation=(1, 0))


STEPS = [
    each
    for each in vars(Writer)
    if not each.startswith("_") and each not in ("one_of", "any", "like", "weight", "masked", "attended")
]


@st.composite
def graphs(draw):
    writer = Writer(draw)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=10)):
        found = getattr(writer, step)()
        if 0 < numpy.prod(found.shape) <= 4096:
            writer.tensors.append(found)
    count = draw(st.integers(1, 3))
    return writer.builder.build(*writer.tensors[-count:])


def _part(x, start, stop):
    """Along the last axis."""
    starts, stops = (*[0] * (len(x.shape) - 1), start), (*x.shape[:-1], stop)
    return ops.slice(x, starts=starts, stops=stops, steps=(1,) * len(x.shape))


def _image(shape):
    return len(shape) == 4 and shape[2] % 2 == shape[3] % 2 == 0


def _broadcasts(shape, to):
    try:
        return numpy.broadcast_shapes(shape, to) == tuple(to)
    except ValueError:
        return False


@given(graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_a_random_graph_keeps_its_meaning(graph, seed):
    generator = numpy.random.default_rng(seed)
    inputs = [generator.standard_normal(value.shape).astype("float32") for value in graph.inputs]
    weights = [generator.standard_normal(value.shape).astype("float32") for value in graph.parameters]
    expected = evaluate(graph, inputs, weights, arithmetic="float64")
    assert parse(str(graph)).hash == graph.hash
    after, report = run_passes(graph, check=True)
    assert parse(str(after)).hash == after.hash
    for step in report.steps:
        if step.changes:
            event(step.name)
    actual = evaluate(after, inputs, weights, arithmetic="float64")
    exact = [numpy.abs(each).max(initial=1.0) for each in expected]
    for found, wanted, largest in zip(actual, expected, exact, strict=True):
        assert found.shape == wanted.shape
        numpy.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * largest)


@given(graphs(), st.sampled_from(["bfloat16", "float16"]), st.integers(0, 2**32 - 1))
@settings(max_examples=GRAPHS // 2, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_a_random_graph_in_a_narrow_dtype_is_the_same_but_for_dtypes(graph, dtype, seed):
    """With float32 again in place of the narrow dtype, the casts go, and the results are the graph's."""
    names = converting(default(), dtype)
    place = names.index("weight_prologue")
    converted, _ = run_passes(graph, names[:place], check=True)
    after, _ = run_passes(converted, names[place:], check=True)
    generator = numpy.random.default_rng(seed)
    inputs = [generator.standard_normal(value.shape).astype("float32") for value in graph.inputs]
    weights = [generator.standard_normal(value.shape).astype("float32") for value in graph.parameters]
    results = evaluate(after, inputs, weights)
    assert [(each.shape, str(each.dtype)) for each in results] == [(v.shape, v.dtype) for v in graph.outputs]
    same, _ = run_passes(_in_float32(converted, dtype), ["simplify"])
    assert same.counts()["cast"] == 0
    expected = evaluate(graph, inputs, weights, arithmetic="float64")
    actual = evaluate(same, inputs, weights, arithmetic="float64")
    for found, wanted in zip(actual, expected, strict=True):
        numpy.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9 * numpy.abs(wanted).max(initial=1.0))


def _in_float32(graph, dtype):
    """The graph with float32 wherever it has `dtype`."""
    values = {}

    def value(old):
        kind = None if old is None else old.type.with_dtype("float32") if old.dtype == dtype else old.type
        return None if old is None else values.setdefault(old, Value(kind, old.name))

    def attribute(old):
        if isinstance(old, Constant) and old.type.dtype == dtype:
            return Constant(old.array.astype("float32"))
        return "float32" if old == dtype else old

    nodes = []
    for node in graph.nodes:
        attributes = {name: attribute(each) for name, each in node.attributes.items()}
        inputs, outputs = (tuple(map(value, each)) for each in (node.inputs, node.outputs))
        nodes.append(dataclasses.replace(node, inputs=inputs, outputs=outputs, attributes=attributes))
    ends = (tuple(map(value, each)) for each in (graph.inputs, graph.parameters))
    same = Graph(*ends, tuple(nodes), tuple(map(value, graph.outputs)))
    same.check()
    return same


RARE = {
    "fuse_conv_padding",
    "fuse_conv_scale",
    "fuse_conv_bias",
    "fuse_conv_residual",
    "fuse_conv_activation",
    "fuse_group_norm_silu",
    "form_gelu",
}
"""Passes that random graphs need not exercise."""


class _AllFiredError(Exception):
    pass


def test_random_graphs_exercise_the_passes():
    """Most of the passes change something in some of the graphs: the test above is not idle."""
    missing = set(default()) - RARE

    @given(graphs())
    @settings(
        max_examples=1500,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    def run(graph):
        if missing:
            _, report = run_passes(graph)
            missing.difference_update(step.name for step in report.steps if step.changes)
        if not missing:
            raise _AllFiredError  # no other graph is needed

    with contextlib.suppress(_AllFiredError):
        run()
    assert not missing
