"""Which ptxas makes the code: the package's or a user's, never one that makes wrong code."""

import re
import stat

import pytest
from test_attention import packed_node

from jitinfer.errors import KernelError
from jitinfer.kernels import Target
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.triton import assembler as module
from jitinfer.kernels.triton.assembler import OLDEST, VARIABLES, assembler, packaged
from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.frontend import kernel_key


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A program that says to be ptxas of a version, named by the environment."""

    def name(text):
        path = tmp_path / re.sub(r"\W", "_", text)
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(VARIABLES[0], str(path))
        return str(path)

    return name


def test_the_package_has_one(monkeypatch):
    monkeypatch.delenv(VARIABLES[0], raising=False)
    found = assembler()
    assert found.path == packaged()
    assert tuple(map(int, found.version.split(".")))[:2] >= OLDEST


def test_another_can_be_named(named):
    path = named("Cuda compilation tools, release 13.4, V13.4.92")
    assert (assembler().path, assembler().version) == (path, "13.4.92")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Cuda compilation tools, release 12.8, V12.8.93", "12.8.93, which makes wrong code; 13.3 is the oldest"),
        ("Cuda compilation tools, release 13.2, V13.2.78", "wrong code"),
        ("hello", "no ptxas"),
    ],
)
def test_what_is_not_right_is_refused(text, problem, named):
    path = named(text)
    with pytest.raises(KernelError, match=problem) as caught:
        assembler()
    assert path in str(caught.value)
    assert VARIABLES[0] in str(caught.value)


def test_what_does_not_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLES[0], str(tmp_path / "none"))
    with pytest.raises(KernelError, match="does not run"):
        assembler()


def test_without_any_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delenv(VARIABLES[0], raising=False)
    monkeypatch.setattr(module, "packaged", lambda: None)
    with pytest.raises(KernelError, match="nvidia-cuda-nvcc is not installed"):
        assembler()


def attention_for(target):
    """A kernel to be compiled."""
    family, node = BlockAttention(), packed_node(1, 64, 1, 64, "bfloat16")
    (source,) = specializations(family.launches(node, family.configs(node, target)[0], target))
    return source


def test_its_version_is_part_of_every_key(named):
    source = attention_for(Target.named(90))
    digests = []
    for version in ("13.3.73", "13.4.92"):
        named(f"V{version}")
        digests.append(kernel_key(source, 90).digest)
    assert digests[0] != digests[1]


def test_what_else_is_named_in_the_environment_changes_no_code(monkeypatch):
    """It is not in the key."""
    target = Target.named(80)
    source = attention_for(target)
    codes = []
    for options in ("", "--maxrregcount=32"):
        monkeypatch.setenv("PTXAS_OPTIONS", options)
        monkeypatch.setenv("DISABLE_PTXAS_OPT", "1" if options else "0")
        with Compiler(target, workers=1) as compiler:
            codes.append(compiler.compile(source).cubin)
    assert codes[0] == codes[1]
