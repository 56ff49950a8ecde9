"""Families of matrix products against the op table's reference in float64: interpreted, or on a device."""

import numpy
import pytest
from gpu import PROBLEM, device_target, needs_gpu, run_on_device
from products import (
    TARGET,
    arrays_of,
    check,
    check_by_all,
    check_on_device,
    interpretable,
    linear,
    matmul,
    mended_interpreter,
    tolerance,
)

from jitinfer.graph import View, op_named
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.contractions import contraction_of, partition
from jitinfer.kernels.cublaslt import CublasLtProduct
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.matmul import BulkCopyProduct, TiledProduct
from jitinfer.kernels.triton.matmul_small import FewRowsProduct
from jitinfer.runtime.plan import Gemm
from jitinfer.runtime.soundness import check as check_plan

FAMILIES = (CublasLtProduct(), BulkCopyProduct(), TiledProduct(), FewRowsProduct())
ACTIVATIONS = ("none", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "relu", "leaky_relu", "sigmoid")
DEVICE = pytest.param("device", marks=[pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason="no device")])


@pytest.fixture(params=["interpreted", DEVICE])
def require(request):
    """Checks the node with every family that supports it."""

    def run(node, least=1):
        check_by_all(FAMILIES, node, request.param, check, check_on_device, least)

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_dtypes_and_layouts(dtype, transposed, require):
    require(linear((2, 5, 72), 40, dtype, bias=True, transposed=transposed), least=3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, require):
    require(linear((3, 24), 40, activation=activation, bias=True), least=3)
    require(linear((3, 24), 40, "float32", activation=activation), least=3)


@pytest.mark.parametrize("residual", [None, (2, 5, 40), (5, 40), (1,)])
@pytest.mark.parametrize("gate", [None, (2, 1, 40), (40,), (2, 5, 1), (2, 5, 40)])
def test_residuals_and_gates(residual, gate, require):
    require(linear((2, 5, 24), 40, residual=residual, gate=gate, activation="silu"), least=3)


@pytest.mark.parametrize("rows", [1, 2, 16, 70])
def test_groups(rows, require):
    require(linear((3, rows, 72), 136, groups=3, bias=True, residual=(rows, 136)), least=3)
    require(linear((3, rows, 72), 136, groups=3), least=3)


def in_parts(parts, rows, depth, columns, dtype, transposed):
    """Of the sums of one product, side by side."""
    part = depth // parts
    x, weight = (*rows, depth), (columns, depth) if transposed else (depth, columns)
    seen = View((parts, columns, part), (part, depth, 1)) if transposed else View.of((parts, part, columns))
    views = {
        "x": (View((parts, *rows, part), (part, *View.of(x).strides)), x),
        "weight": (seen, weight),
    }
    shape = (parts, *rows, part)
    return linear(shape, columns, dtype, groups=parts, transposed=transposed, unrounded=True, views=views)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("parts", "rows", "depth", "columns"), [(2, (2, 5), 128, 40), (3, (1, 70), 216, 136)])
