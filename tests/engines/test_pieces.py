"""Programs of which the CUDA engine runs a part, with NumPy in place of the device."""

import inspect
import logging
from types import SimpleNamespace

import numpy
import paddle
import pytest
from gpu import needs_gpu
from reference import assert_same, compiled

import jitinfer
from jitinfer.cache import Cache, cache_location
from jitinfer.engines import cuda, cuda_needs
from jitinfer.engines.pieces import Composition, Division
from jitinfer.engines.protocol import Request
from jitinfer.engines.stages import Stages
from jitinfer.errors import EngineError, UnsupportedOpError
from jitinfer.frontend import partition
from jitinfer.frontend.partition import FLOPS_FOR_A_BYTE
from jitinfer.frontend.tracing import trace, type_of
from jitinfer.frontend.translator import translated_root
from jitinfer.graph import evaluate
from jitinfer.graph.text import call_text
from jitinfer.kernels.target import Target
from jitinfer.lowering.work import unsupported
from jitinfer.options import resolve
from jitinfer.runtime.device import Device
from jitinfer.runtime.model import Session

functional = paddle.nn.functional
H100 = Target.named(90)


class NumpyReference:
    """A piece for the device, evaluated by NumPy."""

    def __init__(self, graph, parameters):
        assert not parameters
        self.graph, self.outputs = graph, ()

    def run(self, inputs):
        self.outputs = evaluate(self.graph, [numpy.array(each) for each in inputs])
        return self.outputs


class NumpySession(Session):
    """The graph of a device, evaluated by NumPy; refuses what has no kernel as lowering does."""

    made = ()
    outputs = ()

    def __init__(self, graph, parameters, executable):
        lacking = unsupported(graph, H100)
        if lacking:
            raise UnsupportedOpError(f"{call_text(lacking[0])} has no CUDA kernel")
        graph.check()
        self.graph, self.parameters, self.executable = graph, parameters, executable
        self.model = SimpleNamespace(plan=SimpleNamespace(steps=graph.nodes))
        NumpySession.made = (*NumpySession.made, self)

    def run(self, inputs):
        weights = [self.executable._weights[position] for position in self.parameters]
        self.outputs = evaluate(self.graph, [numpy.array(each) for each in inputs], weights)
        return [each.copy() for each in self.outputs]


@pytest.fixture
def stand_in(monkeypatch):
    """`engine="cuda"` where there is no device. Small shapes are worth their way to it."""
    device = Device(0, "a stand-in", 90, H100.sm_count, H100.shared_memory, H100.l2_bytes, 80 * 2**30, 13000)
    monkeypatch.setattr(cuda, "Device", SimpleNamespace(of=lambda index: device))
    monkeypatch.setattr(cuda_needs, "device_problem", lambda: None)
    monkeypatch.setattr(
        cuda.CudaExecutable, "_loaded", lambda self, graph, parameters: NumpySession(graph, parameters, self)
    )
    monkeypatch.setattr(partition, "FLOPS_FOR_A_BYTE", 0)
    NumpySession.made = ()


def on_cuda(function, **options):
    return jitinfer.inference(function, engine="cuda", **options)


def pieces_of(function):
    """Which pieces the only program of a compiled function has: "d" on the device, "p" by Paddle."""
    assert compiled(function) == 1
    (session,) = function.specializations[0].executable._sessions.values()
    if isinstance(session, NumpySession):
        return "d"
    return "".join("d" if isinstance(runner, Session) else "p" for runner in session.runners)


def line(of, text):
    lines, first = inspect.getsourcelines(of)
    return f"{__file__}:{first + next(i for i, each in enumerate(lines) if text in each)}"


class Model(paddle.nn.Layer):
    """`middle` between two linear layers and their activations."""

    def __init__(self, middle, width=16, inner=16):
        super().__init__()
        self.middle = middle
        self.first, self.last = paddle.nn.Linear(width, inner), paddle.nn.Linear(inner, width)

    def forward(self, x):
        y = functional.gelu(self.first(x))
        y = self.middle(y) + y
        return x + self.last(functional.silu(y))


def opaque(y):
    return paddle.linalg.inv(paddle.matmul(y, y, transpose_x=True) + paddle.eye(16))[:1] * y


