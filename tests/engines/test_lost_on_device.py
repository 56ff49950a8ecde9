"""Processes that lose their device to a real kernel, and what the next ones make of it."""

import json
import os
import re
import subprocess
import sys

import pytest
from fake_driver import installed
from gpu import needs_gpu
from stray_program import outcome

from jitinfer.kernels import catalogue
from jitinfer.runtime import retracing

KERNEL = r"the kernel stray \(block=128\) for silu\(float32\[1000\]\) at \S+stray_program\.py:\d+"
CALL = (
    r"^silu \(\S+stray_program\.py:\d+\) runs dynamically: silu: "
    + KERNEL
    + r" loses the device: .*\(CUDA_ERROR_\w+\).*; CUDA serves this process no more\. The next process leaves it out$"
)
OTHER = (
    r"^tanh \(\S+stray_program\.py:\d+\) runs dynamically: tanh: the device was lost to this process when silu ran: "
    + KERNEL
    + " did it; CUDA serves this process no more$"
)


def require_lost(found):
    assert found["right"]
    assert re.search(r"^dynamic: silu: " + KERNEL, found["after"])
    assert found["other"].startswith("dynamic: tanh: ")
    assert len(found["warnings"]) == 2
    assert re.search(CALL, found["warnings"][0]), found["warnings"]
    assert re.search(OTHER, found["warnings"][1]), found["warnings"]


def require_well(found):
    assert found["right"]
    assert found["warnings"] == []
    for each in ("before", "after", "other"):
        assert found[each].startswith("CUDA, float32, ")
    (note,) = found["notes"]
    assert re.search("^" + KERNEL + r" is left out: it lost the device once: .*CUDA_ERROR_", note)


@pytest.mark.parametrize("mode", ["run", "tune"])
def test_the_program_without_a_device(tmp_path, monkeypatch, mode):
    """What the driver in host memory makes of it, where kernels compute nothing; so results are not looked at."""
    monkeypatch.setattr(retracing, "COMMAND", ("-m", "fake_child"))
    for way in range(2):
        with pytest.MonkeyPatch.context() as patch, installed(patch):
            patch.setattr(catalogue, "BUILT_IN", catalogue.BUILT_IN)
            patch.setenv("JITINFER_VERIFY", "never")
            found = {**outcome(mode, str(tmp_path)), "right": True}
        (require_well if way else require_lost)(found)


def in_a_process(mode, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)}
    command = [sys.executable, "-m", "stray_program", mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_gpu
@pytest.mark.parametrize("mode", ["run", "tune", "nan"])
def test_a_kernel_that_writes_far_away(tmp_path, mode):
    found = in_a_process(mode, tmp_path)
    if mode == "nan":  # the first call was right, and the plan was run again on the NaN of the second
        assert found["before"].startswith("CUDA, float32, ")
    require_lost(found)
    require_well(in_a_process(mode, tmp_path))
