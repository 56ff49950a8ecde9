"""Converters of Paddle's operators, one file for each family. Importing this package fills the registry."""

from jitinfer.frontend.converters import (
    assignment,
    attention,
    complex_numbers,
    contraction,
    control,
    convolution,
    creation,
    fourier,
    fused,
    images,
    movement,
    pointwise,
)
from jitinfer.frontend.converters.registry import CONVERTERS, PirOp, UnsupportedForm

__all__ = [
    "CONVERTERS",
    "PirOp",
    "UnsupportedForm",
    "assignment",
    "attention",
    "complex_numbers",
    "contraction",
    "control",
    "convolution",
    "creation",
    "fourier",
    "fused",
    "images",
    "movement",
    "pointwise",
]
