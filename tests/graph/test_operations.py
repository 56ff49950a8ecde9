"""Every op's reference against Paddle's own function, on random data in float64."""

import numpy
import paddle
import pytest
from paddle.nn import functional

from jitinfer.errors import GraphError
from jitinfer.graph import Builder, Constant, evaluate, op_named, ops, table
from jitinfer.graph.types import dtype_name

GENERATOR = numpy.random.default_rng(7)


def normal(*shape):
    return GENERATOR.standard_normal(shape)


def integers(high, *shape):
    return GENERATOR.integers(0, high, shape)


def logical(*shape):
    return GENERATOR.integers(0, 2, shape).astype(bool)


X, Y = normal(3, 4, 5), normal(4, 1)
SEEN: set[str] = set()


def result(name, *arrays, **attributes):
    """The results of one op, in a graph of its own."""
    SEEN.add(name)
    builder = Builder()
    given = [
        None if array is None else builder.input(f"x{i}", array.shape, dtype_name(array.dtype))
        for i, array in enumerate(arrays)
    ]
    outputs = (
        getattr(ops, name)(*given, **attributes)
        if given
        else builder.tensor(builder.add(op_named(name), (), attributes)[0])
    )
    graph = builder.build(*(outputs if isinstance(outputs, tuple) else (outputs,)))
    return evaluate(graph, [array for array in arrays if array is not None])


def agrees(name, expected, *arrays, **attributes):
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    for actual, wanted in zip(result(name, *arrays, **attributes), expected, strict=True):
        wanted = wanted.numpy() if isinstance(wanted, paddle.Tensor) else wanted
        assert (actual.shape, actual.dtype) == (wanted.shape, wanted.dtype)
        numpy.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-12)


def tensor(array):
    return paddle.to_tensor(array)


UNARY = "abs ceil cos erf exp floor log1p round rsqrt sign sin sqrt tanh log isnan isfinite"
BINARY = "add subtract multiply divide maximum minimum remainder floor_divide"


@pytest.mark.parametrize("name", UNARY.split())
def test_unary(name):
    x = numpy.abs(X) + 0.1 if name in ("log", "log1p", "rsqrt", "sqrt") else X
    agrees(name, getattr(paddle, name)(tensor(x)), x)


def test_unary_of_other_names():
    agrees("negative", -X, X)
    agrees("sigmoid", functional.sigmoid(tensor(X)), X)
    agrees("silu", functional.silu(tensor(X)), X)
    agrees("relu", functional.relu(tensor(X)), X)
    agrees("softplus", numpy.log1p(numpy.exp(X)), X)
    agrees("logical_not", numpy.array([False, True]), numpy.array([True, False]))
    for approximate in ("none", "tanh"):
        expected = functional.gelu(tensor(X), approximate=approximate == "tanh")
        agrees("gelu", expected, X, approximate=approximate)
    agrees("gelu", tensor(X) * functional.sigmoid(1.702 * tensor(X)), X, approximate="sigmoid")
    agrees("leaky_relu", functional.leaky_relu(tensor(X), 0.2), X, negative_slope=0.2)
    agrees("clip", paddle.clip(tensor(X), -0.5, 0.7), X, low=-0.5, high=0.7)
    agrees("cast", tensor(X * 3).astype("int64"), X * 3, dtype="int64")


@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "divide", "maximum", "minimum", "remainder", "floor_divide"]
)
def test_binary(name):
    agrees(name, getattr(paddle, name)(tensor(X), tensor(Y)), X, Y)


def test_division_of_integers_is_towards_zero():
    x, y = numpy.array([7, -7, 7, -7]), numpy.array([2, 2, -2, -2])
    agrees("divide", numpy.array([3, -3, -3, 3]), x, y)
    agrees("floor_divide", numpy.array([3, -4, -4, 3]), x, y)
    agrees("remainder", paddle.remainder(tensor(x), tensor(y)), x, y)


@pytest.mark.parametrize("name", ["equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal"])
def test_comparisons(name):
    x, y = integers(3, 4, 5), integers(3, 5)
    agrees(name.removesuffix("_than"), getattr(paddle, name)(tensor(x), tensor(y)), x, y)


@pytest.mark.parametrize("kind", ["logical", "bitwise"])
@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(kind, name):
    x, y = (logical(20), logical(20)) if kind == "logical" else (integers(64, 20), integers(64, 20))
    agrees(f"{kind}_{name}", getattr(paddle, f"{kind}_{name}")(tensor(x), tensor(y)), x, y)


