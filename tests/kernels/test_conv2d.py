"""Families of convolutions against the op table's reference in float64: interpreted, or on a device."""

import numpy
import pytest
from convolved import arrays_of, check, check_on_device, convolution
from gpu import GPU_MARKS, device_target, needs_gpu
from products import TARGET, check_by_all, interpretable, mended_interpreter

from jitinfer.graph import op_named
from jitinfer.kernels import Config, Target, families_for
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.convolutions import convolutions_of
from jitinfer.kernels.cublaslt import CublasLtProduct
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.conv2d import ImplicitGemm
from jitinfer.kernels.triton.conv2d_direct import DirectConvolution
from jitinfer.kernels.triton.matmul import BulkCopyProduct, TiledProduct
from jitinfer.runtime.soundness import check as check_plan

FAMILIES = (ImplicitGemm(), DirectConvolution())
PRODUCTS = (CublasLtProduct(), TiledProduct(), BulkCopyProduct())
ONE = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))
DEVICE = pytest.param("device", marks=GPU_MARKS)


@pytest.fixture(params=["interpreted", DEVICE])
def require(request):
    """Checks the node with every family that supports it."""

    def run(node, families=FAMILIES):
        check_by_all(families, node, request.param, check, check_on_device)

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("batch", "channels"), [(1, 4), (3, 24)])
def test_dtypes_and_layouts(batch, channels, last, dtype, require):
    require(convolution((batch, channels, 6, 5), (20, channels, 3, 3), dtype, last=last, padding=ONE))


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "relu", "sigmoid"])
@pytest.mark.parametrize("groups", [1, 4])
def test_activations(activation, groups, require):
    node = convolution((1, 8, 5, 5), (8, 8 // groups, 3, 3), groups=groups, padding=ONE, activation=activation)
    require(node)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("residual", [(2, 8, 5, 5), (2, 8, 1, 1), (5,)])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_residuals(residual, activation, groups, last, require):
    """Added ahead of the activation."""
    attributes = {"groups": groups, "activation": activation, "last": last, "bias": groups == 1}
    require(convolution((2, 8, 5, 5), (8, 8 // groups, 3, 3), padding=ONE, residual=residual, **attributes))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("groups", "strides"), [(1, (1, 1)), (1, (2, 1)), (2, (1, 1))])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("residual", [None, (2, 16, 3, 5)])
def test_pixels_are_products(residual, activation, groups, strides, last, require):
    """By all families of products, images of any layout."""
    node = convolution(
        (2, 16, 5 if strides == (2, 1) else 3, 5), (16, 16 // groups, 1, 1), groups=groups, strides=strides,
        activation=activation, residual=residual, last=last,
    )  # fmt: skip
    assert PRODUCTS[0].supports(node, TARGET)
    require(node, PRODUCTS)


def test_only_windows_of_one_pixel_are_products():
    for attributes in ({"padding": ONE}, {"window": 2}):
        window = attributes.pop("window", 1)
        node = convolution((1, 16, 4, 4), (16, 16, window, window), **attributes)
        assert not any(family.supports(node, TARGET) for family in PRODUCTS)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize(
    ("strides", "padding", "dilation"),
    [
        ((1, 1), NONE, (1, 1)),
        ((2, 2), ONE, (1, 1)),
        ((1, 3), ((2, 0), (1, 3)), (1, 1)),
        ((1, 1), ((0, 1), (0, 1)), (2, 1)),
        ((2, 1), NONE, (1, 3)),
    ],
)
def test_windows(channels, strides, padding, dilation, last, require):
    attributes = {"strides": strides, "padding": padding, "dilation": dilation, "bias": channels == 3}
    require(convolution((1, channels, 7, 8), (12, channels, 3, 2), last=last, **attributes))


@pytest.mark.parametrize("window", [(1, 1), (7, 7), (1, 7), (5, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_of_windows(window, dtype, require):
    padding = tuple((size // 2, size // 2) for size in window)
    require(convolution((2, 3, 9, 8), (5, 3, *window), dtype, padding=padding, strides=(2, 2)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize(
    ("channels", "outputs", "groups"), [(6, 6, 6), (6, 12, 6), (16, 16, 4), (20, 4, 2), (24, 8, 2)]
)
def test_groups(channels, outputs, groups, strides, last, require):
    node = convolution(
        (2, channels, 6, 5), (outputs, channels // groups, 3, 3), groups=groups, padding=ONE, strides=strides, last=last
    )
    require(node)


def test_sizes_that_no_tile_divides(require):
    require(convolution((1, 35, 7, 11), (35, 35, 3, 3), padding=ONE, last=True))
    require(convolution((1, 1, 1, 1), (1, 1, 1, 1), "float32"))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("window", "attributes"),
    [
        ((3, 3), {"strides": (2, 2), "padding": ONE, "output_padding": (1, 1)}),
        ((4, 4), {"strides": (2, 2), "padding": ONE}),
        ((2, 2), {"strides": (2, 2)}),
        ((3, 3), {"padding": ONE}),
        ((2, 1), {"strides": (3, 2)}),  # results that no element of the image comes to
        ((3, 2), {"strides": (2, 3), "dilation": (2, 2), "padding": ((1, 0), (2, 1))}),
        ((3, 3), {"strides": (4, 2), "dilation": (2, 3)}),
    ],
)
def test_transposed(window, attributes, last, require):
    groups = 3 if last else 1
    require(convolution((1, 6, 3, 4), (6, 4, *window), op="conv2d_transpose", groups=groups, last=last, **attributes))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
def test_every_configuration(last, groups):
    node = convolution((1, 32, 4, 3), (16, 32 // groups, 2, 2), groups=groups, padding=ONE, last=last)
    for family in (each for each in FAMILIES if each.supports(node, TARGET)):
        for config in family.configs(node, TARGET):
            check(family, node, config)


@pytest.mark.parametrize("splits", [2, 3, 8])
def test_the_depth_in_parts(splits):
    node = convolution((1, 20, 4, 4), (10, 20, 3, 3), padding=ONE, last=True, activation="silu")
    config = ImplicitGemm().configs(node, TARGET)[0]
    check(ImplicitGemm(), node, Config.of(**{**dict(config.values), "splits": splits}))


def test_the_depth_in_parts_is_offered_where_pixels_are_few():
    node = convolution((2, 1280, 8, 8), (1280, 1280, 3, 3), padding=ONE, last=True)
    assert ImplicitGemm().configs(node, TARGET)[0]["splits"] > 1


def test_what_is_no_number_beside_the_image_stays_there():
    """Weights are not multiplied by what masks leave out: it would spread."""
    node = convolution((1, 3, 4, 4), (4, 3, 3, 3), "float32", padding=ONE)
    arrays = arrays_of(node)
    arrays[0][0, 1, 0, 0] = numpy.nan
    config = interpretable(ImplicitGemm().configs(node, TARGET)[0])
    with mended_interpreter():
        (actual,) = interpret(node, ImplicitGemm().launches(node, config, TARGET), arrays)
    near = numpy.zeros((4, 4), bool)
    near[:2, :2] = True
    assert (numpy.isnan(actual) == near).all()


@needs_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("image", "outputs", "attributes"),
    [
        ((2, 320, 32, 32), 320, {"padding": ONE}),
        ((1, 640, 16, 16), 640, {"padding": ONE, "activation": "silu"}),
        ((2, 128, 33, 31), 96, {"padding": ((0, 1), (0, 1)), "strides": (2, 2)}),
        ((3, 3, 64, 64), 64, {"padding": ((3, 3), (3, 3)), "strides": (2, 2), "window": 7}),
        ((2, 256, 40, 24), 3, {"padding": ONE}),
        ((2, 96, 28, 28), 96, {"padding": ONE, "groups": 96}),
        ((2, 128, 28, 28), 128, {"padding": ONE, "groups": 32}),
    ],
)
def test_larger_ones_on_a_device(image, outputs, attributes, last, dtype):
    attributes = dict(attributes)
    window, groups = attributes.pop("window", 3), attributes.get("groups", 1)
    node = convolution(image, (outputs, image[1] // groups, window, window), dtype, last=last, **attributes)
    for family in (each for each in FAMILIES if each.supports(node, device_target())):
        for config in family.configs(node, device_target()):
            check_on_device(family, node, config)


@needs_gpu
@pytest.mark.parametrize("seed", range(60))
def test_random_ones_on_a_device(seed):
    node = random_node(numpy.random.default_rng(seed))
    for family in (each for each in FAMILIES if each.supports(node, device_target())):
        check_on_device(family, node)


@pytest.mark.parametrize("seed", range(8))
def test_random_ones(seed):
    node = random_node(numpy.random.default_rng(seed), largest=4)
    for family in (each for each in FAMILIES if each.supports(node, TARGET)):
        check(family, node)


def random_node(generator, largest=40):
    """A convolution or its transpose of any shape and attributes that make a result."""

    def pick(low, high, count=2):
        return tuple(int(n) for n in generator.integers(low, high + 1, count))

    op = str(generator.choice(["conv2d", "conv2d_transpose"]))
    groups = int(generator.choice([1, 1, 2, 5]))
    inputs, outputs = (groups * n for n in pick(1, largest))
    window, strides, dilation = pick(1, 4), pick(1, 3), pick(1, 2)
    reach = [d * (n - 1) + 1 for d, n in zip(dilation, window, strict=True)]
    size = tuple(n + more for n, more in zip(reach, pick(0, largest), strict=True))
    padding = tuple(tuple(int(n) for n in generator.integers(0, (n + 1) // 2, 2)) for n in reach)
    weight = (outputs, inputs // groups, *window) if op == "conv2d" else (inputs, outputs // groups, *window)
    return convolution(
        (*pick(1, 3, 1), inputs, *size),
        weight,
        str(generator.choice(["float32", "bfloat16", "float16"])),
        op=op,
        bias=bool(generator.integers(2)),
        last=bool(generator.integers(2)),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


class TestCompiled:
    @pytest.mark.parametrize("capability", [80, 89, 90, 100])
    @pytest.mark.parametrize("groups", [1, 64])
    def test_for_every_architecture(self, capability, groups, worker_pool):
        """The first of each family: it fits the device, and the plan of it is sound."""
        target = Target.named(capability)
        node = convolution((2, 64, 32, 32), (64, 64 // groups, 3, 3), groups=groups, padding=ONE, last=True)
        for family in (each for each in FAMILIES if each.supports(node, target)):
            candidate = family.launches(node, family.configs(node, target)[0], target)
            compiler = Compiler(target, workers=worker_pool)
            kernels = [compiler.compile(each) for each in specializations(candidate)]
            check_plan(plan_of_node(node, candidate, kernels, capability))


class TestRefused:
    def test_dtypes_that_matrix_units_do_not_multiply(self):
        assert not list(families_for(convolution((1, 8, 5, 5), (8, 8, 3, 3), "float64"), TARGET))

    def test_groups_of_many_channels_are_for_matrix_units(self):
        assert not DirectConvolution().supports(convolution((1, 64, 5, 5), (64, 32, 3, 3), groups=2), TARGET)
        assert not DirectConvolution().supports(convolution((1, 64, 5, 5), (64, 64, 3, 3)), TARGET)

    def test_depthwise_ones_are_not(self):
        assert not ImplicitGemm().supports(convolution((1, 64, 5, 5), (64, 1, 3, 3), groups=64), TARGET)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_nothing_is_launched_for_no_images(family):
    node = convolution((0, 8, 5, 5), (8, 1, 3, 3), groups=8)
    for each in families_for(node, TARGET):
        assert not each.launches(node, each.configs(node, TARGET)[0], TARGET).steps


def test_only_windows_over_the_border_are_padded():
    (inner,) = convolutions_of(convolution((1, 8, 9, 9), (8, 8, 3, 3)))
    (outer,) = convolutions_of(convolution((1, 8, 9, 9), (8, 8, 3, 3), padding=((0, 0), (0, 1))))
    (unreached,) = convolutions_of(convolution((1, 8, 9, 9), (8, 8, 2, 2), padding=((0, 1), (0, 1)), strides=(2, 2)))
    assert (inner.padded, outer.padded, unreached.padded) == (False, True, True)


def test_few_configurations_all_different():
    for image, outputs in (((2, 320, 64, 64), 320), ((2, 1280, 16, 16), 1280), ((1, 3, 224, 224), 64)):
        node = convolution(image, (outputs, image[1], 3, 3), padding=ONE, last=True)
        configs = ImplicitGemm().configs(node, TARGET)
        assert 1 <= len(set(configs)) == len(configs) <= 12


def test_the_ops_are_those_of_the_table():
    for family in FAMILIES:
        for op in family.ops:
            assert op_named(op).kind.name == "CONTRACTION"