def dropped(y):
    return functional.dropout(y, 0.5, training=True)


def drawn(y):
    """Several generators' numbers, in an order that the device's part in between must not change."""
    noise = paddle.rand(y.shape) - paddle.randn([y.shape[0], 1])
    return functional.linear(functional.dropout(y, 0.5, training=True), noise[:1] * paddle.eye(16)) + paddle.rand([16])


def branch(y):
    if y.sum() > 0:  # noqa: SIM108 (Paddle translates statements, not expressions)
        z = paddle.tanh(y)
    else:
        z = y - 1
    return z * 2


def rounds(y):
    while y.abs().sum() > 1:
        y = y * 0.5
    return y


def listed(y):
    a, b = paddle.split(functional.dropout(y, 0.25, training=True), 2, axis=1)
    return paddle.concat([b * 2, a], axis=1)


def as_complex(y):
    z = paddle.as_complex(y.reshape([-1, 8, 2]))
    z = z * paddle.linalg.inv(paddle.eye(8)).sum()
    return paddle.as_real(z).reshape([-1, 16])


def shaped(y):
    """What Paddle's part reads of shapes is computed elsewhere, or known."""
    size = paddle.shape(y)[0] * 2
    z = paddle.expand(paddle.linalg.inv(paddle.eye(16))[:1], [size, 16])
    return y + paddle.nn.functional.dropout(z, 0.5, training=True)[: y.shape[0]]


def sorted_values(y):
    """Dims that depend on data stay with Paddle."""
    return y + paddle.unique(y).sum()


def twice(y):
    return dropped(functional.linear(dropped(y), paddle.ones([16, 16])))


MIDDLES = {
    opaque: "dpd",
    dropped: "dpd",
    drawn: "dpd",
    branch: "dpd",
    rounds: "dpd",
    listed: "dpd",
    as_complex: "pdpd",
    shaped: "pdpd",
    sorted_values: "dpd",
    twice: "dpdpd",
}


@pytest.mark.parametrize("middle", MIDDLES, ids=lambda middle: middle.__name__)
@pytest.mark.usefixtures("stand_in")
def test_what_has_no_kernel_runs_by_paddle(middle):
    model = Model(middle)
    x = paddle.randn([4, 16])
    fast = on_cuda(model)
    paddle.seed(7)
    results = [fast(x) for _ in range(3)]
    assert pieces_of(model.forward) == MIDDLES[middle]
    paddle.seed(7)
    for result in results:
        assert_same(result, Model.forward(model, x))


