"""Programs for devices that are not here: written, read back, sound, and compared by NumPy before."""

import paddle
import pytest

import jitinfer
from jitinfer.errors import EngineError, TraceError, VerificationError
from jitinfer.graph import ops
from jitinfer.passes import RewritePass, rewrite
from jitinfer.runtime import check, model_file


class Block(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = paddle.nn.LayerNorm(32), paddle.nn.Linear(32, 64), paddle.nn.Linear(64, 32)

    def forward(self, x, *, scale=1.0):
        return x + scale * self.down(paddle.nn.functional.gelu(self.up(self.norm(x))))


@pytest.fixture
def block():
    found = Block()
    found.eval()
    return found


@pytest.mark.parametrize("target", [80, 90])
def test_a_program_for_a_device_that_is_not_here(block, tmp_path, target):
    compiled = jitinfer.inference(block, engine="reference", precision_mode="bfloat16")
    jitinfer.export(compiled, tmp_path / "block", [paddle.randn([4, 32])], {"scale": 0.5}, target=target)
    model, weights = model_file.load(tmp_path / "block")
    check(model.plan)
    assert model.plan.target == target
    shapes = sorted(tuple(parameter.shape) for parameter in block.parameters())
    assert sorted(weight.shape for weight in weights) == shapes
    assert {kernel.target for plan in (model.plan, *model.prologue) for kernel in plan.kernels} == {target}
    dtypes = {buffer.dtype for buffer in model.plan.weights}
    assert "bfloat16" in dtypes


def test_a_function_of_several_tensors_without_weights(tmp_path):
    def both(x, y):
        return paddle.nn.functional.silu(x) * y, x - y

    jitinfer.export(both, tmp_path / "both", [paddle.randn([3, 5]), paddle.randn([3, 5])], target=90)
    model, weights = model_file.load(tmp_path / "both")
    assert (len(model.plan.inputs), len(model.plan.outputs), len(weights)) == (2, 2, 0)


def test_what_has_no_kernel_and_what_is_random_are_refused(tmp_path):
    lstm = paddle.nn.LSTM(8, 8)
    lstm.eval()
    with pytest.raises(EngineError, match="has no CUDA kernel"):
        jitinfer.export(lambda x: lstm(x)[0], tmp_path / "lstm", [paddle.randn([1, 4, 8])], target=90)
    with pytest.raises(TraceError, match="random"):
        jitinfer.export(lambda x: x + paddle.rand([2]), tmp_path / "random", [paddle.randn([2])], target=90)
    with pytest.raises(EngineError, match="nothing is known of sm_12"):
        jitinfer.export(lambda x: x + 1, tmp_path / "old", [paddle.randn([2])], target=12)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_is_wrong_is_found_before_anything_is_written(block, tmp_path, monkeypatch):
    class Wrong(RewritePass):
        """To another activation."""

        name = "wrong_gelu"

        def pattern(self, x):
            return ops.gelu(x)

        def replace(self, match):
            return ops.silu(match.x)

    monkeypatch.setattr(rewrite, "_PASSES", dict(rewrite._PASSES))
    jitinfer.passes.register(Wrong())
    compiled = jitinfer.inference(block, engine="reference", passes=["wrong_gelu", "default"])
    with pytest.raises(VerificationError, match="its graph after all passes is wrong"):
        jitinfer.export(compiled, tmp_path / "block", [paddle.randn([4, 32])], target=90)
    assert list(tmp_path.iterdir()) == []