def test_sums_in_parts(parts, rows, depth, columns, dtype, transposed, require):
    """No part is rounded to x's dtype."""
    node = in_parts(parts, rows, depth, columns, dtype, transposed)
    assert node.output.dtype == "float32"
    require(node, least=2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("parts", "rows", "depth", "columns"), [(1, (2, 9), 72, 40), (2, (1,), 34, 9), (4, (2, 1), 4, 3)]
)
def test_sums_in_parts_of_odd_sizes(parts, rows, depth, columns, dtype, transposed, require):
    require(in_parts(parts, rows, depth, columns, dtype, transposed), least=2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("where", ["interpreted", DEVICE])
def test_sums_in_parts_of_matrices_that_numpy_cuts(family, dtype, transposed, where):
    """Whatever the views say."""
    node = in_parts(3, (2, 7), 192, 40, dtype, transposed)
    target = TARGET if where == "interpreted" else device_target()
    if isinstance(family, BulkCopyProduct) and dtype == "float32":
        assert not family.supports(node, target)
        return
    x, weight, *_ = arrays = arrays_of(node)
    config = family.configs(node, target)[0]
    if where == "interpreted":
        with mended_interpreter():
            (found,) = interpret(node, family.launches(node, interpretable(config), target), arrays)
    else:
        (found,) = run_on_device(node, family.launches(node, config, target), arrays)
    assert (found.dtype, found.shape) == (numpy.float32, (3, 2, 7, 40))
    x, weight = x.astype(numpy.float64).reshape(2, 7, 3, 64), weight.astype(numpy.float64)
    if transposed:
        expected = numpy.einsum("abpk,npk->pabn", x, weight.reshape(40, 3, 64))
    else:
        expected = numpy.einsum("abpk,pkn->pabn", x, weight.reshape(3, 64, 40))
    error = numpy.abs(found - expected) / (1 + numpy.abs(expected))
    assert error.max() <= tolerance(node)


@pytest.mark.parametrize("activation", ["none", "gelu_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_that_are_not_rounded(dtype, activation, require):
    others = {"bias": True, "residual": (3, 40)}
    require(linear((3, 72), 40, dtype, unrounded=True, activation=activation, **others), least=3)
    require(linear((3, 72), 40, dtype, unrounded=True, activation=activation), least=3)


@pytest.mark.parametrize("transposed", [False, True])
def test_sums_in_parts_are_one_call_of_the_library(transposed):
    node = in_parts(2, (2, 256), 4608, 1152, "bfloat16", transposed)
    family = CublasLtProduct()
    candidate = family.launches(node, family.configs(node, TARGET)[0], TARGET)
    (gemm,) = candidate.steps
    assert isinstance(gemm, Gemm)
    assert gemm.batch == 2
    assert gemm.d.dtype == "float32"
    assert (gemm.a.row_stride, gemm.a.batch_stride) == (4608, 2304)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (130, 200, 264), (129, 65, 131), (17, 8, 8)])
def test_sizes_that_no_tile_divides(rows, depth, columns, require):
    require(linear((rows, depth), columns, bias=True, transposed=True), least=2)
    require(linear((rows, depth), columns, "float32", bias=True), least=2)


def test_patches_are_read_in_place(require):
    """[batch, channel, height, width] in patches of 2 x 2."""
    views = {"x": (View((2, 3, 3, 4, 2, 2), (144, 12, 2, 36, 6, 1)), (2, 4, 6, 6))}
    require(linear((2, 3, 3, 4, 2, 2), 24, contraction=3, bias=True, views=views), least=2)


def test_patches_are_written_in_place(require):
    store = View((2, 3, 3, 2, 2, 4), (144, 12, 2, 6, 1, 36))
    require(linear((2, 9, 32), 16, bias=True, store=store, value=(2, 4, 6, 6)), least=2)


def test_parts_of_longer_sequences(require):
    """Of x, whose rows then have two strides; and of the result, written into heads."""
    views = {"x": (View((2, 40, 64), (3200, 64, 1), 640), (2, 50, 64))}
    require(linear((2, 40, 64), 72, bias=True, residual=(2, 40, 72), gate=(2, 1, 72), views=views), least=3)
    require(linear((2, 40, 64), 72, bias=True, store=View((2, 40, 3, 24), (2880, 24, 960, 1)), value=(2, 3, 40, 24)))


def test_operands_that_are_not_aligned(require):
    views = {"x": (View((20, 64), (67, 1), 3), (20, 67)), "weight": (View((64, 40), (41, 1), 1), (64, 41))}
    node = linear((20, 64), 40, bias=True, views=views)
    assert not BulkCopyProduct().supports(node, TARGET)
    require(node, least=2)


def test_gates_that_are_chunks(require):
    views = {"gate": (View((2, 1, 40), (240, 240, 1), 80), (2, 240))}
    require(linear((2, 64, 24), 40, residual=(2, 64, 40), gate=(2, 1, 40), views=views), least=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "y", "turned"),
    [
        ((2, 3, 20, 64), (2, 3, 64, 24), ""),
        ((2, 1, 20, 64), (3, 24, 64), "y"),
        ((64, 20), (64, 24), "x"),
        ((2, 64, 20), (2, 24, 64), "xy"),
        ((2, 3, 20, 64), (64, 24), ""),
        ((64,), (64, 24), ""),
        ((3, 20, 64), (64,), ""),
        ((64,), (64,), ""),
        ((64,), (3, 64, 24), ""),
    ],
)
def test_matmul(x, y, turned, dtype, require):
    require(matmul(x, y, dtype, transpose_x="x" in turned, transpose_y="y" in turned), least=2)


