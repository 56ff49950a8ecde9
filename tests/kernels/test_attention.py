"""Attention against the op table's NumPy reference in float64: interpreted here, compiled where there is a device."""

import heapq
from dataclasses import replace

import numpy
import pytest
import triton.language as tl
from gpu import PROBLEM, device_target, needs_gpu, run_on_device
from triton.runtime import interpreter

from jitinfer.graph import Builder, View, op_named
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.node import Node
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import Target, families_for
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.attention_decode import DecodeAttention
from jitinfer.kernels.triton.attention_kernel import block_and_head
from jitinfer.kernels.triton.attention_problem import AttentionProblem, tiles_of
from jitinfer.testing import random_array

TARGET = Target.named(90)
FAMILIES = (BlockAttention(), DecodeAttention())
ROUNDING = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.2e-2}
ON_DEVICE = (pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason=f"no CUDA device: {PROBLEM}"))
LOWEST = float(numpy.finfo(numpy.float32).min)


def node_of(
    q,
    k,
    v_dim=None,
    *,
    dtype="float32",
    mask=None,
    mask_dtype=None,
    views=None,
    store=None,
    scale=None,
    causal=False,
):
    """q: [batch, q_len, heads, head_dim]; k: [batch, kv_len, kv_heads, head_dim]; mask: shape of one.

    views: by operand, the view through which it is read and the shape of what is viewed.
    """
    builder = Builder()
    shapes = {"q": q, "k": k, "v": (*k[:3], v_dim or k[3]), "mask": mask}
    inputs, read = [], []
    for name, shape in shapes.items():
        view, buffer = (views or {}).get(name, (None, shape))
        kind = mask_dtype or dtype if name == "mask" else dtype
        inputs.append(None if shape is None else builder.input(name, buffer, kind).value)
        read.append(view)
    attributes = {"scale": q[3] ** -0.5 if scale is None else scale, "causal": causal}
    node = builder.add_node(op_named("attention"), inputs, attributes, read)
    if store is None:
        return node
    return Node(node.op, node.inputs, node.attributes, node.outputs, node.origin, node.views, (store,))


def packed_node(batch, length, heads, dim, dtype="float32", causal=False):
    """q, k and v in one buffer [batch, length, 3, heads, dim]."""
    builder = Builder()
    value = builder.input("packed", (batch, length, 3, heads, dim), dtype).value
    strides = (3 * length * heads * dim, 3 * heads * dim, dim, 1)
    views = [View((batch, length, heads, dim), strides, part * heads * dim) for part in range(3)]
    attributes = {"scale": dim**-0.5, "causal": causal}
    return builder.add_node(op_named("attention"), [value, value, value, None], attributes, [*views, None])


def arrays_of(node):
    """Random; a value that is read twice is one array."""
    arrays = {}
    for seed, value in enumerate(node.inputs):
        if value is not None and value not in arrays:
            arrays[value] = random_array(value.type, seed)
    return [None if value is None else arrays[value] for value in node.inputs]


def require_right(node, actual, arrays):
    """To a few units in the last place of the result; rows of no visible key are not numbers in both."""
    wide = [a if a is None or a.dtype == bool else a.astype(numpy.float64) for a in arrays]
    (expected,) = evaluate_node(node, wide, "float64")
    (got,) = actual
    assert got.dtype == numpy_dtype(node.outputs[0].dtype)
    got = got.astype(numpy.float64)
    assert got.shape == expected.shape
    assert (numpy.isnan(got) == numpy.isnan(expected)).all()
    error = numpy.nan_to_num(numpy.abs(got - expected) / (1 + numpy.abs(expected)))
    assert error.max() <= ROUNDING[node.outputs[0].dtype]


def configs(family, node, target=TARGET):
    """Those that the interpreter can run: it knows neither tensor maps nor programmatic launches."""
    stripped = []
    for config in family.configs(node, target):
        values = {**dict(config.values), "early": 0}
        if "tma" in values:
            values["tma"] = 0
        other = type(config).of(**values)
        if other not in stripped:
            stripped.append(other)
    return stripped


