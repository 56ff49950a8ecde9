"""One temporary cache for the whole run, and models small enough to compile in a moment."""

import importlib.util
import logging

import pytest

HAS_PADDLE = importlib.util.find_spec("paddle") is not None
"""Tests of graph, cache, kernels and runtime run without it too."""


MODELS = (
    "tests/frontend/test_importing.py",
    "tests/kernels/test_generated_models.py",
    "tests/passes/test_conv_as_linear.py",
    "tests/passes/test_convert_precision.py",
    "tests/passes/test_difference.py",
    "tests/passes/test_form_timestep_embedding.py",
)
"""Their tests share the graphs of models: one process runs them all."""

LONGEST = (
    "tests/examples/",
    "tests/test_processes.py",
    *MODELS,
    "tests/frontend/test_architectures.py",
    "tests/frontend/test_language_models.py",
    "tests/kernels/test_matmul.py",
    "tests/engines/test_search.py",
    "tests/passes/test_random_graphs.py",
    "tests/lowering/test_image_networks.py",
    "tests/kernels/",
    "tests/passes/test_full_size.py",
)
"""They come first: those that wait for processes while there is something else to do, and all before what is short."""


def pytest_collection_modifyitems(items):
    def place(item):
        return next((at for at, prefix in enumerate(LONGEST) if item.nodeid.startswith(prefix)), len(LONGEST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With --dist loadfile: a file, or all of MODELS, is for one process, in the order of the collection."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "models" if file in MODELS else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


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


@pytest.fixture(scope="session")
def worker_pool():
    """Processes that compile, which take longer to start than most kernels take."""
    from jitinfer.kernels.triton.pool import WorkerPool

    pool = WorkerPool()
    yield pool
    pool.close()


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
