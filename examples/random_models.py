"""Models with random weights, and what ppdiffusers 0.29 lacks on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import paddle
import paddle.nn.functional as F  # noqa: N812 - the field's name for it
import ppdiffusers

if TYPE_CHECKING:
    from collections.abc import Sequence


def install_shims() -> None:
    """ppdiffusers 0.29 defines this function only where a GPU is found, and its attention layers call it anyway."""
    if hasattr(F, "scaled_dot_product_attention_"):
        return

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, training=True, **_):
        dropout = dropout_p if training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout, is_causal)

    F.scaled_dot_product_attention_ = attention


install_shims()


def with_random_weights(layer: paddle.nn.Layer, seed: int) -> paddle.nn.Layer:
    """Every weight drawn anew, none zero: gates that start at zero would hide what goes wrong behind them."""
    paddle.seed(seed)
    for name, weight in layer.named_parameters():
        values = paddle.randn(weight.shape)
        if weight.ndim == 1:
            values = 0.05 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            fan_in = weight.shape[0] if weight.ndim == 2 else int(numpy.prod(weight.shape[1:]))
            values = values * fan_in**-0.5
        weight.set_value(values)
    layer.eval()
    return layer


def random_tensor(shape: Sequence[int]) -> paddle.Tensor:
    return paddle.randn(shape)


def autoencoder(widths: Sequence[int], sample_size: int, **config: Any) -> ppdiffusers.AutoencoderKL:
    """A VAE whose decoder doubles height and width once for every width but the first."""
    return ppdiffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        norm_num_groups=min(widths),
        sample_size=sample_size,
        **config,
    )
