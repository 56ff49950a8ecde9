"""The Triton functions of group norms: statistics of blocks of pixels, what they make of a group, and the results.

A block is [pixels, channels] of some whole groups of one image, read as it lies in memory. A group is `EACH` channels
that stand next to each other, so sums over it are sums over pixels first, which threads make of what they hold, and
over channels at the end, once for each program: those of a group are gathered into a row, whatever their number.

Statistics are means and variances, never mean(x^2) - mean^2: along the pixels of a lane by Welford (1962), everything
else by Chan, Golub and LeVeque (1983), where the parts' shares of all elements are weights. With u = 2^-24, M the
largest |x| of a group, and k STEPS, a lane's mean errs by at most (k / 2 + 10) u M, and n terms that are added with
weights by n u M more, in whatever order; the variance by 2 E s + E^2 and (k + n) u of itself, where E is the error of
the means and s the deviation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jitinfer.kernels.triton.epilogue import activated


@triton.jit
def first_of(tensor, image, pixel, channel, STRIDES: tl.constexpr):
    """Where a block begins; 64 bits, since a tensor may have more elements than 32 can count."""
    place = image.to(tl.int64) * STRIDES[0] + pixel.to(tl.int64) * STRIDES[1] + channel.to(tl.int64) * STRIDES[2]
    return tensor + place


@triton.jit
def last_first(CHUNKS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_P: tl.constexpr):
    """Image, chunk of channels and first pixel of this program's block.

    From the last block to the first: those that were read last are in the second-level cache still.
    """
    blocks: tl.constexpr = (PIXELS + BLOCK_P - 1) // BLOCK_P
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    return program // (CHUNKS * blocks), program % CHUNKS, program // CHUNKS % blocks * BLOCK_P


@triton.jit
def offsets_within(pixel, channel, STRIDES: tl.constexpr, WIDE: tl.constexpr):
    """Places of a block's elements behind its first."""
    if WIDE:
        pixel = pixel.to(tl.int64)
        channel = channel.to(tl.int64)
    return pixel[:, None] * STRIDES[1] + channel[None, :] * STRIDES[2]


@triton.jit
def block_mask(pixel, channel, left, WIDTH: tl.constexpr, EVEN: tl.constexpr):
    """Which of a block's elements there are, of `left` pixels and WIDTH channels. EVEN: all of the pixels are."""
    inside = (channel < WIDTH)[None, :]
    if not EVEN:
        inside = inside & (pixel < left)[:, None]
    return inside


@triton.jit
def _grouped(value, EACH: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_E: tl.constexpr):
    """[channels] -> [groups, channels of each]; of those that there are not, something."""
    place = tl.arange(0, BLOCK_G)[:, None] * EACH + tl.arange(0, BLOCK_E)[None, :]
    place = tl.minimum(tl.reshape(place, [BLOCK_G * BLOCK_E]), value.shape[0] - 1)
    return tl.reshape(tl.gather(value, place, 0), [BLOCK_G, BLOCK_E])


@triton.jit
def _mean_of_groups(value, EACH: tl.constexpr):
    """[groups, channels of each] -> [groups]"""
    return tl.sum(tl.where((tl.arange(0, value.shape[1]) < EACH)[None, :], value, 0.0), axis=1) / EACH


