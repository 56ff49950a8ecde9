"""Traced programs as graphs: the same results, and one spelling for what Paddle spells in many ways."""

import numpy
import paddle
import pytest
from graphs import imported
from model_graphs import model_graph
from models import BUILDERS
from paddle.nn import functional

from jitinfer.frontend.converters import CONVERTERS, UnsupportedForm
from jitinfer.frontend.importing import import_program
from jitinfer.frontend.tracing import trace
from jitinfer.graph import TensorType, evaluate, parse
from jitinfer.passes import run_passes


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.__name__)
def test_a_model_as_a_graph(builder):
    """Equal to the dynamic model: as imported, after each pass alone, and after all of them."""
    found = model_graph(builder)
    found.graph.check()
    assert parse(str(found.graph)).hash == found.graph.hash
    assert found.opaque == set()
    assert found.error_of(found.graph) <= 1e-4
    assert found.error_of_each_pass() <= 1e-4
    assert parse(str(found.after)).hash == found.after.hash
    assert found.error_of(found.after) <= 1e-4


def x(*shape):
    return paddle.randn(list(shape))


def assigned(a, b):
    a = a * 1.5
    a[:, 1:3] = b
    a[0] = 2.0
    a[:, ::2] = 0.5
    a[2:0:-1, 0] = b[:2, 0]
    a[1, 2] = a[2, 0] + 1
    return a


def put(a, b):
    last = paddle.put_along_axis(a, paddle.to_tensor([[0], [3], [-1]]), 1.5, 1)
    return last, paddle.put_along_axis(a, paddle.to_tensor([[0, 2, 1, 2], [1, 0, 2, 0]]), b, 0)


