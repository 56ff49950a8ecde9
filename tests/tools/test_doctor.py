from __future__ import annotations

import ctypes
import importlib.metadata
import json
import stat
import sys
import types

import pytest

from jitinfer.cache import Cache, Key
from jitinfer.kernels.triton import assembler
from jitinfer.tools import doctor
from jitinfer.tools.cli import main


def paddle_like(version="3.3.1", cuda=False, pir=True, onednn=True):
    """Modules that answer the doctor's questions as Paddle does."""
    paddle = types.ModuleType("paddle")
    paddle.__version__ = version
    paddle.is_compiled_with_cuda = lambda: cuda
    paddle.get_flags = lambda name: {name: pir}
    inference = types.ModuleType("paddle.inference")
    config = types.SimpleNamespace(enable_onednn=lambda: None, onednn_enabled=lambda: onednn)
    inference.Config = lambda: config
    return {"paddle": paddle, "paddle.inference": inference}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with Paddle's CPU build and an empty cache folder, and nothing for CUDA."""
    for name, module in paddle_like().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("TRITON_KERNEL_CACHE_DIR", "XDG_CACHE_HOME", "TRITON_PTXAS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JITINFER_CACHE_DIR", str(tmp_path))

    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")

    def no_package(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    monkeypatch.setattr(importlib.metadata, "version", no_package)
    for module in (doctor, assembler):
        monkeypatch.setattr(module, "packaged", lambda: None)
    return tmp_path


def check(name):
    (found,) = (one for one in doctor.examine() if one.name == name)
    return found


def test_what_only_cuda_needs_may_be_missing(machine, capsys):
    assert main(["doctor", "--json"]) == 0
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(checks) == set(doctor.CHECKS)
    for name in ("GPU", "Triton", "CUDA for Python", "ptxas", "CUTLASS"):
        assert checks[name]["state"] == "missing"
        assert checks[name]["mend"]
    for name in ("Python", "Paddle", "oneDNN", "cache"):
        assert checks[name]["state"] == "ok"
        assert not checks[name]["mend"]


def test_the_table(machine, capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert all(name.split()[0] in output for name in doctor.CHECKS)
    assert "missing" in output


def test_without_paddle_it_is_not_ready(machine, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "paddle")
    monkeypatch.delitem(sys.modules, "paddle.inference")
    monkeypatch.setattr(sys, "meta_path", [])
    assert main(["doctor", "--json"]) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (checks["Paddle"]["state"], checks["oneDNN"]["state"]) == ("missing", "missing")
    assert checks["Paddle"]["mend"] == 'pip install "paddlepaddle>=3.3.1,<3.4"'


@pytest.mark.parametrize(
    ("modules", "state", "text"),
    [
        (paddle_like(cuda=True), "ok", "CUDA build"),
        (paddle_like("3.3.0"), "ok", "CPU build, PIR on"),
        (paddle_like("2.6.2"), "broken", "tested is 3.3.x"),
        (paddle_like(pir=False), "broken", "PIR off"),
    ],
)
def test_kinds_of_paddle(machine, monkeypatch, modules, state, text):
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert check("Paddle").state == state
    assert text in check("Paddle").found
    assert doctor.is_ready(doctor.examine()) == (state == "ok")


def test_a_paddle_that_cannot_be_imported_is_broken_and_not_a_traceback(machine, monkeypatch, capsys):
    def fail(_):
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "_import", fail)
    assert main(["doctor", "--json"]) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert checks["Paddle"]["state"] == "broken"
    assert "libgomp" in checks["Paddle"]["found"]
    assert checks["oneDNN"]["state"] == "broken"


def test_a_build_without_onednn(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle.inference", paddle_like(onednn=False)["paddle.inference"])
    assert check("oneDNN").state == "missing"
    assert doctor.is_ready(doctor.examine())


class Driver:
    """libcuda, with two devices."""

    def __init__(self, code=0):
        self.code = code

    def cuInit(self, _):
        return self.code

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080

    def cuDeviceGetCount(self, count):
        count._obj.value = 2

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal

    def cuDeviceGetName(self, text, size, device):
        text.value = f"NVIDIA H200 {device.value}".encode()


@pytest.mark.parametrize(
    ("code", "state", "found"),
    [
        (0, "ok", "NVIDIA H200 0, NVIDIA H200 1; the driver supports CUDA 12.8"),
        (100, "missing", "a driver, but no device"),
        (999, "broken", "cuInit returns error 999"),
    ],
)
def test_drivers(machine, monkeypatch, code, state, found):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(code))
    assert (check("GPU").state, check("GPU").found) == (state, found)


def test_packages_that_are_there(machine, monkeypatch):
    versions = {"triton": "3.6.0", "nvidia-cutlass": "4.2", "cuda-core": "0.4"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert (check("Triton").state, check("Triton").found) == ("ok", "triton 3.6.0")
    assert check("CUTLASS").state == "ok"
    half = check("CUDA for Python")
    assert (half.state, half.found, half.mend) == ("missing", "cuda-core 0.4", "pip install cuda-bindings")


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        ("echo 'Cuda, release 13.4, V13.4.92'", "ok", "13.4.92 at "),
        ("echo 'Cuda, release 12.8, V12.8.93'", "broken", "wrong code"),
        ("exit 3", "broken", "does not run"),
    ],
)
def test_ptxas(machine, monkeypatch, script, state, found):
    path = machine / f"ptxas_{len(script)}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(path))
    assert check("ptxas").state == state
    assert found in check("ptxas").found
    assert str(path) in check("ptxas").found


def test_the_processor(machine, monkeypatch):
    info, quota = machine / "cpuinfo", machine / "cpu.max"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f amx_bf16\n")
    quota.write_text("50000 100000\n")
    monkeypatch.setattr(doctor, "_CPU_INFO", info)
    monkeypatch.setattr(doctor, "_CPU_QUOTA", quota)
    assert check("processor").found == "0.5 usable cores; avx2, avx512f, amx_bf16"
    quota.write_text("max 100000\n")
    assert not check("processor").found.startswith("0.5")
    info.unlink()
    assert check("processor").state == "broken"


def test_the_cache_folder(machine):
    assert check("cache").found == f"{machine / 'jitinfer'}, not created yet"
    assert not (machine / "jitinfer").exists()
    Cache(machine / "jitinfer").put(Key("plan", {}), {"a": b"x" * 50_000}, {})
    found = check("cache").found
    assert f"{machine / 'jitinfer'}: 1 entries, 50.2 kB" in found
    assert "mode 0700" in found
    (machine / "jitinfer").chmod(0o770)
    broken = check("cache")
    assert broken.state == "broken"
    assert f"chmod go-w {machine / 'jitinfer'}" in broken.found
    assert not doctor.is_ready(doctor.examine())


def test_no_mending_names_a_host(machine):
    for one in doctor.examine():
        assert "://" not in one.mend
        assert "index-url" not in one.mend


def test_the_real_paddle():
    pytest.importorskip("paddle")
    found = check("Paddle")
    assert found.found.startswith(sys.modules["paddle"].__version__)
    assert found.state == "ok"
    assert check("oneDNN").state == "ok"