@triton.jit
def _of_channels(value, channel, EACH: tl.constexpr):
    """What is known of groups, for each channel."""
    return tl.gather(value, tl.minimum(channel // EACH, value.shape[0] - 1), 0)


@triton.jit
def weight_of(split, PIXELS: tl.constexpr, SHARE: tl.constexpr):
    """The share of all PIXELS that a part has: SHARE of them, or what is left."""
    return tl.minimum(tl.maximum(PIXELS - split * SHARE, 0), SHARE).to(tl.float32) / PIXELS


@triton.jit
def _merged(
    means,
    variances,
    group,
    known,
    PIXELS: tl.constexpr,
    SPLITS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Mean and variance of groups from those of SPLITS parts of SHARE pixels, of which the last may have fewer.

    group: their numbers among those of all images; known: which of them there are.
    """
    split = tl.arange(0, BLOCK_S)
    place = group.to(tl.int64)[:, None] * SPLITS + split[None, :]
    mask = known[:, None] & (split < SPLITS)[None, :]
    of_split = tl.load(means + place, mask, other=0.0)
    variance = tl.load(variances + place, mask, other=0.0)
    weight = weight_of(split, PIXELS, SHARE)
    mean = tl.sum(weight[None, :] * of_split, axis=1)
    apart = of_split - mean[:, None]
    return mean, tl.sum(weight[None, :] * (variance + apart * apart), axis=1)


@triton.jit
def vector_of(tensor, channel, known, STRIDE: tl.constexpr):
    return tl.load(tensor + channel.to(tl.int64) * STRIDE, known, other=0.0)


@triton.jit
def _followed(value, inside, mean, squares, step, EVEN: tl.constexpr):
    """Means of each lane's elements, and sums of the squares of what they are apart from them, with one more of each.

    A lane has an element in each step until it has none any more: all have as many as there were steps.
    """
    value = value.to(tl.float32)
    apart = value - mean
    if not EVEN:
        apart = tl.where(inside, apart, 0.0)
    mean += apart * (1.0 / (step + 1))
    return mean, squares + apart * (value - mean)


@triton.jit
def split_statistics(
    x,
    means,
    variances,
    X: tl.constexpr,
    PARTS: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    EACH: tl.constexpr,
    TOGETHER: tl.constexpr,
    SPLITS: tl.constexpr,
    STEPS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_E: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Mean and variance of STEPS blocks of pixels, for each of TOGETHER groups of one image.

    x: [images, PIXELS, GROUPS * EACH channels], its strides X; means, variances: [images, SPLITS, GROUPS], float32,
    their strides PARTS. AT_ONCE: all blocks are asked for before the first is looked at; otherwise STAGES: blocks of
    a loop that are on their way at a time. DEPENDENT: wait for what runs before.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    width: tl.constexpr = TOGETHER * EACH
    share: tl.constexpr = STEPS * BLOCK_P
    even: tl.constexpr = PIXELS % share == 0
    chunks: tl.constexpr = GROUPS // TOGETHER
    program = tl.program_id(0)
    first_group = program % chunks * TOGETHER
    split = program // chunks % SPLITS
    image = program // (chunks * SPLITS)
    pixel = tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    start = first_of(x, image, split * share, first_group * EACH, X)
    places = offsets_within(pixel, channel, X, WIDE)
    left = PIXELS - split * share
    mean = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if AT_ONCE:
        for step in tl.static_range(STEPS):
            inside = block_mask(pixel, channel, left - step * BLOCK_P, width, even)
            value = tl.load(start + step * BLOCK_P * X[1] + places, inside, other=0.0)
            mean, squares = _followed(value, inside, mean, squares, step, even)
    else:
        for step in tl.range(0, STEPS, num_stages=STAGES):
            inside = block_mask(pixel, channel, left - step * BLOCK_P, width, even)
            value = tl.load(start + places, inside, other=0.0)
            mean, squares = _followed(value, inside, mean, squares, step, even)
            start += BLOCK_P * X[1]
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    count = tl.minimum(tl.maximum((left - pixel + BLOCK_P - 1) // BLOCK_P, 0), STEPS).to(tl.float32)
    number = tl.minimum(left, share).to(tl.float32)
    of_part = tl.sum((count / number)[:, None] * mean, axis=0)
    apart = mean - of_part[None, :]
    variance = tl.sum(squares + count[:, None] * (apart * apart), axis=0) / number
    group = channel
    if EACH > 1:
        of_channel = _grouped(of_part, EACH, BLOCK_G, BLOCK_E)
        variance = _grouped(variance, EACH, BLOCK_G, BLOCK_E)
        of_part = _mean_of_groups(of_channel, EACH)
        apart = of_channel - of_part[:, None]
        variance = _mean_of_groups(variance + apart * apart, EACH)
        group = tl.arange(0, BLOCK_G)
    place = image.to(tl.int64) * PARTS[0] + split.to(tl.int64) * PARTS[1] + (first_group + group) * PARTS[2]
    tl.store(means + place, of_part, group < TOGETHER)
    tl.store(variances + place, variance, group < TOGETHER)


@triton.jit
def normalize_groups(
    x,
    scale,
    bias,
    means,
    variances,
    y,
    epsilon,
    X: tl.constexpr,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    Y: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    EACH: tl.constexpr,
    TOGETHER: tl.constexpr,
    SPLITS: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """One block of y = activation((x - mean) / deviation * scale + bias), from the statistics of SPLITS parts.

    X, Y: strides of images, pixels and channels; SCALE, BIAS: that of scale and bias, which may be None. Where means
    are None, a block has all PIXELS of its groups: first the mean is taken of them, then the squares of what is left.
    """
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    width: tl.constexpr = TOGETHER * EACH
    image, chunk, first_pixel = last_first(GROUPS // TOGETHER, PIXELS, BLOCK_P)
    first_group = chunk * TOGETHER
    pixel = tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    inside = block_mask(pixel, channel, PIXELS - first_pixel, width, PIXELS % BLOCK_P == 0)
    start = first_of(x, image, first_pixel, first_group * EACH, X)
    # Asked for before the statistics, so that memory answers while they are put together.
    value = tl.load(start + offsets_within(pixel, channel, X, WIDE), inside, other=0.0)
    if scale is not None:
        scales = vector_of(scale, first_group * EACH + channel, channel < width, SCALE)
    if bias is not None:
        biases = vector_of(bias, first_group * EACH + channel, channel < width, BIAS)
    if means is not None:
        group = tl.arange(0, BLOCK_G)
        number = image * GROUPS + first_group + group
        mean, variance = _merged(means, variances, number, group < TOGETHER, PIXELS, SPLITS, SHARE, BLOCK_S)
    value = value.to(tl.float32)
    if means is None:
        mean = _mean_of_groups(_grouped(tl.sum(value, axis=0) / PIXELS, EACH, BLOCK_G, BLOCK_E), EACH)
    value = value - _of_channels(mean, channel, EACH)[None, :]
    if means is None:
        rest = tl.where(inside, value, 0.0)
        variance = _mean_of_groups(_grouped(tl.sum(rest * rest, axis=0) / PIXELS, EACH, BLOCK_G, BLOCK_E), EACH)
    factor = _of_channels(tl.rsqrt(variance + epsilon), channel, EACH)
    if scale is not None:
        factor = factor * scales.to(tl.float32)
    value = value * factor[None, :]
    if bias is not None:
        value += biases.to(tl.float32)[None, :]
    value = activated(value, ACTIVATION, 0.0)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    pointers = first_of(y, image, first_pixel, first_group * EACH, Y) + offsets_within(pixel, channel, Y, WIDE)
    tl.store(pointers, value.to(y.dtype.element_ty), inside)
