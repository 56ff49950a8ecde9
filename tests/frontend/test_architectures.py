"""Architectures of paddle.vision with random weights, as graphs: nothing opaque, and the results of the dynamic model.

Images are small: what is seen here are the operators, not the sizes.
"""

import paddle
import pytest
from graphs import imported
from paddle.vision import models

from jitinfer.graph import parse
from jitinfer.passes import run_passes

# Name, and the height and width of the images.
VISION = {
    "alexnet": 224,
    "densenet121": 64,
    "googlenet": 224,
    "inception_v3": 128,
    "mobilenet_v1": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "mobilenet_v3_small": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_swish": 64,
    "shufflenet_v2_x0_25": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "wide_resnet50_2": 64,
}


@pytest.mark.parametrize("name", VISION)
def test_vision(name):
    model = getattr(models, name)()
    model.eval()
    images = paddle.randn([1, 3, VISION[name], VISION[name]])
    found = imported(lambda images: model(images), {"images": images}, None, model)
    found.graph.check()
    assert found.opaque == set()
    assert found.error_of(found.graph) <= 1e-4
    after, _ = run_passes(found.graph, check=True)
    assert len(after.nodes) < len(found.graph.nodes)
    assert found.error_of(after) <= 1e-4
    assert parse(str(after)).hash == after.hash
