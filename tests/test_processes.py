"""Several processes on one cache: one compiles, all are right; and what their keys depend on."""

import json
import os
import subprocess
import sys
import textwrap

import paddle
from reference import MLP

import jitinfer
from jitinfer.cache import Cache, Key, cache_location

WORKER = """
    import logging, pathlib, sys, time
    import numpy, paddle, jitinfer
    from jitinfer.engines.paddle import PaddleSearch
    folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
    searched = []
    search = PaddleSearch.search
    PaddleSearch.search = lambda self: (searched.append(1), search(self))[1]
    paddle.seed(3)
    layer = paddle.nn.Sequential(paddle.nn.Linear(8, 32), paddle.nn.GELU(), paddle.nn.Linear(32, 8))
    layer.eval()
    x = paddle.randn([4, 8])
    expected = layer(x).numpy()
    jitinfer.inference(layer)
    (folder / f"ready-{number}").touch()
    while len(list(folder.glob("ready-*"))) < int(sys.argv[3]):
        time.sleep(0.01)
    assert abs(layer(x).numpy() - expected).max() < 1e-5
    print(len(searched), layer.forward.specializations[0].executable is not None)
"""


def test_of_eight_processes_behind_a_barrier_exactly_one_compiles(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    environment = {**os.environ, "JITINFER_CACHE_DIR": str(tmp_path / "cache")}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(number), "8"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    answers = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8, answers
    assert sorted(output for output, _ in answers) == ["0 True\n"] * 7 + ["1 True\n"]


def leaves(document, path=()):
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from leaves(value, (*path, name))
    elif isinstance(document, list) and document:
        for position, value in enumerate(document):
            yield from leaves(value, (*path, position))
    else:
        yield path, document


def changed(document, path):
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    value = inner[path[-1]]
    if isinstance(value, bool):
        inner[path[-1]] = not value
    elif isinstance(value, (int, float)):
        inner[path[-1]] = value + 1
    else:
        inner[path[-1]] = f"{value}x"
    return copy


def test_every_field_of_every_real_key_matters(tmp_path):
    layer = MLP()
    layer.eval()
    function = jitinfer.inference(layer.forward, save_model_dir=str(tmp_path), cache_static_model=True)
    function(paddle.randn([2, 8]))
    cache = Cache(cache_location(tmp_path))
    kinds = {}
    for summary in cache.keys():  # noqa: SIM118 - a cache is no dict
        _header, entry = cache.read(summary.digest)
        document = dict(entry.key_document)
        kinds[summary.kind] = document
        assert Key(summary.kind, document).digest == summary.digest
        digests = {Key(summary.kind, changed(document, path)).digest for path, _ in leaves(document)}
        assert len(digests) == len(list(leaves(document)))
        assert summary.digest not in digests
    assert kinds.keys() == {"trace", "verdict", "comparison"}
    assert {"paddle", "jitinfer", "python", "options", "modules", "source", "state", "inputs", "arguments"} <= set(
        kinds["trace"]
    )
    assert {"paddle", "paddle_commit", "jitinfer", "device", "processor", "options", "program", "shapes"} <= set(
        kinds["verdict"]
    )


def test_parameters_are_not_in_the_cache(tmp_path):
    layer = paddle.nn.Linear(256, 256)
    layer.eval()
    function = jitinfer.inference(layer.forward, save_model_dir=str(tmp_path), cache_static_model=True)
    function(paddle.randn([2, 256]))
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert stored < 256 * 256 * 4 / 2


def test_edited_source_is_traced_anew(tmp_path):
    """A trace on disk is for the text of the model's module, also where the code object looks the same."""
    module = tmp_path / "edited_model.py"
    text = """
        import paddle, jitinfer

        def scale(x):
            return x * FACTOR

        class Net(paddle.nn.Layer):
            def forward(self, x):
                return helper(x)

        def helper(x):
            return scale(x)
    """
    run = "import edited_model as m, paddle, jitinfer; net = jitinfer.inference(m.Net(), cache_static_model=True)"
    run += "; print(net(paddle.ones([1])).item())"
    environment = {**os.environ, "JITINFER_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    results = []
    for factor in ("2.0", "3.0", "2.0"):
        module.write_text(textwrap.dedent(text).replace("FACTOR", factor))
        done = subprocess.run([sys.executable, "-B", "-c", run], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(done.stdout.strip())
    assert results == ["2.0", "3.0", "2.0"]
