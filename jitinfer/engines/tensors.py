"""Paddle's tensors as arrays, and the other way round; on the device with a GPU build of Paddle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy
import paddle

from jitinfer.graph.types import NARROW, dtype_name, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitinfer.runtime.model import Session


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


def gpu_of(tensors: Iterable[Any]) -> int | None:
    """The device of the first that lies on one; None where all are in the host's memory."""
    places = (tensor.place for tensor in tensors)
    return next((place.gpu_device_id() for place in places if place.is_gpu_place()), None)


def paddle_device() -> int:
    """The device that Paddle is set to; the first one for a CPU build."""
    kind, _, number = paddle.get_device().partition(":")
    return int(number or 0) if kind == "gpu" else 0


def run_where_they_lie(session: Session, tensors: Sequence[Any]) -> list[Any]:
    """The results of a session in Paddle's current stream; what lies on the device, results too, stays there."""
    stream = paddle.device.current_stream().stream_base.raw_stream
    inputs = [tensor.detach() if tensor.place.is_gpu_place() else array_of(tensor) for tensor in tensors]
    outputs = session.enqueue(inputs, stream)
    return [paddle.utils.dlpack.from_dlpack(output).clone() for output in outputs]  # the next call writes them again
