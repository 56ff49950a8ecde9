"""Passes by name, and what `import jitinfer` alone makes reachable."""

import subprocess
import sys

import pytest

import jitinfer
from jitinfer.errors import PassError
from jitinfer.graph import Builder, ops
from jitinfer.passes import GraphPass, RewritePass, graph_pass, pass_named, register


def pass_class(op):
    class Again(RewritePass):
        def pattern(self, x):
            return ops.exp(x)

        def replace(self, m):
            return op(m.x)

    return Again


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    builder = Builder()
    graph = builder.build(ops.exp(builder.input("x", (4,))))
    for op in (ops.sin, ops.cos):
        graph_pass("defined_again")(pass_class(op))
        after, _ = pass_named("defined_again").run(graph)
        assert [node.op.name for node in after.nodes] == [op.__name__]


def test_names_that_are_taken():
    class Other(GraphPass):
        def run(self, graph):
            return graph, 0

    for name in ("form_linear", "default", ""):
        Other.name = name
        with pytest.raises(PassError, match="the name is " + ("taken" if name else "empty")):
            register(Other())
    assert type(pass_named("form_linear")).__name__ == "FormLinear"


def test_the_list_is_the_callers_own():
    jitinfer.passes.default().clear()
    assert "form_linear" in jitinfer.passes.default()


def test_import_jitinfer_alone_is_light_and_enough():
    code = (
        "import sys, jitinfer\n"
        "assert not {'numpy', 'paddle', 'jitinfer.passes', 'jitinfer.graph'} & set(sys.modules)\n"
        "assert 'simplify' in jitinfer.passes.default()\n"
        "assert jitinfer.passes.register and jitinfer.testing.PassTest and jitinfer.graph.ops\n"
        "assert not {'paddle', 'pytest'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
