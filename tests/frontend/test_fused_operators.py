"""What builds with CUDA kernels, and Paddle's passes, emit: against formulas in float64."""

import numpy
import pytest
from operators import graph_of
from paddle import _C_ops
from scipy.special import erf

from jitinfer.frontend.importing import import_program
from jitinfer.frontend.tracing import trace
from jitinfer.graph import TensorType, evaluate, parse
from jitinfer.passes import run_passes

GENERATOR = numpy.random.default_rng(3)
TEST = {"is_test": True}


def normal(*shape, dtype="float32"):
    return GENERATOR.standard_normal(shape).astype(dtype)


def agrees(operator, expected, operands, attributes=None, results=(), relative=1e-5):
    """The first results are the expected ones, as imported and after the passes. `results`: the names of all."""
    expected = expected if isinstance(expected, list) else [expected]
    graph = graph_of(operator, operands, (len(expected), results or ["out"]), attributes)
    assert graph.counts()["paddle"] == 0
    arrays = [array for name, array in operands.items() if not name.endswith("*")]
    for each in (graph, run_passes(graph, check=True)[0], parse(str(graph))):
        for actual, wanted in zip(evaluate(each, arrays), expected, strict=True):
            assert actual.shape == wanted.shape
            assert actual.dtype == arrays[0].dtype
            difference = numpy.abs(actual.astype("float64") - wanted)
            assert difference.max() <= relative * numpy.abs(wanted).max()
    return graph


def opaque(operator, operands, attributes=None, results=()):
    graph = graph_of(operator, operands, (1, results or ["out"]), attributes)
    assert graph.counts()["paddle"] == 1