def check(node, arrays=None, *, every=False, target=TARGET):
    """By each family that offers it, its first configuration or all."""
    offered = list(families_for(node, target))
    assert any(isinstance(family, BlockAttention) for family in offered)
    arrays = arrays or arrays_of(node)
    for family in offered:
        chosen = configs(family, node, target)
        for config in chosen if every else chosen[:1]:
            require_right(node, interpret(node, family.launches(node, config, target), arrays), arrays)


def check_on_device(node, arrays=None, *, every=False):
    target = device_target()
    arrays = arrays or arrays_of(node)
    for family in families_for(node, target):
        chosen = family.configs(node, target)
        for config in chosen if every else chosen[:1]:
            require_right(node, run_on_device(node, family.launches(node, config, target), arrays), arrays)


@pytest.fixture(autouse=True)
def mended_interpreter(monkeypatch):
    """Triton 3.6 makes integers of arrays of one element, which NumPy 2.4 refuses, and multiplies bfloat16 as bits."""
    patch_tensor, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def widened(handle):
        if handle.dtype != tl.bfloat16:
            return handle
        wide = (handle.data.astype(numpy.uint32) << 16).view(numpy.float32)
        return interpreter.TensorHandle(wide, tl.float32)

    def create_dot(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(params=["interpreted", pytest.param("device", marks=ON_DEVICE)])
def require(request):
    return check if request.param == "interpreted" else check_on_device


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("q", "k"),
    [
        ((2, 40, 1, 64), (2, 70, 1, 64)),
        ((1, 65, 2, 72), (1, 130, 2, 72)),
        ((3, 1, 1, 96), (3, 17, 1, 96)),
        ((1, 17, 2, 40), (1, 77, 1, 40)),
        ((1, 5, 4, 128), (1, 154, 2, 128)),
    ],
)
def test_lengths_heads_and_dtypes(q, k, dtype, require):
    require(node_of(q, k, dtype=dtype))


@pytest.mark.parametrize("dim", [1, 8, 16, 20, 24, 33, 80, 112, 160, 256])
def test_sizes_of_heads(dim, require):
    require(node_of((1, 9, 2, dim), (1, 37, 2, dim)))


@pytest.mark.parametrize(("dim", "v_dim"), [(64, 72), (72, 64), (16, 128), (192, 24), (40, 1)])
def test_values_of_another_size(dim, v_dim, require):
    require(node_of((1, 9, 2, dim), (1, 37, 2, dim), v_dim))


@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (64, 64), (65, 65), (130, 130), (7, 100), (100, 7), (1, 65)])
@pytest.mark.parametrize("heads", [1, 2])
def test_causal(q_len, kv_len, heads, require):
    """Where there are fewer keys than queries, the first queries see none: nan, as the op table says."""
    require(node_of((1, q_len, 2, 24), (1, kv_len, heads, 24), causal=True))


@pytest.mark.parametrize(("q", "k"), [((1, 70, 5, 16), (1, 70, 5, 16)), ((3, 70, 6, 16), (3, 70, 3, 16))])
def test_causal_in_sections_of_heads(q, k):
    """A cache that holds the keys of two heads, of 5 and of 9: the last section is a shorter one."""
    node, target = node_of(q, k, causal=True), replace(TARGET, l2_bytes=3 * 70 * 2 * 16 * 4)
    assert AttentionProblem.of(node, target).heads_together(target) == 2 * q[2] // k[2]
    check(node, target=target)


