"""Group norms of images against the reference in float64: interpreted here, compiled where there is a device.

What a result may err by is derived from what the kernels' arithmetic promises: see `Exact.room`.
"""

import itertools
import math
from dataclasses import replace

import numpy
import pytest
from gpu import GPU_MARKS, device_target, needs_gpu, run_on_device
from products import interpretable

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.evaluation import apply_view, evaluate_node
from jitinfer.graph.node import Node, Value
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import Candidate, Config, Target, families_for
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.family import WORKSPACE
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.group_norm import ImageNorm
from jitinfer.kernels.triton.group_norm_problem import Blocks, Images, seconds
from jitinfer.lowering.choice import offers
from jitinfer.runtime.plan import Fill, Pointer
from jitinfer.runtime.soundness import check as check_plan
from jitinfer.testing import random_array

TARGET = Target.named(90)
FAMILY = ImageNorm()
UNIT = 2.0**-24
# Of results; of bfloat16 a whole unit, since the interpreter cuts where devices round.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-7}
SMALLEST = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
LAST = ("last", "last")


def layout(name, shape):
    """The view of `shape` in a buffer, and the buffer's shape. last: channels last; first: contiguous; part: some
    channels of an image with more of them, channels last; apart: no two elements are neighbours; reversed: backwards.
    """
    memory = (shape[0], *shape[2:], shape[1])
    back = (0, len(shape) - 1, *range(1, len(shape) - 1))
    if name == "first":
        return None, shape
    if name == "last":
        return View.of(memory).transpose(back), memory
    if name == "reversed":
        view, memory = layout("last", shape)
        return View(shape, tuple(-each for each in view.strides), view.size - 1), memory
    more = (*memory[:-1], 2 * memory[-1] + 5)
    low, step = (3, 1) if name == "part" else (0, 2)
    stops = (*memory[:-1], low + step * (memory[-1] - 1) + 1)
    view = View.of(more).slice((*[0] * (len(memory) - 1), low), stops, (*[1] * (len(memory) - 1), step))
    return view.transpose(back), more


def node_of(shape, groups, dtype="bfloat16", *, layouts=LAST, affine=True, vectors=None, activation="silu"):
    """layouts: of x and of the result; vectors: dtype of scale and bias."""
    builder = Builder()
    view, memory = layout(layouts[0], shape)
    inputs = [builder.input("x", memory, dtype).value]
    if affine:
        inputs += [builder.input(name, shape[1:2], vectors or dtype).value for name in ("scale", "bias")]
    attributes = {"groups": groups, "epsilon": 1e-5, "activation": activation}
    node = builder.add_node(op_named("group_norm"), inputs, attributes, [view])
    store, memory = layout(layouts[1], shape)
    if store is None:
        return node
    written = Value(node.output.type.with_shape(memory), node.output.name)
    return Node(node.op, node.inputs, node.attributes, (written,), node.origin, node.views, (store,))


def arrays_of(node, mean=0.5, deviation=1.0):
    arrays = [None if value is None else random_array(value.type, seed) for seed, value in enumerate(node.inputs)]
    arrays[0] = (mean + deviation * arrays[0].astype(numpy.float64)).astype(arrays[0].dtype)
    return arrays


def config(launches, together=1, pixels=16, steps=2, warps=4, stages=1, programmatic=0):
    return Config.of(
        launches=launches, together=together, pixels=pixels, steps=steps, warps=warps, stages=stages,
        programmatic=programmatic,
    )  # fmt: skip


def held(node, together=1):
    """The configuration that reads all pixels at once."""
    pixels = math.prod(seen(node)[2:])
    return config(1, together, 1 << (pixels - 1).bit_length())


def seen(node):
    """The shape of x, as the op sees it."""
    return (node.view(0) or View.of(node.input_type(0).shape)).shape


def read(array, view):
    return array if view is None else apply_view(array, view)


