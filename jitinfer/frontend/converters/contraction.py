"""Matrix products, reductions and norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.pointwise import promoted
from jitinfer.frontend.converters.registry import CONVERTERS, Converter, PirOp, converter, known_integers, supported
from jitinfer.graph import ops

if TYPE_CHECKING:
    from jitinfer.frontend.importing import Importer


@converter("matmul")
def matmul(importer: Importer, op: PirOp, x: Any, y: Any) -> Any:
    x, y = promoted(x, y)
    transposed = {"transpose_x": op.attributes["transpose_x"], "transpose_y": op.attributes["transpose_y"]}
    return ops.matmul(x, y, **transposed)


@converter("bmm", "mm")
def bmm(importer: Importer, op: PirOp, x: Any, y: Any) -> Any:
    return ops.matmul(x, y)


def _reduction(name: str) -> Converter:
    def convert(importer: Importer, op: PirOp, x: Any, axes: Any = None) -> Any:
        chosen = op.attributes.get("axis", ()) if axes is None else known_integers(importer, axes)
        chosen = [chosen] if isinstance(chosen, int) else chosen
        rank = len(x.shape)
        over = tuple(axis % rank for axis in chosen) or tuple(range(rank))
        if op.dtype not in (None, x.dtype) and name in ("sum", "prod"):
            x = ops.cast(x, dtype=op.dtype)
        return getattr(ops, name)(x, axes=over, keepdims=op.attributes["keepdim"])

    return convert


for _name in ("sum", "mean", "max", "min", "any", "all", "prod"):
    CONVERTERS["pd_op." + _name] = _reduction(_name)


@converter("argmax", "argmin")
def argmax(importer: Importer, op: PirOp, x: Any, axis: Any) -> Any:
    keepdims, along = op.attributes["keepdims"], known_integers(importer, axis)[0]
    if op.attributes["flatten"]:
        supported(not keepdims, "an index into all elements that keeps dims")
        x, along = ops.reshape(x, shape=(x.type.size,)), 0
    function = getattr(ops, op.name.removeprefix("pd_op."))
    return function(x, axis=along % len(x.shape), keepdims=keepdims, dtype=op.attributes["dtype"])


@converter("softmax")
def softmax(importer: Importer, op: PirOp, x: Any) -> Any:
    return ops.softmax(x, axis=op.attributes["axis"] % max(len(x.shape), 1))


@converter("layer_norm")
def layer_norm(importer: Importer, op: PirOp, x: Any, scale: Any, bias: Any) -> Any:
    first = op.attributes["begin_norm_axis"]
    shape = x.shape[first:]
    shaped = [None if each is None else ops.reshape(each, shape=shape) for each in (scale, bias)]
    return [ops.layer_norm(x, *shaped, axes=len(shape), epsilon=op.attributes["epsilon"]), None, None]


@converter("rms_norm", "fused_rms_norm_ext")
def rms_norm(importer: Importer, op: PirOp, x: Any, scale: Any) -> list[Any]:
    """Over the last axis, or those of `normalized_shape`."""
    shape = tuple(op.attributes.get("normalized_shape", x.shape[-1:]))
    scale = None if scale is None else ops.reshape(scale, shape=shape)
    return [ops.rms_norm(x, scale, axes=len(shape), epsilon=op.attributes["epsilon"])]


@converter("group_norm")
def group_norm(importer: Importer, op: PirOp, x: Any, scale: Any, bias: Any) -> Any:
    supported(op.attributes["data_format"] in ("NCHW", "NCL", "NCDHW"), "channels in the last place")
    y = ops.group_norm(x, scale, bias, groups=op.attributes["groups"], epsilon=op.attributes["epsilon"])
    return [y, None, None]


@converter("cumsum")
def cumsum(importer: Importer, op: PirOp, x: Any, axis: Any) -> Any:
    (along,) = known_integers(importer, axis)
    if op.attributes["flatten"]:
        x, along = ops.reshape(x, shape=(math.prod(x.shape),)), 0
    x = x if op.dtype in (None, x.dtype) else ops.cast(x, dtype=op.dtype)
    return ops.cumsum(
        x, axis=along % len(x.shape), reverse=op.attributes["reverse"], exclusive=op.attributes["exclusive"]
    )


@converter("topk")
def top_k(importer: Importer, op: PirOp, x: Any, count: Any) -> Any:
    (k,) = known_integers(importer, count)
    return ops.top_k(x, k=k, axis=op.attributes["axis"] % len(x.shape), largest=op.attributes["largest"])


@converter("argsort")
def argsort(importer: Importer, op: PirOp, x: Any) -> list[Any]:
    axis = op.attributes["axis"] % len(x.shape)
    indices = ops.argsort(x, axis=axis, descending=op.attributes["descending"])
    return [ops.take_along_axis(x, indices, axis=axis), indices]


@converter("log_softmax")
def log_softmax(importer: Importer, op: PirOp, x: Any) -> Any:
    """Where Paddle's kernel for the CPU cuts results off at -64, ours goes on."""
    return ops.log_softmax(x, axis=op.attributes["axis"] % len(x.shape))


