"""Row norms against the op table's NumPy reference in float64: interpreted here, compiled where there is a device."""

import itertools
from dataclasses import replace

import numpy
import pytest
from gpu import GPU_MARKS, device_target, needs_gpu, run_on_device
from row_norms import node_of

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.layer_norm import MAX_WIDTH, OF_PARTS, RowNorm
from jitinfer.testing import random_array

TARGET = Target.named(90)
OPS = ("layer_norm", "rms_norm", "adaptive_layer_norm", "gated_residual_adaptive_layer_norm", OF_PARTS)
WIDTHS = (1, 17, 72, 1152, 1536, 4100)
ROUNDING = {"float32": 3e-6, "float16": 1e-3, "bfloat16": 8e-3}


def arrays_of(node):
    return [None if value is None else random_array(value.type, seed) for seed, value in enumerate(node.inputs)]


def interpreted(node, config, arrays):
    return interpret(node, RowNorm().launches(node, config, TARGET), arrays)


def configs(node, target=TARGET):
    """Those that the interpreter can run: it knows nothing of programmatic launches."""
    return [config for config in RowNorm().configs(node, target) if not config["programmatic"]]


def require_right(node, actual, arrays):
    wide = [None if array is None else array.astype(numpy.float64) for array in arrays]
    expected = evaluate_node(node, wide, "float64")
    assert len(actual) == len(expected)
    for got, wanted, value in zip(actual, expected, node.outputs, strict=True):
        assert got.dtype == numpy_dtype(value.dtype)
        got = got.astype(numpy.float64)
        assert got.shape == wanted.shape
        assert numpy.isfinite(got).all()
        error = numpy.abs(got - wanted) / (1 + numpy.abs(wanted))
        assert error.max() <= ROUNDING[value.dtype]


def check(node, config=None):
    assert list(families_for(node, TARGET))
    arrays = arrays_of(node)
    require_right(node, interpreted(node, config or configs(node)[0], arrays), arrays)


def check_on_device(node, config=None):
    target = device_target()
    family = RowNorm()
    assert family.supports(node, target)
    config = config or family.configs(node, target)[0]
    arrays = arrays_of(node)
    require_right(node, run_on_device(node, family.launches(node, config, target), arrays), arrays)


@pytest.fixture(params=["interpreted", pytest.param("device", marks=GPU_MARKS)])
def require(request):
    return check if request.param == "interpreted" else check_on_device


@pytest.mark.parametrize(
    ("width", "dtype"),
    [*((width, "float32") for width in WIDTHS), *itertools.product((17, 1152), ("float16", "bfloat16"))],
)
@pytest.mark.parametrize("op", OPS)
def test_widths_and_dtypes(op, width, dtype, require):
    require(node_of(op, (2, 3, width), dtype))


@pytest.mark.parametrize("op", OPS)
def test_the_widest_row(op, require):
    require(node_of(op, (1, 1, MAX_WIDTH), "bfloat16"))


@pytest.mark.parametrize("op", OPS)
def test_every_configuration(op):
    node = node_of(op, (3, 3, 24))
    assert len(configs(node)) > 4
    for config in configs(node):
        check(node, config)


@needs_gpu
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(3, 7, 72), (2, 256, 1152)])
def test_every_configuration_on_a_device(op, shape):
    node = node_of(op, shape, "bfloat16")
    for config in RowNorm().configs(node, device_target()):
        check_on_device(node, config)


@pytest.mark.parametrize("op", OPS)
def test_without_weight_and_bias(op, require):
    require(node_of(op, (2, 5, 24), affine=False))


@pytest.mark.parametrize("op", OPS[2:])
@pytest.mark.parametrize("modulation", [(24,), (1,), (2, 1, 24), (2, 5, 1), (2, 5, 24), (5, 24), (1, 1, 1)])
def test_broadcasting(op, modulation, require):
    require(node_of(op, (2, 5, 24), modulation=modulation))


@pytest.mark.parametrize("op", OPS[:2])
@pytest.mark.parametrize(("shape", "axes"), [((4, 3, 8), 2), ((2, 3, 4, 5), 3), ((2, 3), 2), ((6,), 1)])
def test_over_several_axes(op, shape, axes, require):
    require(node_of(op, shape, axes=axes))


@pytest.mark.parametrize("op", OPS)
def test_operands_that_are_parts_of_others(op, require):
    """x: every second row of a packed tensor; scale and shift: chunks of one [2, 6 * 24] projection."""
    views = {"x": (View((2, 5, 24), (10 * 72, 2 * 72, 1), 72 + 24), (2, 10, 72))}
    if op in OPS[2:]:
        for position, name in enumerate(("scale", "shift", "gate")):
            views[name] = (View((2, 1, 24), (144, 144, 1), 24 * position), (2, 144))
    if op in OPS[3:]:
        views["residual"] = (View((2, 5, 24), (24, 48, 1), 0), (5, 2, 24))
    require(node_of(op, (2, 5, 24), views=views))


