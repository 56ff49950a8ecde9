"""The tests of passes find what is wrong with a pass."""

from types import SimpleNamespace

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.passes import RewritePass, graph_pass
from jitinfer.testing import Case, PassTest, fires, must_not_fire, rounding


@graph_pass("testing_right")
class Right(RewritePass):
    def pattern(self, x):
        return x * ops.sigmoid(x)

    def replace(self, m):
        return ops.silu(m.x)


@graph_pass("testing_wrong")
class Wrong(RewritePass):
    def pattern(self, x):
        return x * ops.sigmoid(x)

    def replace(self, m):
        return ops.gelu(m.x)


@graph_pass("testing_coarse")
class Coarse(RewritePass):
    """Right in exact arithmetic, with a rounding to bfloat16 that the model has not."""

    def pattern(self, x):
        return x * ops.sigmoid(x)

    def replace(self, m):
        return ops.silu(ops.cast(ops.cast(m.x, dtype="bfloat16"), dtype=m.x.dtype))


class Programs(PassTest):
    __test__ = False
    passes = ("testing_right",)
    seen = ()

    @fires({"silu": 1}, rows=[1, 5], flipped=[False, True])
    def test_silu(self, builder, rows, flipped):
        x = builder.input("x", (rows, 8))
        return ops.sigmoid(x) * x if flipped else x * ops.sigmoid(x)

    @fires(lambda rows: {"silu": 1, "add": rows}, rows=[1, 2])
    def test_counts_of_the_case(self, builder, rows):
        x = builder.input("x", (8,))
        y = x * ops.sigmoid(x)
        for _ in range(rows):
            y = y + x
        return y

    @fires({"silu": 1})
    def test_sees_the_graph(self, builder):
        x = builder.input("x", (8,))
        after = yield x * ops.sigmoid(x)
        type(self).seen = (*self.seen, [value.dtype for value in after.outputs])

    @must_not_fire(other=["tanh", "sigmoid"])
    def test_others(self, builder, other):
        return builder.input("x", (4,)) * getattr(ops, other)(builder.input("y", (4,)))

    @must_not_fire()
    def test_fires_after_all(self, builder):
        x = builder.input("x", (8,))
        return x * ops.sigmoid(x)

    @fires({"multiply": 1, "tanh": 1})
    def test_does_not_fire(self, builder):
        x = builder.input("x", (8,))
        return x * ops.tanh(x)

    @fires({"multiply": 1})
    def test_other_counts(self, builder):
        x = builder.input("x", (8,))
        return x * ops.sigmoid(x)


def with_passes(*names):
    return type("With", (Programs,), {"passes": names})()


def case(dtype="float32", **values):
    return Case(dtype, values)


def test_a_grid_is_every_dtype_and_every_point():
    found = []
    function = Programs.test_silu
    metafunc = SimpleNamespace(
        function=function, parametrize=lambda name, cases, ids: found.append((name, [ids(each) for each in cases]))
    )
    Programs().pytest_generate_tests(metafunc)
    ((name, ids),) = found
    assert name == "case"
    assert len(set(ids)) == len(ids) == 3 * 2 * 2
    assert "bfloat16-rows=5-flipped=True" in ids
    found.clear()
    metafunc.function = test_a_grid_is_every_dtype_and_every_point
    Programs().pytest_generate_tests(metafunc)
    assert not found


@pytest.mark.parametrize("dtype", PassTest.dtypes)
def test_a_right_pass_passes(dtype):
    programs = Programs()
    programs.test_silu(case(dtype, rows=5, flipped=True))
    programs.test_counts_of_the_case(case(dtype, rows=2))
    programs.test_others(case(dtype, other="sigmoid"))
    Programs.seen = ()
    programs.test_sees_the_graph(case(dtype))
    assert Programs.seen == ([dtype],)


@pytest.mark.parametrize("dtype", PassTest.dtypes)
def test_a_wrong_pass_fails(dtype):
    programs = with_passes("testing_wrong")
    programs_counts = {"gelu": 1}
    builder = Builder()
    x = builder.input("x", (5, 8), dtype)
    with pytest.raises(AssertionError):
        programs.becomes(builder.build(x * ops.sigmoid(x)), programs_counts)


@pytest.mark.parametrize(("dtype", "found"), [("float32", True), ("float16", True), ("bfloat16", False)])
def test_a_pass_that_rounds_more_than_the_dtype_explains_fails(dtype, found):
    programs = with_passes("testing_coarse")
    builder = Builder()
    x = builder.input("x", (64, 8), dtype)
    graph = builder.build(x * ops.sigmoid(x))
    if found:
        with pytest.raises(AssertionError):
            programs.becomes(graph, {"cast": 2, "silu": 1})
    else:
        programs.becomes(graph, {"cast": 2, "silu": 1})


@pytest.mark.parametrize("name", ["test_fires_after_all", "test_does_not_fire", "test_other_counts"])
def test_what_was_declared_otherwise_fails(name):
    with pytest.raises(AssertionError):
        getattr(Programs(), name)(case())


def test_what_rounding_explains():
    builder = Builder()
    x = builder.input("x", (4, 256))
    y = ops.tanh(x)
    assert rounding(builder.build(y)) == pytest.approx(4 * (2 * 2.0**-48) ** 0.5)
    product = ops.matmul(y, builder.parameter("w", (256, 8)))
    assert rounding(builder.build(product)) == pytest.approx(4 * ((2 + 512 + 1) * 2.0**-48) ** 0.5)
    narrow = ops.cast(product, dtype="bfloat16")
    assert rounding(builder.build(narrow)) == pytest.approx(4 * (3 * 2.0**-16) ** 0.5, rel=1e-3)
