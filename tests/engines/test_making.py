"""Models made with kernels of a user's are not taken up where their code is another."""

import pytest

from jitinfer.cache import Cache
from jitinfer.engines.making import foreign_families
from jitinfer.graph import Builder, ops
from jitinfer.kernels import catalogue
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.models import ModelMaker
from jitinfer.lowering.tuning import Tuner
from jitinfer.runtime import Device

DEVICE = Device(0, "made up", 90, 132, 232448, 50 * 2**20, 80 * 2**30, 13000)


class Narrow(Family):
    name = "mine"
    ops = ("silu",)

    def supports(self, node, target):
        return False

    def configs(self, node, target):
        return [Config.of(width=16)]

    def launches(self, node, config, target):
        return Candidate(())


class Wide(Narrow):
    def configs(self, node, target):
        return [Config.of(width=32)]


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Of a model and of a tuned node, with one more family of kernels."""
    builder = Builder()
    graph = builder.build(ops.silu(builder.input("x", (4,))))

    def of(*families):
        monkeypatch.setattr(catalogue, "BUILT_IN", (*built_in, *families))
        foreign, store = foreign_families(), Cache(tmp_path)
        with Compiler(Target.named(90), workers=1) as compiler:
            tuner = Tuner(compiler, DEVICE, store, foreign=foreign)
            return ModelMaker(DEVICE, store, "off", foreign=foreign)._key(graph).digest, tuner._key("form").digest

    built_in = catalogue.BUILT_IN
    return of


def test_the_code_of_foreign_families_is_part_of_the_keys(keys):
    models, tuned = zip(keys(), keys(Narrow()), keys(Wide()), strict=True)
    assert len({*models}) == len({*tuned}) == 3
    assert keys(Narrow()) == (models[1], tuned[1])


def test_own_families_have_no_digest(keys):
    assert foreign_families() == {}