class Exact:
    """What the results should be, in float64, as the op sees them, and what each of them may err by."""

    def __init__(self, node, arrays):
        self.node, self.shape = node, seen(node)
        self.each = self.shape[1] // node.groups
        x = read(arrays[0], node.view(0)).astype(numpy.float64).reshape(self.shape[0], node.groups, -1)
        self.largest = numpy.abs(x).max(axis=2, keepdims=True)
        self.variance = x.var(axis=2, keepdims=True)
        self.wide = self.variance + node.epsilon
        normal = (x - x.mean(axis=2, keepdims=True)) / numpy.sqrt(self.wide)
        self.scaled = normal.reshape(self.shape)
        self.scale, self.bias = 1.0, 0.0
        if arrays[1:]:
            column = (-1, *[1] * (len(self.shape) - 2))
            vectors = (read(each, node.view(1 + i)) for i, each in enumerate(arrays[1:]))
            self.scale, self.bias = (each.astype(numpy.float64).reshape(column) for each in vectors)
            self.scaled = self.scaled * self.scale
        self.value = self.scaled + self.bias
        if node.activation == "silu":
            self.value = self.value / (1 + numpy.exp(-self.value))
        (expected,) = evaluate_node(node, [each.astype(numpy.float64) for each in arrays], "float64")
        numpy.testing.assert_allclose(read(expected, node.store(0)), self.value, rtol=1e-9, atol=1e-9)

    def room(self, config):
        """Sums of n terms err by n units whatever their order, lanes of k steps as the kernels' docstring says. The
        error of a mean moves a result, that of a variance scales it; then come the function itself, and one rounding.
        """
        tiles = -(-math.prod(self.shape[2:]) // config["pixels"])
        steps = min(config["steps"], tiles) if config["launches"] > 1 else 0
        terms = config["pixels"] + self.each + (-(-tiles // steps) if steps else 0)
        mean = UNIT * self.largest * (steps / 2 + 10 + terms)
        variance = 4 * mean * numpy.sqrt(self.variance) + 2 * mean**2 + (steps + terms + 8) * UNIT * self.variance
        moved = self.of_channels((mean + UNIT * self.largest) / numpy.sqrt(self.wide)) * numpy.abs(self.scale)
        factor = self.of_channels(variance / self.wide) + 12 * UNIT
        error = moved + numpy.abs(self.scaled) * factor + 4 * UNIT * numpy.abs(self.bias)
        if self.node.activation == "silu":
            size = numpy.abs(self.scaled) + numpy.abs(self.bias)
            error = 1.1 * error + UNIT * numpy.abs(self.value) * (size + 16)
        dtype = self.node.output.dtype
        return error + (numpy.abs(self.value) + error) * ROUNDING[dtype] + SMALLEST[dtype]

    def of_channels(self, groups):
        """[N, groups, 1] -> [N, C, 1, ...]"""
        return numpy.repeat(groups[:, :, 0], self.each, axis=1).reshape(*self.shape[:2], *[1] * (len(self.shape) - 2))

    def require(self, config, actual):
        assert actual.dtype == numpy_dtype(self.node.output.dtype)
        found = read(actual, self.node.store(0)).astype(numpy.float64)
        assert numpy.isfinite(found).all()
        share = float((numpy.abs(found - self.value) / self.room(config)).max())
        assert share <= 1, (config, share)


def poisoned(candidate):
    """With NaN in the workspace."""
    fill = Fill(Pointer(WORKSPACE), candidate.workspace_bytes, 0xFF)
    return Candidate((fill, *candidate.steps), candidate.workspace_bytes) if candidate.workspace_bytes else candidate


def check(node, config, arrays=None):
    arrays = arrays_of(node) if arrays is None else arrays
    config = interpretable(config)
    (actual,) = interpret(node, poisoned(FAMILY.launches(node, config, TARGET)), arrays)
    Exact(node, arrays).require(config, actual)


def check_on_device(node, config, arrays=None, exact=None):
    target = device_target()
    arrays = arrays_of(node) if arrays is None else arrays
    config = Config.of(**{**dict(config.values), "programmatic": int(target.has_programmatic_launch)})
    (actual,) = run_on_device(node, poisoned(FAMILY.launches(node, config, target)), arrays)
    (exact or Exact(node, arrays)).require(config, actual)


@pytest.fixture(params=["interpreted", pytest.param("device", marks=GPU_MARKS)])
def require(request):
    return check if request.param == "interpreted" else check_on_device


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("launches", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "groups", "together", "activation"), [((3, 6, 17, 3), 3, 3, "silu"), ((1, 20, 8, 8), 2, 1, "none")]
)
def test_dtypes_and_launches(shape, groups, together, activation, launches, dtype, require):
    node = node_of(shape, groups, dtype, activation=activation)
    require(node, held(node, together) if launches == 1 else config(launches, together))


@pytest.mark.parametrize("launches", [1, 2, 3])
@pytest.mark.parametrize(
    "layouts",
    [LAST, ("first", "first"), ("first", "last"), ("last", "first"), ("part", "last"), ("apart", "first"),
     ("reversed", "reversed")],
)  # fmt: skip
def test_layouts(layouts, launches, require):
    node = node_of((2, 12, 9, 5), 4, layouts=layouts)
    require(node, held(node, 2) if launches == 1 else config(launches, 2))


@pytest.mark.parametrize("launches", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 4, 1, 1), 2),  # one pixel
        ((3, 5, 1, 1), 5),  # and one channel
        ((2, 8), 4),
        ((2, 6, 7), 3),
        ((1, 6, 3, 2, 5), 2),
        ((1, 7, 4, 4), 7),  # a channel is a group
        ((1, 7, 4, 4), 1),  # all are one
        ((1, 1, 5, 5), 1),
        ((2, 60, 3, 3), 3),
        ((1, 8, 40, 3), 2),  # the last part has fewer pixels, and the last block
    ],
)
def test_shapes(shape, groups, launches, require):
    for together in (1, groups):
        node = node_of(shape, groups, "float32")
        require(node, held(node, together) if launches == 1 else config(launches, together, steps=3))


