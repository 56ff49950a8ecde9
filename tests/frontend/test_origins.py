"""Every operation knows the line and the layers of the model that it comes from."""

import inspect

import paddle
from graphs import imported
from paddle import nn

from jitinfer.frontend.origins import packed, unpacked
from jitinfer.graph import Origin
from jitinfer.passes import run_passes


class Gate(nn.Layer):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        hidden = paddle.tanh(self.up(x))
        return x + self.down(hidden)  # back


class Model(nn.Layer):
    def __init__(self):
        super().__init__()
        self.gates = nn.LayerList([Gate(), Gate()])

    def forward(self, x):
        for gate in self.gates:
            x = gate(x)
        if x.sum() > 0:  # decision
            x = self.gates[0](x)
        return paddle.exp(x)  # end


def line(of, text):
    lines, first = inspect.getsourcelines(of)
    return f"{__file__}:{first + next(i for i, each in enumerate(lines) if text in each)}"


def origins():
    model = Model()
    return imported(model.forward, {"x": paddle.rand([2, 4])}, layer=model).graph


def test_nodes_name_the_line_of_the_model_not_of_paddle():
    graph = origins()
    places = {node.op.name: node.origin.place for node in graph.nodes}
    assert places["tanh"] == line(Gate.forward, "tanh")
    assert places["exp"] == line(Model.forward, "# end")
    assert places["greater"] == line(Model.forward, "# decision")


def test_nodes_name_the_layers_of_their_calls():
    graph = origins()
    layers = [node.origin.layer for node in graph.nodes if node.op.name == "matmul"]
    assert layers == [f"/Gate_{gate}/Linear_{linear}" for gate in range(2) for linear in range(2)]
    assert [node.origin.layer for node in graph.nodes if node.op.name == "tanh"] == ["/Gate_0", "/Gate_1"]
    assert [node.origin.layer for node in graph.nodes if node.op.name in ("greater", "exp")] == ["", ""]
    (decision,) = [node for node in graph.nodes if node.op.name == "conditional"]
    inside = [node.origin.layer for node in decision.then.nodes if node.op.name == "matmul"]
    assert inside == ["/Gate_2/Linear_0", "/Gate_2/Linear_1"]


def test_passes_keep_origins():
    after, _ = run_passes(origins())
    for node in after.nodes:
        assert node.origin.place, node.op.name


def test_two_traces_have_equal_origins():
    first, second = origins(), origins()
    assert [node.origin for node in first.walk()] == [node.origin for node in second.walk()]


def test_origins_survive_packing():
    some = (Origin("a.py:1", "/A_0"), Origin("a.py:1", ""), Origin(), Origin("a.py:2", "/A_0"))
    assert unpacked(packed(some)) == some
    assert unpacked(packed(())) == ()
