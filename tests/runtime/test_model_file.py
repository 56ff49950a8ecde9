"""Models as JSON and bytes, and what is refused."""

import copy

import numpy
import pytest

from jitinfer.errors import PlanError
from jitinfer.graph import Builder, ops
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.passes import default, run_passes
from jitinfer.runtime.model_file import from_parts, to_parts


@pytest.fixture(scope="module")
def model():
    builder = Builder()
    x, bias = builder.input("x", (4, 8)), builder.parameter("bias", (8,))
    for block in range(2):
        x = ops.silu(x) * (builder.parameter(f"w{block}", (8,)) + builder.constant(numpy.arange(8) / 4, "float32"))
    graph, _ = run_passes(builder.build(x + bias), default(), check=True)
    target = Target.named(90)
    with Compiler(target, workers=1) as compiler:
        return compile_graph(graph, target, FirstThatCompiles(compiler))[0]


def test_a_model_has_one_plan_for_pieces_of_one_form(model):
    assert len(model.prologue) == 1
    assert [stage.plan for stage in model.stages] == [0, 0]
    assert [number for number, _ in model.direct] == [0]


def test_round_trip(model):
    assert from_parts(*to_parts(model)) == model


def test_kernels_are_kept_once(model):
    _, blobs = to_parts(model)
    kernels = {kernel.digest for plan in (model.plan, *model.prologue) for kernel in plan.kernels}
    assert {name for name in blobs if name.startswith("kernel:")} == {f"kernel:{digest}" for digest in kernels}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2"),
        (lambda d: d.pop("stages"), "no whole model"),
        (lambda d: d["stages"].pop(), "not what the plan takes"),
        (lambda d: d["direct"].append(d["direct"][0]), "not what the plan takes"),
        (lambda d: d["direct"][0].__setitem__(0, 9), "no weight 9"),
        (lambda d: d["stages"][0].__setitem__(0, 1), "runs plan 1 of 1"),
        (lambda d: d["stages"][0].__setitem__(1, []), "does not take what its plan takes"),
        (lambda d: d["weights"][0].__setitem__(1, "float16"), "not what the plan takes"),
        (lambda d: d["weights"][0].__setitem__(1, "int3"), "a type that there is not"),
        (lambda d: d["plans"].pop(), "runs plan 0 of 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(model, change, message):
    document, blobs = to_parts(model)
    document = copy.deepcopy(document)
    change(document)
    with pytest.raises(PlanError, match=message):
        from_parts(document, blobs)
