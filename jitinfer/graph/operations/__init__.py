"""The table of operations, one file for each family. Importing this package fills the table."""

from jitinfer.graph.operations import (
    complex_numbers,
    contraction,
    control,
    convolution,
    creation,
    fused,
    group,
    movement,
    opaque,
    pointwise,
    pooling,
    reduction,
)

__all__ = [
    "complex_numbers",
    "contraction",
    "control",
    "convolution",
    "creation",
    "fused",
    "group",
    "movement",
    "opaque",
    "pointwise",
    "pooling",
    "reduction",
]
