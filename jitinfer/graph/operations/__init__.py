"""The table of operations, one file for each family. Importing this package fills the table."""

from jitinfer.graph.operations import (
    contraction,
    convolution,
    creation,
    fused,
    movement,
    opaque,
    pointwise,
    pooling,
    reduction,
)

__all__ = ["contraction", "convolution", "creation", "fused", "movement", "opaque", "pointwise", "pooling", "reduction"]
