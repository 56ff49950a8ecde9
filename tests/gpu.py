"""Marks for tests that need a device, and running a candidate on one."""

from functools import cache

import numpy
import pytest

from jitinfer.kernels import Target
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime import Device, Executor, device_problem
from jitinfer.runtime.driver import call

PROBLEM = device_problem()
POISON = 0xA5


GPU_MARKS = (pytest.mark.gpu, pytest.mark.skipif(PROBLEM is not None, reason=f"no CUDA device: {PROBLEM}"))


def needs_gpu(test):
    for mark in GPU_MARKS:
        test = mark(test)
    return test


def device_target():
    return Target.of(Device.of(0))


@cache
def device_compiler():
    """One for all tests: its processes take longer to start than a kernel to compile."""
    return Compiler(device_target(), workers=2)


def poison(array):
    """Fills memory on the device, so that what is not written is seen."""
    with Device.of(0).current():
        if array.nbytes:
            call("cuMemsetD8", array.address, POISON, array.nbytes)
            call("cuCtxSynchronize")


def run_on_device(node, candidate, arrays):
    """The outputs of `node` by `candidate`, compiled, from poisoned memory."""
    compiler = device_compiler()
    kernels = [compiler.compile(each) for each in specializations(candidate)]
    plan = plan_of_node(node, candidate, kernels, compiler.target.compute_capability)
    executor = Executor(plan)
    for output in executor.outputs:
        poison(output)
    given = {}
    for value, array in zip(node.inputs, arrays, strict=True):
        if value is not None:
            given.setdefault(value, array)
    outputs = executor.run(list(given.values()))
    executor.close()
    return [numpy.asarray(each) for each in outputs]
