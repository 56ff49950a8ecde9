"""A program as text, and back."""

import paddle
from reference import MLP

from jitinfer.frontend.program_passes import run_program_pass
from jitinfer.frontend.serialising import deserialise, serialise
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root


def program():
    model = MLP()
    model.eval()
    return trace(
        lambda symbols: translated_root(model.forward)(*symbols), [type_of(paddle.randn([2, 8]))], model.parameters()
    ).program


def test_a_program_that_is_read_and_written_has_the_same_text():
    text = program().text
    assert serialise(deserialise(text))[0] == text


def test_a_pass_without_work_changes_nothing():
    traced = program()
    found = run_program_pass(traced.text, "dead_code_elimination_pass", 1, 1)
    assert found.text == traced.text
    assert found.parameters == (0, 1, 2, 3)
    assert found.operations == (None,) * 4 + tuple(range(4, 4 + traced.operations))
