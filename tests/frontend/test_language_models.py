"""paddlenlp's transformers import whole, and mean the same before, after each pass alone, and after all."""

import pytest
from architectures import LANGUAGE
from graphs import imported
from models import build

from jitinfer.graph import parse
from jitinfer.passes import run_passes


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_as_a_graph(name):
    case = build(LANGUAGE[name])
    found = imported(case.function, case.tensors, case.arguments, case.layer)
    assert found.opaque == set()
    assert parse(str(found.graph)).hash == found.graph.hash
    assert found.error_of(found.graph) <= 1e-4
    assert found.error_of_each_pass() <= 1e-4
    after, _ = run_passes(found.graph, check=True)
    assert found.error_of(after) <= 1e-4
    assert parse(str(after)).hash == after.hash
    assert len(after.nodes) < len(found.graph.nodes) / 2