@pytest.mark.parametrize("width", [1, 2, 4, 5, 10, 20])
@pytest.mark.parametrize("layouts", [LAST, ("first", "first")])
def test_blocks_that_divide_groups(layouts, width, require):
    """Of channels: a block has a part of a group of five, or parts of several."""
    require(node_of((2, 20, 9, 5), 4, layouts=layouts), config(3, width, pixels=8, steps=2))


@pytest.mark.parametrize("together", [1, 3, 5, 15])
@pytest.mark.parametrize("launches", [1, 2])
def test_groups_whose_channels_are_no_power_of_two(launches, together, require):
    """Nor the groups of a block: rows of channels have lanes of the next group, or of none."""
    node = node_of((1, 105, 5, 3), 15, "float32")
    require(node, held(node, together) if launches == 1 else config(launches, together, pixels=4))


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("pixels", [(32, 36), (29, 31)])
def test_steps(pixels, steps, stages, require):
    """At once and as a loop, with pixels for all of them and with less."""
    node = node_of((1, 8, *pixels), 4, "float32", activation="none")
    for launches, warps in itertools.product((2, 3), (1, 4)):
        chosen = config(launches, 4, pixels=128, steps=steps, stages=stages, warps=warps)
        first = FAMILY.launches(node, chosen, TARGET).steps[0]
        width = 8 if launches == 2 else 4
        assert first.constants["AT_ONCE"] == (stages == 1 and 8 * steps * width <= 128 * warps)
        require(node, chosen)


@pytest.mark.parametrize("launches", [1, 2, 3])
def test_without_scale_and_bias(launches, require):
    node = node_of((2, 8, 6, 6), 4, affine=False)
    require(node, held(node) if launches == 1 else config(launches, 2))


@pytest.mark.parametrize("launches", [1, 2, 3])
def test_scale_and_bias_of_another_dtype(launches, require):
    node = node_of((2, 8, 6, 6), 4, vectors="float32")
    require(node, held(node) if launches == 1 else config(launches, 2))


