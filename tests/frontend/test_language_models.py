"""paddlenlp's transformers import whole, and mean the same before and after the passes."""

import numpy
import paddle
import pytest
from graphs import imported
from paddlenlp import transformers

from jitinfer.graph import parse
from jitinfer.passes import default, run_passes

numpy.bool = numpy.bool_  # ppdiffusers and paddlenlp leave Python's own there

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
EMBEDDING = {**SIZES, "embedding_size": 16}
MODELS = {
    "BERT": ("Bert", SIZES),
    "ERNIE": ("Ernie", SIZES),
    "RoBERTa": ("Roberta", SIZES),
    "ELECTRA": ("Electra", EMBEDDING),
    "ALBERT": ("Albert", EMBEDDING),
    "DistilBERT": ("DistilBert", SIZES),
    "MPNet": ("MPNet", SIZES),
    "GPT": ("GPT", SIZES),
    "LLaMA": ("Llama", SIZES),
    "LLaMA with grouped queries": ("Llama", {**SIZES, "num_key_value_heads": 2}),
    "BLOOM": ("Bloom", {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_as_a_graph(name):
    stem, sizes = MODELS[name]
    paddle.seed(0)
    model = getattr(transformers, stem + "Model")(getattr(transformers, stem + "Config")(**sizes))
    model.eval()
    tokens = numpy.random.default_rng(0).integers(1, 90, (2, 12))
    tokens[1, 8:] = 0  # padding, which most of them leave out of attention
    found = imported(model.forward, {"input_ids": paddle.to_tensor(tokens)}, layer=model)
    assert found.opaque == set()
    assert parse(str(found.graph)).hash == found.graph.hash
    assert found.error_of(found.graph) <= 1e-4
    for each in sorted(set(default())):
        alone, _ = run_passes(found.graph, [each], check=True)
        assert found.error_of(alone) <= 1e-4, each
    after, _ = run_passes(found.graph, check=True)
    assert found.error_of(after) <= 1e-4
    assert len(after.nodes) < len(found.graph.nodes) / 2
