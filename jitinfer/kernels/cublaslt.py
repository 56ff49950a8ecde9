"""Products by cuBLASLt: with its own epilogues where these say all that there is to do, else a kernel behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from jitinfer.errors import KernelError
from jitinfer.graph.types import itemsize
from jitinfer.kernels.contractions import Contraction, contraction_of, dense, restacked
from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family
from jitinfer.kernels.triton.epilogue import finishing_launch, walkable
from jitinfer.kernels.triton.matmul import multipliable
from jitinfer.runtime.cublaslt import Product
from jitinfer.runtime.device import Device, device_count, device_problem
from jitinfer.runtime.plan import Gemm, Matrix, Pointer, aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.contractions import Axes, Matrices
    from jitinfer.kernels.family import CandidateStep
    from jitinfer.kernels.target import Target
    from jitinfer.runtime.cublaslt import Algorithm

WORKSPACE_BYTES = 32 * 2**20
"""That cuBLASLt may use: what its documentation asks for on sm_90."""

PROPOSALS = 12
"""Algorithms that are offered on a machine that has a device to ask for them."""

_EPILOGUES = {"none": "none", "relu": "relu", "gelu_tanh": "gelu"}


@dataclass
class _Workspace:
    """Room behind cuBLASLt's own part, taken piece by piece."""

    nbytes: int = WORKSPACE_BYTES

    def matrices(self, dtype: str, stack: int, rows: int, columns: int) -> Matrices:
        start = self.nbytes
        self.nbytes = aligned(start + stack * rows * columns * itemsize(dtype))
        return dense(start, dtype, stack, rows, columns)


class CublasLtProduct(Family):
    """All products of floating numbers: what is no matrix to cuBLASLt is made one by a copy ahead of it."""

    name = "cublaslt"
    ops = ("matmul", "linear", "conv2d")
    compiled = False

    def supports(self, node: Node, target: Target) -> bool:
        return multipliable(contraction_of(node))

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """`proposal`: the place of the algorithm among those that cuBLASLt proposes on a device such as `target`."""
        early = int(target.has_programmatic_launch)
        first = Config.of(proposal=0, programmatic=early)
        device = _device_like(target)
        if device is None:
            return [first]
        proposals = _proposals(_gemm(self.launches(node, first, target)), device)
        return [first, *(Config.of(proposal=n, programmatic=early) for n in range(1, len(proposals)))]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        contraction = contraction_of(node)
        assert contraction is not None
        candidate = _candidate(contraction, programmatic=bool(config["programmatic"]))
        if config["proposal"] == 0:
            return candidate
        gemm, device = _gemm(candidate), _device_like(target)
        if device is None:
            raise KernelError(f"there is no device of sm_{target.compute_capability} to ask for its algorithms")
        proposals = _proposals(gemm, device)
        if len(proposals) <= config["proposal"]:
            raise KernelError(f"cuBLASLt proposes {len(proposals)} algorithms, not {config['proposal'] + 1}")
        chosen = replace(gemm, algorithm=proposals[config["proposal"]].code)
        return replace(candidate, steps=tuple(chosen if step is gemm else step for step in candidate.steps))


def _gemm(candidate: Candidate) -> Gemm:
    (gemm,) = (step for step in candidate.steps if isinstance(step, Gemm))
    return gemm


def _device_like(target: Target) -> Device | None:
    """One of this machine's, if it has one of that kind."""
    if device_problem() is not None:
        return None
    devices = map(Device.of, range(device_count()))
    kind = (target.compute_capability, target.sm_count)
    return next((each for each in devices if (each.compute_capability, each.sm_count) == kind), None)


@lru_cache(maxsize=1024)
def _proposals(gemm: Gemm, device: Device) -> tuple[Algorithm, ...]:
    """PROPOSALS at most, by the heuristics of a device; its buffers are aligned as those of a plan are.

    Kept, since the heuristics take 14 ms, and are asked for each of them, and for each node.
    """
    with device.current():
        product = Product(gemm, lambda pointer: 2**32 + pointer.offset, device)
        try:
            return tuple(product.algorithms(PROPOSALS, gemm.workspace_bytes))
        finally:
            product.close()


