"""Networks of images as kernels: none is missing, images are not copied to other layouts; and on a device, right."""

import numpy
import pytest
from diffusion_graphs import GRAPHS, random_values
from gpu import device_target, needs_gpu
from lowered_graphs import lowered, without_kernels

from jitinfer.graph import evaluate
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.passes import run_passes
from jitinfer.runtime import Device
from jitinfer.runtime.model import Session

MOVING = {"transpose", "reshape", "slice", "broadcast_to", "pad"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_all_nodes_have_kernels(name, precision):
    graph = lowered(GRAPHS[name](), precision)
    assert without_kernels(graph) == []
    assert MOVING.isdisjoint(graph.counts())
    images = [node.output for node in graph.nodes if node.op.name in ("conv2d", "group_norm", "concat")]
    turned = [value for value in images if value.shape[1] == value.shape[2]]  # [N, H, W, C] of square images
    assert len(turned) >= len(images) - (precision == "float32")


@pytest.mark.parametrize("name", GRAPHS)
def test_all_sums_are_parts_of_what_they_follow(name):
    counts = lowered(GRAPHS[name](), "bfloat16").counts()
    assert counts["add"] <= counts["attention"]  # the image that goes around the attention


@pytest.mark.parametrize("name", GRAPHS)
def test_passes_keep_the_meaning(name):
    before = GRAPHS[name]()
    inputs, weights = random_values(before)
    (exact,) = evaluate(before, inputs, weights, arithmetic="float64")
    (found,) = evaluate(lowered(before, "float32"), inputs, weights, arithmetic="float64")
    assert numpy.abs(found - exact).max() <= 1e-11 * numpy.abs(exact).max()


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("unet", {}),
        ("unet", {"batch": 3, "size": 12, "channels": 40}),
        ("unet", {"size": 32, "channels": 64}),
        ("decoder", {}),
        ("decoder", {"size": 33, "channels": 24}),
    ],
)
def test_on_a_device(name, sizes, precision):
    """No less exact than the model itself in that dtype, each of whose operations rounds its result."""
    before = GRAPHS[name](**sizes)
    plain = before if precision == "float32" else run_passes(before, [f"convert_to_{precision}"])[0]
    inputs, weights = random_values(before)
    target = device_target()
    with Compiler(target) as compiler:
        model, _ = compile_graph(lowered(before, precision), target, FirstThatCompiles(compiler))
    session = Session(model, weights, Device.of(0))
    (found,) = session.run(inputs)
    session.close()
    (exact,) = evaluate(before, inputs, weights, arithmetic="float64")
    (rounded,) = evaluate(plain, inputs, weights)
    error, explained = (numpy.linalg.norm(each - exact) / numpy.linalg.norm(exact) for each in (found, rounded))
    assert error <= max(1.2 * explained, 2e-6)
