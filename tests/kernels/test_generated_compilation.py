"""Generated kernels through Triton's own compiler, for devices that are not here."""

import pytest
from generated_nodes import representative

from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.triton.compilation import Compiler

NODES = representative()
OLDER = ["pointwise group", "gated residual adaLN", "long softmax", "rotary interleaved", "transpose", "sum of all"]


def sources(node, target):
    """What the first configuration of every generated family for the node has to have compiled."""
    found = []
    for family in families_for(node, target):
        if family.name != "row_norm":
            found += specializations(family.launches(node, family.configs(node, target)[0], target))
    assert found
    return found


def compiled(names, capability):
    target = Target.named(capability)
    every = {name: sources(NODES[name], target) for name in names}
    with Compiler(target) as compiler:
        kernels = compiler.try_all([each for group in every.values() for each in group])
    return [kernel for kernel in kernels if isinstance(kernel, Exception)]


@pytest.mark.slow
def test_all_of_them_for_hopper():
    assert compiled(NODES, 90) == []


@pytest.mark.parametrize("capability", [80, 89, 100])
def test_some_of_them_for_other_devices(capability):
    assert compiled(OLDER, capability) == []
