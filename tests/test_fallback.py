"""What no program can express runs as the dynamic function, with one warning that names the user's line."""

import collections

import paddle
import pytest
from reference import MLP, assert_same, compiled

import jitinfer


def through_numpy(x):
    y = x + 1
    values = y.tolist()
    return paddle.to_tensor(values) * 2


def test_one_warning_with_the_users_line(warnings_of):
    function = jitinfer.inference(through_numpy)
    x = paddle.randn([3])
    for _ in range(3):
        assert_same(function(x), (x + 1) * 2)
    assert len(warnings_of()) == 1
    line = through_numpy.__code__.co_firstlineno + 2
    assert f"test_fallback.py:{line}) runs dynamically" in warnings_of()[0]
    assert function.specializations[0].executable is None
    assert "runs by      dynamic: " in function.explain()


def test_fallback_can_be_forbidden():
    function = jitinfer.inference(through_numpy, fallback="error")
    with pytest.raises(jitinfer.TraceError, match=r"test_fallback.py:\d+"):
        function(paddle.ones([2]))


@pytest.mark.parametrize("condition", [1.0, -1.0])
def test_control_flow_over_tensors_becomes_part_of_the_program(condition):
    @jitinfer.inference
    def branch(x):
        y = x * 2 if x.sum() > 0 else x - 1
        while y.abs().sum() < 100:
            y = y * 2
        return y

    for sign in (condition, -condition, condition):
        x = paddle.full([3], sign)
        assert_same(branch(x), branch.function(x))
    assert compiled(branch) == 1


