"""What may be passed to a compiled function and what comes back from it."""

import collections
import dataclasses
import enum
import functools
import inspect

import numpy
import paddle
import pytest
from reference import MLP, assert_same, compiled

import jitinfer


class Mode(enum.Enum):
    PLUS = 1
    MINUS = 2


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Inputs:
    x: paddle.Tensor
    factor: float = 2.0


def describe(x, guard):
    """A result that shows the guard's type and value."""
    if isinstance(guard, numpy.ndarray):
        return x + paddle.to_tensor(guard.sum().item(), dtype=x.dtype)
    if isinstance(guard, Mode):
        return x + guard.value
    if isinstance(guard, str):
        return x + len(guard)
    if isinstance(guard, paddle.dtype):
        return x.astype(guard)
    if isinstance(guard, (slice, type(None), bool)):
        return x * (3 if guard is None else 5 if guard is True else 7)
    if callable(guard):
        return guard(x)
    return x * guard


GUARDS = [
    [True, False, None],
    [1, 2, 1.0, 2.0, True],
    [0.0, -0.0],
    ["a", "bb"],
    [Mode.PLUS, Mode.MINUS],
    [paddle.float32, paddle.float64],
    [numpy.array([1.0, 2.0]), numpy.array([1.0, 3.0]), numpy.array([1, 3])],
    [numpy.float32(1.5), numpy.float64(2.5)],
    [slice(1, 2), slice(1, 3)],
    [paddle.nn.functional.relu, paddle.nn.functional.gelu],
    [functools.partial(paddle.scale, scale=2.0)],
]


@pytest.mark.parametrize("values", GUARDS, ids=lambda values: str(type(values[0]).__name__))
def test_a_guard_of_another_value_is_another_specialisation(values):
    function = jitinfer.inference(describe)
    x = paddle.to_tensor([1.0, -2.0, 3.0])
    try:
        for value in [*values, *values]:
            result, expected = function(x, value), describe(x, value)
            assert_same(result, expected)
            assert numpy.array_equal(numpy.signbit(result.numpy()), numpy.signbit(expected.numpy()))
    except jitinfer.ArgumentError:
        assert isinstance(values[0], functools.partial)  # compares by identity, may hold anything: refused
        return
    assert len(function.specializations) == len(values)


def test_tensors_in_any_nesting():
    @jitinfer.inference
    def total(*args, **kwargs):
        def walk(value):
            if isinstance(value, paddle.Tensor) or not isinstance(value, (list, tuple, dict, Inputs)):
                return value
            if isinstance(value, dict):
                value = list(value.values())
            if isinstance(value, Inputs):
                value = [value.x * value.factor]
            return sum((walk(each) for each in value[1:]), walk(value[0]))

        return walk([*args, *kwargs.values()])

    x = paddle.randn([2, 2])
    nested = {"a": [x, (x, Pair(x, x * 2))], "b": collections.OrderedDict(k=x)}
    for _ in range(2):
        assert_same(total(nested, more=Inputs(x, 3.0)), total.function(nested, more=Inputs(x, 3.0)))
    assert_same(total(nested, more=Inputs(x, 4.0)), total.function(nested, more=Inputs(x, 4.0)))
    assert len(total.specializations) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((x for x in [1]), "value is a generator"),
        (open(__file__), "value is a TextIOWrapper"),  # noqa: SIM115 - the point of the test
        (iter([1]), "value is a list_iterator"),
        ([paddle, object()], r"value\[1\] is a builtins.object"),
        (numpy.zeros(65), r"value is a NumPy array of shape \[65\] and dtype float64"),
    ],
    ids=["generator", "file", "iterator", "object", "large-array"],
)
def test_what_cannot_be_guarded_is_named(value, message):
    function = jitinfer.inference(lambda x, value: x)
    with pytest.raises(jitinfer.ArgumentError, match=message + r".*test_arguments.py:\d+"):
        function(paddle.ones([1]), value)


def test_results_share_memory_with_nothing():
    @jitinfer.inference
    def forward(x, weight):
        return x, x, x.reshape([4]), weight * 1, x + 0

    x, weight = paddle.randn([2, 2]), paddle.randn([2])
    first = forward(x, weight)
    kept = [each.numpy().copy() for each in first]
    second = forward(x * 5, weight * 5)
    for each, before in zip(first, kept, strict=True):
        assert numpy.array_equal(each.numpy(), before)
    addresses = {each.data_ptr() for each in [x, weight, *first, *second]}
    assert len(addresses) == 2 + 5 + 5
    first[0].add_(paddle.ones([2, 2]))
    assert numpy.array_equal(first[1].numpy(), kept[1])


def test_a_weight_as_result_is_a_copy(mlp):
    function = jitinfer.inference(lambda x: (mlp.first.weight, x + 1))
    weight, _ = function(paddle.ones([1]))
    weight.zero_()
    assert float(mlp.first.weight.abs().sum()) > 0


def test_strided_views_as_inputs():
    double = jitinfer.inference(lambda x, y: x * 2 + y)
    x = paddle.randn([4, 6])
    square = paddle.randn([6, 6])
    for view in (paddle.randn([6, 4]).transpose([1, 0]), square[1:5], square.transpose([1, 0])[:4]):
        assert_same(double(x, view), x * 2 + view)