class TestOrder:
    """Which program computes which block of which head."""

    @pytest.mark.parametrize(("heads", "blocks", "together"), [(5, 3, 2), (7, 1, 3), (12, 4, 12), (6, 5, 1), (8, 3, 4)])
    def test_every_block_of_every_head_once(self, heads, blocks, together):
        programs = heads * blocks
        found = [block_and_head.fn(program, programs, blocks, together) for program in range(programs)]
        assert sorted(found) == [(block, head) for block in range(blocks) for head in range(heads)]

    def test_the_longest_of_a_section_first(self):
        found = [block_and_head.fn(program, 10, 2, 3) for program in range(10)]
        assert found == [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (0, 3), (0, 4)]

    def sections(self, batch, length, heads, kv_heads, causal=True):
        node = node_of((batch, length, heads, 128), (batch, length, kv_heads, 128), dtype="bfloat16", causal=causal)
        return AttentionProblem.of(node, TARGET).heads_together(TARGET)

    def test_no_sections_where_all_blocks_are_as_long(self):
        assert self.sections(1, 2048, 32, 32, causal=False) == 1

    def test_keys_stay_in_the_cache(self):
        for length in (512, 1024, 2048, 4096, 8192, 16384):
            for batch, heads, kv_heads in ((1, 32, 32), (1, 37, 37), (2, 32, 8), (8, 12, 12)):
                together = self.sections(batch, length, heads, kv_heads)
                assert together % (heads // kv_heads) == 0
                assert together * kv_heads // heads * length * 512 <= TARGET.l2_bytes * 2 / 3
        assert self.sections(1, 2**20, 8, 2) == 4

    def test_the_last_section_is_full(self):
        """Of 8 heads that fit and not of 6, 7 or 8 of which 2, 5 or 1 were left."""
        assert self.sections(1, 8192, 32, 32) == 8
        assert self.sections(1, 8192, 30, 30) == 6
        assert self.sections(1, 4096, 37, 37) == 13

    @pytest.mark.parametrize("length", [1024, 2048, 4096, 8192])
    def test_all_multiprocessors_end_together(self, length):
        """Programs go to whichever is free first; the time of one is that of its keys."""
        block, heads = 128, 32
        blocks, together = length // block, self.sections(1, length, heads, heads)
        free = [0] * TARGET.sm_count
        for program in range(blocks * heads):
            heapq.heapreplace(free, free[0] + 1 + block_and_head.fn(program, blocks * heads, blocks, together)[0])
        assert sum(free) / len(free) > 0.95 * max(free)


@pytest.mark.parametrize(
    "shape", [(2, 2, 9, 40), (2, 1, 9, 40), (1, 2, 1, 40), (2, 1, 1, 40), (9, 40), (1,), (9, 1), (1, 1, 9, 40)]
)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.parametrize(("causal", "kv_heads"), [(False, 1), (True, 2)])
def test_masks(shape, dtype, causal, kv_heads, require):
    require(node_of((2, 9, 2, 16), (2, 40, kv_heads, 16), mask=shape, mask_dtype=dtype, causal=causal))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_masks(dtype, require):
    require(node_of((1, 20, 2, 16), (1, 70, 2, 16), mask=(20, 70), dtype=dtype))


@pytest.mark.parametrize("hidden", [-numpy.inf, LOWEST])
def test_rows_of_hidden_keys(hidden, require):
    """-inf throughout gives nan; the lowest finite number throughout gives the mean, as if nothing was masked."""
    node = node_of((1, 20, 2, 16), (1, 150, 2, 16), mask=(20, 150))
    arrays = arrays_of(node)
    mask = numpy.zeros((20, 150), numpy.float32)
    mask[3] = hidden
    mask[5, :140] = hidden
    mask[7, 10:] = hidden
    arrays[3] = mask
    require(node, arrays)


def test_bool_masks_that_hide_whole_blocks(require):
    node = node_of((1, 20, 2, 16), (1, 150, 2, 16), mask=(20, 150), mask_dtype="bool")
    arrays = arrays_of(node)
    mask = numpy.ones((20, 150), bool)
    mask[3] = False
    mask[5, :140] = False
    mask[7, 10:] = False
    arrays[3] = mask
    require(node, arrays)


@pytest.mark.parametrize("scale", [0.0, -0.3, 1.0, 4.0])
def test_scales(scale, require):
    require(node_of((1, 20, 2, 16), (1, 70, 2, 16), scale=scale))


def test_large_scores(require):
    """Scores of thousands: only differences from the greatest may become powers."""
    require(node_of((1, 20, 2, 16), (1, 150, 2, 16), scale=300.0))


def test_scores_far_below_zero(require):
    """All scores below -500: what lies behind the last key must not count as a score of 0."""
    node = node_of((1, 20, 1, 16), (1, 70, 1, 16), scale=1.0, dtype="float16")
    arrays = arrays_of(node)
    arrays[0] = numpy.abs(arrays[0]) + numpy.float16(6)
    arrays[1] = -numpy.abs(arrays[1]) - numpy.float16(6)
    require(node, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_every_configuration(dtype, causal, require):
    require(node_of((1, 70, 1, 72), (1, 140, 1, 72), dtype=dtype, causal=causal), every=True)
    require(node_of((1, 2, 2, 40), (1, 300, 1, 40), dtype=dtype, causal=causal), every=True)


@pytest.mark.parametrize("dim", [64, 72])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_operands(dim, dtype, require):
    require(packed_node(2, 70, 2, dim, dtype))


def test_operands_of_any_strides(require):
    """q backwards, k with its columns outermost, v of one batch for all."""
    views = {
        "q": (View((2, 9, 2, 16), (288, -32, 16, 1), 8 * 32), (2, 9, 2, 16)),
        "k": (View((2, 37, 2, 16), (1184, 1, 592, 37)), (2, 2, 16, 37)),
        "v": (View((2, 37, 2, 16), (0, 32, 16, 1)), (1, 37, 2, 16)),
    }
    require(node_of((2, 9, 2, 16), (2, 37, 2, 16), views=views))


def test_results_that_are_written_elsewhere(require):
    """[batch, seq, heads, dim] written as [batch, heads, seq, dim], and heads backwards."""
    require(node_of((2, 9, 2, 24), (2, 37, 2, 24), store=View((2, 9, 2, 24), (432, 24, 216, 1))))
    require(node_of((2, 9, 2, 24), (2, 37, 2, 24), store=View((2, 9, 2, 24), (432, 48, -24, 1), 24)))


def test_masks_through_views(require):
    """Every second column of a larger mask."""
    views = {"mask": (View((20, 70), (140, 2), 1), (20, 140))}
    require(node_of((1, 20, 2, 16), (1, 70, 2, 16), mask=(20, 70), views=views))


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("length", [256, 1089])
@pytest.mark.parametrize("dim", [24, 40, 48, 64, 72, 80, 96, 112, 128, 160])
def test_every_configuration_of_long_heads_on_a_device(dim, length, dtype):
    """Assemblers have made wrong code of some, where the last keys do not fill a block."""
    check_on_device(packed_node(1, length, 2, dim, dtype), every=True)


def test_many_shares_of_keys():
    """More than the largest power of two below them, the last one short."""
    node = node_of((1, 1, 2, 16), (1, 700, 1, 16))
    (first, *_) = DecodeAttention().configs(node, TARGET)
    assert first["shares"] > 8
    check(node)


def test_a_second_tile_of_columns():
    for dim, tiles in ((8, (16, 0)), (40, (32, 16)), (64, (64, 0)), (72, (64, 16)), (96, (64, 32)), (112, (128, 0))):
        assert tiles_of(dim, 16) == tiles
    assert tiles_of(72, 8) == (64, 8)
    assert tiles_of(160, 8) == (128, 32)


class TestTensorMaps:
    """Where they may be used; what they do is seen on a device."""

    def fits(self, node, target=TARGET):
        return AttentionProblem.of(node, target).has_tensor_maps(target)

    @pytest.mark.parametrize("dim", [64, 72, 96, 80, 128, 136, 160])
    def test_packed_operands(self, dim):
        assert self.fits(packed_node(2, 70, 2, dim, "bfloat16"))

    def test_steps_along_axes_of_one_element_are_aligned(self):
        view = View((1, 37, 1, 64), (0, 64, 3, 1))
        node = node_of((1, 9, 1, 64), view.shape, dtype="bfloat16", views={"k": (view, (37, 64))})
        assert self.fits(node)
        config = BlockAttention().configs(node, TARGET)[0]
        (launch,) = BlockAttention().launches(node, config, TARGET).steps
        assert config["tma"]
        assert all(stride % 8 == 0 for stride in launch.arguments["k"].strides[:3])

    def test_not_before_hopper(self):
        assert not self.fits(packed_node(2, 70, 2, 64, "bfloat16"), Target.named(89))

    @pytest.mark.parametrize("dim", [60, 68, 256])
    def test_not_of_other_sizes(self, dim):
        assert not self.fits(packed_node(2, 70, 3, dim, "bfloat16"))

    def test_not_of_other_strides(self):
        buffer = (2, 37, 2, 64)
        for view in (
            View(buffer, (0, 128, 64, 1)),
            View(buffer, (37 * 128, -128, 64, 1), 36 * 128),
            View(buffer, (37 * 128, 128, 64, 1), 4),
            View(buffer, (37 * 132, 132, 64, 1)),
        ):
            views = {"k": (view, (2 * 37 * 2 * 68,))}
            assert not self.fits(node_of((2, 9, 2, 64), buffer, dtype="bfloat16", views=views))


class TestRefused:
    def supported(self, node):
        return any(family.supports(node, TARGET) for family in FAMILIES)

    def test_other_dtypes(self):
        assert not self.supported(node_of((1, 2, 1, 8), (1, 2, 1, 8), dtype="float64"))

    def test_float32_on_blackwell(self):
        node = node_of((1, 2, 1, 8), (1, 2, 1, 8))
        assert self.supported(node)
        assert not any(family.supports(node, Target.named(100)) for family in FAMILIES)

    def test_heads_that_are_too_large(self):
        assert not self.supported(node_of((1, 2, 1, 257), (1, 2, 1, 257)))
        assert not self.supported(node_of((1, 2, 1, 8), (1, 2, 1, 8), 257))

    @pytest.mark.parametrize(("q", "k"), [((0, 2, 1, 8), (0, 2, 1, 8)), ((1, 0, 1, 8), (1, 2, 1, 8))])
    def test_nothing_to_compute(self, q, k):
        assert not self.supported(node_of(q, k))

    def test_no_keys(self):
        assert not self.supported(node_of((1, 2, 1, 8), (1, 0, 1, 8)))

    def test_scales_that_are_no_numbers(self):
        assert not self.supported(node_of((1, 2, 1, 8), (1, 2, 1, 8), scale=float("inf")))

    def test_integral_masks(self):
        node = node_of((1, 2, 1, 8), (1, 2, 1, 8), mask=(2, 2), mask_dtype="int32")
        assert not self.supported(node)

    def test_masks_read_backwards(self):
        views = {"mask": (View((2, 2), (-2, 1), 2), (2, 2))}
        assert not self.supported(node_of((1, 2, 1, 8), (1, 2, 1, 8), mask=(2, 2), views=views))

    def test_results_in_several_pieces(self):
        store = View((2, 2, 2, 2, 8), (64, 32, 8, 16, 1))
        assert not self.supported(node_of((2, 2, 4, 8), (2, 2, 4, 8), store=store))

    def test_many_queries_are_not_decoded(self):
        node = node_of((1, 33, 2, 8), (1, 512, 1, 8))
        assert not DecodeAttention().supports(node, TARGET)


@pytest.mark.parametrize(
    ("batch", "length", "heads", "dim"), [(2, 256, 16, 72), (2, 1024, 16, 72), (2, 1178, 24, 64), (2, 256, 32, 96)]
)
def test_the_first_guess_keeps_the_device_busy(batch, length, heads, dim):
    node = packed_node(batch, length, heads, dim, "bfloat16")
    first, *rest = BlockAttention().configs(node, TARGET)
    assert len(rest) < 12
    assert -(-length // first["m"]) * batch * heads >= 0.9 * TARGET.sm_count


def test_short_causal_heads_are_cut_for_balance():
    """In 128 programs of 128 queries, the longest would walk over all keys while others have ended."""
    first, *_ = BlockAttention().configs(packed_node(1, 512, 32, 128, "bfloat16", causal=True), TARGET)
    assert first["m"] == 64


@pytest.mark.parametrize(("capability", "offered"), [(90, {64, 128}), (80, {32, 64, 128})])
def test_hopper_takes_64_keys_at_once(capability, offered):
    node = packed_node(1, 2048, 32, 128, "bfloat16", causal=True)
    assert {config["n"] for config in BlockAttention().configs(node, Target.named(capability))} == offered
