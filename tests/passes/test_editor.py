"""What an edited graph is like, beyond what the passes' own tests see."""

import random

import pytest

from jitinfer.graph import Builder, Tensor, ops
from jitinfer.passes.editor import Editor


def chain():
    builder = Builder()
    x = builder.input("x", (4,))
    return builder.build(ops.tanh(ops.exp(x)), ops.sin(x))


def computed(graph):
    return {node.output.name: node.op.name for node in graph.nodes}


def replaced(editor, node, function):
    operand = Tensor(editor.builder, editor.inputs(node)[0])
    editor.replace(node.output, function(operand).value)


def test_what_replaces_a_value_takes_over_its_name():
    graph = chain()
    editor = Editor(graph)
    for node in list(editor.nodes())[:2]:
        replaced(editor, node, lambda x: ops.cos(ops.relu(x)))
    after = editor.finish()
    after.check()
    assert [value.name for value in after.outputs] == ["tanh_0", "sin_0"]
    assert computed(after) == {"relu_0": "relu", "exp_0": "cos", "relu_1": "relu", "tanh_0": "cos", "sin_0": "sin"}
    assert computed(graph) == {"exp_0": "exp", "tanh_0": "tanh", "sin_0": "sin"}  # as it was


def test_one_value_for_two_has_the_first_ones_name():
    builder = Builder()
    x = builder.input("x", (4,))
    editor = Editor(builder.build(ops.exp(x), ops.exp(x)))
    first, second = editor.nodes()
    replaced(editor, first, ops.cos)
    editor.replace(second.output, editor.resolve(first.output))
    after = editor.finish()
    assert [value.name for value in after.outputs] == ["exp_0", "exp_0"]


def test_what_was_there_keeps_its_name():
    editor = Editor(chain())
    first, second, _ = editor.nodes()
    editor.replace(second.output, first.output)
    after = editor.finish()
    assert [value.name for value in after.outputs] == ["exp_0", "sin_0"]


def test_a_name_is_not_taken_from_what_is_still_read():
    editor = Editor(chain())
    first, second, _ = editor.nodes()
    editor.replace(second.output, ops.cos(Tensor(editor.builder, first.output)).value)
    after = editor.finish()
    after.check()
    assert computed(after) == {"exp_0": "exp", "tanh_0": "cos", "sin_0": "sin"}


def ancestors(editor, values):
    """Of a graph as it is, without what the editor keeps to be faster."""
    found, waiting = set(), [editor.producer(value) for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [editor.producer(value) for value in node.inputs]
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_depends_on_what(seed):
    """While values are replaced by others: by such as are computed later, too, and of nodes that are gone."""
    generator = random.Random(seed)
    builder = Builder()
    tensors = [builder.input(name, (4,)) for name in "xyz"]
    for _ in range(30):
        tensors.append(generator.choice(tensors[-8:]) + generator.choice(tensors[-20:]))
    editor = Editor(builder.build(*generator.sample(tensors[3:], 6)))
    values = [tensor.value for tensor in tensors[3:]]
    answers = {True: 0, False: 0}
    for _ in range(60):
        asked, on = generator.sample(values, 3), generator.sample(values, 2)
        nodes = {editor.producer(value) for value in on} - {None}
        wanted = not nodes.isdisjoint(ancestors(editor, asked))
        assert editor.depends(asked, nodes) == wanted
        answers[wanted] += 1
        old = generator.choice(values)
        node = editor.producer(old)
        others = [value for value in values if node is None or node not in ancestors(editor, [value])]
        if node is None or len(others) < 2:
            continue
        one, other = (Tensor(editor.builder, editor.resolve(each)) for each in generator.sample(others, 2))
        new = (one + other).value
        values.append(new)
        editor.replace(old, new)
    assert min(answers.values()) > 3
    editor.finish().check()