def test_scale_and_bias_that_are_parts_of_others(require):
    """Every second element of one vector."""
    node = node_of((1, 8, 6, 6), 4, "float32")
    longer = Value(node.inputs[1].type.with_shape((17,)), "longer")
    inputs = (node.inputs[0], longer, longer)
    views = (node.view(0), View((8,), (2,), 0), View((8,), (2,), 1))
    node = replace(node, inputs=inputs, views=views)
    arrays = arrays_of(node)
    for launches in (2, 3):
        require(node, config(launches, 2), [*arrays[:2], arrays[1]])


@pytest.mark.parametrize("layouts", [LAST, ("first", "first")])
def test_many_parts_of_one_image(layouts, require):
    """A number of them that is no power of two, the last with fewer blocks, and the last block with fewer pixels."""
    node = node_of((1, 4, 37, 1), 2, "float32", layouts=layouts, activation="none")
    for launches in (2, 3):
        require(node, config(launches, 2, pixels=1, steps=1))
        require(node, config(launches, 2, pixels=4, steps=3, stages=3))


@pytest.mark.parametrize("launches", [1, 2, 3])
@pytest.mark.parametrize("layouts", [LAST, ("first", "first")])
def test_large_values_do_not_cancel(layouts, launches, require):
    """The mean is a thousand times the deviation: mean(x^2) - mean^2 in float32 leaves what is allowed by far."""
    size = 4 if launches == 1 else 16
    node = node_of((2, 16, size, size), 4, "float32", layouts=layouts, activation="none", affine=False)
    arrays = arrays_of(node, mean=1000.0)
    chosen = held(node, 2) if launches == 1 else config(launches, 2)
    require(node, chosen, arrays)
    x = read(arrays[0], node.view(0)).reshape(2, 4, -1)
    mean = x.mean(axis=2, keepdims=True)
    naive = (x - mean) / numpy.sqrt(numpy.mean(x * x, axis=2, keepdims=True) - mean * mean + numpy.float32(1e-5))
    exact = Exact(node, arrays)
    assert (numpy.abs(naive.reshape(exact.shape) - exact.value) > 2 * exact.room(chosen)).any()


@pytest.mark.parametrize("launches", [1, 2, 3])
def test_places_that_take_64_bits(launches, monkeypatch):
    """As in an image of more elements than 32 bits count, here of a small one."""
    assert Images.of(node_of((1, 64, 8192, 8192), 32)).wide
    node = node_of((1, 8, 6, 6), 4)
    assert not Images.of(node).wide
    monkeypatch.setattr(Images, "wide", property(lambda images: True))
    check(node, held(node) if launches == 1 else config(launches, 2))


def test_not_a_number_stays_in_its_group():
    node = node_of((2, 6, 5, 5), 3, "float32")
    for launches in (1, 2, 3):
        arrays = arrays_of(node)
        arrays[0][1, 2, 3, 2] = numpy.nan
        arrays[0][0, 1, 1, 5] = numpy.inf
        chosen = held(node) if launches == 1 else config(launches)
        (actual,) = interpret(node, FAMILY.launches(node, chosen, TARGET), arrays)
        unknown = numpy.isnan(read(actual, node.store(0)).reshape(2, 3, -1))
        assert unknown.all(axis=2).tolist() == [[False, False, True], [False, True, False]]
        assert unknown.any(axis=2).tolist() == [[False, False, True], [False, True, False]]


# What takes more than one launch, what takes one, and what takes either.
LARGE = [(1, 512, 64, 64), (1, 512, 128, 128), (1, 256, 256, 256), (1, 128, 512, 512), (2, 320, 64, 64)]
SMALL = [(2, 1280, 8, 8), (3, 640, 17, 3)]
BETWEEN = [(2, 1280, 16, 16), (2, 1920, 16, 16)]


