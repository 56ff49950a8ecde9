"""A saved graph on a GPU with and without products in parts of their sums, in turn. Needs torch there, and no Paddle.

    python benchmarks/gpu_parts.py GRAPH [--dtype bfloat16] [--most 2]

GRAPH as `benchmarks/save_graphs.py` writes it. All that is offered for a node is timed, whatever time that takes; both
programs have the same kernels but for the products that are faster in 2 to --most parts, with the norms behind them.
Prints the sequences that were timed to find that out, errors relative to float32 by torch, and the times of a forward.
"""

import argparse
import tempfile

import compile_model
import torch
import torch_graph
from device_timing import in_turn

from jitinfer.cache import Cache
from jitinfer.kernels.target import Target
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.lowering import compile_graph
from jitinfer.lowering.arrangement import arranged
from jitinfer.lowering.tuning import Tuner
from jitinfer.passes import default, run_passes
from jitinfer.runtime import Device
from jitinfer.runtime.model import Session, Shared


class Telling(Tuner):
    """Prints the times of the sequences, each kind of them once."""

    def times_of(self, sequences):
        before = self.measured
        times = super().times_of(sequences)
        if self.measured > before:
            for work, each in zip(sequences, times, strict=True):
                steps = [f"{node.op.name} {node.outputs[0].type} by {choice.family}" for node, choice in work]
                print(f"{each:8.2f} us  {', '.join(steps)}", flush=True)
        return times


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("graph")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--most", type=int, default=2)
    given = parser.parse_args()
    graph = compile_model.read(given.graph)
    after, _ = run_passes(graph, arranged(default(), given.dtype))
    device = Device.of(0)
    target, models = Target.of(device), {}
    with tempfile.TemporaryDirectory() as folder:
        store = Cache(folder)
        for most in (given.most, 1):
            with Compiler(target, store) as compiler:
                tuner = Telling(compiler, device, store, most_parts=most)
                model, lowered = compile_graph(after, target, tuner, timer=tuner)
            name = f"{len(lowered.parts)} products in parts" if most > 1 else "none"
            models[name] = model
    weights, inputs = torch_graph.random_weights(graph), torch_graph.random_inputs(graph)
    with torch.inference_mode():
        (wanted,) = torch_graph.evaluate(graph, inputs, weights)
    shared, runs = Shared(device), {}
    stream = torch.cuda.current_stream().cuda_stream
    for name, model in models.items():
        session = Session(model, weights, device, shared=shared)
        (result,) = session.enqueue(inputs)
        torch.cuda.synchronize()
        print(f"{name}: error {torch_graph.relative_error(torch.from_dlpack(result), wanted):.4f}")
        runs[name] = lambda session=session: session.enqueue(session.inputs, stream)
    for name, each in in_turn(runs).items():
        print(f"{name}: {each.median:.4f} ms ({each.low:.4f} to {each.high:.4f})")


if __name__ == "__main__":
    main()