def _candidate(contraction: Contraction, *, programmatic: bool) -> Candidate:
    other = restacked(contraction)
    if _factor(contraction.x) is None and other is not None and walkable(other) and _factor(other.x) is not None:
        contraction = other
    steps: list[CandidateStep] = []
    workspace = _Workspace()
    factors = []
    for matrices, rows, columns in (
        (contraction.x, contraction.rows, contraction.depth),
        (contraction.weight, contraction.depth, contraction.columns),
    ):
        found = _factor(matrices)
        if found is None:
            copy = workspace.matrices(matrices.dtype, contraction.stack, rows, columns)
            # A product that is there already, of which nothing is left to do but to write it.
            moving = Contraction(contraction.stack, rows, 1, columns, copy, copy, copy)
            steps.append(finishing_launch(moving, matrices, 1, 0, programmatic=programmatic))
            found = _factor(copy)
        assert found is not None
        factors.append(found)
    (a, transpose_a), (b, transpose_b) = factors
    base = Gemm(
        a,
        b,
        a,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        batch=contraction.stack,
        workspace=Pointer(WORKSPACE),
        workspace_bytes=WORKSPACE_BYTES,
    )
    direct = _direct(contraction, base)
    if direct is not None:
        return Candidate((*steps, direct), workspace.nbytes)
    # Unrounded, as all other kernels have it before their epilogue.
    product = workspace.matrices("float32", contraction.stack, contraction.rows, contraction.columns)
    written = _matrix(product)
    assert written is not None
    finishing = finishing_launch(contraction, product, 1, 0, programmatic=programmatic)
    return Candidate((*steps, replace(base, d=written), finishing), workspace.nbytes)


def _direct(contraction: Contraction, base: Gemm) -> Gemm | None:
    """The whole of it as one Gemm; None where there is more to do."""
    epilogue = _EPILOGUES.get(contraction.activation)
    d = _matrix(contraction.y)
    apart = contraction.stack == 1 or (d is not None and d.batch_stride >= (d.rows - 1) * d.row_stride + d.columns)
    known = d is not None and d.dtype in (base.a.dtype, "float32") and apart
    if d is None or not known or epilogue is None or contraction.gate is not None:
        return None
    if epilogue == "gelu" and d.dtype == "float32":
        return None  # its tanh is not as exact as float32
    bias = contraction.bias
    if bias is not None and not (_is_vector(bias) and bias.dtype == d.dtype):
        return None
    c = None
    if contraction.residual is not None:
        c = _matrix(contraction.residual)
        if c is None or c.dtype != d.dtype or epilogue != "none":
            return None
    return replace(
        base,
        d=d,
        c=c,
        beta=0.0 if c is None else 1.0,
        bias=None if bias is None else bias.pointer.pointer,
        epilogue=epilogue,
    )


def _is_vector(bias: Matrices) -> bool:
    """Whether it is contiguous, and the same for the whole stack."""
    return not any(stride for _, stride in bias.stack) and _stride(bias.columns, 1) == 1


def _factor(matrices: Matrices) -> tuple[Matrix, bool] | None:
    """As a row-major matrix, or one that is transposed."""
    found = _matrix(matrices)
    if found is not None:
        return found, False
    turned = _matrix(matrices.transposed())
    return None if turned is None else (turned, True)


def _matrix(matrices: Matrices) -> Matrix | None:
    """None where it is not row-major with one stride for rows and one for the stack."""
    if any(len(axes) > 1 for axes in matrices.dimensions) or _stride(matrices.columns, 1) != 1:
        return None
    rows, columns = (axes[0][0] if axes else 1 for axes in (matrices.rows, matrices.columns))
    row_stride, batch_stride = _stride(matrices.rows, columns), _stride(matrices.stack, 0)
    if row_stride < columns or batch_stride < 0:
        return None
    return Matrix(matrices.pointer.pointer, matrices.dtype, rows, columns, row_stride, batch_stride)


def _stride(axes: Axes, otherwise: int) -> int:
    return axes[0][1] if axes else otherwise