@pytest.mark.parametrize("op", OPS)
def test_rows_that_are_columns(op, require):
    require(node_of(op, (2, 5, 24), views={"x": (View((2, 5, 24), (120, 1, 5)), (2, 24, 5))}))


def test_rows_that_are_read_backwards(require):
    require(node_of("layer_norm", (5, 24), views={"x": (View((5, 24), (-24, 1), 96), (5, 24))}))


@pytest.mark.parametrize("op", OPS)
def test_results_that_are_written_elsewhere(op, require):
    """[batch, seq, width] written as [seq, batch, width]."""
    require(node_of(op, (2, 5, 24), store=View((2, 5, 24), (24, 48, 1))))


def test_large_values_do_not_cancel(require):
    """The mean is a thousand times the deviation: squares must be of what is left of it."""
    node = node_of("layer_norm", (4, 1152), affine=False)
    arrays = arrays_of(node)
    arrays[0] = arrays[0] + numpy.float32(1000)
    if require is check:
        actual = interpreted(node, configs(node)[0], arrays)
    else:
        target = device_target()
        candidate = RowNorm().launches(node, RowNorm().configs(node, target)[0], target)
        actual = run_on_device(node, candidate, arrays)
    wide = evaluate_node(node, [arrays[0].astype(numpy.float64)], "float64")[0]
    assert numpy.abs(actual[0] - wide).max() < 2e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 17, 72), (3, 5, 24)])
def test_parts(parts, shape, dtype, require):
    require(node_of(OF_PARTS, shape, dtype, parts=parts))


def test_parts_are_summed_in_float32(require):
    require(node_of(OF_PARTS, (2, 5, 24), parts=9, summed="bfloat16"))


def test_parts_that_lie_apart_and_stand_backwards(require):
    """The last part comes first, and each is a part of rows with something between."""
    view = View((3, 2, 5, 24), (-2 * 5 * 40, 5 * 40, 40, 1), 2 * 2 * 5 * 40 + 16)
    require(node_of(OF_PARTS, (2, 5, 24), "bfloat16", views={"parts": (view, (3, 2, 5, 40))}))


@pytest.mark.parametrize("absent", ["weight", "bias", "x_bias"])
def test_parts_without_one_of_the_operands_that_may_be_absent(absent, require):
    node = node_of(OF_PARTS, (2, 5, 24))
    inputs = list(node.inputs)
    inputs[node.op.position(absent)] = None
    require(replace(node, inputs=tuple(inputs)))


@pytest.mark.parametrize("x_bias", [(1,), (2, 1, 24), (2, 5, 1)])
def test_parts_with_a_bias_that_is_broadcast(x_bias, require):
    require(node_of(OF_PARTS, (2, 5, 24), views={"x_bias": (None, x_bias)}))


def test_parts_are_added_in_their_order():
    """2^24 + 1 + 1 is 2^24 in float32, and 2^24 + 2 in another order."""
    node = node_of(OF_PARTS, (2, 8), affine=False)
    arrays = arrays_of(node)
    arrays[0] = numpy.ones((3, 2, 8), numpy.float32)
    arrays[0][0] = 2.0**24
    arrays[1][:], arrays[2][:] = 0, 1
    total, _ = interpreted(node, configs(node)[0], arrays)
    assert (total == 2.0**24).all()


class TestRefused:
    def test_other_ops(self):
        builder = Builder()
        x = builder.input("x", (2, 8))
        node = builder.add_node(op_named("softmax"), [x.value], {"axis": -1})
        assert "row_norm" not in {family.name for family in families_for(node, TARGET)}

    @pytest.mark.parametrize("dtype", ["float64"])
    def test_other_dtypes(self, dtype):
        assert not RowNorm().supports(node_of("layer_norm", (2, 8), dtype), TARGET)

    def test_rows_that_are_too_wide(self):
        assert not RowNorm().supports(node_of("layer_norm", (2, MAX_WIDTH + 1)), TARGET)

    def test_no_rows(self):
        assert not RowNorm().supports(node_of("layer_norm", (0, 8)), TARGET)

    def test_three_row_dimensions(self):
        views = {"x": (View((2, 3, 4, 8), (1000, 100, 10, 1)), (2000,))}
        assert not RowNorm().supports(node_of("layer_norm", (2, 3, 4, 8), views=views), TARGET)

    def test_rows_that_are_no_strided_vector(self):
        views = {"x": (View((2, 4, 8), (100, 10, 1)), (200,))}
        assert not RowNorm().supports(node_of("layer_norm", (2, 4, 8), axes=2, views=views), TARGET)

    def test_results_whose_rows_are_cut(self):
        store = View((5, 4, 6), (4, 1, 20))
        assert not RowNorm().supports(node_of("layer_norm", (5, 24), store=store), TARGET)


def test_the_first_guess_keeps_the_device_busy():
    for shape, rows in (((2, 256, 1152), 1), ((2, 256, 4096), 1), ((65536, 64), 4)):
        node = node_of("layer_norm", shape, "bfloat16")
        first = RowNorm().configs(node, TARGET)[0]
        assert first["rows"] >= rows
        assert numpy.prod(shape[:-1]) / first["rows"] >= TARGET.sm_count
