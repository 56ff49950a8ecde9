"""Paddle's tensors as NumPy arrays, and the other way round."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy
import paddle

from jitinfer.graph.types import NARROW, dtype_name, numpy_dtype


def array_of(tensor: Any) -> Any:
    """A NumPy array of the tensor's own dtype, not to be written to: it shares the tensor's memory where it can.

    One of zeros for a tensor that has no memory yet.
    """
    if not tensor._is_initialized():
        return numpy.zeros(tensor.shape, numpy_dtype(str(tensor.dtype).rpartition(".")[2]))
    if tensor.dtype == paddle.bfloat16:  # which NumPy's reader of DLPack does not know
        return tensor.numpy().view(ml_dtypes.bfloat16)
    try:
        return numpy.from_dlpack(tensor if tensor.stop_gradient else tensor.detach())
    except (
        BufferError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # elsewhere than in the host's memory, for one
        return tensor.numpy()


def tensor_of(array: Any) -> Any:
    """A tensor of the array's own dtype, with memory of its own."""
    if dtype_name(array.dtype) in NARROW:
        return paddle.to_tensor(array.astype("float32")).astype(dtype_name(array.dtype))
    return paddle.to_tensor(array)
