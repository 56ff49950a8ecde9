"""Generated kernels of norms and softmax over long rows, against the op table's reference, by the interpreter."""

import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays

from jitinfer.graph import View
from jitinfer.kernels import Config
from jitinfer.kernels.triton.generated.cut_rows import CutRows

FAMILY = CutRows()


def configs(parts, columns=256):
    return [Config.of(columns=columns, parts=parts, warps=4, programmatic=0)]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms(name, dtype, parts):
    node = node_of(name, [((2, 2100), dtype), ((2100,), dtype), ((2100,), dtype)], {"axes": 1})
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=10.0, configs=configs(parts))


@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 2100), 1), ((2048, 3), 0)])
def test_softmax(name, shape, axis, parts):
    node = node_of(name, [(shape, "float32")], {"axis": axis})
    check(FAMILY, node, random_arrays(node), slack=16.0, scale=4.0, configs=configs(parts))


def test_softmax_of_what_is_masked():
    x = numpy.full((4, 2048), -numpy.inf, numpy.float32)
    x[0, 2000:] = 1.0
    x[1, ::2] = 3.0
    x[2] = 1.0
    x[2, 5] = numpy.nan
    check(FAMILY, node_of("softmax", [(x.shape, "float32")]), [x], configs=configs(4))


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("last", [False, True])
def test_group_norm(last, dtype, activation):
    vector = ((8,), dtype)
    attributes = {"groups": 2, "activation": activation}
    shape, view = (2, 8, 24, 25), None
    if last:
        shape = (2, 24, 25, 8)
        view = View.of(shape).transpose((0, 3, 1, 2))
    node = node_of("group_norm", [(shape, dtype), vector, vector], attributes, [view], [view])
    check(FAMILY, node, random_arrays(node), slack=32.0, scale=10.0, configs=configs(4))


def test_gated_adaptive_norm():
    shape, row = (2, 2304), (2304,)
    inputs = [(shape, "float32"), (shape, "float32"), (row, "float32"), (row, "float32"), (row, "float32")]
    node = node_of("gated_residual_adaptive_layer_norm", inputs, {"epsilon": 1e-6})
    check(FAMILY, node, random_arrays(node), slack=64.0, scale=16.0, configs=configs(2))


def test_variance_of_what_is_far_from_zero():
    node = node_of("layer_norm", [((1, 4096), "float32")], {"epsilon": 1e-6})
    arrays = [random_arrays(node)[0] * 1e-2 + 1000]
    check(FAMILY, node, arrays, slack=20000.0, configs=configs(4))


def test_few_long_rows_are_cut_into_many_parts():
    node = node_of("group_norm", [((1, 128, 512, 512), "bfloat16")], {"groups": 32})
    assert FAMILY.configs(node, TARGET)[0]["parts"] >= 16
    assert not FAMILY.supports(node_of("softmax", [((4, 64), "float32")]), TARGET)
    assert not FAMILY.supports(node_of("softmax", [((4096, 4096), "float32")]), TARGET)
    assert FAMILY.supports(node_of("softmax", [((4096, 20000), "float32")]), TARGET)
