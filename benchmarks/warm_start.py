"""From a new process to the first result of a small DiT: nothing cached, the verdict cached, the trace cached, too.

    .venv/bin/python benchmarks/warm_start.py

Every row is a process of its own; importing Paddle and ppdiffusers and building the layer are not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3


def first_result(folder: str, static: bool) -> None:
    """The child: print the seconds."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import paddle
    import ppdiffusers
    from random_models import with_random_weights

    import jitinfer

    layer = ppdiffusers.Transformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    with_random_weights(layer, 0)
    steps, labels = paddle.to_tensor([5, 5]), paddle.to_tensor([1, 3])
    x = paddle.randn([2, 4, 8, 8])
    started = time.perf_counter()
    jitinfer.inference(layer, save_model_dir=folder, cache_static_model=static)
    layer(x, timestep=steps, class_labels=labels)
    print(time.perf_counter() - started)


def measure(folder: str, static: bool) -> float:
    command = [sys.executable, __file__, folder, str(int(static))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    for static in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            cold = measure(folder, static)
            warm = sorted(measure(folder, static) for _ in range(ROUNDS))[ROUNDS // 2]
        print(f"cache_static_model={static!s:<5}  cold {cold:5.2f} s  warm {warm:5.2f} s (median of {ROUNDS})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        first_result(sys.argv[1], sys.argv[2] == "1")
    else:
        main()
