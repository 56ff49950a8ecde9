"""Graphs as plans: sound, in little memory, equal for equal graphs; and on a device, right."""

import numpy
import pytest
from gpu import device_target, needs_gpu

import jitinfer
from jitinfer.errors import UnsupportedOpError
from jitinfer.graph import Builder, Origin, evaluate, ops
from jitinfer.kernels.assembly import label_of
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph, lower
from jitinfer.lowering.choice import form_of
from jitinfer.lowering.lower import located
from jitinfer.passes import converting, default, run_passes
from jitinfer.runtime import Cost, Device, check, model_file
from jitinfer.runtime.model import Session
from jitinfer.testing import random_array


def transformer(blocks=2, width=64, tokens=24, heads=4, dtype="float32"):
    """Adaptive norms, attention, an MLP: a small DiT, after its passes."""
    builder = Builder()
    x, c = builder.input("x", (2, tokens, width)), builder.input("c", (2, width))

    def linear(y, name, columns):
        weight = builder.parameter(name + "_w", (y.shape[-1], columns))
        return ops.matmul(y, weight) + builder.parameter(name + "_b", (columns,))

    def head(y):
        return ops.transpose(ops.reshape(y, shape=(2, tokens, heads, width // heads)), permutation=(0, 2, 1, 3))

    def part(y, i):
        return ops.reshape(
            ops.slice(y, starts=(0, i * width), stops=(2, (i + 1) * width), steps=(1, 1)), shape=(2, 1, width)
        )

    for block in range(blocks):
        m = linear(ops.silu(c), f"m{block}", 6 * width)
        y = ops.layer_norm(x, epsilon=1e-6) * (1.0 + part(m, 1)) + part(m, 0)
        q, k, v = (head(linear(y, f"{name}{block}", width)) for name in "qkv")
        weights = ops.softmax(ops.matmul(q, k, transpose_y=True) * (width / heads) ** -0.5, axis=-1)
        y = ops.reshape(ops.transpose(ops.matmul(weights, v), permutation=(0, 2, 1, 3)), shape=x.shape)
        x = x + part(m, 2) * linear(y, f"o{block}", width)
        y = ops.layer_norm(x, epsilon=1e-6) * (1.0 + part(m, 4)) + part(m, 3)
        y = linear(ops.gelu(linear(y, f"f{block}", 4 * width), approximate="tanh"), f"g{block}", width)
        x = x + part(m, 5) * y
    graph = builder.build(x)
    names = default() if dtype == "float32" else converting(default(), dtype)
    return graph, run_passes(graph, names, check=True)[0]


@pytest.fixture(scope="module")
def compiler(worker_pool):
    return Compiler(Target.named(90), workers=worker_pool)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_transformer_is_a_sound_plan(compiler, dtype):
    _, graph = transformer(dtype=dtype)
    model, lowered = compile_graph(graph, compiler.target, FirstThatCompiles(compiler))
    for plan in (model.plan, *model.prologue):
        check(plan)
    assert len(lowered.work) == len(graph.nodes) - sum(node.op.name == "constant" for node in graph.nodes)
    assert lowered.lower_bound <= model.plan.arena_bytes <= 1.25 * lowered.lower_bound
    assert sorted(name for _, name in model.direct) + sorted(r for s in model.stages for r in s.results) != []
    assert compile_graph(graph, compiler.target, FirstThatCompiles(compiler))[0] == model


def test_inputs_and_constants_as_outputs_are_copied(compiler):
    builder = Builder()
    x, p = builder.input("x", (3, 4)), builder.parameter("p", (2,))
    table = builder.constant(numpy.arange(6), "float32")
    graph = builder.build(x, ops.silu(x), p, table, x)
    plan = lower(graph, compiler.target, FirstThatCompiles(compiler)).plan
    check(plan)
    assert all(plan.buffer_named[name].placement == "output" for name in plan.outputs)
    assert len(set(plan.outputs)) == 5


def test_an_op_without_a_kernel_is_named_with_the_model_s_line(compiler):
    builder = Builder()
    image, weight = (builder.input(name, (4, 3, 3, 3), "float64") for name in "xw")
    with pytest.raises(UnsupportedOpError, match=r"conv2d\(float64\[4, 3, 3, 3\], .*has no CUDA kernel"):
        lower(builder.build(ops.conv2d(image, weight)), compiler.target, FirstThatCompiles(compiler))


def test_nodes_of_one_form_share_their_kernels():
    _, graph = transformer(blocks=3)
    attentions = [node for node in graph.nodes if node.op.name == "attention"]
    assert len({form_of(node) for node in attentions}) == 1
    products = [node for node in graph.nodes if node.op.name == "linear"]
    assert 1 < len({form_of(node) for node in products}) < len(products)


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("tokens", "width", "heads"), [(24, 64, 4), (17, 72, 3), (256, 144, 2)])
def test_on_a_device(dtype, tokens, width, heads):
    """No less exact than the model itself in that dtype, each of whose operations rounds its result."""
    before, graph = transformer(width=width, tokens=tokens, heads=heads, dtype=dtype)
    plain = before if dtype == "float32" else run_passes(before, [f"convert_to_{dtype}"])[0]
    generator = numpy.random.default_rng(0)
    inputs = [generator.standard_normal(value.shape).astype("float32") for value in before.inputs]
    weights = [
        (generator.standard_normal(value.shape) / max(value.shape[0] ** 0.5, 1)).astype("float32")
        for value in before.parameters
    ]
    target = device_target()
    with Compiler(target) as compiler:
        model, _ = compile_graph(graph, target, FirstThatCompiles(compiler))
    session = Session(model, weights, Device.of(0))
    for factor in (1.0, 1.0, 1.5):
        scaled = [(factor * array).astype("float32") for array in weights]
        session.refresh(scaled)
        (found,) = session.run(inputs)
        (exact,) = evaluate(before, inputs, scaled, arithmetic="float64")
        (rounded,) = evaluate(plain, inputs, scaled)
        error, explained = (numpy.linalg.norm(each - exact) / numpy.linalg.norm(exact) for each in (found, rounded))
        assert error <= max(1.2 * explained, 2e-6)
    session.close()


@needs_gpu
def test_what_was_lowered_without_a_device_runs_from_its_file(tmp_path):
    before, graph = transformer()
    target = Target.named(device_target().compute_capability)  # from the table, as where there is no device
    with Compiler(target) as compiler:
        model, _ = compile_graph(graph, target, FirstThatCompiles(compiler))
    inputs = [random_array(value.type, seed) for seed, value in enumerate(before.inputs)]
    weights = [random_array(value.type, 100 + seed) / 8 for seed, value in enumerate(before.parameters)]
    model_file.save(model, tmp_path / "model", weights)
    (exact,) = evaluate(before, inputs, weights, arithmetic="float64")
    session = jitinfer.load(tmp_path / "model")
    numpy.testing.assert_allclose(session.run(inputs)[0], exact, rtol=1e-4, atol=1e-4)
    session.close()
    doubled = jitinfer.load(tmp_path / "model", weights=[2 * array for array in weights])
    (exact,) = evaluate(before, inputs, [2 * array for array in weights], arithmetic="float64")
    numpy.testing.assert_allclose(doubled.run(inputs)[0], exact, rtol=1e-4, atol=1e-4)
    doubled.close()


def test_steps_carry_what_their_nodes_take_and_where_they_come_from(compiler):
    builder = Builder()
    builder.origin = Origin("model.py:3", "/Head_0/Linear_0")
    y = ops.matmul(builder.input("x", (16, 32), "bfloat16"), builder.parameter("w", (32, 64), "bfloat16"))
    builder.origin = Origin("model.py:4", "/Head_0")
    graph = builder.build(ops.softmax(y, axis=-1))
    plan = lower(graph, compiler.target, FirstThatCompiles(compiler)).plan
    costs = {step.cost.node: step.cost for step in plan.steps}
    assert costs[0] == Cost(0, 2 * 16 * 32 * 64, 2 * (16 * 32 + 32 * 64 + 16 * 64))
    assert [step.origin for step in plan.steps] == [str(graph.nodes[step.cost.node].origin) for step in plan.steps]
    assert {step.label for step in plan.steps} == {"matmul", "softmax"}


def test_an_equal_graph_of_other_lines_keeps_its_own(compiler):
    """The plan in the cache was made before somebody put a line into the file."""

    def graph(line):
        builder = Builder()
        builder.origin = Origin(f"model.py:{line}", "/Head_0")
        x = builder.input("x", (4, 8))
        return builder.build(ops.softmax(x, axis=-1), x)

    before, after = graph(3), graph(4)
    assert before.hash == after.hash
    plan = lower(before, compiler.target, FirstThatCompiles(compiler)).plan
    moved = located(plan, after, compiler.target)
    assert moved == lower(after, compiler.target, FirstThatCompiles(compiler)).plan != plan


def test_a_group_is_called_by_what_it_does():
    builder = Builder()
    x = builder.input("x", (4, 8))
    graph, _ = run_passes(builder.build(ops.exp(x) * 2.0 + x), default(), check=True)
    (node,) = [node for node in graph.nodes if node.op.name == "group"]
    assert label_of(node) == "group(exp, multiply, add)"