@pytest.mark.usefixtures("stand_in")
def test_a_recurrent_network_in_the_middle():
    class Recurrent(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.last = paddle.nn.Linear(8, 64), paddle.nn.Linear(8, 512)
            self.lstm = paddle.nn.LSTM(64, 8)

        def forward(self, x):
            y, (state, _) = self.lstm(functional.gelu(self.first(x)))
            return self.last(y), state

    model = Recurrent()
    model.eval()
    x = paddle.randn([2, 5, 8])
    fast = on_cuda(model)
    assert_same(fast(x), Recurrent.forward(model, x))
    assert pieces_of(model.forward) == "dpd"
    assert "pd_op.rnn" in model.forward.explain()


@pytest.mark.usefixtures("stand_in")
def test_convolutions_between_products_stay_on_the_device():
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.last = paddle.nn.Linear(16, 64), paddle.nn.Linear(16, 256)
            self.conv = paddle.nn.Conv2D(1, 1, 3, padding=1)

        def forward(self, x):
            y = functional.silu(self.conv(self.first(x).reshape([-1, 1, 8, 8])))
            return self.last(y.reshape([-1, 16]))

    model = Net()
    model.eval()
    x = paddle.randn([4, 16])
    fast = on_cuda(model)
    assert_same(fast(x), Net.forward(model, x))
    assert pieces_of(model.forward) == "d"


@pytest.mark.usefixtures("stand_in")
def test_what_is_found_is_told_once(caplog):
    model = Model(dropped)
    fast = on_cuda(model)
    with caplog.at_level(logging.WARNING, "jitinfer"):
        fast(paddle.randn([4, 16]))
        fast(paddle.randn([4, 16]))
    (told,) = [record.getMessage() for record in caplog.records]
    place = line(dropped, "functional.dropout")
    assert f"pd_op.dropout(float32[4, 16], float32[1]) at {place} has no CUDA kernel" in told
    (specialization,) = model.forward.specializations
    assert told.split(": ", 1)[1].partition(" (fallback")[0] in specialization.notes
    assert "some pieces by Paddle" in specialization.description


@pytest.mark.usefixtures("stand_in")
def test_the_passes_of_each_piece_are_told():
    model = Model(dropped)
    on_cuda(model)(paddle.randn([4, 16]))
    told = model.forward.explain(passes=True, graph=True)
    assert told.count("passes on the graph of a piece of ") == 2
    assert line(Model.forward, "gelu(self.first") in told


@pytest.mark.usefixtures("stand_in")
def test_new_weights_reach_all_pieces():
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.last = paddle.nn.Linear(16, 16), paddle.nn.Linear(16, 64)
            self.rnn = paddle.nn.SimpleRNN(16, 16)

        def forward(self, x):
            return self.last(self.rnn(functional.gelu(self.first(x)))[0])

    model = Net()
    x = paddle.randn([2, 3, 16])
    fast = on_cuda(model)
    fast(x)
    with paddle.no_grad():
        for parameter in model.parameters():
            parameter.set_value(paddle.randn(parameter.shape) / 4)
    assert_same(fast(x), Net.forward(model, x))
    assert pieces_of(model.forward) == "dpd"


@pytest.mark.usefixtures("stand_in")
def test_other_shapes_are_divided_anew():
    model = Model(branch)
    fast = on_cuda(model, dynamic_shapes={"x": {0: (1, 8)}})
    for rows in (4, 2, 4, 8):
        x = paddle.randn([rows, 16])
        assert_same(fast(x), Model.forward(model, x))
    assert compiled(model.forward) == 1
    (specialization,) = model.forward.specializations
    assert len(specialization.executable._sessions) == 3


@pytest.mark.usefixtures("stand_in")
def test_many_values_at_a_border_keep_their_order():
    def function(x):
        parts = [functional.linear(x, paddle.full([16, 16], 0.1 * i)) for i in range(12)]
        noisy = [functional.dropout(each, 0.5, training=True) * 2 for each in parts]
        return [functional.linear(each, paddle.eye(16) * i) for i, each in enumerate(noisy)]

    fast = on_cuda(function)
    x = paddle.randn([4, 16])
    paddle.seed(3)
    results = fast(x)
    paddle.seed(3)
    assert_same(results, function(x))
    assert pieces_of(fast) == "dpd"


@pytest.mark.usefixtures("stand_in")
def test_pieces_of_layers_that_are_alike_are_alike():
    class Layers(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.layers = paddle.nn.LayerList([paddle.nn.Linear(16, 16) for _ in range(4)])

        def forward(self, x):
            for layer in self.layers:
                x = functional.dropout(functional.gelu(layer(x)), 0.5, training=True)
            return x

    model = Layers()
    on_cuda(model)(paddle.randn([4, 16]))
    assert pieces_of(model.forward) == "dpdpdpdp"
    pieces = NumpySession.made
    assert len({each.graph.hash for each in pieces}) == 1
    assert len({tuple(value.name for value in each.graph.parameters) for each in pieces}) == 1
    assert len({each.parameters for each in pieces}) == len(pieces) == 4


@pytest.mark.usefixtures("stand_in")
def test_what_is_written_in_place_changes_nothing_else():
    def function(x):
        y = paddle.matmul(x, x)
        z = functional.dropout(y, 0.5, training=True)
        z.add_(paddle.rand([4, 4]))
        return paddle.matmul(y, y), paddle.matmul(z, z), x + 0.0

    fast = on_cuda(function)
    x = paddle.randn([4, 4])
    before = x.numpy().copy()
    paddle.seed(3)
    results = fast(x)
    paddle.seed(3)
    assert_same(results, function(x))
    assert numpy.array_equal(x.numpy(), before)


@pytest.mark.usefixtures("stand_in")
def test_bfloat16_on_the_device_and_float32_by_paddle():
    model = Model(dropped)
    x = paddle.randn([4, 16])
    fast = on_cuda(model, precision_mode="bfloat16")
    paddle.seed(3)
    result = fast(x)
    paddle.seed(3)
    assert_same(result, Model.forward(model, x), relative=0.05)
    assert pieces_of(model.forward) == "dpd"
    assert all(value.dtype == "float32" for each in NumpySession.made for value in each.graph.inputs)
    assert {"bfloat16"} <= {
        value.dtype for each in NumpySession.made for node in each.graph.nodes for value in node.outputs
    }


@pytest.mark.usefixtures("stand_in")
def test_a_program_that_has_all_kernels_is_whole():
    model = Model(functional.relu)
    x = paddle.randn([4, 16])
    assert_same(on_cuda(model)(x), Model.forward(model, x))
    assert pieces_of(model.forward) == "d"
    assert "Paddle" not in model.forward.explain()


@pytest.mark.usefixtures("stand_in")
def test_it_can_be_forbidden():
    model = Model(dropped)
    fast = on_cuda(model, fallback="error")
    place = line(dropped, "functional.dropout")
    with pytest.raises(EngineError, match=rf"pd_op.dropout\(float32\[4, 16\], .*{place}.* has no CUDA kernel"):
        fast(paddle.randn([4, 16]))


@pytest.mark.usefixtures("stand_in")
def test_pieces_are_neither_saved_nor_profiled(tmp_path):
    model = Model(dropped)
    x = paddle.randn([4, 16])
    on_cuda(model)(x)
    with pytest.raises(EngineError, match="1 of 3 pieces run on Paddle"):
        jitinfer.profile(model, x)
    with pytest.raises(EngineError, match=r"no program of the device's alone: 1 of 3 pieces .*pd_op\.dropout"):
        model.forward.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: paddle.linalg.inv(x), "is all"),
        (lambda x: paddle.linalg.svd(paddle.matmul(x, x))[0], r"\d+% of the work|is all"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_where_nothing_worth_it_is_left_all_runs_dynamically(function, reason, monkeypatch, caplog):
    monkeypatch.setattr(partition, "FLOPS_FOR_A_BYTE", FLOPS_FOR_A_BYTE)
    fast = on_cuda(function)
    x = paddle.randn([4, 4])
    with caplog.at_level(logging.WARNING, "jitinfer"):
        assert_same(fast(x), function(x))
    (specialization,) = fast.specializations
    assert specialization.executable is None
    assert "has no CUDA kernel, and with the neighbours that" in caplog.text


@pytest.mark.usefixtures("stand_in")
def test_most_of_the_work_on_the_host_is_refused(caplog):
    lstm, last = paddle.nn.LSTM(16, 64), paddle.nn.Linear(64, 16)
    fast = on_cuda(lambda x: last(lstm(x)[0]))
    x = paddle.randn([2, 5, 16])
    with caplog.at_level(logging.WARNING, "jitinfer"):
        assert_same(fast(x), last(lstm(x)[0]))
    assert "% of the work" in caplog.text


@pytest.mark.usefixtures("stand_in")
def test_without_verification_random_numbers_are_drawn_once():
    model = Model(dropped)
    fast = on_cuda(model, verify="never")
    x = paddle.randn([4, 16])
    paddle.seed(7)
    results = [fast(x), fast(x)]
    paddle.seed(7)
    for result in results:
        assert_same(result, Model.forward(model, x))


@pytest.mark.usefixtures("stand_in")
def test_every_call_is_compared_if_asked_for():
    model = Model(drawn)
    fast = on_cuda(model, verify="always")
    x = paddle.randn([4, 16])
    paddle.seed(7)
    results = [fast(x) for _ in range(3)]
    assert compiled(model.forward) == 1
    paddle.seed(7)
    for result in results:
        assert_same(result, Model.forward(model, x))


def request_of(function, *tensors):
    found = trace(lambda symbols: translated_root(function)(*symbols), [type_of(each) for each in tensors], ())
    options = resolve({"engine": "cuda"}, {})
    cache = Cache(cache_location(None))
    return Request(found.program, found.parameters, tensors, options, cache, None, lambda call: call(), "function")


def block(x, mask):
    """Attention with rotary embeddings by complex numbers, and what else crosses borders in odd forms."""
    rows = paddle.arange(x.shape[1]).astype("float32").unsqueeze(1)
    turn = paddle.complex(paddle.cos(rows * 0.1), paddle.sin(rows * 0.1))
    q, k, v = paddle.split(functional.linear(x, paddle.eye(8).tile([1, 3]) * 0.3), 3, axis=-1)
    q, k = (
        paddle.as_real(paddle.as_complex(each.reshape([2, -1, 4, 2])) * turn).reshape([2, -1, 8]) for each in (q, k)
    )
    scores = paddle.matmul(q, k, transpose_y=True) / 8**0.5
    scores = paddle.where(mask, scores, paddle.full_like(scores, -1e9))
    y = paddle.matmul(functional.softmax(scores), v)
    best, places = paddle.topk(y.reshape([y.shape[0], -1]), k=3)
    table = paddle.zeros([2, 4]) + paddle.ones([4]) * x.shape[1]
    return y + x, best, places + 1, paddle.concat([table, best], axis=1), paddle.ones([3])


@pytest.mark.parametrize("seed", range(8))
def test_any_operations_may_be_paddles(seed):
    generator = numpy.random.default_rng(seed)
    tensors = paddle.randn([2, 5, 8]), paddle.rand([2, 5, 5]) > 0.3
    request = request_of(block, *tensors)
    stages = Stages(request)
    operations = stages.operations(tuple(tuple(each.shape) for each in tensors))
    chosen = generator.random(len(operations.tasks)) < generator.choice([0.1, 0.5, 0.9])
    host = {number for number, is_chosen in enumerate(chosen) if is_chosen}
    cuts = tuple(
        operations.program(piece) if piece.host else operations.graph(piece)
        for piece in partition.partition(operations.tasks, host, operations.results)
    )
    assert len(cuts) > 1
    composition = Composition(Division(operations, cuts, (), 0), [], NumpyReference, "function", request.options)
    results = composition.run([each.numpy() for each in tensors])
    assert_same([paddle.to_tensor(each) for each in results], list(block(*tensors)))


def test_a_sentence_names_each_kind_once():
    operations = SimpleNamespace()
    reasons = tuple(f"pd_op.{name}(float32[2]) at a.py:{line}" for line, name in enumerate("abacadefa", 1))
    told = str(Division(operations, (), reasons, 1))
    assert told == (
        "0 of 0 pieces run on Paddle: pd_op.a(float32[2]) at a.py:1 and at 3 other places, "
        "pd_op.b(float32[2]) at a.py:2, pd_op.c(float32[2]) at a.py:4, pd_op.d(float32[2]) at a.py:6, 2 other kinds "
        "have no CUDA kernel, and with them 1 operation next to them"
    )


class Deep(Model):
    """With more layers on either side: they compute enough for what they read and write to be worth its way."""

    def __init__(self, middle, width=512, inner=16):
        super().__init__(middle, width, inner)
        wide = [paddle.nn.Linear(width, width) for _ in range(4)]
        self.first = paddle.nn.Sequential(*wide[:2], paddle.nn.GELU(), self.first)
        self.last = paddle.nn.Sequential(self.last, paddle.nn.GELU(), *wide[2:])


DEEP = pytest.mark.parametrize("middle", [dropped, branch, opaque], ids=lambda middle: middle.__name__)


def require_deep(middle):
    model = Deep(middle)
    x = paddle.randn([1024, 512])
    fast = on_cuda(model, fallback="paddle")
    paddle.seed(7)
    results = [fast(x) for _ in range(3)]
    (session,) = model.forward.specializations[0].executable._sessions.values()
    assert len(session.runners) == 3
    paddle.seed(7)
    for result in results:
        assert_same(result, Model.forward(model, x), relative=1e-4)


@DEEP
@pytest.mark.usefixtures("stand_in")
def test_what_computes_much_stays_on_the_device(monkeypatch, middle):
    monkeypatch.setattr(partition, "FLOPS_FOR_A_BYTE", FLOPS_FOR_A_BYTE)
    require_deep(middle)


@needs_gpu
@DEEP
def test_on_a_device(middle):
    require_deep(middle)
