"""Architectures with random weights, as graphs: nothing opaque, and the results of the dynamic model."""

import numpy
import pytest
from architectures import DIFFUSION, VISION
from graphs import imported
from models import build

from jitinfer.graph import parse
from jitinfer.passes import run_passes


@pytest.mark.parametrize("name", [*VISION, *DIFFUSION])
def test_an_architecture_as_a_graph(name):
    case = build({**VISION, **DIFFUSION}[name])
    found = imported(case.function, case.tensors, case.arguments, case.layer)
    found.graph.check()
    assert found.opaque == set()
    assert all(numpy.abs(each).max() > 0 for each in found.expected)
    assert found.error_of(found.graph) <= 1e-4
    assert found.error_of_each_pass() <= 1e-4
    after, _ = run_passes(found.graph, check=True)
    assert len(after.nodes) < len(found.graph.nodes)
    assert found.error_of(after) <= 1e-4
    assert parse(str(after)).hash == after.hash