def test_power_and_where():
    agrees("power", tensor(abs(X)) ** tensor(Y), abs(X), Y)
    condition = logical(3, 1, 5)
    agrees("where", numpy.where(condition, X, Y), condition, X, Y)


def test_creation():
    agrees("full", numpy.full((2, 3), 1.5, "float32"), shape=(2, 3), value=1.5, dtype="float32")
    agrees("iota", paddle.arange(5), size=5)
    agrees("constant", X, value=Constant(X))


def test_views_and_movement():
    agrees("reshape", X.reshape(5, 12), X, shape=(5, 12))
    agrees("transpose", paddle.transpose(tensor(X), [2, 0, 1]), X, permutation=(2, 0, 1))
    agrees("slice", X[1:3, ::-1, ::2], X, starts=(1, 3, 0), stops=(3, -1, 5), steps=(1, -1, 2))
    agrees("broadcast_to", paddle.broadcast_to(tensor(Y), [3, 4, 5]), Y, shape=(3, 4, 5))
    agrees("concat", paddle.concat([tensor(X), tensor(X[:, :1])], axis=1), X, X[:, :1], axis=1)
    for mode, name in (("constant", "constant"), ("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")):
        expected = functional.pad(tensor(X), [1, 2], mode=name, value=0.5, data_format="NCL")
        agrees("pad", expected, X, low=(0, 0, 1), high=(0, 0, 2), mode=mode, value=0.5)
    rows = integers(4, 2, 3)
    agrees("gather", numpy.stack([X[:, row] for row in rows], axis=1), X, rows, axis=1)
    places = integers(3, 6, 2)
    agrees("gather_nd", paddle.gather_nd(tensor(X), tensor(places)), X, places)
    index = integers(4, 3, 2, 5)
    agrees("take_along_axis", paddle.take_along_axis(tensor(X), tensor(index), 1, broadcast=False), X, index, axis=1)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (-1,), (0, 1, 2)])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod"])
def test_reductions(name, axes, keepdims):
    agrees(name, getattr(paddle, name)(tensor(X), axis=list(axes), keepdim=keepdims), X, axes=axes, keepdims=keepdims)


def test_other_reductions():
    x = logical(4, 5)
    for name in ("any", "all"):
        agrees(name, getattr(paddle, name)(tensor(x), axis=1), x, axes=(1,))
    for name in ("argmax", "argmin"):
        agrees(name, getattr(paddle, name)(tensor(X), axis=1, keepdim=True), X, axis=1, keepdims=True)
    agrees("cumsum", paddle.cumsum(tensor(X), axis=1), X, axis=1)
    agrees("cumsum", numpy.array([5.0, 3.0, 0.0]), numpy.array([1.0, 2.0, 3.0]), axis=0, reverse=True, exclusive=True)
    agrees("softmax", functional.softmax(tensor(X), axis=1), X, axis=1)
    agrees("log_softmax", functional.log_softmax(tensor(X), axis=-1), X)
    for descending in (False, True):
        agrees("argsort", paddle.argsort(tensor(X), axis=1, descending=descending), X, axis=1, descending=descending)
        agrees("top_k", paddle.topk(tensor(X), 3, axis=1, largest=descending), X, k=3, axis=1, largest=descending)


def test_equal_elements_keep_their_order():
    x = numpy.array([1.0, 2.0, 1.0, 2.0, 0.0])
    agrees("argsort", numpy.array([1, 3, 0, 2, 4]), x, descending=True)
    agrees("argsort", numpy.array([4, 0, 2, 1, 3]), x)
    agrees("top_k", (numpy.array([2.0, 2.0, 1.0]), numpy.array([1, 3, 0])), x, k=3)


@pytest.mark.parametrize("axes", [1, 2])
def test_layer_norms(axes):
    shape = X.shape[3 - axes :]
    scale, bias = normal(*shape), normal(*shape)
    expected = functional.layer_norm(tensor(X), shape, tensor(scale.ravel()), tensor(bias.ravel()), 1e-5)
    agrees("layer_norm", expected, X, scale, bias, axes=axes, epsilon=1e-5)
    over = tuple(range(3 - axes, 3))
    root = numpy.sqrt((X**2).mean(axis=over, keepdims=True) + 1e-6)
    agrees("rms_norm", X / root * scale, X, scale, axes=axes, epsilon=1e-6)


