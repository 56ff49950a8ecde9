"""Several copies by one kernel: which are, with which arguments, and that every byte of them arrives and no other."""

import logging

import numpy
import pytest
from gpu import needs_gpu

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.runtime import Device
from jitinfer.runtime.device_copies import MOST_BYTES, MOST_MOVES, DeviceCopies
from jitinfer.runtime.driver import call
from jitinfer.runtime.resources import Resources

STREAM = 9


@pytest.fixture
def calls(cuda, monkeypatch):
    """The driver's calls that copy."""
    made = []
    for name in ("cuLaunchKernel", "cuMemcpyDtoDAsync"):
        original = getattr(cuda, name)

        def record(*arguments, name=name, original=original):
            made.append((name, *arguments))
            return original(*arguments)

        monkeypatch.setattr(cuda, name, record)
    return made


def arranged(sizes, seed=0):
    """Sources, destinations, and the moves between them."""
    generator = numpy.random.default_rng(seed)
    sources = [generator.integers(0, 256, size, numpy.uint8) for size in sizes]
    destinations = [numpy.full(size, 0xA5, numpy.uint8) for size in sizes]
    pairs = zip(destinations, sources, strict=True)
    return sources, destinations, [(to.ctypes.data, of.ctypes.data, of.nbytes) for to, of in pairs]


def copied(sizes):
    sources, destinations, moves = arranged(sizes)
    with Device.of(0).current():
        DeviceCopies(0).queue(moves, STREAM)
    for to, of in zip(destinations, sources, strict=True):
        assert numpy.array_equal(to, of)


def launches_and_sizes(calls):
    """Of the kernel the launches, and of the driver's copies the bytes."""
    launches = [arguments for name, *arguments in calls if name == "cuLaunchKernel"]
    return launches, [arguments[2] for name, *arguments in calls if name == "cuMemcpyDtoDAsync"]


def test_small_moves_are_one_launch(calls):
    copied([5, 4096, 3 * 4096 + 1])
    (launch,), sizes = launches_and_sizes(calls)
    assert launch[:9] == [b"copy_moves", 4, 3, 1, 256, 1, 1, 0, STREAM]
    assert not sizes


def test_large_moves_go_by_the_driver(calls):
    copied([7, MOST_BYTES + 1, MOST_BYTES])
    (launch,), sizes = launches_and_sizes(calls)
    assert launch[2] == 2
    assert sizes == [MOST_BYTES + 1]


@pytest.mark.parametrize("sizes", [[64], [64, MOST_BYTES + 16]])
def test_one_small_move_is_a_copy(calls, sizes):
    copied(sizes)
    assert launches_and_sizes(calls) == ([], sizes)


@pytest.mark.parametrize("count", [MOST_MOVES - 1, MOST_MOVES, MOST_MOVES + 1, 2 * MOST_MOVES + 3])
def test_any_number_of_moves(calls, count):
    copied(range(1, count + 1))
    assert len(launches_and_sizes(calls)[0]) == -(-count // MOST_MOVES)


def test_where_the_driver_has_no_compiler_each_is_a_copy(cuda, calls, monkeypatch, caplog):
    monkeypatch.setattr(cuda, "cuModuleLoadData", lambda code: (cuda.CUresult.CUDA_ERROR_INVALID_VALUE, None))
    with caplog.at_level(logging.INFO, "jitinfer.runtime"):
        copied([3, 4])
        copied([3, 4])
    assert launches_and_sizes(calls) == ([], [3, 4, 3, 4])
    assert len([each for each in caplog.messages if "by a call of its own" in each]) == 1


def test_failures_are_those_of_the_call(cuda, calls, monkeypatch):
    _, _, moves = arranged([3, 4])
    with Device.of(0).current():
        copies = DeviceCopies(0)
        monkeypatch.setattr(cuda, "cuLaunchKernel", lambda *_: (cuda.CUresult.CUDA_ERROR_INVALID_VALUE,))
        with pytest.raises(DeviceError, match="copying the inputs: "):
            DeviceCopies(0).queue(moves, STREAM)
    cuda.lost = True
    with pytest.raises(DeviceLostError):
        copies.queue(moves, STREAM)


@needs_gpu
@pytest.mark.parametrize("seed", range(20))
def test_on_a_device(seed):
    """Sizes and places of all kinds, aligned or not; what lies between the destinations stays as it was."""
    generator = numpy.random.default_rng(seed)
    count = int(generator.integers(2, 40))
    sizes = [int(2 ** generator.uniform(0, 20.1)) for _ in range(count)]
    aligned = generator.random() < 0.5
    starts, end = [], 0
    for size in sizes:
        starts.append(end + (0 if aligned else int(generator.integers(0, 32))))
        end = -(-(starts[-1] + size) // 16) * 16 + 16
    source = generator.integers(0, 256, end, numpy.uint8)
    wanted = numpy.full(end, 0xA5, numpy.uint8)
    shift = 0 if aligned else int(generator.integers(0, 4))  # source and destination not aligned alike
    for start, size in zip(starts, sizes, strict=True):
        wanted[start : start + size] = source[start - shift : start - shift + size] if start >= shift else source[:size]
    resources = Resources(Device.of(0))
    with Device.of(0).current():
        of, to = (resources.memory(end, "a test") for _ in range(2))
        stream = resources.stream()
        call("cuMemcpyHtoD", of, source.ctypes.data, end)
        call("cuMemsetD8", to, 0xA5, end)
        call("cuCtxSynchronize")
        pairs = zip(starts, sizes, strict=True)
        moves = [(to + start, of + (start - shift if start >= shift else 0), size) for start, size in pairs]
        DeviceCopies(0).queue(moves, stream)
        call("cuStreamSynchronize", stream)
        found = numpy.empty(end, numpy.uint8)
        call("cuMemcpyDtoH", found.ctypes.data, to, end)
    resources.close()
    assert numpy.array_equal(found, wanted)
