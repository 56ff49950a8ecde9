"""The host's share of a call on a GPU, by the way the inputs come. Needs torch there, and no Paddle.

    python benchmarks/gpu_call_overhead.py [--steps 200]

The plan copies small buffers `--steps` times: its time on the device is of no interest, and the queue is emptied after
each call. `bare` is cuGraphLaunch of the same graph. Microseconds, median and 90th percentile.
"""

import argparse
import importlib.util
import statistics
import time

import torch

from jitinfer.graph.types import numpy_dtype
from jitinfer.runtime import Buffer, Copy, Device, Executor, Plan, Pointer
from jitinfer.runtime.driver import driver

SHAPES = {"x": ((2, 4, 32, 32), "bfloat16"), "t": ((2,), "int64"), "y": ((2, 16, 64), "float32")}


class Interface:
    """As CuPy's arrays give themselves, with their stream."""

    def __init__(self, tensor, stream):
        self.tensor = tensor
        number = stream.cuda_stream or 1
        self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, "version": 3, "stream": number}


def executor_of(steps, shapes):
    buffers = []
    for placement, suffix in (("input", ""), ("output", "_out")):
        for name, (shape, dtype) in shapes.items():
            nbytes = int(torch.Size(shape).numel()) * numpy_dtype(dtype).itemsize
            buffers.append(Buffer(name + suffix, nbytes, placement, 0, shape, dtype))
    sizes = {buffer.name: buffer.nbytes for buffer in buffers}
    names = list(shapes)
    copies = tuple(
        Copy(Pointer(name), Pointer(name + "_out"), sizes[name])
        for name in (names[step % len(names)] for step in range(steps))
    )
    device = Device.of(0)
    plan = Plan(
        device.compute_capability, 0, tuple(buffers), copies, (), tuple(names), tuple(f"{n}_out" for n in names)
    )
    return Executor(plan, None, device)


def measured(call, repeats):
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    costs = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        costs.append(1e6 * (time.perf_counter() - started))
        torch.cuda.synchronize()
    return statistics.median(costs), statistics.quantiles(costs, n=10)[-1]


def cupy_calls(executor, tensors, stream):
    """Where CuPy is."""
    if importlib.util.find_spec("cupy") is None:
        return {}
    import cupy

    arrays = [cupy.asarray(each) for each in tensors]
    cupy.cuda.ExternalStream(stream.cuda_stream).use()
    return {"CuPy, same stream": lambda: executor.enqueue(arrays, stream.cuda_stream)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1000)
    arguments = parser.parse_args()
    executor = executor_of(arguments.steps, SHAPES)
    tensors = [torch.zeros(shape, dtype=getattr(torch, dtype), device="cuda") for shape, dtype in SHAPES.values()]
    stream, other = torch.cuda.Stream(), torch.cuda.Stream()
    plain = executor_of(arguments.steps, {name: (shape, "float32") for name, (shape, _) in SHAPES.items()})
    floats = [torch.zeros(shape, device="cuda") for shape, _ in SHAPES.values()]
    described = [Interface(each, stream) for each in floats]
    launch, graph, handle = driver().cuGraphLaunch, executor._graph, stream.cuda_stream
    with torch.cuda.stream(stream):
        torch.cuda.synchronize()
        calls = {
            "bare": lambda: launch(graph, handle),
            "inputs in place": lambda: executor.enqueue(executor.inputs, handle),
            "torch, same stream": lambda: executor.enqueue(tensors, handle),
            "torch, another stream": lambda: executor.enqueue(tensors, other.cuda_stream),
            "__cuda_array_interface__, same stream": lambda: plain.enqueue(described, handle),
            "__cuda_array_interface__, another stream": lambda: plain.enqueue(described, other.cuda_stream),
            "torch in, torch.from_dlpack out": lambda: [
                torch.from_dlpack(each) for each in executor.enqueue(tensors, handle)
            ],
        }
        calls |= cupy_calls(plain, floats, stream)
        figures = {name: measured(call, arguments.repeats) for name, call in calls.items()}
    print(f"{torch.cuda.get_device_name()}, {arguments.steps} steps, us{'':10} median      p90  above bare")
    for name, (median, most) in figures.items():
        print(f"{name:42} {median:8.1f} {most:8.1f} {median - figures['bare'][0]:11.1f}")


if __name__ == "__main__":
    main()