def softmax(x):
    weights = numpy.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(q, k, v, scale, mask=None, causal=False):
    """q, k, v: [batch, length, heads, head_dim]."""
    q, k, v = (each.astype("float64").transpose(0, 2, 1, 3) for each in (q, k, v))
    k, v = (each.repeat(q.shape[1] // each.shape[1], 1) for each in (k, v))
    scores = q @ k.swapaxes(2, 3) * scale + (0.0 if mask is None else mask)
    if causal:
        scores = numpy.where(numpy.tri(*scores.shape[2:]), scores, -numpy.inf)
    return (softmax(scores) @ v).transpose(0, 2, 1, 3)


def layer_norm(x, scale=1.0, bias=0.0, axes=1, epsilon=1e-3):
    over = tuple(range(x.ndim - axes, x.ndim))
    centred = x - x.mean(over, keepdims=True)
    return centred / numpy.sqrt((centred**2).mean(over, keepdims=True) + epsilon) * scale + bias


def rms_norm(x, scale=1.0, bias=0.0, axes=1, epsilon=1e-3):
    over = tuple(range(x.ndim - axes, x.ndim))
    return x / numpy.sqrt((x**2).mean(over, keepdims=True) + epsilon) * scale + bias


ACTIVATIONS = {
    "": lambda x: x,
    "relu": lambda x: numpy.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / numpy.sqrt(2))) / 2,
    "swish": lambda x: x / (1 + numpy.exp(-x)),
}
FLASH = ["out", "softmax", "softmax_lse", "seed_offset"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dtype"), [(4, 4, "float32"), (4, 2, "float32"), (2, 1, "float16")])
def test_flash_attn(causal, masked, heads, kv_heads, dtype):
    operands = {name: normal(2, 5, heads if name == "q" else kv_heads, 8, dtype=dtype) for name in "qkv"}
    if masked:
        operands["attn_mask"] = normal(2, 1, 5, 5, dtype=dtype)
    expected = attention(*(operands[name] for name in "qkv"), 8**-0.5, operands.get("attn_mask"), causal)
    relative = 1e-5 if dtype == "float32" else 2e-3
    graph = agrees("flash_attn", expected, operands, {**TEST, "causal": causal}, FLASH, relative)
    assert graph.counts() == {"attention": 1}


def test_flash_attn_of_other_keys():
    operands = {"q": normal(2, 3, 2, 8), "k": normal(2, 7, 2, 8), "v": normal(2, 7, 2, 8)}
    agrees("flash_attn", attention(*operands.values(), 8**-0.5), operands, TEST, FLASH)
    opaque("flash_attn", operands, {**TEST, "causal": True}, FLASH)
    opaque("flash_attn", operands, {**TEST, "return_softmax": True}, FLASH)
    opaque("flash_attn", operands, {"is_test": False, "dropout": 0.1}, FLASH)
    agrees("flash_attn", attention(*operands.values(), 8**-0.5), operands, {"is_test": False, "dropout": 0.0}, FLASH)


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attn_qkvpacked(causal):
    qkv = normal(2, 5, 3, 2, 8)
    expected = attention(*(qkv[:, :, i] for i in range(3)), 8**-0.5, causal=causal)
    agrees("flash_attn_qkvpacked", expected, {"qkv": qkv}, {**TEST, "causal": causal}, FLASH)
    opaque("flash_attn_qkvpacked", {"qkv": normal(2, 5, 4, 2, 8)}, TEST, FLASH)


def unpadded(starts, key_starts, queries, keys):
    lengths = {"cu_seqlens_q*": numpy.array(starts, "int32"), "cu_seqlens_k*": numpy.array(key_starts, "int32")}
    return {"q": normal(queries, 2, 8), "k": normal(keys, 2, 8), "v": normal(keys, 2, 8), **lengths}


def test_flash_attn_unpadded():
    attributes = {**TEST, "scale": 0.3, "max_seqlen_q": 4.0, "max_seqlen_k": 5.0}
    operands = unpadded([0, 4, 8], [0, 5, 10], 8, 10)
    q, k, v = (operands[name].reshape(2, -1, 2, 8) for name in "qkv")
    agrees("flash_attn_unpadded", attention(q, k, v, 0.3).reshape(8, 2, 8), operands, attributes, FLASH)
    opaque("flash_attn_unpadded", unpadded([0, 3, 8], [0, 5, 10], 8, 10), attributes, FLASH)
    opaque("flash_attn_unpadded", unpadded([0, 4, 8], [0, 5, 9], 8, 10), attributes, FLASH)
    given = {name.rstrip("*"): array for name, array in operands.items()}
    opaque("flash_attn_unpadded", given, attributes, FLASH)


@pytest.mark.parametrize("scale", [-1.0, 0.4])
@pytest.mark.parametrize("mask", [None, (2, 2, 5, 5), (1, 1, 5, 5)])
@pytest.mark.parametrize("causal", [False, True])
def test_memory_efficient_attention(scale, mask, causal):
    operands = {name: normal(2, 5, 2, 8) for name in ("query", "key", "value")}
    bias = None if mask is None else normal(*mask)
    expected = attention(*operands.values(), 8**-0.5 if scale < 0 else scale, bias, causal)
    operands |= {} if mask is None else {"bias": bias}
    attributes = {**TEST, "scale": scale, "causal": causal, "dropout_p": 0.0, "max_seqlen_q": 5.0, "max_seqlen_k": 5.0}
    agrees("memory_efficient_attention", expected, operands, attributes, ["output", "logsumexp", "seed_and_offset"])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_variable_length_memory_efficient_attention(masked, kv_heads):
    """Rows beyond a sequence's length are anything, and not compared."""
    operands = {"query": normal(2, 2, 6, 8), "key": normal(2, kv_heads, 6, 8), "value": normal(2, kv_heads, 6, 8)}
    operands["seq_lens"] = operands["kv_seq_lens"] = numpy.array([[4], [6]], "int32")
    mask = normal(2, 1, 6, 6) if masked else numpy.zeros((2, 1, 6, 6), "float32")
    operands |= {"mask": mask} if masked else {}
    attributes = {"scale": 0.3, "causal": False, "pre_cache_length": 0}
    graph = graph_of("variable_length_memory_efficient_attention", operands, (1, ["out"]), attributes)
    assert graph.counts()["paddle"] == 0
    (actual,) = evaluate(graph, list(operands.values()))
    for batch, length in enumerate((4, 6)):
        q, k, v = (
            operands[name][batch : batch + 1, :, :length].transpose(0, 2, 1, 3) for name in ("query", "key", "value")
        )
        expected = attention(q, k, v, 0.3, mask[batch, :, :length, :length]).transpose(0, 2, 1, 3)
        numpy.testing.assert_allclose(actual[batch : batch + 1, :, :length], expected, rtol=1e-4, atol=1e-5)


def test_softmax_with_a_mask():
    x, mask = normal(2, 3, 4, 4), normal(2, 1, 4, 4)
    agrees("fused_softmax_mask", softmax(x.astype("float64") + mask), {"X": x, "Mask": mask}, results=["Out"])
    lower = softmax(numpy.where(numpy.tri(4), x.astype("float64"), -numpy.inf))
    agrees("fused_softmax_mask_upper_triangle", lower, {"X": x}, results=["Out"])


def turned(x, cos, sin, neighbours):
    """x: [batch, length, heads, head_dim]; cos, sin: [batch or 1, length, head_dim]. Pair by pair."""
    y, width = numpy.zeros(x.shape), x.shape[-1]
    for i in range(width // 2):
        a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + width // 2)
        y[..., a] = x[..., a] * cos[:, :, None, a] - x[..., b] * sin[:, :, None, a]
        y[..., b] = x[..., b] * cos[:, :, None, b] + x[..., a] * sin[:, :, None, b]
    return y


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("given", ["", "matrix", "four axes"])
@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
def test_fused_rotary_position_embedding(neighbours, given, placed, time_major):
    q, k = normal(2, 5, 4, 8), normal(2, 5, 2, 8)
    positions = numpy.array([[0, 1, 2, 3, 4], [3, 1, 0, 6, 2]]) if placed else numpy.arange(5)[None]
    if given:
        tables = {"sin": normal(7 if placed else 5, 8), "cos": normal(7 if placed else 5, 8)}
    else:
        angles = numpy.arange(7)[:, None] / 100.0 ** (numpy.arange(8) // 2 * 2 / 8)
        tables = {"sin": numpy.sin(angles), "cos": numpy.cos(angles)}
    expected = [turned(x, tables["cos"][positions], tables["sin"][positions], neighbours) for x in (q, k)]
    swap = (lambda x: numpy.ascontiguousarray(x.swapaxes(0, 1))) if time_major else (lambda x: x)
    operands = {"q": swap(q), "k": swap(k)}
    if given:
        operands |= {n: t[None, :, None] if given == "four axes" else t for n, t in tables.items()}
    operands |= {"position_ids": positions} if placed else {}
    attributes = {"use_neox_rotary_style": neighbours, "time_major": time_major, "rotary_emb_base": 100.0}
    names = ["out_q", "out_k", "out_v"]
    graph = agrees("fused_rotary_position_embedding", list(map(swap, expected)), operands, attributes, names)
    assert graph.counts()["rotary"] == 2


def test_rotary_embeddings_of_narrow_dtypes_are_computed_in_float32():
    q = normal(1, 300, 1, 8, dtype="float16")
    angles = numpy.arange(300)[:, None] / 10000.0 ** (numpy.arange(8) // 2 * 2 / 8)
    expected = turned(q.astype("float64"), numpy.cos(angles)[None], numpy.sin(angles)[None], True)
    agrees("fused_rotary_position_embedding", expected, {"q": q}, None, ["out_q", "out_k", "out_v"], 5e-4)


@pytest.mark.parametrize("activation", ["", "relu", "gelu"])
@pytest.mark.parametrize("biased", [False, True])
def test_gemm_epilogue(activation, biased):
    x, w, b = normal(2, 3, 8), normal(8, 5), normal(5)
    expected = ACTIVATIONS[activation](x.astype("float64") @ w + (b if biased else 0))
    operands = {"input": x, "w": w} | ({"bias": b} if biased else {})
    attributes = {"in_num_col_dims": 2, "activation_type": activation, "padding_weights": False}
    agrees("gemm_epilogue", expected, operands, attributes)
    attributes["in_num_col_dims"], operands["w"] = 1, normal(24, 5)
    expected = ACTIVATIONS[activation](x.reshape(2, 24).astype("float64") @ operands["w"] + (b if biased else 0))
    agrees("gemm_epilogue", expected, operands, attributes)
    opaque("gemm_epilogue", operands, {**attributes, "activation_type": "leaky_relu"})
    opaque("gemm_epilogue", operands, {**attributes, "padding_weights": True})


def traced(function, expected, *arrays):
    """As `agrees`, of an operator that can be traced without a kernel; the first result of the function."""
    types = [TensorType(array.shape, str(array.dtype)) for array in arrays]
    graph = import_program(trace(lambda tensors: function(*tensors), types).program)
    assert graph.counts()["paddle"] == 0
    for each in (graph, run_passes(graph, check=True)[0]):
        actual = evaluate(each, list(arrays))[0]
        assert (actual.shape, actual.dtype) == (expected.shape, arrays[0].dtype)
        numpy.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned_x", [False, True])
@pytest.mark.parametrize("turned_y", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_fused_gemm_epilogue(turned_x, turned_y, activation):
    x, y, bias = normal(3, 8), normal(8, 128), normal(128)
    product = x.astype("float64") @ y + bias
    tanh = product / 2 * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi) * (product + 0.044715 * product**3)))
    expected = {"none": product, "relu": ACTIVATIONS["relu"](product), "gelu": tanh}[activation]
    given = [numpy.ascontiguousarray(each.T) if turn else each for each, turn in ((x, turned_x), (y, turned_y))]
    traced(lambda *xs: _C_ops.fused_gemm_epilogue(*xs, turned_x, turned_y, activation)[0], expected, *given, bias)


def test_matrix_products_that_passes_write():
    x, w, bias = normal(2, 3, 8), normal(8, 5), normal(5)
    product = x.astype("float64") @ w
    traced(lambda *xs: _C_ops.fc(*xs, 2, "relu", False), numpy.maximum(product + bias, 0), x, w, bias)
    traced(lambda a, b: _C_ops.matmul_with_flatten(a, b, 2, 1), product, x, w)
    y = normal(2, 4, 3)
    expected = numpy.tensordot(x[0].astype("float64"), y.reshape(8, 3), 1)
    traced(lambda a, b: _C_ops.matmul_with_flatten(a, b, 1, 2), expected, x[0], y)


def convolved(x, w, bias):
    """A window of 1, stride 2."""
    return numpy.einsum("nchw,oc->nohw", x[:, :, ::2, ::2].astype("float64"), w[:, :, 0, 0]) + bias[:, None, None]


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "swish"])
@pytest.mark.parametrize("added", [False, True])
def test_fused_conv2d_add_act(activation, added):
    x, w, bias, residual = normal(2, 3, 6, 6), normal(4, 3, 1, 1), normal(4), normal(2, 4, 3, 3)
    total = convolved(x, w, bias) + (residual if added else 0)
    functions = {**ACTIVATIONS, "identity": ACTIVATIONS[""], "sigmoid": lambda y: 1 / (1 + numpy.exp(-y))}
    operands = {"Input": x, "Filter": w, "Bias": bias} | ({"ResidualData": residual} if added else {})
    attributes = {"strides": [2, 2], "paddings": [0, 0], "activation": activation}
    results = ["Output", "Outputs"]
    agrees("fused_conv2d_add_act", functions[activation](total), operands, attributes, results)
    opaque("fused_conv2d_add_act", operands, {**attributes, "split_channels": [2, 2]}, results)


