"""Which of Paddle's operators draw random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RANDOM = frozenset(
    {
        "bernoulli",
        "binomial",
        "dirichlet",
        "exponential",
        "gaussian",
        "multinomial",
        "normal",
        "poisson",
        "randint",
        "randperm",
        "rrelu",
        "standard_gamma",
        "truncated_gaussian_random",
        "uniform",
        "uniform_inplace",
        "uniform_random_batch_size_like",
        "top_p_sampling",
        "class_center_sample",
        "gumbel_softmax",
        "fused_multi_transformer",
        "gaussian_inplace",
    }
)
_RANDOM_UNLESS_TEST = frozenset(
    {
        "dropout",
        "dropout_nd",
        "flash_attn",
        "flash_attn_qkvpacked",
        "flash_attn_unpadded",
        "fused_bias_dropout_residual_layer_norm",
        "fused_dropout_add",
        "memory_efficient_attention",
    }
)


def is_random(name: str, attributes: Callable[[], Mapping[str, Any]]) -> bool:
    """Whether an operator, such as "pd_op.dropout", with these attributes takes numbers from a generator."""
    name = name.partition(".")[2].rstrip("_")
    if name in _RANDOM:
        return True
    if name not in _RANDOM_UNLESS_TEST:
        return False
    given = attributes()
    shares = [given[each] for each in ("dropout", "dropout_p", "dropout_rate") if each in given]
    return not given.get("is_test", False) and shares != [0.0]
