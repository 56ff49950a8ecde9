"""Rotary and timestep embeddings, by the interpreter."""

import numpy
import pytest
from generated_cases import TARGET, check, node_of, random_arrays

from jitinfer.graph import View
from jitinfer.kernels.triton.rotary import RotaryHalves, TimestepEmbedding

ROTARY = RotaryHalves()


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("shape", "table", "rotary_dim"),
    [
        ((2, 5, 3, 16), (5, 1, 16), 0),
        ((2, 5, 3, 20), (2, 5, 1, 20), 0),
        ((2, 3, 5, 16), (5, 8), 8),
        ((1, 4, 2, 72), (1, 1, 1, 6), 6),
        ((3, 2), (3, 2), 0),
    ],
)
def test_both_styles(style, dtype, shape, table, rotary_dim):
    attributes = {"style": style, "rotary_dim": rotary_dim}
    node = node_of("rotary", [(shape, dtype), (table, "float32"), (table, "float32")], attributes)
    check(ROTARY, node, random_arrays(node), slack=8.0, scale=12.0)


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("rotary_dim", [0, 8])
def test_heads_of_packed_projections_where_they_lie(style, rotary_dim):
    view = View((2, 4, 6, 16), (6 * 192, 16, 192, 1), 64)  # the keys of [2, 6, 3, 4, 16], heads in front
    turned = rotary_dim or 16
    node = node_of(
        "rotary",
        [((2, 6, 192), "bfloat16"), ((6, turned), "bfloat16"), ((6, turned), "bfloat16")],
        {"style": style, "rotary_dim": rotary_dim},
        views=(view, None, None),
    )
    check(ROTARY, node, random_arrays(node), slack=8.0, scale=12.0)
    assert len(ROTARY.launches(node, ROTARY.configs(node, TARGET)[0], TARGET).steps) == 1


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_stores_that_transpose(style):
    shape = (2, 4, 6, 16)
    store = View.of((2, 6, 4, 16)).transpose((0, 2, 1, 3))
    node = node_of("rotary", [(shape, "float32")] + [((6, 16), "float32")] * 2, {"style": style}, stores=(store,))
    check(ROTARY, node, random_arrays(node), slack=8.0, scale=12.0)


@pytest.mark.parametrize("sin_first", [True, False])
@pytest.mark.parametrize("dtype", ["int64", "float32", "bfloat16"])
def test_timesteps(dtype, sin_first):
    node = node_of("timestep_embedding", [((3,), dtype), ((33,), "float32")], {"sin_first": sin_first})
    times = numpy.array([0, 999, 501]).astype(random_arrays(node)[0].dtype)
    frequencies = numpy.exp(-numpy.log(10000) * numpy.arange(33) / 33).astype(numpy.float32)
    # An angle of 1000 is rounded to 3e-5 before its sine is taken, by the reference in float32 too.
    check(TimestepEmbedding(), node, [times, frequencies], slack=600.0)