def test_group_norm():
    x, scale, bias = normal(2, 6, 3, 3), normal(6), normal(6)
    expected = functional.group_norm(tensor(x), 3, 1e-5, tensor(scale), tensor(bias))
    agrees("group_norm", expected, x, scale, bias, groups=3)
    agrees("group_norm", functional.silu(expected), x, scale, bias, groups=3, activation="silu")


@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((4,), (4,))])
def test_matmul(left, right):
    x, y = normal(*left), normal(*right)
    agrees("matmul", numpy.asarray(x @ y), x, y)


def test_matmul_transposed():
    x, y = normal(2, 1, 4, 3), normal(5, 6, 4)
    expected = paddle.matmul(tensor(x), tensor(y), transpose_x=True, transpose_y=True)
    agrees("matmul", expected, x, y, transpose_x=True, transpose_y=True)


FUSED = ["none", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "relu", "leaky_relu", "sigmoid"]


@pytest.mark.parametrize("activation", FUSED)
def test_linear(activation):
    x, weight, bias, residual, gate = normal(2, 3, 4), normal(4, 5), normal(5), normal(2, 3, 5), normal(2, 1, 5)
    y = functional.linear(tensor(x), tensor(weight), tensor(bias))
    function = {
        "none": lambda t: t,
        "gelu_tanh": lambda t: functional.gelu(t, approximate=True),
        "gelu_sigmoid": lambda t: t * functional.sigmoid(1.702 * t),
    }
    y = function.get(activation, getattr(functional, activation, None))(y)
    expected = tensor(residual) + tensor(gate) * y
    agrees("linear", expected, x, weight, bias, residual, gate, activation=activation)
    agrees("linear", expected, x, weight.T.copy(), bias, residual, gate, activation=activation, transpose_weight=True)


def test_linear_that_is_not_rounded():
    x, weight, bias = (array.astype("float16") for array in (normal(6, 64), normal(64, 5), normal(5)))
    wide = x.astype("float64") @ weight.astype("float64") + bias
    (rounded,), (unrounded,) = (result("linear", x, weight, bias, unrounded=each) for each in (False, True))
    assert (rounded.dtype, unrounded.dtype) == ("float16", "float32")
    assert numpy.abs(unrounded - wide).max() < 1e-5 < numpy.abs(rounded - wide).max()


def test_linear_of_groups_and_of_several_axes():
    x, weight, bias = normal(3, 2, 4), normal(3, 4, 5), normal(3, 5)
    agrees("linear", numpy.einsum("gmk,gkn->gmn", x, weight) + bias[:, None], x, weight, bias)
    x, weight = normal(2, 3, 4, 5), normal(20, 6)
    agrees("linear", numpy.einsum("abk,kn->abn", x.reshape(2, 3, 20), weight), x, weight, contraction=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", ["", "float", "bool"])
@pytest.mark.parametrize("lengths", [(5, 5), (3, 7)])
def test_attention(causal, masked, lengths):
    q, k, v = normal(2, lengths[0], 4, 8), normal(2, lengths[1], 2, 8), normal(2, lengths[1], 2, 6)
    mask = {"": None, "float": normal(2, 1, *lengths), "bool": logical(2, 1, *lengths)}[masked]
    if mask is not None and masked == "bool":
        mask[..., 0] = True
    rows = numpy.zeros((2, lengths[0], 4, 6))
    for batch in range(2):
        for head in range(4):
            for i in range(lengths[0]):
                scores = k[batch, :, head // 2] @ q[batch, i, head] * 0.3
                if mask is not None:
                    row = mask[batch, 0, i]
                    scores = numpy.where(row, scores, -numpy.inf) if masked == "bool" else scores + row
                if causal:
                    scores = scores[: i + lengths[1] - lengths[0] + 1]
                weights = numpy.exp(scores - scores.max())
                rows[batch, i, head] = weights / weights.sum() @ v[batch, : len(scores), head // 2]
    agrees("attention", rows, q, k, v, mask, scale=0.3, causal=causal)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, (1, 0, 2, 1), 1), ((2, 1), 2, (2, 1))])
