"""Whether a node's kernels are right is told without Paddle; on a device where there is one."""

import dataclasses
import os
import subprocess
import sys

import ml_dtypes
import numpy
import pytest
from generated_cases import node_of, random_arrays
from generated_nodes import representative
from gpu import device_target, needs_gpu

from jitinfer.cache import Cache
from jitinfer.engines.kernel_check import KernelCheck, on_device
from jitinfer.errors import DeviceLostError, DeviceMemoryError, UnsupportedOpError
from jitinfer.graph import Builder, View, evaluate, ops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.types import numpy_dtype
from jitinfer.kernels import catalogue
from jitinfer.kernels.family import Candidate, Config, Family
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering.choice import Choice, form_of, offers, start
from jitinfer.lowering.exclusion import Exclusion
from jitinfer.lowering.models import ModelMaker
from jitinfer.lowering.node_check import failure_of
from jitinfer.passes import default, run_passes
from jitinfer.runtime import Device, Fill, Pointer
from jitinfer.runtime.model import Session

TARGET = Target.named(90)


class Zeros(Family):
    """Wrong on purpose."""

    name = "zeros"
    ops = ("silu", "linear", "group", "layer_norm")

    def supports(self, node, target):
        return True

    def configs(self, node, target):
        return [Config.of(half=0), Config.of(half=1)]

    def launches(self, node, config, target):
        fills = [Fill(Pointer(f"output_{i}"), value.type.nbytes, 0) for i, value in enumerate(node.outputs)]
        return Candidate(tuple(fills))


@pytest.fixture
def zeros(monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (Zeros(), *catalogue.BUILT_IN))