def test_conv2d_transpose_bias():
    x, w, bias = normal(2, 3, 4, 5), normal(3, 6, 1, 1), normal(6)
    expected = numpy.zeros((2, 6, 7, 9)) + bias[:, None, None]
    expected[:, :, ::2, ::2] += numpy.einsum("nchw,co->nohw", x.astype("float64"), w[:, :, 0, 0])

    def function(*xs):
        return _C_ops.conv2d_transpose_bias(*xs, [2, 2], [0, 0], [], [], "EXPLICIT", 1, [1, 1], "NCHW")

    traced(function, expected, x, w, bias)


def bias_act(name, x):
    if name in ("relu", "gelu"):
        return ACTIVATIONS[name](x)
    gate, up = numpy.split(x, 2, axis=-1)
    return ACTIVATIONS["swish" if name == "swiglu" else "gelu"](gate) * up


@pytest.mark.parametrize("name", ["relu", "gelu", "geglu", "swiglu"])
@pytest.mark.parametrize("biased", [False, True])
def test_fused_bias_act(name, biased):
    x, bias = normal(2, 3, 8), normal(8)
    operands = {"x": x} | ({"bias": bias} if biased else {})
    expected = bias_act(name, x.astype("float64") + (bias if biased else 0))
    agrees("fused_bias_act", expected, operands, {"act_method": name})
    opaque("fused_bias_act", operands, {"act_method": name, "quant_scale": 0.5})
    opaque("fused_bias_act", operands, {"act_method": "tanhshrink"})


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("parts", ["", "residual", "bias residual", "bias residual norm_bias"])
@pytest.mark.parametrize("operator", ["fused_bias_residual_layernorm", "fused_rms_norm_quant"])
def test_norms_of_sums(operator, parts, alpha, axes):
    layer = operator == "fused_bias_residual_layernorm"
    if alpha != 1.0 and not layer:
        pytest.skip("it has no such factor")
    x, shape = normal(2, 3, 4), (3, 4)[-axes:]
    every = {"bias": normal(4), "residual": normal(2, 3, 4), "norm_bias": normal(*shape)}
    given = {name: every[name] for name in parts.split()}
    weight = normal(*shape)
    total = x.astype("float64") + given.get("bias", 0) + alpha * given.get("residual", 0)
    norm = (layer_norm if layer else rms_norm)(total, weight, given.get("norm_bias", 0), axes)
    flat = {name: each.reshape(-1) for name, each in {"norm_weight": weight, **given}.items() if "norm" in name}
    operands = {"x": x, **given, **flat}
    attributes = {"epsilon": 1e-3, "begin_norm_axis": 3 - axes, "quant_scale": -1.0, "quant_round_type": 1}
    attributes |= {"quant_max_bound": 127.0, "quant_min_bound": -127.0} | ({"residual_alpha": alpha} if layer else {})
    results = ["out", "residual_out", *(["mean", "variance"] if layer else ["inv_var"])]
    agrees(operator, [norm, total] if "residual" in given else norm, operands, attributes, results)
    opaque(operator, operands, {**attributes, "quant_scale": 0.5}, results)
    if "residual" not in given:
        opaque(operator, {**operands, "bias": every["bias"]}, attributes, results)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_rms_norm(shape):
    x, scale = normal(2, 3, 4), normal(*shape)
    attributes = {"normalized_shape": list(shape), "epsilon": ("double", 1e-3)}
    expected = rms_norm(x.astype("float64"), scale, axes=len(shape))
    agrees("rms_norm", expected, {"x": x, "scale": scale}, attributes, ["y", "invvar"])


