"""`python -m stray_program MODE FOLDER`: two compiled functions, one of which has a kernel that writes far away.

Prints what came of it as JSON. MODE: "tune" times the kernel, "run" takes it without timing, "nan" too, but it strays
for NaN alone, which a second call has.
"""

import json
import logging
import sys

import numpy
import paddle
from triton_functions import silu_and_stray

import jitinfer
from jitinfer.kernels import KernelLaunch, catalogue
from jitinfer.kernels.family import Candidate, Config, Family, TypedPointer
from jitinfer.runtime import Pointer, Scalar

BLOCK = 128


class Stray(Family):
    name = "stray"
    ops = ("silu",)

    def __init__(self, only_nan):
        self._only_nan = only_nan

    def supports(self, node, target):
        return node.plain and node.output.dtype == "float32"

    def configs(self, node, target):
        return [Config.of(block=BLOCK)]

    def launches(self, node, config, target):
        count = node.output.type.size
        arguments = {
            "x": TypedPointer(Pointer("input_0"), "float32"),
            "y": TypedPointer(Pointer("output_0"), "float32"),
            "count": Scalar("i32", count),
            "distance": Scalar("i32", 2**20),
        }
        constants = {"ONLY_NAN": self._only_nan, "BLOCK": config["block"]}
        return Candidate((KernelLaunch(silu_and_stray, arguments, constants, (-(-count // BLOCK), 1, 1)),))


def silu(x):
    return paddle.nn.functional.silu(x)


def tanh(x):
    return paddle.tanh(x)


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())


def outcome(mode, folder):
    warnings = Warnings()
    logging.getLogger("jitinfer").addHandler(warnings)
    catalogue.BUILT_IN = (Stray(mode == "nan"), *catalogue.BUILT_IN)
    options = {"engine": "cuda", "tune": "max" if mode == "tune" else "off", "save_model_dir": folder}
    fast, other = (jitinfer.inference(each, **options) for each in (silu, tanh))
    x = paddle.linspace(-4.0, 4.0, 1000)
    right = True

    def compare(compiled, function, given):
        nonlocal right
        got, expected = compiled(given).numpy(), function(given).numpy()
        right &= bool(numpy.allclose(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True))

    compare(other, tanh, x)
    compare(fast, silu, x)
    before = fast.specializations[0].description
    given = x.numpy()
    given[500] = numpy.nan
    for _ in range(2):
        compare(fast, silu, paddle.to_tensor(given))
        compare(other, tanh, x)
    (found,) = fast.specializations
    return {
        "right": right,
        "before": before,
        "after": found.description,
        "other": other.specializations[0].description,
        "notes": found.notes,
        "warnings": warnings.told,
    }


if __name__ == "__main__":
    print(json.dumps(outcome(*sys.argv[1:])))