def product(dtype, depth=300):
    return node_of("linear", [((7, depth), dtype), ((depth, 5), dtype), ((5,), dtype)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_rounding_is_let_pass_and_more_is_not(dtype):
    node = product(dtype)
    arrays = random_arrays(node)
    (right,) = evaluate_node(node, arrays)
    assert failure_of(node, [right], arrays) == ""
    x, w, bias = (array.astype(numpy.float64) for array in arrays)
    reordered = (x[:, ::-1] @ w[::-1] + bias).astype(right.dtype)
    assert failure_of(node, [reordered], arrays) == ""
    without_bias = (x @ w).astype(right.dtype)
    assert "rounding explains" in failure_of(node, [without_bias], arrays)
    assert failure_of(node, [numpy.zeros_like(right)], arrays)
    one = right.copy()
    one[3, 2] += numpy_dtype(dtype).type(0.2 * float(numpy.abs(right.astype(float)).max()))
    assert failure_of(node, [one], arrays)
    one[3, 2] = numpy.nan
    assert failure_of(node, [one], arrays) == "it gives NaN or infinity in place of a number"


def test_numbers_that_are_hard_are_let_pass():
    """The mean of the rows is a hundred thousand times their spread: in float32 little is left of it."""
    node = node_of("layer_norm", [((4, 64), "float32")])
    x = (1e5 + numpy.random.default_rng(0).standard_normal((4, 64))).astype(numpy.float32)
    (near,), (exact,) = evaluate_node(node, [x]), evaluate_node(node, [x.astype(numpy.float64)], "float64")
    error = numpy.abs(near - exact).max()
    assert error > 1e-4
    assert failure_of(node, [exact.astype(numpy.float32)], [x]) == ""
    assert failure_of(node, [(exact - 2 * (near - exact)).astype(numpy.float32)], [x]) == ""
    assert failure_of(node, [(exact + 10 * error).astype(numpy.float32)], [x]) != ""


def test_integers_are_exact_and_comparisons_may_flip_rarely():
    node = node_of("add", [((1000,), "int64")] * 2)
    arrays = random_arrays(node)
    (right,) = evaluate_node(node, arrays)
    assert failure_of(node, [right], arrays) == ""
    right[7] += 1
    assert failure_of(node, [right], arrays) == "1 of 1000 values differ"
    node = node_of("less", [((1000,), "bfloat16")] * 2)
    arrays = random_arrays(node)
    (right,) = evaluate_node(node, arrays)
    flipped = right.copy()
    flipped[:5] ^= True
    assert failure_of(node, [flipped], arrays) == ""
    assert failure_of(node, [~right], arrays) == "1000 of 1000 values differ"


def test_what_is_stored_elsewhere_is_read_from_there():
    part = View((3, 4), (8, 1), 4)  # the right half of a larger tensor
    node = node_of("silu", [((3, 4), "float32")], stores=(part,))
    node = dataclasses.replace(node, outputs=(type(node.output)(node.output.type.with_shape((3, 8)), "y"),))
    arrays = random_arrays(node)
    x = arrays[0].astype(numpy.float64)
    whole = numpy.full((3, 8), 7.0, numpy.float32)
    whole[:, 4:] = x / (1 + numpy.exp(-x))
    assert failure_of(node, [whole], arrays) == ""
    assert failure_of(node, [whole[:, ::-1].copy()], arrays)


def test_what_float32_itself_cannot_say_is_left_out():
    node = node_of("exp", [((3,), "float32")])
    x = numpy.array([1.0, 200.0, -1.0], numpy.float32)
    assert failure_of(node, [numpy.array([numpy.e, numpy.nan, 1 / numpy.e], numpy.float32)], [x]) == ""


def chosen(node, family="zeros", config=None):
    return node, Choice(family, config or Config.of(half=0), Candidate(()), ())


def test_a_family_goes_where_others_offer_the_same_else_a_configuration_first(zeros, monkeypatch):
    node = node_of("silu", [((3, 4), "float32")])
    check = KernelCheck(lambda node, choice, arrays: [numpy.zeros((3, 4), numpy.float32)], TARGET)
    assert list(check.wrong([chosen(node)], {})) == [Exclusion(form_of(node), "zeros")]
    monkeypatch.setattr(catalogue, "BUILT_IN", (Zeros(),))
    (first,) = check.wrong([chosen(node)], {})
    assert first == Exclusion(form_of(node), "zeros", Config.of(half=0))
    (second,) = check.wrong([chosen(node, config=Config.of(half=1))], {}, [first])
    assert second == Exclusion(form_of(node), "zeros")


def test_each_form_is_run_once_unless_its_operands_are_known():
    ran = []

    def run(node, choice, arrays):
        ran.append(arrays[0])
        return evaluate_node(node, arrays)

    nodes = [node_of("silu", [((3, 4), "float32")]) for _ in range(3)]
    check = KernelCheck(run, TARGET)
    assert check.wrong(list(map(chosen, nodes)), {}) == {}
    assert len(ran) == 1
    values = {node.inputs[0]: numpy.full((3, 4), i, numpy.float32) for i, node in enumerate(nodes)}
    assert check.wrong(list(map(chosen, nodes)), values) == {}
    assert [array[0, 0] for array in ran[1:]] == [0, 1, 2]


@pytest.mark.parametrize("error", [DeviceLostError, DeviceMemoryError])
def test_what_is_not_the_kernel_s_fault_is_raised(error):
    def run(node, choice, arrays):
        raise error("from the driver")

    node = node_of("silu", [((3, 4), "float32")])
    with pytest.raises(error, match="from the driver") as raised:
        KernelCheck(run, TARGET).wrong([chosen(node)], {})
    if error is DeviceLostError:
        assert raised.value.exclusion.form == form_of(node)
        assert str(raised.value).startswith(f"the kernel {raised.value.exclusion.family}")


def test_offers_without_what_is_excluded(zeros):
    node = node_of("silu", [((3, 4), "float32")])
    form, every = form_of(node), offers(node, TARGET)
    without = offers(node, TARGET, [Exclusion(form, "zeros")])
    assert [each for each in every if each[0].name != "zeros"] == without != []
    one = offers(node, TARGET, [Exclusion(form, "zeros", Config.of(half=0))])
    assert len(one) == len(every) - 1
    assert offers(node, TARGET, [Exclusion("another form", "zeros")]) == every
    with pytest.raises(UnsupportedOpError, match="has no CUDA kernel left that is right"):
        offers(node, TARGET, [Exclusion(form, family.name) for family, _ in every])
    for exclusion in (Exclusion(form, "zeros"), Exclusion(form, "zeros", Config.of(half=0, b=2))):
        assert Exclusion.restore(exclusion.document()) == exclusion


def small_model():
    builder = Builder()
    x, w = builder.input("x", (5, 16)), builder.parameter("w", (16, 16))
    graph, _ = run_passes(builder.build(ops.layer_norm(ops.matmul(x, w)) * 2.0), default())
    generator = numpy.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype("float32") for shape in ((5, 16), (16, 16))]
    return graph, arrays[:1], arrays[1:]


def contractions():
    found = {}
    for dtype in ("float32", "bfloat16", "float16"):
        operands = [((128, 320), dtype), ((320, 192), dtype), ((192,), dtype)]
        found[f"linear {dtype}"] = node_of("linear", operands, {"activation": "gelu"})
        found[f"attention {dtype}"] = node_of("attention", [((2, 77, 4, 72), dtype)] * 3, {"scale": 72**-0.5})
        found[f"one query {dtype}"] = node_of(
            "attention", [((2, 1, 4, 64), dtype), *[((2, 300, 4, 64), dtype)] * 2], {"scale": 0.125}
        )
    return found


@needs_gpu
@pytest.mark.parametrize("name", sorted({**representative(), **contractions()}))
def test_kernels_that_are_right_are_found_right_on_a_device(name):
    """The best guess of each family."""
    node, target = {**representative(), **contractions()}[name], device_target()
    check = KernelCheck(on_device(Device.of(0)), target)
    with Compiler(target) as compiler:
        every = dict(reversed([(family.name, (family, config)) for family, config in offers(node, target)]))
        found = [start(node, *offer, compiler).result() for offer in every.values()]
    choices = [result for result in found if isinstance(result, Choice)]
    assert choices
    for choice in choices:
        assert check.wrong([(node, choice)], {}) == {}


@needs_gpu
@pytest.mark.parametrize("tune", ["off", "fast"])
def test_a_wrong_kernel_is_found_and_the_model_is_right_without_it(tmp_path, monkeypatch, zeros, tune):
    graph, inputs, weights = small_model()
    device, store = Device.of(0), Cache(tmp_path)
    check, excluded = KernelCheck(on_device(device), device_target()), []
    while wrong := check.wrong(ModelMaker(device, store, tune, excluded).kernels(graph), {}, excluded):
        assert {each.family for each in wrong} == {"zeros"}
        excluded += wrong
    assert bool(excluded) == (tune == "off")  # filling with zeros is offered first; tuning finds it out by itself
    session = Session(ModelMaker(device, store, tune, excluded).model(graph), weights, device)
    (expected,) = evaluate(graph, inputs, weights, arithmetic="float64")
    numpy.testing.assert_allclose(session.run(inputs)[0], expected, rtol=1e-5, atol=1e-5)
    session.close()
    again = ModelMaker(device, store, tune, excluded).kernels(graph)
    assert "zeros" not in {choice.family for _, choice in again}


FAULT = """
import numpy
from gpu import run_on_device
from jitinfer.errors import DeviceLostError
from jitinfer.kernels import Candidate
from jitinfer.runtime import Device
from kernels.test_interpreter import COUNT, launch, node
for start in (2**30, 0):
    try:
        run_on_device(node(), Candidate((launch(start=start),)), [numpy.zeros(COUNT, numpy.float32)])
    except DeviceLostError as error:
        print(error)
"""


@needs_gpu
def test_a_device_that_is_lost_says_so():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)}
    command = [sys.executable, "-c", FAULT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr  # the second run writes where it may, but CUDA is gone
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in lines[0] or "CUDA_ERROR_INVALID_ADDRESS_SPACE" in lines[0]
    assert all(line.endswith("; CUDA serves this process no more") for line in lines)


def test_bfloat16_is_a_number_here():
    """Of NumPy's kinds, that of ml_dtypes is none."""
    node = node_of("silu", [((4,), "bfloat16")])
    x = numpy.array([1, 2, 3, 4], ml_dtypes.bfloat16)
    assert failure_of(node, [numpy.zeros(4, ml_dtypes.bfloat16)], [x]).startswith("its result differs by 1.000e+00")


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_function_is_right_without_its_wrong_kernel(tmp_path, zeros, caplog, precision):
    paddle = pytest.importorskip("paddle")
    import jitinfer

    layer = paddle.nn.Linear(16, 16)
    layer.eval()

    def function(x):
        return paddle.nn.functional.layer_norm(layer(x), [16]) * 2.0

    x = paddle.randn([5, 16])
    notes = []
    for _ in range(2):
        options = {"engine": "cuda", "tune": "off", "precision_mode": precision, "fallback": "error"}
        compiled = jitinfer.inference(function, save_model_dir=str(tmp_path), **options)
        for given in (x, 2 * x):
            error = paddle.abs(compiled(given) - function(given)).max().item()
            assert error < (1e-4 if precision == "float32" else 0.1)
        notes.append(compiled.specializations[0].notes)
    assert notes[0] == notes[1]
    assert {note.partition(" (")[0] for note in notes[0]} == {"the kernel zeros"}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum(" is dropped: with it, " in warning for warning in warnings) == len(notes[0])
    report = jitinfer.bisect(compiled, x)
    assert [str(blame) for blame in report.blamed] == notes[0]
    assert report.right is not None
