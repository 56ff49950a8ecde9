"""Which ops have kernels."""

from generated_cases import ELSEWHERE

from jitinfer.graph import table
from jitinfer.kernels import families


def test_every_op_but_these_has_a_family_here():
    offered = {name for family in families().values() for name in family.ops}
    assert table().keys() - offered <= ELSEWHERE
    assert not offered - table().keys()


def test_names_are_unique():
    from jitinfer.kernels import catalogue

    assert len(families()) >= len(catalogue.BUILT_IN)