def test_conv2d(groups, stride, padding, dilation):
    x, weight, bias = normal(2, 4, 9, 8), normal(8, 4 // groups, 3, 2), normal(8)
    expected = functional.conv2d(tensor(x), tensor(weight), tensor(bias), stride, padding, dilation, groups)
    (top, bottom, left, right) = padding if isinstance(padding, tuple) else [padding] * 4
    attributes = {
        "strides": (stride, stride) if isinstance(stride, int) else stride,
        "padding": ((top, bottom), (left, right)),
        "dilation": (dilation, dilation) if isinstance(dilation, int) else dilation,
        "groups": groups,
    }
    agrees("conv2d", expected, x, weight, bias, **attributes)
    agrees("conv2d", functional.silu(expected), x, weight, bias, activation="silu", **attributes)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding", "more", "dilation"),
    [(1, 0, 0, 1), (2, 1, 1, 1), ((2, 3), (1, 0, 2, 1), (1, 2), 1), ((3, 1), 2, 0, (2, 1))],
)
def test_conv2d_transpose(groups, stride, padding, more, dilation):
    x, weight, bias = normal(2, 4, 5, 6), normal(4, 6 // groups, 3, 2), normal(6)
    expected = functional.conv2d_transpose(
        tensor(x), tensor(weight), tensor(bias), stride, padding, more, dilation, groups
    )
    (top, bottom, left, right) = padding if isinstance(padding, tuple) else [padding] * 4
    attributes = {
        "strides": (stride, stride) if isinstance(stride, int) else stride,
        "padding": ((top, bottom), (left, right)),
        "output_padding": (more, more) if isinstance(more, int) else more,
        "dilation": (dilation, dilation) if isinstance(dilation, int) else dilation,
        "groups": groups,
    }
    agrees("conv2d_transpose", expected, x, weight, bias, **attributes)
    agrees("conv2d_transpose", expected - tensor(bias[:, None, None]), x, weight, **attributes)


@pytest.mark.parametrize(
    ("shape", "attributes", "message"),
    [
        ((3, 2, 3, 3), {}, "4 channels meet 3"),
        ((4, 2, 3, 3), {"groups": 3}, "4 channels are not 3 groups"),
        ((4, 2, 1, 1), {"padding": ((3, 3), (0, 0))}, "its padding leaves nothing"),
        ((4, 2, 3, 3), {"padding": ((-1, 0), (0, 0))}, "a negative padding"),
    ],
)
def test_no_conv2d_transpose(shape, attributes, message):
    with pytest.raises(GraphError, match=message):
        result("conv2d_transpose", normal(2, 4, 5, 6), normal(*shape), **attributes)


def test_the_work_of_conv2d_transpose():
    """One multiplication and one addition for each element of x, place in the window and channel of the result."""
    builder = Builder()
    y = ops.conv2d_transpose(builder.input("x", (2, 4, 5, 6)), builder.input("w", (4, 3, 3, 2)), groups=2)
    assert builder.build(y).flops == 2 * (2 * 4 * 5 * 6) * 3 * 3 * 2


def test_parts_of_complex_numbers():
    x, y = normal(3, 4), normal(4)
    agrees("complex", x + 1j * y, x, y)
    agrees("real", x, x + 1j * y)
    agrees("imag", numpy.broadcast_to(y, (3, 4)), x + 1j * y)
    with pytest.raises(GraphError, match="float64 is not complex"):
        result("real", x)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (0, 0)), ((1, 0), (0, 1))])
@pytest.mark.parametrize(("window", "strides"), [((2, 2), (2, 2)), ((3, 2), (1, 3)), ((3, 3), (2, 2))])
def test_pooling(window, strides, padding):
    """Each window by itself, in loops."""
    x = normal(2, 3, 8, 9)
    (top, bottom), (left, right) = padding
    rows = range(-top, x.shape[2] + bottom - window[0] + 1, strides[0])
    columns = range(-left, x.shape[3] + right - window[1] + 1, strides[1])
    seen = [
        [x[:, :, max(i, 0) : i + window[0], max(j, 0) : j + window[1]].reshape(2, 3, -1) for j in columns] for i in rows
    ]

    def each(function):
        return numpy.array([[function(values) for values in line] for line in seen]).transpose(2, 3, 0, 1)

    given = {"window": window, "strides": strides, "padding": padding}
    agrees("max_pool2d", each(lambda values: values.max(-1)), x, **given)
    agrees("average_pool2d", each(lambda values: values.mean(-1)), x, **given)
    counted = each(lambda values: values.sum(-1) / (window[0] * window[1]))
    agrees("average_pool2d", counted, x, count_padding=True, **given)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"window": (9, 2), "strides": (1, 1)}, "window of 9 does not fit"),
        ({"window": (2, 2), "strides": (1, 1), "padding": ((2, 0), (0, 0))}, "lies in the padding"),
        ({"window": (2, 2), "strides": (2, 2), "padding": ((0, 3), (0, 0))}, "lies in the padding"),
        ({"window": (2, 2), "strides": (0, 1)}, "are positive"),
        ({"window": (2, 2), "strides": (1, 1), "count_padding": True}, "only a mean"),
    ],
)
def test_windows_that_no_pool_has(attributes, message):
    with pytest.raises(GraphError, match=message):
        result("max_pool2d", normal(1, 1, 8, 8), **attributes)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_resize_nearest(factor):
    x = normal(2, 3, 4, 5)
    expected = functional.interpolate(tensor(x), scale_factor=factor, mode="nearest")
    agrees("resize_nearest", expected, x, size=(4 * factor, 5 * factor))


