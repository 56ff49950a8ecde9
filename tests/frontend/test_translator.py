"""What the translator keeps of methods, and what it has to see anew."""

import types

import numpy
import paddle
import pytest
from graphs import imported
from paddle.jit.dy2static import convert_call_func, parameter_recorder, program_translator
from reference import assert_same

import jitinfer
from jitinfer.frontend.tracing import UntraceableError

FACTOR = 2.0


class Block(paddle.nn.Layer):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, x, power=1.0):
        if self.offset > 1:
            x = x * 1.0
        return x * FACTOR**power + self.offset


class Other(paddle.nn.Layer):
    def forward(self, x, power=1.0):
        if self.offset > 1:
            x = x * 3.0
        return x - self.offset


class Stack(paddle.nn.Layer):
    def __init__(self, count):
        super().__init__()
        self.blocks = paddle.nn.LayerList([Block(float(number)) for number in range(count)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def translations(monkeypatch):
    """Names of the functions that are translated."""
    names = []
    convert = program_translator.FunctionCache._convert

    def counted(self, function):
        names.append(function.__qualname__)
        return convert(self, function)

    monkeypatch.setattr(program_translator.FunctionCache, "_convert", counted)
    monkeypatch.setattr(program_translator, "_FUNCTION_CACHE", program_translator.FunctionCache())
    return names


def require_right(layer):
    found = imported(layer.forward, {"x": paddle.to_tensor([1.0, 2.0])}, layer=layer)
    assert found.opaque == set()
    assert found.error_of(found.graph) <= 1e-6


def test_a_method_is_translated_once_for_all_layers_and_traces(translations):
    """Each layer keeps its own attributes."""
    require_right(Stack(3))
    require_right(Stack(4))
    assert translations.count("Block.forward") == 1
    assert translations.count("Stack.forward") == 1


def test_globals_and_defaults_are_those_of_now(translations, monkeypatch):
    require_right(Stack(2))
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    require_right(Stack(2))
    monkeypatch.setattr(Block.forward, "__defaults__", (2.0,))
    require_right(Stack(2))
    assert translations.count("Block.forward") == 1


@pytest.mark.parametrize("change", ["function", "code"])
def test_a_method_that_is_replaced_is_translated_anew(translations, monkeypatch, change):
    require_right(Stack(3))
    if change == "function":
        monkeypatch.setattr(Block, "forward", Other.forward)
    else:
        monkeypatch.setattr(Block.forward, "__code__", Other.forward.__code__)
    layer = Stack(3)
    require_right(layer)
    assert numpy.allclose(layer(paddle.to_tensor([1.0])).numpy(), [3.0 * (1.0 - 0.0 - 1.0) - 2.0])


class Twin(paddle.nn.Layer):
    def forward(self, x):
        return paddle.nn.functional.silu(x)


class OtherTwin(paddle.nn.Layer):
    def forward(self, x):
        return paddle.nn.functional.silu(x)


def test_functions_of_equal_text_have_their_own_lines():
    places = set()
    for kind in (Twin, OtherTwin):
        found = imported(kind().forward, {"x": paddle.to_tensor([1.0, 2.0])}, layer=None)
        (node,) = (node for node in found.graph.nodes if node.op.name == "silu")
        line = kind.forward.__code__.co_firstlineno + 1
        assert str(node.origin).endswith(f"test_translator.py:{line}")
        places.add(str(node.origin))
    assert len(places) == 2


LINEAR = paddle.nn.Linear(2, 2)


def assigned(x):
    y = LINEAR(x) + 0.0
    y[0] = x[1]
    return y * 2


def assigned_and_raised(x):
    assigned(x)
    raise ValueError("no")


def recorded():
    """What Paddle remembers of the weights and the assignments of programs."""
    parameters = parameter_recorder._global_parameter_recorder
    return parameters.params_dict, parameters.tensor2value, parameter_recorder._global_inplace_map.params_dict


def test_a_trace_that_fails_leaves_no_record_behind():
    before = [dict(each) for each in recorded()]
    with pytest.raises(UntraceableError, match="no"):
        imported(assigned_and_raised, {"x": paddle.rand([3, 2])}, layer=LINEAR)
    assert [dict(each) for each in recorded()] == before


def test_a_trace_has_nothing_of_a_program_that_was_at_the_same_address(monkeypatch):
    weight = LINEAR.weight
    monkeypatch.setattr(parameter_recorder, "_program_hash", lambda program: 0)
    other = paddle.static.Program()
    paddle.enable_static()
    try:
        with paddle.static.program_guard(other):
            value = paddle.full(weight.shape, 7.0)
    finally:
        paddle.disable_static()
    parameters, values, _ = recorded()
    monkeypatch.setitem(parameters, 0, {weight})
    monkeypatch.setitem(values, 0, {id(weight): value})
    case = imported(assigned, {"x": paddle.rand([3, 2])}, layer=LINEAR)
    assert case.error_of(case.graph) <= 1e-6
    assert values[0][id(weight)] is value


BLOCKS = paddle.nn.LayerList([paddle.nn.Linear(4, 4) for _ in range(3)])


def numbered_blocks(x):
    for number, block in enumerate(BLOCKS, start=2):
        x = block(x) * number
    return x


def numbered_rows(x):
    for number, row in enumerate(x, start=1):
        x = x + row * number
    return x


def blocks_in_pairs(x):
    for block, factor in zip(BLOCKS, [1.0, 2.0, 3.0], strict=True):
        x = block(x) * factor
    return x


def rows_in_pairs(x):
    for number, (one, other) in enumerate(zip(x, x * 2, strict=True), 5):
        x = x + one * number - other
    return x


def unequal_pairs(x):
    for one, other in zip([1.0, 2.0], [3.0], strict=True):
        x = x * one + other
    return x


@pytest.mark.parametrize("function", [numbered_blocks, numbered_rows, blocks_in_pairs, rows_in_pairs])
def test_keywords_of_zip_and_enumerate(function):
    x = paddle.randn([3, 4])
    compiled = jitinfer.inference(function, fallback="error")
    assert_same(compiled(x), function(x))


def test_zip_is_as_strict_as_it_is_told_to_be():
    compiled = jitinfer.inference(unequal_pairs)
    with pytest.raises(ValueError, match="shorter"):
        compiled(paddle.randn([2]))


def test_what_is_called_again_is_judged_once(monkeypatch):
    judged = []
    original = convert_call_func.is_unsupported

    def counted(function):
        judged.append(function)
        return original(function)

    monkeypatch.setattr(convert_call_func, "is_unsupported", counted)
    stack = Stack(6)
    stack.blocks[3].forward = types.MethodType(Other.forward, stack.blocks[3])  # a layer with a forward of its own
    require_right(stack)
    assert sum(isinstance(each, Block) for each in judged) == 2
    assert convert_call_func.is_unsupported is counted
