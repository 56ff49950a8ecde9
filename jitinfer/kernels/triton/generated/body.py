"""The nodes of a body as lines of a kernel, over blocks of the space that they compute in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy

from jitinfer.graph import Builder
from jitinfer.graph.operations.complex_numbers import PARTS
from jitinfer.graph.types import FLOATING
from jitinfer.graph.view import View
from jitinfer.kernels.operands import Strided
from jitinfer.kernels.triton.generated.block import Term
from jitinfer.kernels.triton.generated.expressions import POINTWISE, TYPES, converted, expression, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph import Graph, Node, Value
    from jitinfer.kernels.triton.generated.block import Block

ROW_SUMS = frozenset({"sum", "mean", "max", "min", "prod", "any", "all"})
NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "adaptive_layer_norm", "gated_residual_adaptive_layer_norm"})
SOFTMAX = frozenset({"softmax", "log_softmax"})
REDUCTIONS = ROW_SUMS | NORMS | SOFTMAX
"""Ops that take a whole row, the last axis of the space."""
COMPLEX = frozenset({"real", "imag", "complex"})


def body_of(node: Node) -> Graph:
    """What the node computes from its operands, those that are absent left out, as a graph."""
    if node.op.name == "group":
        body: Graph = node.attributes["body"]
        return body
    builder = Builder()
    inputs = []
    for position, value in enumerate(node.inputs):
        kind = node.input_type(position)
        assert (kind is None) == (value is None)
        inputs.append(None if kind is None else builder.input(f"x_{position}", kind.shape, kind.dtype).value)
    outputs = builder.add(node.op, inputs, dict(node.attributes))
    return builder.build(*(builder.tensor(value) for value in outputs))


def writable(body: Graph) -> bool:
    """Whether every node of the body has a text here."""
    return all(_writable(node) for node in body.nodes)


def _writable(node: Node) -> bool:
    name = node.op.name
    dtypes = [value.dtype for value in node.inputs if value is not None]
    if name in COMPLEX:
        return True
    if any(value.dtype in PARTS for value in node.outputs) or any(dtype in PARTS for dtype in dtypes):
        return False
    if name == "constant":
        return node.output.type.size == 1
    if name in REDUCTIONS:
        return name in ROW_SUMS or all(dtype in FLOATING for dtype in dtypes)
    return name in POINTWISE and expression(name, ["x"] * len(dtypes), _held(dtypes), node.attributes) is not None


def _held(dtypes: Sequence[str]) -> list[str]:
    return [Term("", dtype).computed for dtype in dtypes]


def parts(tensor: Strided) -> list[Strided]:
    """The real and the imaginary numbers of a complex tensor; another one as it is."""
    dtype = PARTS.get(tensor.dtype)
    if dtype is None:
        return [tensor]
    view = tensor.view
    strides = tuple(2 * stride for stride in view.strides)
    return [Strided(tensor.buffer, dtype, View(view.shape, strides, 2 * view.offset + part)) for part in (0, 1)]


class Operands(Mapping[str, Term]):
    """The operands of a node that are there by their names; each is read when it is asked for."""

    def __init__(self, node: Node, read: Callable[[Value], Term]) -> None:
        self._value_of = {
            operand.name: value
            for operand, value in zip(node.op.operands, node.inputs, strict=False)
            if value is not None
        }
        self._read = read

    def __getitem__(self, name: str) -> Term:
        return self._read(self._value_of[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._value_of)

    def __len__(self) -> int:
        return len(self._value_of)

    def __contains__(self, name: object) -> bool:
        return name in self._value_of


class Body:
    """Writes nodes; `value_of` has the terms of what they compute: one, or two of a complex value."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.value_of: dict[Value, list[Term]] = {}
        self._unread: dict[Value, Strided] = {}

    def write(
        self, body: Graph, operands: Sequence[Strided], results: Sequence[Strided], *, late: bool = False
    ) -> None:
        """operands: the body's inputs, results: its outputs, all as views of the shape of the space.

        late: read each operand where it is needed first, behind reductions of others, and not all at once: fewer
        registers, for more waiting.
        """
        self._unread = dict(zip(body.inputs, operands, strict=True))
        if not late:
            for value in body.inputs:
                self.terms(value)
        for node in body.nodes:
            self._add(node)
        if self.block.kernel.programmatic:
            self.block.kernel.line("tl.extra.cuda.gdc_launch_dependents()")
        for value, result in zip(body.outputs, results, strict=True):
            for part, term in zip(parts(result), self.terms(value), strict=True):
                self.block.store(part, term)

    def terms(self, value: Value) -> list[Term]:
        """Of a value that was computed, or of an operand, which is read now if it has not been."""
        operand = self._unread.pop(value, None)
        if operand is not None:
            self.value_of[value] = [self.block.load(part) for part in parts(operand)]
        return self.value_of[value]

    def _add(self, node: Node) -> None:
        name = node.op.name
        if name in NORMS:
            results = self._norm(node, Operands(node, lambda value: self.terms(value)[0]))
            self.value_of.update(zip(node.outputs, ([each] for each in results), strict=True))
            return
        inputs = [None if value is None else self.terms(value) for value in node.inputs]
        if name == "complex":
            self.value_of[node.output] = [part[0] for part in inputs if part is not None]
        elif name in ("real", "imag"):
            assert inputs[0] is not None
            self.value_of[node.output] = [inputs[0][name == "imag"]]
        elif name == "constant":
            text = literal(node.attributes["value"].array.reshape(-1)[0], Term("", node.output.dtype).computed)
            self.value_of[node.output] = [Term(text, node.output.dtype)]
        elif name in REDUCTIONS:
            assert inputs[0] is not None
            x = inputs[0][0]
            self.value_of[node.output] = [
                self._softmax(name, x) if name in SOFTMAX else self.row_sum(name, x, node.output.dtype)
            ]
        else:
            terms = [each[0] for each in inputs if each is not None]
            line = expression(name, [t.text for t in terms], [t.computed for t in terms], node.attributes)
            assert line is not None
            self.value_of[node.output] = [self._named(line, name, node.output.dtype)]

    def _named(self, text: str, stem: str, dtype: str) -> Term:
        return Term(self.block.name(text, stem), dtype)

    def row_sum(self, name: str, x: Term, dtype: str) -> Term:
        """A sum, or another reduction of ROW_SUMS, over each row: a block of one column, of `dtype`."""
        width = self.block.space.count("column")
        held = x.computed
        if name in ("any", "all") or held == "bool":
            return self._bool_sum(name, x, dtype)
        integral = held not in FLOATING
        if name == "mean" and integral:
            x, held = Term(f"{x.text}.to(tl.float64)", "float64"), "float64"
        whole = self._masked(x, neutral(name, held))
        text = folded(name, whole, integral)
        if name == "mean":
            text = f"({text} / {width})"
        elif integral:
            text = f"({text}).to({TYPES[held]})"
        return self._named(converted(text, held, dtype) if name == "mean" else text, name, dtype)

    def _masked(self, x: Term, outside: str) -> str:
        if self.block.column_end:
            text = f"tl.where(column < {self.block.column_end}, {x.text}, {outside})"
            return f"tl.broadcast_to({text}, {self.block.shape})"
        return f"tl.broadcast_to({x.text}, {self.block.shape})"

    def _bool_sum(self, name: str, x: Term, dtype: str) -> Term:
        """Of bools, or whether there is any number that is not 0: as integers, since there are no sums of bools."""
        every = name in ("all", "min", "prod")
        asked = Term(f"({x.text} != 0).to(tl.int32)", "int32")
        whole = self._masked(asked, "1" if every else "0")
        return self._named(f"tl.{'min' if every else 'max'}({whole}, axis=1, keep_dims=True) != 0", name, dtype)

    def _softmax(self, name: str, x: Term) -> Term:
        masked = self._masked(x, 'float("-inf")')
        largest = self.block.name(f"tl.max({masked}, axis=1, keep_dims=True)", "largest")
        shifted = self.block.name(f"{x.text} - {largest}", "shifted")
        weights = self._named(f"libdevice.exp({shifted})", "weights", x.computed)
        total = self.block.name(f"tl.sum({self._masked(weights, '0.0')}, axis=1, keep_dims=True)", "total")
        text = f"{weights.text} * (1.0 / {total})" if name == "softmax" else f"{shifted} - libdevice.log({total})"
        return self._named(text, name, x.dtype)

    def _norm(self, node: Node, named: Mapping[str, Term]) -> list[Term]:
        x = self.normalized(node, named)
        width, held = self.block.space.count("column"), x.computed
        centred = x
        if node.op.name != "rms_norm":
            mean = self.block.name(f"tl.sum({self._masked(x, '0.0')}, axis=1, keep_dims=True) / {width}", "mean")
            centred = self._named(f"{x.text} - {mean}", "centred", held)
        squares = self._named(f"{centred.text} * {centred.text}", "squares", held)
        variance = self.block.name(
            f"tl.sum({self._masked(squares, '0.0')}, axis=1, keep_dims=True) / {width}", "variance"
        )
        return self.norm_of(node, x, centred, variance, named)

    def normalized(self, node: Node, named: Mapping[str, Term]) -> Term:
        """What a norm is taken of."""
        x = named["x"]
        if "gate" not in named:
            return x
        return self._named(f"{named['residual'].text} + {named['gate'].text} * {x.text}", "total", x.dtype)

    def norm_of(self, node: Node, x: Term, centred: Term, variance: str, named: Mapping[str, Term]) -> list[Term]:
        """The results of a norm of x, whose difference from its mean is `centred`."""
        epsilon = literal(node.attributes["epsilon"], x.computed)
        y = self._named(f"{centred.text} * libdevice.rsqrt({variance} + {epsilon})", "normal", x.dtype)
        y = self.affine(y, named, plain=node.op.name in ("layer_norm", "rms_norm", "group_norm"))
        if node.attributes.get("activation") == "silu":
            y = self._named(f"arithmetic.silu({y.text})", "silu", y.dtype)
        return [x, y] if "gate" in named else [y]

    def affine(self, y: Term, named: Mapping[str, Term], *, plain: bool) -> Term:
        """What stands behind a norm: times weight, plus bias, and, unless `plain`, times 1 + scale, plus shift."""
        weight, bias = named.get("scale" if plain else "weight"), named.get("bias")
        text = y.text
        if weight is not None:
            text = f"{text} * {self._alike(weight, y)}"
        if bias is not None:
            text = f"{text} + {self._alike(bias, y)}"
        if not plain:
            text = f"({text}) * (1.0 + {self._alike(named['scale'], y)}) + {self._alike(named['shift'], y)}"
        return self._named(text, "affine", y.dtype)

    @staticmethod
    def _alike(term: Term, other: Term) -> str:
        return converted(term.text, term.computed, other.computed)


def neutral(name: str, dtype: str) -> str:
    """What changes nothing in a reduction of values that are computed in `dtype`."""
    if name in ("sum", "mean"):
        return "0.0" if dtype in FLOATING else "0"
    if name == "prod":
        return "1.0" if dtype in FLOATING else "1"
    if dtype in FLOATING:
        return 'float("-inf")' if name == "max" else 'float("inf")'
    bounds = numpy.iinfo(dtype)
    return str(bounds.min if name == "max" else bounds.max)


def folded(name: str, whole: str, integral: bool) -> str:
    """The reduction of a full block along its rows."""
    simple: dict[str, Callable[[str], str]] = {
        "sum": lambda x: f"tl.sum({x}, axis=1, keep_dims=True)",
        "mean": lambda x: f"tl.sum({x}, axis=1, keep_dims=True)",
        "prod": lambda x: f"arithmetic.row_product({x})",
        "max": lambda x: f"tl.max({x}, axis=1, keep_dims=True)" if integral else f"arithmetic.row_max({x})",
        "min": lambda x: f"tl.min({x}, axis=1, keep_dims=True)" if integral else f"arithmetic.row_min({x})",
    }
    return simple[name](whole)
