"""Generated kernels on a device: one node for each way that they are written."""

import numpy
import pytest
from generated_cases import compare, node_of, random_arrays, reference
from generated_nodes import representative
from gpu import device_target, needs_gpu, run_on_device

from jitinfer.kernels import families_for

NODES = representative()
INDICES = {"embedding": 31999, "gather_nd": 3, "take along axis": 76}
POSITIVE = ("power", "integer power", "integers")


def arrays_of(name, node):
    arrays = random_arrays(node)
    if name in INDICES:
        arrays[1] = numpy.abs(arrays[1] * 7919) % (INDICES[name] + 1)
    return [numpy.abs(each) + 1 for each in arrays] if name in POSITIVE else arrays


@needs_gpu
@pytest.mark.parametrize("name", NODES)
def test_on_a_device(name):
    node, target = NODES[name], device_target()
    arrays = arrays_of(name, node)
    wanted = reference(node, arrays)
    scale = max((float(numpy.abs(each).max(initial=1.0)) for each in wanted), default=1.0)
    tried = 0
    for family in families_for(node, target):
        for config in family.configs(node, target)[:2]:
            found = run_on_device(node, family.launches(node, config, target), arrays)
            for value, actual, expected in zip(node.outputs, found, wanted, strict=True):
                compare(actual, expected, value.dtype, slack=64.0, scale=scale)
            tried += 1
    assert tried


@needs_gpu
def test_scalar_functions_are_as_accurate_as_float32():
    """Over their whole ranges, within two or three units in the last place."""
    spans = {
        "exp": (-87, 88),
        "log": (1e-30, 1e30),
        "tanh": (-9, 9),
        "erf": (-4, 4),
        "sin": (-1e5, 1e5),
        "cos": (-1e5, 1e5),
        "log1p": (-0.99, 1e6),
        "rsqrt": (1e-30, 1e30),
        "sqrt": (1e-30, 1e30),
        "sigmoid": (-80, 80),
    }
    target = device_target()
    for name, (low, high) in spans.items():
        x = numpy.linspace(low, high, 100_003, dtype=numpy.float32)
        if low > 0:
            x = numpy.geomspace(low, high, 100_003).astype(numpy.float32)
        node = node_of(name, [(x.shape, "float32")])
        (family,) = families_for(node, target)
        (y,) = run_on_device(node, family.launches(node, family.configs(node, target)[0], target), [x])
        (wanted,) = reference(node, [x])
        units = numpy.abs(y - wanted) / numpy.spacing(numpy.abs(wanted).astype(numpy.float32))
        absolute = numpy.abs(y - wanted).max() if name in ("sin", "cos") else numpy.inf
        assert units.max() <= 4 or absolute <= 2e-7, (name, units.max())
