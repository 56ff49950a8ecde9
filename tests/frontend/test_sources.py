"""A file that was edited since its import is not taken for the code that runs."""

import importlib
import sys

import paddle
import pytest
from reference import MLP, assert_same

import jitinfer
from jitinfer.frontend.sources import process_started, source_is_current

TEXT = """
def helper(x):
    if x.sum() > 0:
        return x * 2
    return x * 3


def branch(x):
    return helper(x)


def outer():
    def inner(x):
        return x * 7
    return inner
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    path = tmp_path / "edited_while_running.py"
    path.write_text(TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("edited_while_running")
    del sys.modules["edited_while_running"]


@pytest.mark.parametrize("edited", [TEXT.replace("3", "5"), "\n\n" + TEXT, "not Python at all (", ""])
def test_the_code_that_runs_counts(module, edited):
    assert source_is_current(module.branch)
    with open(module.__file__, "w") as file:
        file.write(edited)
    function = jitinfer.inference(module.branch)
    for sign in (1.0, -1.0, 1.0):
        x = paddle.full([2], sign)
        assert_same(function(x), x * 2 if sign > 0 else x * 3)
    assert source_is_current(module.helper) is False


def test_current_sources_of_functions_methods_and_closures(module):
    assert source_is_current(module.outer())
    assert source_is_current(MLP.forward)
    assert source_is_current(MLP().forward)
    assert source_is_current(paddle.nn.Linear.forward)
    assert not source_is_current(len)
    scope = {}
    exec("def typed(x):\n    return x", scope)
    assert not source_is_current(scope["typed"])


def test_a_trace_of_an_edited_module_is_not_kept(module, tmp_path):
    import os
    import time

    class Net(paddle.nn.Layer):
        def forward(self, x):
            return x * 2

    Net.__module__ = "edited_while_running"
    assert process_started() < time.time()
    os.utime(module.__file__, (time.time() + 5, time.time() + 5))
    options = {"save_model_dir": str(tmp_path / "cache"), "cache_static_model": True}
    layer = jitinfer.inference(Net(), **options)
    assert_same(layer(paddle.ones([2])), paddle.ones([2]) * 2)
    from jitinfer.cache import Cache, cache_location

    summaries = Cache(cache_location(tmp_path / "cache")).keys()
    assert "trace" not in {summary.kind for summary in summaries}