@converter("logsumexp")
def logsumexp(importer: Importer, op: PirOp, x: Any) -> Any:
    """The largest element goes before the exponential."""
    rank = len(x.shape)
    chosen = op.attributes["axis"]
    axes = tuple(range(rank)) if op.attributes["reduce_all"] or not chosen else tuple(axis % rank for axis in chosen)
    largest = ops.max(x, axes=axes, keepdims=True)
    y = ops.log(ops.sum(ops.exp(x - largest), axes=axes, keepdims=True)) + largest
    kept = tuple(dim for axis, dim in enumerate(x.shape) if axis not in axes)
    return y if op.attributes["keepdim"] else ops.reshape(y, shape=kept)


@converter("p_norm")
def p_norm(importer: Importer, op: PirOp, x: Any) -> Any:
    """The Euclidean norm along one axis."""
    supported(op.attributes["porder"] == 2.0 and not op.attributes["asvector"], "another norm")
    return ops.sqrt(ops.sum(x * x, axes=(op.attributes["axis"] % len(x.shape),), keepdims=op.attributes["keepdim"]))


@converter("einsum")
def einsum(importer: Importer, op: PirOp, operands: Any) -> list[Any]:
    """From left to right, each step a sum, transposes and at most one product of matrices."""
    inputs, _, output = op.attributes["equation"].replace(" ", "").partition("->")
    terms = [_spelled(term, len(x.shape)) for term, x in zip(inputs.split(","), operands, strict=True)]
    supported("->" in op.attributes["equation"], "results in the order of the alphabet")
    supported(all(len(set(term)) == len(term) for term in terms), "a diagonal")
    rank = max(sum(each in _BATCH for each in term) for term in terms)
    result = output.replace("...", _BATCH[-rank:] if rank else "")
    x, labels = operands[0], terms[0]
    for position, (y, term) in enumerate(zip(operands[1:], terms[1:], strict=True)):
        later = set(result).union(*terms[position + 2 :])
        x, labels = _product(x, labels, y, term, later)
    x, labels = _summed(x, labels, set(result))
    return [ops.transpose(x, permutation=tuple(labels.index(each) for each in result)) if labels != result else x]


_BATCH = "0123456789"
"""Labels of the axes that an ellipsis stands for, the last one for the last axis."""


def _spelled(term: str, rank: int) -> str:
    more = rank - len(term.replace("...", ""))
    return term.replace("...", _BATCH[-more:] if more else "")


def _summed(x: Any, labels: str, kept: set[str]) -> tuple[Any, str]:
    """Without the axes that nobody needs."""
    gone = tuple(axis for axis, label in enumerate(labels) if label not in kept)
    return (ops.sum(x, axes=gone), "".join(each for each in labels if each in kept)) if gone else (x, labels)


def _product(x: Any, left: str, y: Any, right: str, later: set[str]) -> tuple[Any, str]:
    """The product of two operands, summed over what both have and nothing later needs."""
    x, left = _summed(x, left, later | set(right))
    y, right = _summed(y, right, later | set(left))
    sizes = {**dict(zip(left, x.shape, strict=True)), **dict(zip(right, y.shape, strict=True))}
    both = [label for label in left if label in right]
    batch = "".join(label for label in both if label in later)
    inner = "".join(label for label in both if label not in later)
    rows = "".join(label for label in left if label not in both)
    columns = "".join(label for label in right if label not in both)
    for labels, tensor in ((left, x), (right, y)):
        supported(all(sizes[label] == dim for label, dim in zip(labels, tensor.shape, strict=True)), "broadcast labels")

    def matrix(tensor: Any, labels: str, groups: tuple[str, ...]) -> Any:
        order = "".join(groups)
        turned = ops.transpose(tensor, permutation=tuple(labels.index(each) for each in order))
        lead = tuple(sizes[each] for each in groups[0])
        return ops.reshape(turned, shape=(*lead, *(math.prod(sizes[each] for each in group) for group in groups[1:])))

    z = ops.matmul(matrix(x, left, (batch, rows, inner)), matrix(y, right, (batch, inner, columns)))
    labels = batch + rows + columns
    return ops.reshape(z, shape=tuple(sizes[each] for each in labels)), labels