SPELLINGS = {
    "assignment to parts": (assigned, [x(3, 4), x(3, 2)]),
    "put_along_axis": (put, [x(3, 4), x(2, 4)]),
    "embedding with padding": (
        lambda i, table: functional.embedding(i, table, padding_idx=2),
        [paddle.to_tensor([[0, 2], [1, 3]]), x(4, 5)],
    ),
    "swiglu": (
        lambda a, b: (paddle.incubate.nn.functional.swiglu(a), paddle.incubate.nn.functional.swiglu(a, b)),
        [x(3, 4), x(3, 4)],
    ),
    "scale and shift": (
        lambda a: paddle.scale(a, 2.0, 1.0) + paddle.scale(a, 3.0, 0.5, bias_after_scale=False),
        [x(3, 4)],
    ),
    "scale of integers": (lambda a: a * 3 + 1, [paddle.arange(6)]),
    "squeeze and unsqueeze": (lambda a: paddle.unsqueeze(paddle.squeeze(a, [1]), [0, -1]), [x(2, 1, 3)]),
    "flatten": (lambda a: paddle.flatten(a, 1, 2), [x(2, 3, 4, 5)]),
    "reshape with 0 and -1": (lambda a: paddle.reshape(a, [0, -1, 2]), [x(2, 3, 4)]),
    "reshape by its own shape": (lambda a: a.reshape([a.shape[0] * a.shape[1], -1]), [x(2, 3, 4)]),
    "split": (lambda a: paddle.split(a, [1, -1, 2], axis=-1), [x(2, 7)]),
    "chunk": (lambda a: paddle.chunk(a, 3, axis=1), [x(2, 6)]),
    "unbind": (lambda a: paddle.unbind(a, axis=1), [x(2, 3, 4)]),
    "stack": (lambda a, b: paddle.stack([a, b], axis=-1), [x(2, 3), x(2, 3)]),
    "slices": (lambda a: (a[1:, ::2], a[:, -1], a[0], a[:, 5:1:-2], a[..., None]), [x(3, 7)]),
    "expand": (lambda a: paddle.expand(a, [4, -1, 3]), [x(2, 1)]),
    "tile": (lambda a: paddle.tile(a, [2, 1, 3]), [x(2, 3)]),
    "repeat_interleave": (lambda a: paddle.repeat_interleave(a, 2, axis=1), [x(2, 3, 4)]),
    "shuffles": (
        lambda a: [
            function(each, factor, layout)
            for layout, each in (("NCHW", a), ("NHWC", a.transpose([0, 2, 3, 1])))
            for function, factor in (
                (functional.pixel_shuffle, 2),
                (functional.pixel_unshuffle, 3),
                (functional.channel_shuffle, 4),
            )
        ],
        [x(2, 8, 6, 9)],
    ),
    "matrices of known numbers": (
        lambda a: (
            a + paddle.eye(3, 4),
            a @ paddle.eye(4),
            a + paddle.linspace(-1.0, 0.5, 4),
            a * paddle.linspace(2, 3, 1),
        ),
        [x(3, 4)],
    ),
    "Fourier transforms": (
        lambda a: [
            part
            for norm in ("backward", "ortho", "forward")
            for y in (
                paddle.fft.fft(paddle.fft.fft(a, axis=-1, norm=norm), axis=1, norm=norm),
                paddle.fft.rfft2(a, norm=norm),
                paddle.fft.ifftn(a, norm=norm),
                paddle.fft.ifft(paddle.complex(a, a * 2.0), axis=1, norm=norm),
            )
            for part in (paddle.real(y), paddle.imag(y))
        ],
        [x(2, 3, 4)],
    ),
    "numbers of elements": (lambda a: a * paddle.numel(a).astype("float32"), [x(2, 3)]),
    "infinite numbers": (
        lambda a: (
            functional.softmax(a + paddle.triu(paddle.full([4, 4], -numpy.inf), 1)),
            paddle.clip(a, -numpy.inf, 0.5),
            paddle.where(a > float("inf"), a, 1.0),
        ),
        [x(4, 4)],
    ),
    "full_like": (lambda a: a + paddle.full_like(a, 2.5) + paddle.ones_like(a), [x(2, 3)]),
    "tril and triu": (lambda a: (paddle.tril(a, 1), paddle.triu(a, -1)), [x(3, 4)]),
    "powers": (lambda a: (a**2, a**3, paddle.square(a), paddle.reciprocal(a)), [x(3) + 3]),
    "mixed dtypes": (lambda a, b: (a + b, b - a, a * b), [x(3, 4), x(4).astype("float64")]),
    "activations": (
        lambda a: [getattr(functional, n)(a) for n in ("hardswish", "hardsigmoid", "relu6", "silu", "swish", "gelu")],
        [x(50) * 4],
    ),
    "more activations": (
        lambda a: [
            functional.mish(a),
            functional.softplus(a),
            functional.softplus(a, beta=2.0, threshold=3.0),
            functional.log_sigmoid(a),
            functional.elu(a, 0.5),
            functional.celu(a, 2.0),
            functional.selu(a),
            functional.hardtanh(a, -0.5, 2.0),
            functional.softsign(a),
            functional.tanhshrink(a),
        ],
        [x(200) * 30],
    ),
    "reductions": (lambda a: (a.sum(), a.mean(1, keepdim=True), a.max(-1), (a > 0).any(), a.prod([0, 1])), [x(3, 4)]),
    "sum of booleans": (lambda a: (a > 0).sum(1), [x(3, 4)]),
    "argmax": (lambda a: (a.argmax(), a.argmax(1), a.argmin(0, keepdim=True)), [x(3, 4)]),
    "einsum": (
        lambda a, b, c: (
            paddle.einsum("nhwpqc->nchpwq", c),
            paddle.einsum("bij,bjk->bik", a, b),
            paddle.einsum("bij,bjk->ki", a, b),
            paddle.einsum("bij,bik->b", a, a),
            paddle.einsum("bij->j", a),
            paddle.einsum("...ij,...jk->...ik", a, b),
            paddle.einsum("bij,bjk,bik->bj", a, b, a @ b),
            paddle.einsum("i,j->ij", a[0, 0], b[0, 0]),
        ),
        [x(2, 3, 4), x(2, 4, 5), x(2, 3, 4, 2, 2, 5)],
    ),
    "complex numbers": (
        lambda a, b: (
            paddle.as_real(paddle.as_complex(a) * paddle.as_complex(b)),
            paddle.as_real(paddle.reshape(paddle.as_complex(a), [4, 3]) + paddle.as_complex(b).T),
            paddle.as_complex(a) - paddle.complex(a[..., 1], b[0, 0, 0]),
            paddle.as_complex(a).conj().imag(),
            paddle.as_complex(a).abs(),
            paddle.as_complex(b)[1:].real() * 2.0,
        ),
        [x(3, 4, 2), x(3, 4, 2)],
    ),
    "a complex input": (lambda a: (paddle.as_real(a * a), a), [paddle.as_complex(x(3, 2))]),
    "complex and real": (
        lambda a, b: [
            paddle.as_real(each) for c in [paddle.as_complex(a)] for each in (c * b, b * c, c[0] + b, b - c[:1])
        ],
        [x(3, 4, 2), x(3, 4)],
    ),
    "pools": (
        lambda a: (
            functional.max_pool2d(a, 3, 2, 1),
            functional.max_pool2d(a, 3, 2, ceil_mode=True),
            functional.avg_pool2d(a, 2, 2),
            functional.avg_pool2d(a, 3, 2, 1, exclusive=False),
            functional.avg_pool2d(a, 3, 2, 1, ceil_mode=True),
            functional.avg_pool2d(a, [3, 2], [2, 1], [1, 0]),
            functional.max_pool2d(a, 3, 2, "SAME"),
        ),
        [x(2, 3, 8, 9)],
    ),
    "adaptive pools": (
        lambda a: (
            functional.adaptive_avg_pool2d(a, 1),
            functional.adaptive_avg_pool2d(a, [4, 3]),
            functional.adaptive_avg_pool2d(a, [3, 5]),
            functional.adaptive_max_pool2d(a, 1),
            functional.adaptive_max_pool2d(a, [4, 3]),
            functional.adaptive_max_pool2d(a, [3, 5]),
            functional.adaptive_max_pool2d(a, [5, 9]),
        ),
        [x(2, 3, 8, 9)],
    ),
    "resizes": (
        lambda a: (
            functional.interpolate(a, size=[5, 9], mode="nearest"),
            functional.interpolate(a, scale_factor=1.5, mode="nearest"),
            functional.interpolate(a, size=[16, 24], mode="nearest"),
            functional.interpolate(a, size=[5, 11], mode="bilinear"),
            functional.interpolate(a, size=[20, 3], mode="bilinear"),
            functional.interpolate(a, scale_factor=2, mode="bilinear"),
            functional.interpolate(a, scale_factor=2, mode="bilinear", align_corners=True),
            functional.interpolate(a, size=[7, 7], mode="bilinear", align_mode=1),
            functional.interpolate(a, size=[20, 3], mode="bicubic"),
            functional.interpolate(a, scale_factor=[1.5, 2], mode="bicubic"),
            functional.interpolate(a, size=[5, 11], mode="bicubic", align_corners=True),
        ),
        [x(2, 3, 8, 8)],
    ),
    "pads": (
        lambda a: (
            functional.pad(a, [1, 2, 0, 1], value=0.5),
            functional.pad(a, [1, 2, 0, 1], mode="reflect"),
            functional.pad(a, [1, 2, 0, 1], mode="replicate"),
            functional.pad(a, [1, 2, 0, 1], mode="circular"),
            functional.pad(a, [0, 1, 2, 0, 1, 2, 0, 1], value=-1.0),
        ),
        [x(2, 3, 4, 5)],
    ),
    "batch norm": (
        lambda a, m, v, s, b: functional.batch_norm(a, m, v, s, b, epsilon=1e-3),
        [x(2, 3, 4, 5), x(3), x(3) ** 2 + 1, x(3), x(3)],
    ),
    "sorting": (
        lambda a: (*paddle.topk(a, 2), paddle.argsort(a, 1, descending=True), paddle.sort(a, 0)),
        [x(3, 4, 5)],
    ),
    "cumulative sums": (lambda a: (paddle.cumsum(a, 1), paddle.cumsum(a), (a > 0).cast("int32").cumsum(-1)), [x(3, 4)]),
    "one_hot": (lambda a: functional.one_hot(a, 4), [paddle.to_tensor([[0, 3], [2, 1]])]),
    "flip and roll": (
        lambda a: (paddle.flip(a, [0, -1]), paddle.roll(a, 2, 1), paddle.roll(a, [-1, 7], [0, 1]), paddle.roll(a, 5)),
        [x(3, 4)],
    ),
    "along axes": (lambda a: paddle.take_along_axis(a, paddle.argsort(a, -1), -1), [x(3, 4)]),
    "logarithms of sums": (
        lambda a: (paddle.logsumexp(a, 1), paddle.logsumexp(a, [0, 1], keepdim=True), functional.log_softmax(a)),
        [x(3, 4) * 5],
    ),
    "norms of vectors": (lambda a: (paddle.norm(a, 2, axis=-1), functional.normalize(a, axis=1)), [x(3, 4)]),
    "where and clip": (lambda a, b: (paddle.where(a > 0, a, b), a.clip(-0.5, 0.5)), [x(3, 4), x(3, 4)]),
    "gather": (
        lambda a, i: (paddle.gather(a, i, axis=1), functional.embedding(i, a)),
        [x(3, 4), paddle.to_tensor([2, 0])],
    ),
    "dropout in eval": (lambda a: functional.dropout(a, 0.5, training=False), [x(3, 4)]),
    "dropout that scales in eval": (
        lambda a: functional.dropout(a, 0.25, training=False, mode="downscale_in_infer"),
        [x(3, 4)],
    ),
    "layer norm over two axes": (
        lambda a, w, b: functional.layer_norm(a, [3, 4], w.flatten(), b.flatten()),
        [x(2, 3, 4), x(3, 4), x(3, 4)],
    ),
    "nearest": (lambda a: functional.interpolate(a, scale_factor=2, mode="nearest"), [x(1, 2, 3, 4)]),
    "convolution, SAME": (
        lambda a, w: functional.conv2d(a, w, stride=2, padding="SAME"),
        [x(1, 2, 7, 8), x(4, 2, 3, 3)],
    ),
    "convolutions, channels in the last place": (
        lambda a, w: (
            functional.conv2d(a, w, stride=2, padding=1, data_format="NHWC"),
            functional.conv2d(a, w[:, :1], groups=4, data_format="NHWC"),
            functional.conv2d_transpose(a, w, stride=2, padding=1, output_padding=1, data_format="NHWC"),
        ),
        [x(2, 7, 8, 4), x(4, 4, 3, 3)],
    ),
    "convolutions of rows": (
        lambda a, w: (
            functional.conv1d(a, w, stride=2, padding=1),
            functional.conv1d(a, w[:, :2], groups=2, dilation=2),
            functional.conv1d_transpose(a, w, stride=2, padding=1, output_padding=1),
        ),
        [x(2, 4, 9), x(4, 4, 3)],
    ),
    "convolutions of volumes": (
        lambda a, w: (
            functional.conv3d(a, w),
            functional.conv3d(a, w, stride=[2, 1, 2], padding=[1, 0, 2]),
            functional.conv3d(a, w, padding=[0, 1, 2, 1, 0, 0], dilation=[2, 1, 1]),
            functional.conv3d(a, w[:, :2], groups=2, padding="SAME", stride=2),
            functional.conv3d(a, w[:, :1, :1], groups=4),
            functional.conv3d(a, w[:, :, :, :1, :1], w[0, 0, 0, 0].sum() * paddle.ones([4])),
        ),
        [x(2, 4, 5, 6, 7), x(4, 4, 3, 3, 2)],
    ),
    "transposed convolutions": (
        lambda a, w, b: (
            functional.conv2d_transpose(a, w, b),
            functional.conv2d_transpose(a, w, stride=2, padding=1, output_padding=1),
            functional.conv2d_transpose(a, w, stride=[2, 3], padding=[1, 0], dilation=[1, 2], groups=2),
            functional.conv2d_transpose(a, w, stride=2, padding=1, output_size=[10, 12]),
            functional.conv2d_transpose(a, w, stride=2, padding="SAME"),
            functional.conv2d_transpose(a, w, stride=2, padding="VALID"),
            functional.conv2d_transpose(a, w[:, :1], stride=2, padding=[1, 0, 1, 1], groups=4),
        ),
        [x(2, 4, 5, 6), x(4, 4, 3, 3), x(4)],
    ),
    "sums of many": (lambda a, b: (paddle.add_n([a, b, a]), paddle.add_n([a])), [x(3, 4), x(3, 4)]),
    "a product and a sum": (
        lambda a, b, c: (paddle.addmm(c, a, b), paddle.addmm(c, a, b, beta=0.5, alpha=2.0)),
        [x(2, 3), x(3, 4), x(2, 4)],
    ),
    "products": (
        lambda a, b: (a @ b, paddle.matmul(a, b.T, transpose_y=True), paddle.bmm(a[None], b[None])),
        [x(2, 3), x(3, 4)],
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    function, tensors = SPELLINGS[name]
    names = function.__code__.co_varnames[: len(tensors)]
    found = imported(function, dict(zip(names, tensors, strict=True)))
    assert found.opaque == set()
    assert found.error_of(found.graph) <= 1e-5
    after, _ = run_passes(found.graph, check=True)
    assert found.error_of(after) <= 1e-5


def test_an_operator_without_a_converter_is_opaque():
    found = imported(lambda a: paddle.linalg.inv(a) * 2.0, {"a": x(3, 3)})
    assert found.opaque == {"pd_op.inverse"}
    assert found.graph.outputs[0].shape == (3, 3)


def test_dynamic_dims_are_filled_in():
    """One trace, several graphs: shapes that the function asks for are those of the call."""

    def function(tensors):
        (a,) = tensors
        sizes = paddle.shape(a)
        return a.reshape([sizes[0] * sizes[1], -1]).sum(0)

    found = trace(function, [TensorType((-1, 3, 4), "float32")])
    for batch in (2, 5):
        array = numpy.random.default_rng(0).standard_normal((batch, 3, 4)).astype("float32")
        graph = import_program(found.program, [(batch, 3, 4)])
        (result,) = evaluate(graph, [array])
        numpy.testing.assert_allclose(result, array.reshape(-1, 4).sum(0), rtol=1e-5, atol=1e-5)


def test_results_that_a_converter_does_not_compute_are_left_to_paddle():
    found = imported(lambda a: functional.max_pool2d(a, 2, return_mask=True), {"a": x(1, 2, 4, 4)})
    assert found.opaque == {"pd_op.max_pool2d_with_index"}
    assert [value.shape for value in found.graph.outputs] == [(1, 2, 2, 2)] * 2
    assert not imported(lambda a: functional.max_pool2d(a, 2, return_mask=True)[0], {"a": x(1, 2, 4, 4)}).opaque


@pytest.mark.parametrize(
    "reason", [UnsupportedForm("this form"), ZeroDivisionError(), OverflowError(), IndexError(), AttributeError()]
)
def test_a_converter_that_gives_up_leaves_nothing_behind(monkeypatch, reason):
    """Not even in what the importer knows of shapes that come later."""

    def gives_up(importer, op, tensor):
        for _ in range(9):
            tensor = tensor + 1.0
        assert importer.known(tensor) is None
        raise reason

    monkeypatch.setitem(CONVERTERS, "pd_op.inverse", gives_up)

    def function(a):
        sizes = paddle.shape(paddle.linalg.inv(a))
        return a.reshape([sizes[0] * sizes[1], -1]).sum(0)

    found = imported(function, {"a": x(3, 3)})
    assert found.graph.counts()["add"] == 0
    assert found.opaque == {"pd_op.inverse"}
    assert found.graph.outputs[0].shape == (1,)
