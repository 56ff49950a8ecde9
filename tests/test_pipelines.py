"""Both pipelines of ppdiffusers give the dynamic image, whichever way their models are decorated."""

import argparse
import pathlib
import sys

import numpy
import paddle
import pytest

import jitinfer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import dit_pipeline
import sd3_pipeline

ARGUMENTS = argparse.Namespace(small=True, pretrained=None, seed=0)


def as_layer(pipe):
    pipe.transformer = jitinfer.inference(pipe.transformer)


def as_method(pipe):
    pipe.transformer.forward = jitinfer.inference(pipe.transformer.forward)


def as_method_of_the_class(pipe):
    kind = type(pipe.transformer)
    compiled = type(kind.__name__, (kind,), {"forward": jitinfer.inference(kind.forward)})
    pipe.transformer.__class__ = compiled


@pytest.mark.parametrize("example", [dit_pipeline, sd3_pipeline], ids=lambda module: module.__name__)
@pytest.mark.parametrize("decorate", [as_layer, as_method, as_method_of_the_class], ids=lambda f: f.__name__)
def test_a_pipeline_gives_the_dynamic_image(example, decorate):
    def image(pipe):
        pipe.set_progress_bar_config(disable=True)
        paddle.seed(11)
        return example.generate(pipe, ARGUMENTS, 2)

    expected = image(example.build(ARGUMENTS))
    pipe = example.build(ARGUMENTS)
    decorate(pipe)
    pipe.vae.decode = jitinfer.inference(pipe.vae.decode)
    for _ in range(2):
        numpy.testing.assert_allclose(image(pipe), expected, atol=1e-3)
    assert numpy.ptp(expected) > 0.1
    assert jitinfer.is_inference_mode(pipe.transformer)
    assert not paddle.incubate.jit.is_inference_mode(pipe.transformer)  # so the pipelines read whole outputs
    for function in (pipe.transformer.forward, pipe.vae.decode):
        assert [each.executable is not None for each in function.specializations] == [True]