@pytest.mark.parametrize("layouts", [LAST, ("first", "first"), ("first", "last")])
@pytest.mark.parametrize("shape", LARGE + SMALL + BETWEEN)
def test_configurations(shape, layouts):
    """Few, of one launch for small images, enough programs for large ones, and nothing that registers do not hold."""
    for target in map(Target.named, (80, 90)):
        node = node_of(shape, 32, layouts=layouts)
        if not FAMILY.supports(node, target):
            assert layouts == ("first", "first")
            assert shape not in LARGE
            continue
        configs = FAMILY.configs(node, target)
        assert 4 <= len(configs) <= 8
        assert len(set(configs)) == len(configs)
        launches = [each["launches"] for each in configs]
        assert launches[0] == 1 or shape not in SMALL
        assert (1 in launches) == (shape not in LARGE)
        for each in configs:
            steps = FAMILY.launches(node, each, target).steps
            assert len(steps) == each["launches"]
            constants = steps[-1].constants
            assert constants["BLOCK_P"] * constants["BLOCK_C"] <= 32 * 32 * each["warps"]
            assert each["programmatic"] == target.has_programmatic_launch
        if shape in LARGE:
            first, last = (FAMILY.launches(node, configs[0], target).steps[i].grid[0] for i in (0, -1))
            assert 0.9 * target.sm_count <= first <= last  # parts are of whole blocks


# Microseconds on an H100, and blocks: of groups of few channels a program, whose kernels have changed least since.
MEASURED = {
    (2, 1280, 16, 16): [
        (5.67, 2, 1, 128, 1, 8),
        (5.82, 2, 1, 32, 2, 4),
        (6.21, 1, 1, 256, 1, 16),
        (6.56, 2, 2, 32, 1, 4),
        (6.74, 2, 2, 64, 1, 8),
        (7.04, 2, 1, 32, 1, 4),
        (7.07, 2, 2, 32, 2, 8),
        (7.16, 2, 2, 16, 2, 4),
        (7.72, 2, 1, 64, 1, 8),
        (9.3, 2, 2, 32, 1, 8),
        (9.47, 2, 2, 16, 1, 4),
    ],
    (1, 512, 64, 64): [
        (6.7, 2, 2, 128, 2, 4),
        (6.75, 2, 2, 64, 4, 4),
        (6.8, 2, 1, 128, 8, 4),
        (7.38, 2, 2, 128, 1, 4),
        (7.45, 2, 2, 128, 2, 8),
        (7.68, 2, 2, 64, 2, 4),
        (7.83, 2, 2, 256, 1, 8),
        (8.5, 2, 1, 256, 4, 8),
        (8.82, 2, 1, 256, 1, 8),
        (8.96, 2, 2, 128, 1, 8),
    ],
}


@pytest.mark.parametrize("shape", MEASURED)
def test_guesses_are_in_the_order_of_times(shape):
    images = Images.of(node_of(shape, 32))
    times = [time for time, *_ in MEASURED[shape]]
    guesses = [seconds(images, Blocks(*blocks), TARGET) for _, *blocks in MEASURED[shape]]
    ranks = [numpy.argsort(numpy.argsort(each)) for each in (times, guesses)]
    assert numpy.corrcoef(ranks)[0, 1] > 0.5


def test_offers_differ_where_guesses_are_weak():
    """In how wide blocks are, and in whether a multiprocessor has one program that takes statistics or several."""
    node = node_of((1, 512, 64, 64), 32)
    candidates = [FAMILY.launches(node, each, TARGET) for each in FAMILY.configs(node, TARGET)]
    firsts = [each.steps[0] for each in candidates]
    assert len({each.constants["BLOCK_C"] for each in firsts}) >= 3
    assert {each.grid[0] > TARGET.sm_count for each in firsts} == {False, True}


def test_groups_of_many_channels_have_few_parts():
    """One program merges all parts of a group's channels, in registers."""
    node = node_of((1, 8192, 64, 64), 2)
    found = [each for each in FAMILY.configs(node, TARGET) if each["launches"] == 3]
    assert found
    for each in found:
        constants = FAMILY.launches(node, each, TARGET).steps[1].constants
        assert constants["BLOCK_S"] * constants["BLOCK_E"] <= 8192


def test_channels_are_read_in_whole_vectors():
    """Ten channels a group: blocks of channels leave no lane idle, and begin at multiples of 16 bytes."""
    node = node_of((2, 320, 64, 64), 32)
    first = next(each for each in FAMILY.configs(node, TARGET) if each["launches"] == 3)
    constants = FAMILY.launches(node, first, TARGET).steps[-1].constants
    assert constants["WIDTH"] == constants["BLOCK_C"]
    assert constants["WIDTH"] % 8 == 0


