"""Every kind of model that users run gives the dynamic results: structure, types and values."""

import paddle
import pytest
from models import BUILDERS, build, dit, sd3, vae_decode
from reference import assert_same, compiled

import jitinfer


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.__name__)
def test_a_model_gives_the_dynamic_results(builder):
    case = build(builder)
    expected = case.dynamic()
    function = jitinfer.inference(case.function)
    for _ in range(2):
        assert_same(function(**case.tensors, **case.arguments), expected, relative=1e-4)
    for name, tensor in case.tensors.items():
        if tensor.is_floating_point():
            case.tensors[name] = paddle.randn(tensor.shape) if "mask" not in name else 1 - tensor
    assert_same(function(**case.tensors, **case.arguments), case.dynamic(), relative=1e-4)
    assert compiled(function) == 1


@pytest.mark.parametrize("builder", [dit, sd3, vae_decode], ids=lambda builder: builder.__name__)
def test_new_weights_after_the_verdict(builder):
    """The configuration was found right with one set of weights; it is right with others, and with zeros, too."""
    case = build(builder)
    function = jitinfer.inference(case.function)
    function(**case.tensors, **case.arguments)
    for factor in (1.5, 0.0):
        case.layer.set_state_dict({k: v * factor for k, v in case.layer.state_dict().items()})
        assert_same(function(**case.tensors, **case.arguments), case.dynamic(), relative=1e-4)
    assert compiled(function) == 1


def test_dynamic_batch_and_text_length():
    case = build(sd3)
    dims = {"hidden_states": {0: (1, 8)}, "encoder_hidden_states": {0: (1, 8), 1: (1, 64)}}
    dims |= {"pooled_projections": {0: (1, 8)}, "timestep": {0: (1, 8)}}
    function = jitinfer.inference(case.function, dynamic_shapes=dims)
    for batch, length in ((2, 7), (1, 7), (3, 11)):
        case.tensors = {
            "hidden_states": paddle.randn([batch, 4, 12, 12]),
            "encoder_hidden_states": paddle.randn([batch, length, 20]),
            "pooled_projections": paddle.randn([batch, 28]),
            "timestep": paddle.full([batch], 300.0),
        }
        assert_same(function(**case.tensors, **case.arguments), case.dynamic(), relative=1e-4)
    assert compiled(function) == 1
