"""Paddle's tensors as NumPy arrays, and the other way round."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import paddle

from jitinfer.graph.types import NARROW, dtype_name


def array_of(tensor: Any) -> Any:
    """A NumPy array of the tensor's own dtype; it may share the tensor's memory."""
    array = tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == paddle.bfloat16 else array


def tensor_of(array: Any) -> Any:
    """A tensor of the array's own dtype, with memory of its own."""
    if dtype_name(array.dtype) in NARROW:
        return paddle.to_tensor(array.astype("float32")).astype(dtype_name(array.dtype))
    return paddle.to_tensor(array)
