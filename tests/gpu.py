"""Marks for tests that need a device, and running a candidate on one."""

import numpy
import pytest

from jitinfer.kernels import Target
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime import Device, Executor, device_problem
from jitinfer.runtime.driver import call

PROBLEM = device_problem()
POISON = 0xA5


def needs_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(PROBLEM is not None, reason=f"no CUDA device: {PROBLEM}")(test))


def device_target():
    return Target.of(Device.of(0))


def poison(array):
    """Fills memory on the device, so that what is not written is seen."""
    with Device.of(0).current():
        if array.nbytes:
            call("cuMemsetD8", array.address, POISON, array.nbytes)
            call("cuCtxSynchronize")


def run_on_device(node, candidate, arrays):
    """The outputs of `node` by `candidate`, compiled, from poisoned memory."""
    target = device_target()
    with Compiler(target, workers=1) as compiler:
        kernels = [compiler.compile(each) for each in specializations(candidate)]
    plan = plan_of_node(node, candidate, kernels, target.compute_capability)
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