def test_fused():
    x, residual, weight, bias = normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)
    scale, shift, gate = normal(2, 1, 8), normal(2, 1, 8), normal(2, 1, 8)

    def adaptive(x):
        norm = functional.layer_norm(tensor(x), 8, tensor(weight), tensor(bias), 1e-6).numpy()
        return norm * (1 + scale) + shift

    agrees("adaptive_layer_norm", adaptive(x), x, scale, shift, weight, bias, epsilon=1e-6)
    total = residual + gate * x
    operands = (x, residual, gate, scale, shift, weight, bias)
    agrees("gated_residual_adaptive_layer_norm", (total, adaptive(total)), *operands, epsilon=1e-6)
    parts, x_bias = normal(3, 2, 3, 8), normal(8)
    for bias_of_x in (x_bias, None):
        x = parts[0] + parts[1] + parts[2] + (0 if bias_of_x is None else bias_of_x)
        total = residual + gate * x
        operands = (parts, residual, gate, scale, shift, weight, bias, bias_of_x)
        agrees("gated_residual_adaptive_layer_norm_of_parts", (total, adaptive(total)), *operands, epsilon=1e-6)
    agrees("swiglu", functional.silu(tensor(x)) * tensor(residual), x, residual)
    t, f = normal(3), normal(4)
    angles = (t[:, None] * f).astype("float64")
    expected = numpy.concatenate([numpy.cos(angles), numpy.sin(angles)], 1).astype("float32")
    (actual,) = result("timestep_embedding", t, f)
    numpy.testing.assert_array_equal(actual, expected)
    (turned,) = result("timestep_embedding", t, f, sin_first=True)
    numpy.testing.assert_array_equal(turned, numpy.roll(expected, 4, axis=1))


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rotary_turns_pairs_by_their_angles(style):
    """As multiplication of complex numbers by exp(i angle)."""
    x, angles = normal(2, 5, 8), normal(5, 4)
    pairs = [(i, i + 4) if style == "half" else (2 * i, 2 * i + 1) for i in range(4)]
    expected, cos, sin = numpy.zeros_like(x), numpy.zeros((5, 8)), numpy.zeros((5, 8))
    for number, (a, b) in enumerate(pairs):
        turned = (x[..., a] + 1j * x[..., b]) * numpy.exp(1j * angles[:, number])
        expected[..., a], expected[..., b] = turned.real, turned.imag
        for table_, values in ((cos, numpy.cos(angles[:, number])), (sin, numpy.sin(angles[:, number]))):
            table_[:, a] = table_[:, b] = values
    agrees("rotary", expected, x, cos, sin, style=style)


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rotary_turns_the_first_elements(style):
    x, cos, sin = normal(2, 5, 8), normal(5, 6), normal(5, 6)
    (whole,) = result("rotary", x[..., :6], cos, sin, style=style)
    (actual,) = result("rotary", x, cos, sin, style=style, rotary_dim=6)
    numpy.testing.assert_array_equal(actual, numpy.concatenate([whole, x[..., 6:]], -1))


def test_an_opaque_op_says_that_it_has_no_reference():
    builder = Builder()
    y = ops.paddle(builder.input("x", (3,)), operator="pd_op.unique", types=(((2,), "float32"),))
    with pytest.raises(GraphError, match=r"pd_op\.unique has no reference"):
        evaluate(builder.build(y), [numpy.zeros(3, "float32")])


def branch(function, *types):
    builder = Builder()
    results = function(*(builder.input(f"x{i}", shape, dtype) for i, (shape, dtype) in enumerate(types)))
    return builder.build(*results)


def test_a_conditional_evaluates_one_branch():
    kinds = ((3,), "float64"), ((3,), "float64")
    then = branch(lambda x, y: (x + y, x * y), *kinds)
    otherwise = branch(lambda x, y: (x - y, y), *kinds)
    x, y = normal(3), normal(3)
    for condition, expected in ((True, (x + y, x * y)), (False, (x - y, y))):
        agrees("conditional", expected, numpy.array(condition), x, y, then=then, otherwise=otherwise)


