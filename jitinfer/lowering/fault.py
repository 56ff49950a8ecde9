"""Who does to the device what cannot be mended: after it, CUDA serves the process no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitinfer.errors import DeviceLostError
from jitinfer.lowering.choice import form_of, kernel_text
from jitinfer.lowering.exclusion import Exclusion

if TYPE_CHECKING:
    from jitinfer.graph.node import Node
    from jitinfer.kernels.family import Config
    from jitinfer.runtime.model import Model


class KernelFaultError(DeviceLostError):
    """The device is lost, and this kernel did it.

    exclusion: what must not be chosen any more; kernel: in words, with the model's line; failure: the driver's words.
    """

    def __init__(self, exclusion: Exclusion, kernel: str, failure: str, remark: str = "") -> None:
        super().__init__(f"{kernel} loses the device: {failure}{remark and '. '}{remark}")
        self.exclusion = exclusion
        self.kernel = kernel
        self.failure = failure

    def with_remark(self, remark: str) -> KernelFaultError:
        """Of one sentence, without its full stop."""
        return KernelFaultError(self.exclusion, self.kernel, self.failure, remark)

    @staticmethod
    def of(node: Node, family: str, config: Config, error: DeviceLostError) -> KernelFaultError:
        """What `error` was, where these kernels computed `node` and nothing else ran."""
        return KernelFaultError(Exclusion(form_of(node), family, config), kernel_text(node, family, config), str(error))


class ModelFaultError(DeviceLostError):
    """The device is lost, and nothing but this model's plan ran, which the cache has; by one of its kernels."""

    def __init__(self, model: Model, error: DeviceLostError) -> None:
        super().__init__(str(error))
        self.model = model
