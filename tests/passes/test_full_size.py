"""The networks that users run, as wide as they are and less deep: what one block more costs in nodes."""

import importlib.util
import pathlib
from collections import Counter

import models  # noqa: F401 (its shims for ppdiffusers)
import pytest

from jitinfer.frontend.importing import import_program
from jitinfer.passes import run_passes

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "graph_passes.py"
_specification = importlib.util.spec_from_file_location("graph_passes", _PATH)
graph_passes = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(graph_passes)

VIEWS = {"reshape", "slice", "broadcast_to"}


@pytest.fixture(scope="module")
def after():
    """The graphs with two and with three blocks, by model."""
    found = {}

    def of(name):
        if name not in found:
            graphs = [import_program(graph_passes.traced(name, layers=layers).program) for layers in (2, 3)]
            found[name] = [run_passes(graph, check=True)[0] for graph in graphs]
        return found[name]

    return of


BLOCKS = {
    "dit": {"linear": 4, "gated_residual_adaptive_layer_norm": 2, "attention": 1},
    "sd3": {"linear": 8, "gated_residual_adaptive_layer_norm": 4, "attention": 1, "concat": 1},
    "large_dit": {
        "linear": 4,
        "gated_residual_adaptive_layer_norm": 2,
        "attention": 1,
        "layer_norm": 2,  # of queries and keys
        "rotary": 2,
        "swiglu": 1,
    },
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_more(name, after):
    fewer, more = after(name)
    assert dict(Counter(more.counts()) - Counter(fewer.counts())) == BLOCKS[name]
    assert not VIEWS & more.counts().keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_the_prologue_takes_no_memory(name, after):
    for graph in after(name):
        weights, parameters = (sum(value.type.nbytes for value in each) for each in (graph.weights, graph.parameters))
        assert parameters <= weights


@pytest.mark.parametrize(("name", "width"), [("sd3", 6 * 1536), ("large_dit", 6 * 3072)])
def test_modulations_of_all_blocks_are_one_product(name, width, after):
    _, graph = after(name)
    wide = [node for node in graph.nodes if node.op.name == "linear" and node.output.shape[-1] > 3 * width - 1]
    assert len(wide) == 1
    assert wide[0].output.shape[0] == 2  # one row for each image of the batch


def test_modulations_of_all_blocks_are_one_product_of_groups(after):
    """ppdiffusers' DiT embeds timestep and label anew in each block."""
    _, graph = after("dit")
    grouped = [node.output.shape for node in graph.nodes if node.op.name == "linear" and len(node.inputs[1].shape) == 3]
    assert grouped == [(3, 2, 1152), (3, 2, 6 * 1152)]
