"""Several devices in one process: each with sessions, weights, tensors, tuning and threads of its own."""

import threading

import numpy
import pytest
from gpu import GPU_MARKS, PROBLEM, device_target
from test_lower import transformer

from jitinfer.errors import ArgumentError
from jitinfer.graph import evaluate
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import FirstThatCompiles, compile_graph
from jitinfer.lowering.tuning import Tuner
from jitinfer.runtime import Device, device_count
from jitinfer.runtime.driver import call
from jitinfer.runtime.model import Session
from jitinfer.testing import random_array

DEVICES = 0 if PROBLEM else device_count()
ROUNDS = 20
pytestmark = [*GPU_MARKS, pytest.mark.skipif(DEVICES < 2, reason="there is no second device")]


@pytest.fixture(scope="module")
def graphs():
    return transformer()


@pytest.fixture(scope="module")
def model(graphs):
    with Compiler(device_target()) as compiler:
        return compile_graph(graphs[1], device_target(), FirstThatCompiles(compiler))[0]


def inputs_of(graph, seed):
    return [random_array(value.type, 10 * seed + number) for number, value in enumerate(graph.inputs)]


def weights_of(graph, seed):
    return [random_array(value.type, 100 * (seed + 1) + number) / 8 for number, value in enumerate(graph.parameters)]


def require_right(graph, found, inputs, weights):
    (exact,) = evaluate(graph, inputs, weights, arithmetic="float64")
    numpy.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


def current_context():
    return int(call("cuCtxGetCurrent"))


def test_each_has_its_own_weights_and_threads(graphs, model):
    """Two threads on each device and one that goes from device to device, all at once."""
    before = current_context()
    weights = [weights_of(graphs[0], number) for number in range(DEVICES)]
    sessions = [Session(model, each, number) for number, each in enumerate(weights)]
    inputs = [inputs_of(graphs[0], seed) for seed in range(3)]
    wanted = [[session.run(each)[0] for each in inputs] for session in sessions]
    for number, results in enumerate(wanted):
        for found, each in zip(results, inputs, strict=True):
            require_right(graphs[0], found, each, weights[number])
    failures = []

    def work(numbers):
        try:
            for turn in range(ROUNDS):
                number, seed = numbers[turn % len(numbers)], turn % len(inputs)
                assert numpy.array_equal(sessions[number].run(inputs[seed])[0], wanted[number][seed])
        except BaseException as error:
            failures.append(error)

    shares = [*([number] for number in range(DEVICES) for _ in range(2)), list(range(DEVICES))]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert current_context() == before
    for session in sessions:
        session.close()


def test_tensors_stay_on_their_device(graphs, model):
    torch = pytest.importorskip("torch")
    weights = weights_of(graphs[0], 0)
    session = Session(model, weights, 1)
    given = inputs_of(graphs[0], 1)
    there = [torch.from_numpy(each).to("cuda:1") for each in given]
    stream = torch.cuda.Stream("cuda:1")
    with torch.cuda.stream(stream):
        (found,) = session.enqueue(there, stream.cuda_stream)
        result = torch.from_dlpack(found)
    assert result.device == torch.device("cuda:1")
    require_right(graphs[0], result.cpu().numpy(), given, weights)
    assert torch.cuda.current_device() == 0
    with pytest.raises(ArgumentError, match="lies on device 0, the plan on 1"):
        session.enqueue([each.to("cuda:0") for each in there])
    session.close()


def test_kernels_are_timed_on_the_device_that_they_are_for(graphs):
    for number in range(2):
        device = Device.of(number)
        with Compiler(device_target()) as compiler:
            tuner = Tuner(compiler, device, seconds=20, most=2)
            tuned, _ = compile_graph(graphs[1], device_target(), tuner)
            assert tuner.measured
        weights = weights_of(graphs[0], 2)
        session = Session(tuned, weights, device)
        given = inputs_of(graphs[0], 2)
        require_right(graphs[0], session.run(given)[0], given, weights)
        session.close()