def test_what_is_tried_first():
    names = [family.name for family, _ in offers(node_of((1, 128, 512, 512), 32), TARGET)]
    assert names[0] == "image_norm"
    assert {"image_norm", "cut_rows"} <= set(names)
    names = [family.name for family, _ in offers(node_of((2, 1280, 8, 8), 32, layouts=("first", "first")), TARGET)]
    assert names[0] == "held_rows"
    assert "image_norm" not in names


class TestRefused:
    def test_other_dtypes(self):
        assert not FAMILY.supports(node_of((1, 8, 4, 4), 2, "float64"), TARGET)
        assert not FAMILY.supports(node_of((1, 8, 4, 4), 2, vectors="float64"), TARGET)

    def test_no_elements(self):
        assert not FAMILY.supports(node_of((0, 8, 4, 4), 2), TARGET)

    def test_groups_of_too_many_channels(self):
        assert FAMILY.supports(node_of((1, 8192, 2, 2), 1), TARGET)
        assert not FAMILY.supports(node_of((1, 8193, 2, 2), 1), TARGET)

    def test_pixels_that_are_not_walked_with_one_stride(self):
        """A part of a padded image."""
        node = node_of((1, 8, 4, 4), 2)
        padded = replace(node.inputs[0], type=node.inputs[0].type.with_shape((1, 6, 6, 8)))
        view = View((1, 8, 4, 4), (288, 1, 48, 8), 56)
        assert not FAMILY.supports(replace(node, inputs=(padded, *node.inputs[1:]), views=(view,)), TARGET)

    @pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 8, 1, 1), (1, 8, 64, 64)])
    def test_short_runs_are_rows(self, shape):
        """Of elements next to each other, such as registers hold."""
        node = node_of(shape, 2, layouts=("first", "first"))
        assert not FAMILY.supports(node, TARGET)
        assert next(families_for(node, TARGET)).name == "held_rows"


@pytest.mark.parametrize("capability", [80, 89, 90, 100])
def test_for_every_architecture(capability):
    """One kernel of each kind, for images of either layout, and sound plans of them."""
    target = Target.named(capability)
    tried = [(node_of((2, 320, 64, 64), 32), held(node_of((2, 320, 8, 8), 32)))]
    for dtype, layouts in (("bfloat16", LAST), ("float32", ("first", "first"))):
        node = node_of((2, 320, 64, 64), 32, dtype, layouts=layouts)
        configs = FAMILY.configs(node, target)
        tried += [(node, next(each for each in configs if each["launches"] == count)) for count in (2, 3)]
        larger = node_of((1, 256, 256, 256), 32, node.input_type(0).dtype, layouts=layouts)
        tried.append((larger, next(each for each in FAMILY.configs(larger, target) if each["stages"] > 1)))
    candidates = [FAMILY.launches(node, each, target) for node, each in tried]
    with Compiler(target, workers=2) as compiler:
        kernels = [compiler.try_all(specializations(each)) for each in candidates]
    for (node, each), candidate, made in zip(tried, candidates, kernels, strict=True):
        assert [kernel.waits for kernel in made] == [bool(each["programmatic"])] * each["launches"]
        check_plan(plan_of_node(node, candidate, made, capability))


@needs_gpu
@pytest.mark.parametrize("layouts", [LAST, ("first", "first")])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, "bfloat16") for shape in LARGE + SMALL + BETWEEN), *((shape, "float32") for shape in LARGE[:2] + SMALL)],
)
def test_every_configuration_on_a_device(shape, dtype, layouts):
    node, target = node_of(shape, 32, dtype, layouts=layouts), device_target()
    if not FAMILY.supports(node, target):
        pytest.skip("rows that registers hold")
    arrays = arrays_of(node, mean=100.0 if dtype == "float32" else 0.5)
    exact = Exact(node, arrays)
    for each in FAMILY.configs(node, target):
        check_on_device(node, each, arrays, exact)