class Counter(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Remembers(paddle.nn.Layer):
    """Keeps its last input, as a key-value cache does."""

    def __init__(self):
        super().__init__()
        self.last = []

    def forward(self, x):
        result = x + sum(self.last, paddle.zeros_like(x))
        self.last.append(x)
        return result


@pytest.mark.parametrize("kind", [Counter, Remembers])
def test_state_from_call_to_call(kind, warnings_of):
    layer, other = kind(), kind()
    jitinfer.inference(layer)
    x = paddle.ones([2])
    for _ in range(4):
        assert_same(layer(x), other(x))
    assert len(warnings_of()) == 1
    for _ in range(4):
        assert_same(layer(x), other(x))
    assert len(layer.forward.specializations) <= 4  # then it is taken to change at every call


class Lazy(paddle.nn.Layer):
    """Computes a table at its first call and keeps it, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = paddle.arange(3).astype("float32") * 2
        return x + self.table


def test_a_value_computed_at_the_first_call():
    layer = Lazy()
    jitinfer.inference(layer)
    x = paddle.randn([3])
    for _ in range(3):
        assert_same(layer(x), x + paddle.to_tensor([0.0, 2.0, 4.0]))
    assert isinstance(layer.table, paddle.Tensor)
    assert compiled(layer.forward) == 1


def test_batch_norm_in_train_mode_updates_its_statistics():
    layer, other = paddle.nn.BatchNorm1D(3), paddle.nn.BatchNorm1D(3)
    jitinfer.inference(layer)
    x = paddle.randn([8, 3])
    for _ in range(3):
        assert_same(layer(x), other(x))
    assert_same(layer._mean, other._mean)
    layer.eval(), other.eval()
    for _ in range(2):
        assert_same(layer(x), other(x))
    assert layer.forward.specializations[-1].executable is not None


@pytest.mark.parametrize(
    "write", [lambda x: x.add_(x), lambda x: x.__setitem__(0, 5.0), lambda x: x.reshape_([4]).scale_(2.0)]
)
def test_arguments_changed_in_place_are_changed(write, warnings_of):
    @jitinfer.inference
    def change(x):
        write(x)
        return x + 1

    for _ in range(3):
        x, y = paddle.ones([2, 2]), paddle.ones([2, 2])
        result, expected = change(x), change.function(y)
        assert_same(x, y)
        assert_same(result, expected)
    assert len(warnings_of()) == 1
    assert "in place" in warnings_of()[0]


def test_random_numbers_are_those_of_the_dynamic_function():
    @jitinfer.inference
    def noisy(x):
        return x + paddle.randn([4]) + paddle.rand([4]) + paddle.nn.functional.dropout(x, 0.5)

    x = paddle.randn([4])
    paddle.seed(5)
    compiled_results = [noisy(x) for _ in range(3)]
    paddle.seed(5)
    for result in compiled_results:
        assert_same(result, noisy.function(x))
    assert compiled(noisy) == 1
    assert noisy.specializations[0].program.random


def test_dynamic_shapes_share_one_program():
    @jitinfer.inference(dynamic_shapes={"x": {0: (1, 8)}, "pair[1]": {0: None}})
    def forward(x, pair):
        return x.reshape([x.shape[0], -1]).sum(axis=0) + pair[1].mean(axis=0)

    for rows in (2, 3, 8, 2):
        x, y = paddle.randn([rows, 2, 2]), paddle.randn([rows * 3, 4])
        assert_same(forward(x, [0, y]), forward.function(x, [0, y]))
    assert compiled(forward) == 1
    assert len(forward.specializations[0].verified_shapes) == 3
    x = paddle.randn([9, 2, 2])
    assert_same(forward(x, [0, y]), forward.function(x, [0, y]))
    assert compiled(forward) == 2


def test_a_program_that_does_not_hold_for_a_shape_gets_a_static_one(warnings_of):
    @jitinfer.inference(dynamic_shapes={"x": {0: None}})
    def forward(x):
        return x * len(SIZES[: int(x.numel())])

    SIZES = [1, 2, 3, 4]
    for size in (2, 4, 2, 4, 3):
        x = paddle.randn([size])
        assert_same(forward(x), forward.function(x))


def test_shapes_that_do_not_trace_dynamically(monkeypatch):
    monkeypatch.setattr("jitinfer.frontend.tracing.LONGEST", 3.0)

    class Positions(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.table = self.create_parameter([16, 4])

        def forward(self, x):
            rows = list(range(x.shape[0]))
            return x + paddle.stack([self.table[i] for i in rows])

    layer = Positions()
    jitinfer.inference(layer, dynamic_shapes={"x": {0: (1, 16)}})
    for rows in (2, 5, 2):
        x = paddle.randn([rows, 4])
        assert_same(layer(x), Positions.forward(layer, x))


def test_objects_without_room_for_programs_are_refused_clearly():
    class Slotted:
        __slots__ = ()

        @jitinfer.inference
        def method(self, x):
            return x

    with pytest.raises(jitinfer.ArgumentError, match="Slotted have no __dict__"):
        Slotted().method(paddle.ones([1]))


def test_verify_always_compares_every_call(mlp, monkeypatch, warnings_of):
    jitinfer.inference(mlp, verify="always")
    x = paddle.randn([2, 8])
    for _ in range(2):
        assert_same(mlp(x), MLP.forward(mlp, x))
    broken = mlp.forward.specializations[0].executable
    monkeypatch.setattr(broken, "run", lambda tensors: [paddle.zeros([2, 8])])
    for _ in range(2):
        assert_same(mlp(x), MLP.forward(mlp, x))
    assert any("a result was wrong" in warning for warning in warnings_of())


def test_verify_always_follows_weights_that_change(mlp, warnings_of):
    jitinfer.inference(mlp, verify="always")
    x = paddle.randn([2, 8])
    for _ in range(2):
        assert_same(mlp(x), MLP.forward(mlp, x))
        for weight in mlp.parameters():
            weight.set_value(weight + 1.0)
    assert mlp.forward.specializations[0].executable is not None
    assert not warnings_of()


def test_verify_never_runs_the_function_only_to_trace_it(mlp):
    calls = collections.deque()  # a container that is not observed: what a trace adds to it stays

    class Counting(paddle.nn.Layer):
        def forward(self, x):
            calls.append("dynamic" if paddle.in_dynamic_mode() else "traced")
            return x * 2

    layer = jitinfer.inference(Counting(), verify="never")
    assert_same(layer(paddle.ones([2])), paddle.ones([2]) * 2)
    assert list(calls) == ["traced"]
