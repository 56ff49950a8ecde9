"""A kernel that computes something wrong is found, dropped and named. Here kernels are interpreted, on any machine."""

import dataclasses
import gc
import weakref

import numpy
import paddle
import pytest
from kernels.products import interpretable, mended_interpreter
from plans import KERNEL

from jitinfer.cache import Cache
from jitinfer.engines import cuda_search, graph_search
from jitinfer.engines.cuda_search import CudaRecipe, CudaSearch, arrangement
from jitinfer.engines.protocol import Request
from jitinfer.engines.stages import Stages
from jitinfer.engines.tensors import array_of, tensor_of
from jitinfer.errors import (
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    EngineError,
    JitinferError,
    UnsupportedOpError,
    VerificationError,
)
from jitinfer.frontend.capture import Reference
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.graph import evaluate, ops
from jitinfer.graph.evaluation import evaluate_node
from jitinfer.graph.op import Kind
from jitinfer.kernels import catalogue
from jitinfer.kernels.device_library import numpy_device_library
from jitinfer.kernels.family import Candidate, Config, Family, families
from jitinfer.kernels.interpreter import interpret
from jitinfer.kernels.target import Target
from jitinfer.lowering import models
from jitinfer.lowering.models import ModelMaker
from jitinfer.options import resolve
from jitinfer.passes import GraphPass, RewritePass, graph_pass, is_graph_pass
from jitinfer.runtime import Device, Fill, Pointer

TARGET = Target.named(90)
DEVICE = Device(0, "interpreted", 90, TARGET.sm_count, TARGET.shared_memory, TARGET.l2_bytes, 2**34, 13000)


class Uncompiled:
    """A compiler that makes nothing: what is interpreted needs no machine code."""

    def __init__(self, target, cache):
        self.target = target

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, source):
        return Uncompiled.Kernel(source)

    class Kernel:
        def __init__(self, source):
            self.source = source

        def result(self):
            return dataclasses.replace(KERNEL, parameters=self.source.parameters, tiles=())


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(models, "Compiler", Uncompiled)


class Zeros(Family):
    """Wrong on purpose."""

    name = "zeros"
    ops = ("group",)

    def supports(self, node, target):
        return True

    def configs(self, node, target):
        return [Config.of(half=0), Config.of(half=1)]

    def launches(self, node, config, target):
        nbytes = node.output.type.nbytes
        return Candidate((Fill(Pointer("output_0"), nbytes, 0),))


def run_node(node, choice, arrays):
    candidate = families()[choice.family].launches(node, interpretable(choice.config), TARGET)
    with mended_interpreter(), numpy_device_library():
        return interpret(node, candidate, arrays)


class Interpreted:
    """As the CUDA engine's executable, but that each kernel is interpreted, in a graph without partial results."""

    description = "interpreted"

    def __init__(self, request, recipe):
        self.request, self.recipe = request, recipe
        self.stages = Stages(request, arrangement(request.options), recipe.dropped)
        self.weights = [array_of(each) for each in self.stages.weights(request.parameters)]

    @property
    def history(self):
        return self.stages.history

    def run(self, tensors):
        graph = self.stages.graph(tuple(tuple(tensor.shape) for tensor in tensors))
        try:
            request = self.request
            work = ModelMaker(DEVICE, request.cache, request.options.tune, self.recipe.excluded).kernels(graph)
        except JitinferError as error:
            raise EngineError(str(error)) from error
        values = dict(zip(graph.inputs, map(array_of, tensors), strict=True))
        weights = self.weights if graph.prologue is None else evaluate(graph.prologue, self.weights)
        values.update(zip(graph.parameters, weights, strict=True))
        for node in graph.nodes:
            if node.op.kind is Kind.CREATION:
                values.update(zip(node.outputs, evaluate_node(node, []), strict=True))
        for node, choice in work:
            if all(value is None or value in values for value in node.inputs):  # not one of the prologue
                arrays = [None if value is None else values[value] for value in node.inputs]
                values.update(zip(node.outputs, run_node(node, choice, arrays), strict=True))
        return [tensor_of(values[value]) for value in graph.outputs]


