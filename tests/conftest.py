"""One temporary cache for the whole run, and models small enough to compile in a moment."""

import importlib.util
import logging

import pytest

HAS_PADDLE = importlib.util.find_spec("paddle") is not None
"""Tests of graph, cache, kernels and runtime run without it too."""


def pytest_collection_modifyitems(items):
    """What waits for processes of its own comes first, while there is something else to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/examples/", "tests/test_processes.py")))


@pytest.fixture(scope="session", autouse=True)
def _temporary_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    for name in ("TRITON_KERNEL_CACHE_DIR", "JITINFER_VERIFY", "JITINFER_ENGINE"):
        patch.delenv(name, raising=False)
    patch.setenv("JITINFER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _seed():
    if HAS_PADDLE:
        import paddle

        paddle.seed(1234)
        paddle.disable_static()


@pytest.fixture
def mlp():
    from reference import MLP

    layer = MLP()
    layer.eval()
    return layer


@pytest.fixture
def warnings_of(caplog):
    """The warnings that this library has logged so far."""

    def read():
        return [
            r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("jitinfer")
        ]

    caplog.set_level(logging.INFO, logger="jitinfer")
    return read
