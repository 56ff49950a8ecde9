"""The Triton functions of group norms whose statistics are known of channels: what groups make of them, the results.

`split_statistics` takes them of each channel as if it were a group, so that blocks may begin and end within groups: a
launch between it and the last merges them, once for all, and nothing is summed where results are written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jitinfer.kernels.triton.epilogue import activated
from jitinfer.kernels.triton.group_norm_kernel import (
    block_mask,
    first_of,
    last_first,
    offsets_within,
    vector_of,
    weight_of,
)


@triton.jit
def merge_channels(
    means,
    variances,
    scale,
    merged_means,
    factors,
    epsilon,
    SCALE: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    EACH: tl.constexpr,
    SPLITS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One group of one image: means, and scale / deviation, of its channels, from their means and variances of parts.

    [images, SPLITS, GROUPS * EACH] -> [images, GROUPS * EACH], float32; SCALE: the stride of scale, which may be None.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    program = tl.program_id(0)
    first_channel = program % GROUPS * EACH
    image = (program // GROUPS).to(tl.int64)
    split = tl.arange(0, BLOCK_S)
    member = tl.arange(0, BLOCK_E)
    known = member < EACH
    place = (image * SPLITS + split)[:, None] * (GROUPS * EACH) + (first_channel + member)[None, :]
    mask = (split < SPLITS)[:, None] & known[None, :]
    of_part = tl.load(means + place, mask, other=0.0)
    variance = tl.load(variances + place, mask, other=0.0)
    if scale is not None:
        scales = vector_of(scale, first_channel + member, known, SCALE)
    weight = tl.where(mask, weight_of(split, PIXELS, SHARE)[:, None] / EACH, 0.0)
    mean = tl.sum(tl.sum(weight * of_part, axis=0), axis=0)
    apart = of_part - mean
    variance = tl.sum(tl.sum(weight * (variance + apart * apart), axis=0), axis=0)
    factor = member * 0.0 + tl.rsqrt(variance + epsilon)
    if scale is not None:
        factor = factor * scales.to(tl.float32)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    place = image * (GROUPS * EACH) + first_channel + member
    tl.store(merged_means + place, member * 0.0 + mean, known)
    tl.store(factors + place, factor, known)


@triton.jit
def normalize_channels(
    x,
    bias,
    means,
    factors,
    y,
    X: tl.constexpr,
    BIAS: tl.constexpr,
    Y: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One block of y = activation((x - mean) * factor + bias), of WIDTH channels; means, factors: [images, CHANNELS].

    X, Y: strides of images, pixels and channels; BIAS: that of bias, which may be None.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    image, chunk, first_pixel = last_first(CHANNELS // WIDTH, PIXELS, BLOCK_P)
    first_channel = chunk * WIDTH
    pixel = tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    known = channel < WIDTH
    inside = block_mask(pixel, channel, PIXELS - first_pixel, WIDTH, PIXELS % BLOCK_P == 0)
    start = first_of(x, image, first_pixel, first_channel, X)
    value = tl.load(start + offsets_within(pixel, channel, X, WIDE), inside, other=0.0)
    place = image.to(tl.int64) * CHANNELS + first_channel + channel
    mean = tl.load(means + place, known, other=0.0)
    factor = tl.load(factors + place, known, other=0.0)
    value = (value.to(tl.float32) - mean[None, :]) * factor[None, :]
    if bias is not None:
        value += vector_of(bias, first_channel + channel, known, BIAS).to(tl.float32)[None, :]
    value = activated(value, ACTIVATION, 0.0)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    pointers = first_of(y, image, first_pixel, first_channel, Y) + offsets_within(pixel, channel, Y, WIDE)
    tl.store(pointers, value.to(y.dtype.element_ty), inside)
