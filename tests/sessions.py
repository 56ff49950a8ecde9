"""Models of copies and fills alone, which the driver in host memory runs as well as a device."""

from jitinfer.graph.types import TensorType
from jitinfer.runtime import Buffer, Copy, Cost, Device, Fill, Plan, Pointer
from jitinfer.runtime.model import Model, Session
from jitinfer.runtime.samples import sample


def _buffer(name, placement, elements, offset=0):
    return Buffer(name, 4 * elements, placement, offset, (elements,), "float32")


def _plan():
    """y = x, w, and bytes of ones, as the layers of two blocks; the last two steps are one node's."""

    def copy(source, destination, nbytes, label, origin, cost):
        places = (Pointer(*each) for each in (source, destination))
        return Copy(*places, nbytes, label, f"model.py:{origin}", cost)

    def fill(offset, nbytes):
        return Fill(Pointer("y", offset), nbytes, 255, "norm", "model.py:8 in /Net_0/Block_1", Cost(4, 20, 56))

    return Plan(
        target=90,
        arena_bytes=256,
        buffers=(
            _buffer("middle", "arena", 16),
            _buffer("x", "input", 16),
            _buffer("w", "weight", 16),
            _buffer("y", "output", 48),
        ),
        steps=(
            copy(("x",), ("middle",), 64, "gather", "3 in /Net_0", Cost(0, 0, 128)),
            copy(("middle",), ("y",), 64, "linear", "7 in /Net_0/Block_0/Linear_0", Cost(1, 640, 96)),
            copy(("w",), ("y", 64), 32, "linear", "7 in /Net_0/Block_1/Linear_0", Cost(2, 320, 64)),
            copy(("w", 32), ("y", 96), 32, "norm", "8 in /Net_0/Block_0", Cost(3, 0, 64)),
            fill(128, 16),
            fill(144, 40),
        ),
        kernels=(),
        inputs=("x",),
        outputs=("y",),
    )


MODEL_BYTES = [64, 64, 32, 32, 16, 40]
LABELS = ["gather", "linear", "linear", "norm", "norm", "norm"]
MODEL = Model(_plan(), (TensorType((16,), "float32"),), ((0, "w"),), (), ())


def copying(elements):
    """A model for the device that is there: one copy of the input."""
    plan = Plan(
        target=Device.of(0).compute_capability,
        arena_bytes=0,
        buffers=(_buffer("x", "input", elements), _buffer("y", "output", elements)),
        steps=(Copy(Pointer("x"), Pointer("y"), 4 * elements, "copy"),),
        kernels=(),
        inputs=("x",),
        outputs=("y",),
    )
    return Model(plan, (), (), (), ())


def session_of(model):
    """With weights of its own."""
    return Session(model, [sample(kind) for kind in model.weights])
