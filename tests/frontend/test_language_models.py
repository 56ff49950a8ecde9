"""paddlenlp's transformers import whole, and mean the same before and after the passes."""

import pytest
from architectures import LANGUAGE
from graphs import imported
from models import build

from jitinfer.graph import parse
from jitinfer.passes import default, run_passes

ALONE = {"BERT", "ERNIE", "ALBERT", "MPNet", "GPT", "LLaMA", "LLaMA with grouped queries", "BLOOM", "ChatGLM2", "T5"}
"""Those on which each pass also runs alone; the others would show the same."""


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_as_a_graph(name):
    case = build(LANGUAGE[name])
    found = imported(case.function, case.tensors, case.arguments, case.layer)
    assert found.opaque == set()
    assert parse(str(found.graph)).hash == found.graph.hash
    assert found.error_of(found.graph) <= 1e-4
    for each in sorted(set(default())) if name in ALONE else ():
        alone, _ = run_passes(found.graph, [each], check=True)
        assert found.error_of(alone) <= 1e-4, each
    after, _ = run_passes(found.graph, check=True)
    assert found.error_of(after) <= 1e-4
    assert parse(str(after)).hash == after.hash
    assert len(after.nodes) < len(found.graph.nodes) / 2
