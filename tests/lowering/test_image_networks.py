"""Real networks of images lower completely: no node is without a kernel."""

import pytest
from architectures import DIFFUSION, VISION
from graphs import imported
from lowered_graphs import lowered, without_kernels
from models import build, unet, vae_decode

OTHERS = ("mobilenet_v3_small", "resnext50_32x4d", "shufflenet_v2_x0_25", "Swin", "AutoencoderTiny")
NETWORKS = {"unet": unet, "vae_decode": vae_decode, **{name: {**VISION, **DIFFUSION}[name] for name in OTHERS}}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_nodes_have_kernels(name):
    case = build(NETWORKS[name])
    graph = imported(case.function, case.tensors, case.arguments, case.layer).graph
    for precision in ("float32", "bfloat16"):
        assert without_kernels(lowered(graph, precision)) == []
