"""Random bodies of groups, through random views, against the op table's reference, by the interpreter."""

import os

import numpy
from generated_cases import TARGET, check, node_of, random_arrays, reference, strided_view
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from jitinfer.graph import Builder, ops
from jitinfer.kernels.triton.generated.pointwise import Pointwise
from jitinfer.kernels.triton.generated.rows import HeldRows

BODIES = int(os.environ.get("JITINFER_RANDOM_BODIES", "60"))
SHAPES = [(2, 3, 24), (4, 40), (3, 1, 17), (33,), (2, 2, 3, 16), (5, 1)]
SMOOTH = ["tanh", "sigmoid", "silu", "gelu", "sin", "cos", "erf", "softplus", "negative", "abs", "relu"]
JUMPS = ["floor", "ceil", "round", "sign"]
STYLES = ["plain", "reversed", "transposed", "sliced", "broadcast"]


class Writer:
    """Adds one random node after another. Values stay small, and what jumps is taken of operands alone: there the
    kernel and the reference have the same numbers."""

    def __init__(self, draw):
        self.draw = draw
        self.builder = Builder()
        self.shape = self.one_of(SHAPES)
        self.dtype = self.one_of(["float32", "bfloat16", "float16", "float64"])
        rank = len(self.shape)
        shapes = [self.shape, self.shape, self.shape[-1:], (*self.shape[:-1], 1), (1,) * (rank - 1) + self.shape[-1:]]
        self.given = [self.builder.input(f"x_{i}", shape, self.dtype) for i, shape in enumerate(shapes)]
        self.numbers = self.builder.input("numbers", self.shape, "int32")
        self.whole = [self.given[0] * 1.0]
        self.reducing = self.one_of([False, True])

    def one_of(self, choices):
        return self.draw(st.sampled_from(choices))

    def any(self):
        return self.one_of(self.whole)

    def operand(self):
        return self.one_of([*self.whole, *self.given])

    def step(self):
        kinds = [self.unary, self.binary, self.selection, self.jump, self.integers, self.constant]
        if self.reducing:
            kinds += [self.norm, self.softmax, self.reduction]
        self.whole.append(self.one_of(kinds)())

    def unary(self):
        return getattr(ops, self.one_of(SMOOTH))(self.any())

    def binary(self):
        name = self.one_of(["add", "subtract", "multiply", "maximum", "minimum"])
        return ops.tanh(getattr(ops, name)(self.any(), self.operand()))

    def constant(self):
        return self.any() * self.one_of([0.5, -1.25, 1.0])

    def selection(self):
        name = self.one_of(["less", "greater_equal", "equal", "not_equal"])
        condition = getattr(ops, name)(self.one_of(self.given), self.one_of(self.given))
        return ops.where(condition, self.any(), self.operand())

    def jump(self):
        return ops.add(self.any(), getattr(ops, self.one_of(JUMPS))(self.one_of(self.given)))

    def integers(self):
        three = self.builder.constant(3, "int32")
        name = self.one_of(["remainder", "floor_divide", "divide", "maximum"])
        found = getattr(ops, name)(self.numbers, three)
        return self.any() + ops.cast(found, dtype=self.dtype)

    def norm(self):
        name = self.one_of(["layer_norm", "rms_norm", "adaptive_layer_norm"])
        if name == "adaptive_layer_norm":
            return ops.adaptive_layer_norm(self.any(), self.one_of(self.given), self.one_of(self.given), epsilon=0.1)
        return getattr(ops, name)(self.any(), axes=1, epsilon=0.1)

    def softmax(self):
        return getattr(ops, self.one_of(["softmax", "log_softmax"]))(self.any(), axis=-1)

    def reduction(self):
        name = self.one_of(["mean", "max", "min"])
        return self.any() - getattr(ops, name)(self.any(), axes=(-1,), keepdims=True)


@st.composite
def groups(draw):
    writer = Writer(draw)
    for _ in range(draw(st.integers(1, 7))):
        writer.step()
    results = [writer.whole[-1]]
    if draw(st.booleans()):
        results.append(writer.any())
    body = writer.builder.build(*results)
    inputs, views = [], []
    for value in body.inputs:
        view, buffer = strided_view(value.shape, draw(st.sampled_from(STYLES)))
        inputs.append((buffer, value.dtype))
        views.append(view)
    return node_of("group", inputs, {"body": body}, views=views)


@settings(max_examples=BODIES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(groups(), st.integers(0, 1000))
def test_random_bodies(node, seed):
    family = next(each for each in (Pointwise(), HeldRows()) if each.supports(node, TARGET))
    event(family.name)
    arrays = random_arrays(node, seed, -2.0, 2.0)
    scale = max(float(numpy.abs(each).max(initial=1.0)) for each in reference(node, arrays))
    usable = [each for each in family.configs(node, TARGET) if not each["programmatic"]]
    check(family, node, arrays, slack=500.0, scale=scale, configs=[usable[seed % len(usable)]])