@pytest.mark.parametrize(
    "result",
    [
        lambda x: x.sum(),
        lambda x: x.argmax(),
        lambda x: x > 0,
        lambda x: x.astype("bfloat16"),
        lambda x: x.astype("float16"),
        lambda x: x.astype("float64") * 2,
        lambda x: x.astype("uint8"),
        lambda x: paddle.complex(x, x) * 2,
        lambda x: x[:0],
        lambda x: [],
        lambda x: (x.shape, x + 1),
        lambda x: [x.chunk(2), {"k": None, "v": (x,)}],
        lambda x: Pair(x, [x.shape[0], 2.5, "s"]),
        lambda x: collections.OrderedDict(b=x, a=x + 1),
        lambda x: paddle.topk(x, 2),
        lambda x: paddle.nn.functional.softmax(x / 0.0),
        lambda x: 3,
    ],
)
def test_results_of_every_kind(result):
    x = paddle.to_tensor([[1.0, -2.0], [3.5, 0.25]])
    function = jitinfer.inference(result)
    for _ in range(3):
        assert_same(function(x), result(x))


def test_functions_of_every_kind(mlp):
    x = paddle.randn([2, 8])

    class Callable:
        def __call__(self, x):
            return x * 4

        @staticmethod
        @jitinfer.inference
        def inside(x):
            return x * 5

        @jitinfer.inference
        @staticmethod
        def outside(x):
            return x * 6

        @jitinfer.inference
        @classmethod
        def of_class(cls, x):
            return x * 7

        @jitinfer.inference
        def method(self, x):
            return x * 8

    instance = Callable()
    assert_same(jitinfer.inference(lambda x: x * 2)(x), x * 2)
    assert_same(jitinfer.inference(functools.partial(MLP.forward, mlp))(x), MLP.forward(mlp, x))
    assert_same(jitinfer.inference(mlp.forward)(x), MLP.forward(mlp, x))
    assert_same(jitinfer.inference(paddle.nn.functional.relu)(x), paddle.nn.functional.relu(x))
    assert_same(jitinfer.inference(instance)(x), x * 4)
    assert_same(instance.inside(x), x * 5)
    assert_same(instance.outside(x), x * 6)
    assert_same(Callable.of_class(x), x * 7)
    assert_same(instance.method(x), x * 8)
    with pytest.raises(jitinfer.ArgumentError, match="takes a function, a method or a Layer"):
        jitinfer.inference(3)


def test_a_function_of_a_layer_and_tensors():
    @jitinfer.inference
    def apply(layer, x):
        return layer(x) * 2

    one, two = MLP(), MLP()
    x = paddle.randn([2, 8])
    for layer in (one, two, one):
        assert_same(apply(layer, x), layer(x) * 2)
    assert compiled(apply) == 2


def test_name_documentation_and_signature_stay(mlp):
    def forward(x: int, *, mode: str = "a", **rest: float) -> int:
        """What it does."""
        return x

    function = jitinfer.inference(forward)
    assert (function.__name__, function.__qualname__, function.__module__) == (
        "forward",
        forward.__qualname__,
        __name__,
    )
    assert function.__doc__ == "What it does."
    assert inspect.signature(function) == inspect.signature(forward)
    expected = inspect.getfullargspec(mlp.forward).args[1:]
    jitinfer.inference(mlp)
    assert inspect.getfullargspec(mlp.forward).args == expected
    assert list(inspect.signature(mlp.forward).parameters) == ["x", "residual"]


def test_wrapping_twice_changes_nothing(mlp):
    once = jitinfer.inference(mlp)
    forward = mlp.forward
    assert jitinfer.inference(once) is mlp
    assert mlp.forward is forward
    assert jitinfer.inference(forward) is forward
    assert jitinfer.is_inference_mode(mlp)
    assert jitinfer.is_inference_mode(forward)
    assert not jitinfer.is_inference_mode(MLP())
    assert not jitinfer.is_inference_mode(print)


def test_compiled_functions_inside_compiled_functions(mlp):
    jitinfer.inference(mlp)
    outer = jitinfer.inference(lambda x: mlp(x) + mlp(x, residual=False))
    x = paddle.randn([2, 8])
    assert_same(outer(x), MLP.forward(mlp, x) + MLP.forward(mlp, x, residual=False))
    assert compiled(outer) == 1
    assert mlp.forward.specializations == []


def test_errors_of_the_function_come_out_as_they_are():
    class OwnError(Exception):
        pass

    @jitinfer.inference
    def forward(x, fail):
        if fail:
            raise OwnError("mine")
        return x * 2

    with pytest.raises(OwnError, match=r"^mine$"):
        forward(paddle.ones([1]), True)
    assert_same(forward(paddle.ones([1]), False), paddle.ones([1]) * 2)
    with pytest.raises(ValueError, match="operator matmul"):
        jitinfer.inference(paddle.matmul)(paddle.ones([2, 3]), paddle.ones([2, 3]))
