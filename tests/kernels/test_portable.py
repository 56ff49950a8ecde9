"""Specialisations as JSON: the same kernel in another process, or none."""

import json

import pytest
import triton
import triton.language as tl
from row_norms import node_of
from triton_functions import scale_and_add

from jitinfer.errors import KernelError
from jitinfer.graph import Builder, ops
from jitinfer.kernels.assembly import specializations
from jitinfer.kernels.family import families_for
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton import worker
from jitinfer.kernels.triton.frontend import kernel_key, triton_ir
from jitinfer.kernels.triton.portable import described, restored
from jitinfer.kernels.triton.specialization import Specialization

TARGET = Target.named(90)


def nodes():
    builder = Builder()
    x, w, b = builder.input("x", (32, 64), "bfloat16"), builder.parameter("w", (64, 64), "bfloat16"), 2.0
    q = builder.input("q", (1, 32, 2, 64), "bfloat16")
    made = builder.build(
        ops.matmul(x, w), ops.silu(x) * b, ops.softmax(x, axis=-1), ops.attention(q, q, q, scale=0.125)
    )
    return [node_of("layer_norm", (8, 64), "bfloat16"), *made.nodes]


@pytest.mark.parametrize("node", nodes(), ids=lambda node: node.op.name)
def test_the_same_kernel_comes_out_at_the_other_end(node):
    sources = [
        source
        for family in families_for(node, TARGET)
        for source in specializations(family.launches(node, family.configs(node, TARGET)[0], TARGET))
    ]
    for source in sources:
        document = json.loads(json.dumps(described(source)))
        assert kernel_key(restored(document), 90).digest == kernel_key(source, 90).digest


def a_source(function=scale_and_add, **constants):
    given = {"BLOCK": 256, **constants}
    pointers = tuple((name, "*fp32") for name in "xwy")
    signature = (*pointers, ("count", "i32"), ("factor", "fp32"), *((name, "constexpr") for name in given))
    return Specialization(function, signature, tuple(given.items()), (), (("num_warps", 4),))


def test_functions_from_elsewhere_are_not_imported_there():
    assert described(a_source()) is None


@triton.jit
def _local(x):
    tl.store(x, 1.0)


@pytest.mark.parametrize("value", [object(), _local, (1, object())])
def test_constants_without_a_text_stay_here(value):
    assert described(Specialization(_local, (), (("A", value),), (), ())) is None


def a_norm():
    family = next(families_for(nodes()[0], TARGET))
    return specializations(family.launches(nodes()[0], family.configs(nodes()[0], TARGET)[0], TARGET))[0]


def test_constants_that_have_one_go():
    source = a_norm()
    values = (
        ("A", (1, (2.5, None))),
        ("C", "text"),
        ("D", float("inf")),
        ("E", source.function),
        ("F", True),
    )
    given = Specialization(source.function, (), values, (), ())
    assert restored(json.loads(json.dumps(described(given)))) == given


def test_another_function_of_the_name_is_refused():
    source = a_norm()
    request = {"source": described(source), "capability": 90, "digest": kernel_key(source, 90).digest}
    assert worker._ir(request) == triton_ir(source, 90)
    with pytest.raises(KernelError, match="not the same function"):
        worker._ir({**request, "digest": "0" * 64})
