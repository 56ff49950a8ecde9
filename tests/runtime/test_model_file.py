"""Models as JSON and bytes, and what is refused."""

import copy
from dataclasses import replace

import numpy
import pytest

from jitinfer.cache import Key
from jitinfer.errors import ArgumentError, PlanError
from jitinfer.graph import Builder, ops
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.passes import default, run_passes
from jitinfer.runtime import model_file, weight_file
from jitinfer.runtime.model_file import check, from_parts, load, save, to_parts


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
        (lambda d: d.update(format=1), "format 1"),
        (lambda d: d["stages"][0].__setitem__(3, ""), "does not say what its plan computes"),
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


def test_two_plans_do_not_compute_the_same(model):
    twice = replace(model, prologue=model.prologue * 2, stages=(model.stages[0], replace(model.stages[1], plan=1)))
    with pytest.raises(PlanError, match="two plans compute the same"):
        check(twice)


def test_a_file_of_an_older_format_is_refused(model, weights, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(model_file, "FORMAT", 1)
        before.setattr(model_file, "_KEY", Key("model file", {"format": 1}))
        save(model, tmp_path / "m", weights)
    with pytest.raises(PlanError, match=r"m is a model of format 1; this version of jitinfer reads 2: save it again"):
        load(tmp_path / "m")


@pytest.fixture
def weights(model):
    generator = numpy.random.default_rng(0)
    return [generator.standard_normal(kind.shape).astype(kind.dtype) for kind in model.weights]


def test_a_file_holds_model_and_weights(model, weights, tmp_path):
    save(model, tmp_path / "m", weights)
    assert {each.name for each in tmp_path.iterdir()} == {"m", "m.weights"}
    loaded, found = load(tmp_path / "m")
    assert loaded == model
    for one, other in zip(found, weights, strict=True):
        assert one.dtype == other.dtype
        numpy.testing.assert_array_equal(one, other)
    assert load(tmp_path / "m", weights=False) == (model, [])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "int64", "complex64", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 2)])
def test_weights_of_every_kind(dtype, shape, tmp_path):
    array = numpy.random.default_rng(0).standard_normal(shape).astype(numpy_dtype(dtype))
    other = numpy.arange(7.0).astype("float32")[::2]
    table = weight_file.write(tmp_path / "w", [other, numpy.asarray(array), other])
    first, found, last = weight_file.read(tmp_path / "w", table)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    numpy.testing.assert_array_equal(first, other)
    numpy.testing.assert_array_equal(last, other)


def test_other_weights_are_not_saved(model, weights, tmp_path):
    for wrong in (weights[:-1], [each.astype("float16") for each in weights]):
        with pytest.raises(ArgumentError, match="are not the"):
            save(model, tmp_path / "m", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m", "m.weights"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damage_is_found(model, weights, tmp_path, name, damage):
    save(model, tmp_path / "m", weights)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"" if damage == "empty" else data)
    with pytest.raises(PlanError, match=r"damaged|not hold|no whole|not those"):
        load(tmp_path / "m")


def test_a_failed_write_leaves_the_old_file(model, weights, tmp_path, monkeypatch):
    save(model, tmp_path / "m", weights)
    before = (tmp_path / "m").read_bytes()
    monkeypatch.setattr("jitinfer.runtime.model_file.encode", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(model, tmp_path / "m", weights)
    assert (tmp_path / "m").read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"m", "m.weights"}