class Block(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.linear = paddle.nn.Linear(16, 16)
        self.linear.bias.set_value(paddle.randn([16]))

    def forward(self, x):
        return paddle.nn.functional.softmax(paddle.nn.functional.layer_norm(self.linear(x), [16]) * 2.0, axis=-1)


def request_for(folder, function=None, **options):
    layer = Block()
    layer.eval()
    function = function or layer.forward
    x = paddle.randn([5, 16])
    found = trace(lambda symbols: translated_root(function)(*symbols), [type_of(x)], layer.parameters())
    reference = Reference(lambda: function(x), [x], ["x"])
    return Request(
        program=found.program,
        parameters=found.parameters,
        inputs=[x],
        options=resolve({"engine": "cuda", "tune": "off", **options}, {}),
        cache=Cache(folder),
        expected=reference.expected,
        under_the_same_randomness=reference.under_the_same_randomness,
        name="block",
        origin={"function": "block"},
        origins=found.origins,
    )


def search_for(request, build=Interpreted, run=run_node):
    return CudaSearch(request, DEVICE, build, run)


def offer_first(monkeypatch, *wrong):
    monkeypatch.setattr(catalogue, "BUILT_IN", (*wrong, *catalogue.BUILT_IN))


def test_what_is_right_stays_as_it_is(tmp_path):
    request = request_for(tmp_path)
    executable, verdict = search_for(request).find()
    assert (verdict.blamed, verdict.attempts, request.notes) == ((), 1, [])
    assert verdict.configuration == CudaRecipe.of(request.options)
    assert executable.recipe == verdict.configuration


def test_a_wrong_kernel_is_found_dropped_and_named(tmp_path, monkeypatch, warnings_of):
    offer_first(monkeypatch, Zeros())
    request = request_for(tmp_path)
    _, verdict = search_for(request).find()
    (blame,) = verdict.blamed
    assert blame.name.startswith("the kernel zeros (half=0) for group(float32[5, 16]) at ")
    assert "its result differs by" in blame.failure
    assert request.notes == [str(blame)]
    assert warnings_of() == [f"block: {blame}"]
    (exclusion,) = verdict.configuration.excluded
    assert (exclusion.family, exclusion.config) == ("zeros", None)  # others offer the same
    assert not verdict.configuration.dropped


def test_of_a_wrong_program_nothing_is_kept_while_others_are_tried(tmp_path):
    alive = weakref.WeakSet()

    class Wrong(Interpreted):
        def __init__(self, *arguments):
            gc.collect()
            assert not alive
            super().__init__(*arguments)
            alive.add(self)

        def run(self, tensors):
            if "form_layer_norm" in self.recipe.passes():
                raise EngineError("wrong") from DeviceError("wrong")
            return super().run(tensors)

    request = request_for(tmp_path)
    search = search_for(request, Wrong)
    assert search.repaired(search.tried(search.start)).executable is None
    attempt = search.tried(search.start.without("form_layer_norm"))
    assert attempt.problem is None
    assert attempt.executable in alive


class DropBias(RewritePass):
    def pattern(self, x, weight, bias):
        return ops.linear(x, weight, bias)

    def replace(self, m):
        return ops.linear(m.x, m.weight)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_wrong_pass_is_found_by_numpy(tmp_path, warnings_of, precision):
    if not is_graph_pass("guilty_bias"):
        graph_pass("guilty_bias")(DropBias)
    request = request_for(tmp_path, passes=["default", "guilty_bias"], precision_mode=precision)
    search = search_for(request, run=lambda *_: pytest.fail("no kernel is suspected"))
    verdict = search.find()[1]
    assert verdict.configuration.dropped == ("guilty_bias",)
    assert verdict.configuration.arithmetic == precision
    assert [warning.partition(":")[2] for warning in warnings_of()] == [f" {verdict.blamed[0]}"]


def test_the_next_process_does_not_search(tmp_path, monkeypatch, warnings_of):
    offer_first(monkeypatch, Zeros())
    first = search_for(request_for(tmp_path)).find()[1]
    before = warnings_of()
    request = request_for(tmp_path)
    search = search_for(request, run=lambda *_: pytest.fail("kernels are looked at again"))
    monkeypatch.setattr(graph_search.GraphSearch, "search", lambda self: pytest.fail("it searches again"))
    executable, verdict = search.find()
    assert verdict == first
    assert request.notes == [str(verdict.blamed[0])]
    assert warnings_of() == before
    expected = paddle.to_tensor(request.expected()[0])
    numpy.testing.assert_allclose(executable.run(request.inputs)[0].numpy(), expected.numpy(), atol=1e-6)


def test_a_comparison_is_remembered_unless_others_kernels_or_passes_have_a_part(tmp_path, monkeypatch):
    def compares(folder):
        request = request_for(folder)
        calls = []
        expected, request.expected = request.expected, lambda: calls.append(1) or expected()
        search_for(request).find()
        return bool(calls)

    assert [compares(tmp_path / "own") for _ in range(2)] == [True, False]
    offer_first(monkeypatch, Zeros())
    assert [compares(tmp_path / "foreign") for _ in range(2)] == [True, True]


def test_where_nothing_is_left_the_function_runs_dynamically(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (Zeros(), *(f for f in catalogue.BUILT_IN if "group" not in f.ops)))
    request = request_for(tmp_path)
    with pytest.raises(EngineError, match=r"group\(float32\[5, 16\]\) at .* has no CUDA kernel left that is right"):
        search_for(request).find()
    assert [note.partition(" for ")[0] for note in request.notes] == [
        "the kernel zeros (half=0)",  # each by itself, as no other family offers it
        "the kernel zeros (half=1)",
    ]


def test_a_kernel_that_does_not_run_is_dropped(tmp_path, monkeypatch):
    offer_first(monkeypatch, Zeros())

    def run(node, choice, arrays):
        if choice.family == "zeros":
            raise DeviceError("too many resources requested for launch (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)")
        return run_node(node, choice, arrays)

    verdict = search_for(request_for(tmp_path), run=run).find()[1]
    assert "too many resources" in verdict.blamed[0].failure


def test_a_lost_device_ends_the_search(tmp_path):
    class Faulty(Interpreted):
        def run(self, tensors):
            raise EngineError("block: illegal memory access") from DeviceLostError("illegal memory access")

    search = search_for(request_for(tmp_path), Faulty)
    with pytest.raises(EngineError, match="illegal memory access"):
        search.find()
    assert search.attempts == 1


def test_a_large_graph_is_looked_at_with_random_numbers_and_bisected_on_the_device(tmp_path, monkeypatch):
    """Where NumPy would take too long: a pass that the device alone is wrong with is found there."""
    monkeypatch.setattr(cuda_search, "MOST_FLOPS", 0)

    class Wrong(Interpreted):
        def run(self, tensors):
            (result,) = super().run(tensors)
            return [result * 2.0 if "form_layer_norm" in self.recipe.passes() else result]

    search = search_for(request_for(tmp_path), Wrong)
    verdict = search.find()[1]
    assert verdict.configuration.dropped == ("form_layer_norm",)
    assert not verdict.configuration.excluded
    offer_first(monkeypatch, Zeros())
    verdict = search_for(request_for(tmp_path)).find()[1]
    assert [each.family for each in verdict.configuration.excluded] == ["zeros"]


class Breaks(GraphPass):
    """Forgets a node whose result others read."""

    def run(self, graph):
        return dataclasses.replace(graph, nodes=graph.nodes[1:]), 1


def test_a_pass_that_breaks_a_large_graph_is_found_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_search, "MOST_FLOPS", 0)
    if not is_graph_pass("guilty_breaks"):
        graph_pass("guilty_breaks")(Breaks)
    verdict = search_for(request_for(tmp_path, passes=["default", "guilty_breaks"])).find()[1]
    assert verdict.configuration.dropped == ("guilty_breaks",)


def test_memory_that_does_not_suffice_is_nobody_s_fault(tmp_path):
    class Small(Interpreted):
        def run(self, tensors):
            raise EngineError("out of memory") from DeviceMemoryError("out of memory")

    search = search_for(request_for(tmp_path), Small, run=lambda *_: pytest.fail("no kernel is suspected"))
    with pytest.raises(EngineError, match="out of memory"):
        search.find()
    assert search.attempts == 1


def test_what_has_no_kernel_is_said_at_once(tmp_path):
    def function(x):
        image = x.reshape([1, 1, 5, 16]).astype("float64")
        return paddle.nn.functional.conv2d(image, paddle.ones([1, 1, 3, 3], "float64"))

    search = search_for(request_for(tmp_path, function))
    with pytest.raises(EngineError, match="has no CUDA kernel") as raised:
        search.find()
    assert isinstance(raised.value.__cause__, UnsupportedOpError)
    assert search.attempts == 1


def test_what_cannot_be_mended_is_said(tmp_path):
    class Wrong(Interpreted):
        def run(self, tensors):
            return [super().run(tensors)[0] * 2.0]

    with pytest.raises(VerificationError, match="interpreted is wrong: result 0: differs by"):
        search_for(request_for(tmp_path), Wrong).find()