@pytest.mark.parametrize("mode", ["upscale_in_train", "downgrade_in_infer"])
def test_dropout_and_what_follows(mode):
    x, y = normal(2, 3, 4), normal(2, 3, 4)
    kept = 1.0 if mode == "upscale_in_train" else 0.75
    attributes = {**TEST, "p": 0.25, "mode": mode}
    agrees("fused_dropout_add", x.astype("float64") * kept + y, {"x": x, "y": y}, attributes, ["out", "seed_offset"])
    opaque("fused_dropout_add", {"x": x, "y": y}, {**attributes, "is_test": False}, ["out", "seed_offset"])
    attributes |= {"is_test": False, "p": 0.0}
    agrees("fused_dropout_add", x.astype("float64") + y, {"x": x, "y": y}, attributes, ["out", "seed_offset"])
    bias, scale, shift = normal(4), normal(4), normal(4)
    attributes = {**TEST, "dropout_rate": 0.25, "dropout_implementation": mode, "ln_epsilon": 1e-3}
    results = ["Y", "BiasDropoutResidualOut", "DropoutMaskOut", "LnMean", "LnVariance"]
    operator = "fused_bias_dropout_residual_layer_norm"
    total = (x.astype("float64") + bias) * kept + y
    operands = {"X": x, "Residual": y, "Bias": bias, "LnScale": scale, "LnBias": shift}
    agrees(operator, [layer_norm(total, scale, shift), total], operands, attributes, results)
    total = x.astype("float64") * kept + y
    agrees(operator, [layer_norm(total), total], {"X": x, "Residual": y}, attributes, results)


