"""Generated kernels through Triton's own compiler, for devices that are not here."""

import pytest
from generated_nodes import representative

from jitinfer.kernels import Target, families_for
from jitinfer.kernels.assembly import plan_of_node, specializations
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.runtime import check

NODES = representative()
OLDER = ["pointwise group", "gated residual adaLN", "long softmax", "rotary interleaved", "transpose", "sum of all"]


def candidates(node, target):
    """By the first configuration of every generated family for the node."""
    families = [each for each in families_for(node, target) if each.name != "row_norm"]
    assert families
    return [each.launches(node, each.configs(node, target)[0], target) for each in families]


def failures(names, capability, pool):
    """What does not compile, or makes no sound plan."""
    target = Target.named(capability)
    tried = [(NODES[name], each) for name in names for each in candidates(NODES[name], target)]
    sources = [source for _, each in tried for source in specializations(each)]
    compiled = iter(Compiler(target, workers=pool).try_all(sources))
    found = []
    for node, candidate in tried:
        kernels = [next(compiled) for _ in specializations(candidate)]
        errors = [each for each in kernels if isinstance(each, Exception)]
        found += errors
        if not errors:
            check(plan_of_node(node, candidate, kernels, capability))
    return found


@pytest.mark.slow
def test_all_of_them_for_hopper(worker_pool):
    assert failures(NODES, 90, worker_pool) == []


@pytest.mark.parametrize("capability", [80, 89, 100])
def test_some_of_them_for_other_devices(capability, worker_pool):
    assert failures(OLDER, capability, worker_pool) == []
