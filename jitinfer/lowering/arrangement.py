"""The graph passes that belong before lowering."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.passes import converting

if TYPE_CHECKING:
    from collections.abc import Sequence


def arranged(names: Sequence[str], precision: str) -> list[str]:
    """`names`, so that the graph computes in `precision`, and weights and images lie as kernels read them best.

    Raises PassError for a precision that there is not.
    """
    place = names.index("weight_prologue") if "weight_prologue" in names else len(names)
    names = [*names[:place], "transpose_weights", *names[place:], "channels_last"]
    return names if precision == "float32" else converting(names, precision)