def test_norms_that_passes_write():
    x, y, scale, bias = normal(2, 3, 4), normal(2, 3, 4), normal(4), normal(4)
    total = x.astype("float64") + y
    operands = {"X": x, "Y": y, "Scale": scale, "Bias": bias}
    attributes = {"epsilon": 1e-3, "begin_norm_axis": 2}
    agrees("skip_layernorm", layer_norm(total, scale, bias), operands, attributes, ["Out"])
    w, b = normal(5, 4), normal(4)
    x, y = normal(6, 5), normal(6, 4)
    for activation in ("", "relu"):
        product = ACTIVATIONS[activation](x.astype("float64") @ w + b)
        operands = {"X": x, "W": w, "Y": y, "Bias0": b, "Scale": scale, "Bias1": bias}
        attributes = {"x_num_col_dims": 1, "activation_type": activation, "epsilon": 1e-3, "begin_norm_axis": 1}
        results = ["Out", "Mean", "Variance"]
        expected = layer_norm(product + y, scale, bias)
        agrees("fused_fc_elementwise_layernorm", expected, operands, attributes, results)
    image, residual, scale, bias = normal(2, 8, 3, 3), normal(2, 8, 3, 3), normal(8), normal(8)
    total = image.astype("float64") + residual
    norm = layer_norm(total.reshape(2, 2, -1)).reshape(total.shape)
    norm = norm * scale[:, None, None] + bias[:, None, None]
    operands = {"x": image, "residual": residual, "scale": scale, "bias": bias}
    attributes = {"epsilon": ("double", 1e-3), "groups": 2, "activation": "silu", "data_format": "NCHW"}
    results = ["y", "residual_out", "mean", "variance"]
    agrees("add_group_norm_silu", [ACTIVATIONS["swish"](norm), total], operands, attributes, results)
