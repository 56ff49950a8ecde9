"""Options: their names, where they come from, and what is refused."""

import inspect
import logging

import paddle
import pytest
from reference import MLP, assert_same

import jitinfer
from jitinfer.engines import paddle as paddle_engine
from jitinfer.options import Options, environment_variable, resolve, table


def test_the_fifteen_of_paddles_decorator_are_there_with_their_defaults():
    theirs = inspect.signature(paddle.incubate.jit.inference).parameters
    ours = Options()
    changed = {"enable_new_ir", "delete_pass_lists"}  # Paddle 3 has no other IR; None and () both mean no pass
    for name, parameter in theirs.items():
        if name != "function":
            assert hasattr(ours, name)
            assert name in changed or getattr(ours, name) == parameter.default


def test_a_call_goes_before_the_environment_and_that_before_the_default():
    environment = {environment_variable("verify"): "never", environment_variable("num_threads"): "3"}
    options = resolve({"verify": "always"}, environment)
    assert (options.verify, options.num_threads, options.engine) == ("always", 3, "auto")
    assert resolve({}, {"JITINFER_SWITCH_IR_OPTIM": "0"}).switch_ir_optim is False
    assert resolve({}, {"JITINFER_DYNAMIC_SHAPES": '{"x": {"0": [1, 4], "1": null}}'}).shapes == {
        "x": {0: (1, 4), 1: None}
    }
    assert resolve({}, {"JITINFER_DELETE_PASS_LISTS": "a, b"}).delete_pass_lists == ("a", "b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verfy": "never"}, r"no option 'verfy' \(at .*test_options.py:\d+\); did you mean 'verify'\?"),
        ({"verify": "sometimes"}, r"verify='sometimes' at .*test_options.py:\d+: expected one of 'auto'"),
        ({"max_specializations": 0}, "an integer of at least 1"),
        ({"cache_static_model": "perhaps"}, "expected a bool"),
        ({"dynamic_shapes": {"x": {0: (5, 2)}}}, r"a dynamic dimension is \(least, greatest\) or None, not \(5, 2\)"),
        ({"dynamic_shapes": {"x": {-1: None}}}, "counted from 0"),
        ({"dynamic_shapes": {"y": {0: None}}}, "dynamic_shapes names 'y', but .* has no such argument"),
        (
            {"delete_pass_lists": ["no_such_pass"]},
            r"delete_pass_lists at .*test_options.py:\d+: .* no pass",
        ),
        ({"passes": "no_such_pass"}, "no pass 'no_such_pass'"),
        ({"with_trt": True}, "has no TensorRT"),
        ({"enable_cinn": True}, "has no CINN"),
        ({"exp_enable_use_cutlass": True}, "has no CUTLASS kernels"),
        ({"enable_new_ir": False}, "new IR only"),
        ({"precision_mode": "float16"}, "no float16 kernels"),
        ({"precision_mode": "int8"}, "expected one of"),
        ({"cache_size_limit_gb": -1}, "a positive number of gigabytes"),
    ],
)
def test_what_cannot_be_honoured_is_refused_where_it_is_asked_for(given, message):
    with pytest.raises(jitinfer.OptionError, match=message):
        jitinfer.inference(lambda x: x, **given)


def test_the_cuda_engine_says_what_is_missing():
    with pytest.raises(jitinfer.EngineUnavailableError, match=r"engine='cuda' at .*test_options.py:\d+ cannot run: .+"):
        jitinfer.inference(lambda x: x, engine="cuda")


def test_every_option_is_in_the_table():
    lines = table().splitlines()
    assert len(lines) == len(Options.__dataclass_fields__) + 2
    assert all(f"`JITINFER_{name.upper()}`" in table() for name in Options.__dataclass_fields__)


@pytest.mark.parametrize(
    "given",
    [
        {"delete_pass_lists": ["add_norm_fuse_pass", "trt_prompt_tuning_embedding_eltwise_layernorm_fuse_pass"]},
        {"delete_pass_lists": ["constant_folding_pass", "onednn_placement_pass"]},
        {"passes": "common_subexpression_elimination_pass"},
        {"passes": ["identity_op_clean_pass", "default", "common_subexpression_elimination_pass"]},
        {"switch_ir_optim": False},
        {"skip_prune_program": True},
        {"num_threads": 1},
        {"memory_pool_init_size_mb": 10},
        {"engine": "paddle"},
    ],
    ids=str,
)
def test_options_reach_the_configuration_and_results_stay_right(given):
    layer = MLP()
    layer.eval()
    function = jitinfer.inference(layer.forward, **given)
    x = paddle.randn([2, 8])
    assert_same(function(x), MLP.forward(layer, x))
    configuration = function.specializations[0].executable.configuration
    for name in given.get("delete_pass_lists", []):
        assert name not in configuration.passes()
    assert configuration.threads == given.get("num_threads", paddle_engine.thread_count(Options()))
    assert configuration.optimise == given.get("switch_ir_optim", True)
    if "passes" in given and configuration.optimise:
        wanted = [name for name in [given["passes"]] if isinstance(name, str)] or given["passes"]
        order = [name for name in configuration.passes() if name in wanted]
        assert order == [name for name in wanted if name != "default"]


def test_bfloat16_where_the_processor_has_it(monkeypatch, caplog):
    layer = MLP(64)
    layer.eval()
    x = paddle.randn([16, 64])
    monkeypatch.setattr(paddle_engine, "has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING, logger="jitinfer"):
        plain = jitinfer.inference(layer.forward, precision_mode="bfloat16")
        assert_same(plain(x), MLP.forward(layer, x))
    assert "this processor has no bfloat16 arithmetic; using float32" in caplog.text
    monkeypatch.undo()
    if paddle_engine.has_bfloat16():
        coarse = jitinfer.inference(layer.forward, precision_mode="bfloat16")
        result = coarse(x)
        assert_same(coarse(x), MLP.forward(layer, x), relative=5e-2)
        assert result.dtype == paddle.float32


def test_only_programs_of_the_cuda_engine_can_be_saved(tmp_path, mlp):
    import paddle

    compiled = jitinfer.inference(mlp.forward)
    with pytest.raises(jitinfer.EngineError, match="in 0 specialisations"):
        compiled.save(tmp_path / "m")
    compiled(paddle.randn([2, 8]))
    with pytest.raises(jitinfer.EngineError, match=r"Paddle Inference.*of the CUDA engine can be saved"):
        compiled.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