def test_heads_that_are_read_in_place(require):
    views = {name: (View((2, 3, 20, 64), (3840, 64, 192, 1)), (2, 20, 3, 64)) for name in "xy"}
    require(matmul((2, 3, 20, 64), (2, 3, 20, 64), transpose_y=True, views=views), least=2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_configuration(family, transposed):
    """Each that the interpreter knows from others, with weights one way round; with both on a device."""
    rows = 1 if isinstance(family, FewRowsProduct) else 150

    def node(depth):
        return linear((rows, depth), 136, bias=True, residual=(rows, 136), gate=(136,), transposed=transposed)

    for config in told_apart(family.configs(node(600), TARGET))[int(transposed) :: 2]:
        # Three blocks of the depth, or nearly, in parts of which the last is shorter.
        depth = 600 if isinstance(family, CublasLtProduct) or config["block_m"] == 1 else 5 * config["block_k"] // 2
        check(family, node(depth), config)


def told_apart(configs):
    """One of each kind that the interpreter tells apart: warps and stages are the compiler's."""
    kinds = {}
    for config in configs:
        kinds.setdefault(tuple((k, v) for k, v in config.values if k not in ("warps", "stages")), config)
    return list(kinds.values())


@needs_gpu
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("activation", ["none", "gelu_tanh"])
def test_every_configuration_on_a_device(family, transposed, activation):
    rows = 1 if isinstance(family, FewRowsProduct) else 512
    node = linear(
        (rows, 1152), 1152, bias=True, residual=(rows, 1152), gate=(1152,), transposed=transposed, activation=activation
    )
    for config in family.configs(node, device_target()):
        check_on_device(family, node, config)


def test_depth_in_parts_is_offered_where_tiles_are_few():
    node = linear((512, 4608), 1152, transposed=True)
    assert any(config["splits"] > 1 for config in BulkCopyProduct().configs(node, TARGET))
    node = linear((4, 4096), 256, transposed=True)
    assert FewRowsProduct().configs(node, TARGET)[0]["splits"] > 1


@pytest.mark.parametrize(
    "shape", [(512, 1152, 3456), (64, 256, 128), (1, 4096, 4096), (16, 4096, 11008), (8192, 64, 64)]
)
def test_few_configurations_all_different(shape):
    rows, depth, columns = shape
    node = linear((rows, depth), columns, transposed=True)
    for family in families_for(node, TARGET):
        configs = family.configs(node, TARGET)
        assert 1 <= len(set(configs)) == len(configs) <= 12


class TestCublasLt:
    @staticmethod
    def gemm_alone(node):
        family = CublasLtProduct()
        steps = family.launches(node, family.configs(node, TARGET)[0], TARGET).steps
        return len(steps) == 1 and isinstance(steps[0], Gemm)

    @pytest.mark.parametrize("activation", ["none", "relu", "gelu_tanh"])
    def test_its_own_epilogues_need_no_kernel(self, activation):
        assert self.gemm_alone(linear((2, 5, 24), 40, bias=True, activation=activation))

    def test_a_residual_is_added_by_it(self):
        assert self.gemm_alone(linear((2, 5, 24), 40, bias=True, residual=(2, 5, 40)))

    @pytest.mark.parametrize(
        "others",
        [
            {"activation": "silu"},
            {"activation": "gelu"},
            {"gate": (40,)},
            {"activation": "relu", "residual": (2, 5, 40)},
            {"residual": (40,)},
        ],
    )
    def test_others_need_one(self, others):
        assert not self.gemm_alone(linear((2, 5, 24), 40, bias=True, **others))

    def test_its_tanh_is_not_exact_enough_for_what_is_not_rounded(self):
        assert not self.gemm_alone(linear((2, 24), 40, activation="gelu_tanh", unrounded=True))
        assert self.gemm_alone(linear((2, 24), 40, activation="relu", unrounded=True))

    def test_a_bias_for_each_group_is_not_its_own(self):
        assert not self.gemm_alone(linear((3, 5, 24), 40, groups=3, bias=True))
        assert self.gemm_alone(linear((3, 5, 24), 40, groups=3))


class TestCompiled:
    @pytest.mark.parametrize("capability", [80, 89, 90, 100])
    def test_for_every_architecture(self, capability, worker_pool):
        """The first of each family: it fits the device, and the plan of it is sound."""
        target = Target.named(capability)
        compiler = Compiler(target, workers=worker_pool)
        for node in (linear((128, 256), 256, transposed=True, bias=True), linear((1, 512), 256, bias=True)):
            for family in families_for(node, target):
                candidate = family.launches(node, family.configs(node, target)[0], target)
                kernels = [compiler.compile(each) for each in specializations(candidate)]
                check_plan(plan_of_node(node, candidate, kernels, capability))

    @pytest.mark.slow
    @pytest.mark.parametrize("transposed", [False, True])
    def test_all_that_is_offered_for_hopper(self, transposed, worker_pool):
        node = linear((512, 1152), 1152, transposed=transposed, bias=True, residual=(512, 1152), gate=(1152,))
        family = BulkCopyProduct()
        candidates = [family.launches(node, config, TARGET) for config in family.configs(node, TARGET)]
        compiler = Compiler(TARGET, workers=worker_pool)
        for candidate in candidates:
            kernels = [compiler.compile(each) for each in specializations(candidate)]
            check_plan(plan_of_node(node, candidate, kernels, 90))


class TestRefused:
    @pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
    @pytest.mark.parametrize(
        "node",
        [
            linear((0, 24), 40),
            linear((4, 24), 0),
            matmul((4, 0), (0, 8)),
            linear((4, 24), 40, "float64"),
            # Rows that are cut in a way that no stride can say: groups of 4 in a value whose axes are of 6.
            linear((4, 6), 9, store=View((6, 6), (1, 6)), value=(6, 6)),
        ],
    )
    def test_by_all(self, family, node):
        assert not family.supports(node, TARGET)

    def test_different_dtypes(self):
        node = linear((4, 24), 40)
        mixed = type(node)(node.op, node.inputs, node.attributes, node.outputs)
        weight = mixed.inputs[1]
        object.__setattr__(weight, "type", weight.type.with_dtype("float16"))
        assert not list(families_for(mixed, TARGET))

    def test_more_rows_than_few(self):
        assert not FewRowsProduct().supports(linear((17, 64), 64), TARGET)

    def test_devices_without_tensor_maps(self):
        assert not BulkCopyProduct().supports(linear((64, 64), 64), Target.named(80))


class TestContractions:
    def test_one_matrix_for_all_makes_the_stack_rows(self):
        found = contraction_of(matmul((2, 3, 20, 64), (64, 24)))
        assert (found.stack, found.rows) == (1, 120)

    def test_axes_are_cut_at_the_borders_of_dimensions(self):
        assert partition(View((6, 6), (6, 1)), (2, 3, 6)) == (((2, 18),), ((3, 6),), ((6, 1),))
        assert partition(View((36,), (2,)), (2, 3, 6)) == (((2, 36),), ((3, 12),), ((6, 2),))
        assert partition(View((6, 6), (1, 6)), (4, 9)) is None

    def test_offsets_that_32_bits_do_not_count(self):
        node = linear((4, 24), 40, views={"x": (View((4, 24), (2**30, 1)), (2**32,))})
        assert contraction_of(node).wide
        assert not contraction_of(linear((4, 24), 40)).wide


def test_the_ops_are_those_of_the_table():
    for family in FAMILIES:
        for op in family.ops:
            assert op_named(op).kind.name == "CONTRACTION"