def test_a_conditional_refuses_branches_that_do_not_fit():
    builder = Builder()
    condition, x = builder.input("c", (), "bool"), builder.input("x", (3,))
    then, other = (
        branch(lambda x: (x,), ((3,), "float32")),
        branch(lambda x: (ops.reshape(x, shape=(1, 3)),), ((3,), "float32")),
    )
    with pytest.raises(GraphError, match="different types"):
        ops.conditional(condition, x, then=then, otherwise=other)
    with pytest.raises(GraphError, match="does not take its operands"):
        ops.conditional(condition, x, x, then=then, otherwise=then)
    with pytest.raises(GraphError, match="not one bool"):
        ops.conditional(x, x, then=then, otherwise=then)


def test_a_loop_carries_its_values():
    def body(count, x, step, last):
        following = count + step
        return ops.less(following, last), following, x * 2.0

    number = ((1,), "int64")
    graph = branch(body, number, ((3,), "float64"), number, number)
    x, one = normal(3), numpy.ones(1, "int64")
    arrays = numpy.array([True]), 0 * one, x, one, 5 * one
    agrees("while_loop", (5 * one, 32 * x), *arrays, body=graph, carried=2)
    agrees("while_loop", (0 * one, x), numpy.array([False]), *arrays[1:], body=graph, carried=2)


def test_a_group_evaluates_its_body():
    kinds = ((2, 3), "float64"), ((3,), "float64")
    body = branch(lambda x, y: (x + y, ops.sum(x * y, axes=(1,), keepdims=True)), *kinds)
    x, y = normal(2, 3), normal(3)
    agrees("group", (x + y, (x * y).sum(1, keepdims=True)), x, y, body=body)


def test_a_group_refuses_operands_that_are_not_its_body_s():
    builder = Builder()
    x = builder.input("x", (2, 3))
    with pytest.raises(GraphError, match="does not take its operands"):
        ops.group(x, body=branch(lambda x: (ops.silu(x),), ((3, 2), "float32")))
    inner = Builder()
    weighted = inner.build(inner.input("x", (2, 3)) + inner.parameter("w", (3,)))
    with pytest.raises(GraphError, match="its body has weights"):
        ops.group(x, body=weighted)


def test_a_loop_refuses_a_body_that_changes_types():
    builder = Builder()
    running, x = builder.input("c", (), "bool"), builder.input("x", (3,))
    grows = branch(lambda x: (ops.less(ops.sum(x, axes=(0,)), 1.0), ops.concat(x, x, axis=0)), ((3,), "float32"))
    with pytest.raises(GraphError, match="does not give what it takes"):
        ops.while_loop(running, x, body=grows, carried=1)


def test_no_op_is_left_without_a_test():
    assert set(table()) - SEEN == {"paddle"}


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "message"),
    [
        ("add", [(2, 3), (4,)], {}, "cannot be broadcast"),
        ("reshape", [(2, 3)], {"shape": (7,)}, "another size"),
        ("transpose", [(2, 3)], {"permutation": (0, 0)}, "no permutation"),
        ("slice", [(4,)], {"starts": (0,), "stops": (5,), "steps": (1,)}, "leaves an axis of 4"),
        ("concat", [(2, 3), (3, 3)], {"axis": 1}, "differ otherwise"),
        ("softmax", [(2, 3)], {"axis": 2}, "no axis 2"),
        ("layer_norm", [(2, 3), (4,)], {}, "scale does not fit"),
        ("group_norm", [(2, 6, 4)], {"groups": 4}, "6 channels are not 4 groups"),
        ("matmul", [(2, 3), (4, 5)], {}, "3 columns meet 4 rows"),
        ("linear", [(2, 3), (3, 5), (4,)], {}, "bias is not"),
        ("attention", [(1, 2, 3, 4), (1, 2, 2, 4), (1, 2, 2, 4)], {"scale": 1.0}, "3 heads do not share 2"),
        ("top_k", [(2, 3)], {"k": 4}, "no 4 elements"),
    ],
)
def test_what_an_op_cannot_take(name, shapes, attributes, message):
    builder = Builder()
    given = [builder.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    with pytest.raises(GraphError, match=message) as caught:
        getattr(ops, name)(*given, **attributes)
    assert str(caught.value).startswith(name + "(float32[")
