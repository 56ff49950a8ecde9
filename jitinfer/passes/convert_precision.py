"""convert_to_bfloat16, convert_to_float16: a float32 graph computes in a narrower dtype where that is safe.

What is computed how, and why, stands in docs/precision.md. The pass belongs after those that fuse, whose patterns know
no casts, and before weight_prologue, which then casts the weights once: `converting` puts it there.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import TYPE_CHECKING

import numpy

from jitinfer.errors import PassError
from jitinfer.graph.builder import Builder
from jitinfer.graph.node import Constant, Node, Value
from jitinfer.graph.op import Kind, op_named
from jitinfer.graph.types import limits, numpy_dtype
from jitinfer.passes.editor import Editor
from jitinfer.passes.rewrite import GraphPass, register
from jitinfer.passes.weight_prologue import weight_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.graph import Graph

WIDE = "float32"
TARGETS = ("bfloat16", "float16")

COMPUTED_NARROW = frozenset(
    {
        "layer_norm",
        "rms_norm",
        "group_norm",
        "adaptive_layer_norm",
        "gated_residual_adaptive_layer_norm",
        "rotary",
        "swiglu",
        "max_pool2d",
        "average_pool2d",
    }
)
"""Beside the contractions: ops that widen their operands themselves and round their result once."""

COMPUTED_WIDE = frozenset(
    {
        "timestep_embedding",
        "sin",
        "cos",
        "exp",
        "log",
        "log1p",
        "softmax",
        "log_softmax",
        "cumsum",
        "sum",
        "mean",
        "prod",
        "ceil",
        "floor",
        "round",
        "floor_divide",
        "remainder",
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
    }
)
"""Ops whose operands or results a narrow dtype would spoil: large angles and counts, powers of e, sums, comparisons."""

TAKES_ANY = frozenset({"cast", "argmax", "argmin", "argsort", "isnan", "isfinite"})
"""Ops that read a value in whatever dtype it has, and give none of that dtype."""


class Precision(Enum):
    """How a floating value is to be read by an op that would do with either dtype."""

    NARROW = "narrow"  # computed from narrow operands
    WIDE = "wide"  # by an op that computes in float32, and from nothing narrow
    OPEN = "open"  # an input, or computed from inputs, integers and constants alone: in float32 so far
    WEIGHT = "weight"  # depends on the model's weights alone: computed in float32, cast once where it is read


class ConvertPrecision(GraphPass):
    """A float32 graph -> one that computes in `dtype` between float32 inputs and outputs."""

    def __init__(self, dtype: str) -> None:
        self.name = f"convert_to_{dtype}"  # type: ignore[misc]
        self.dtype = dtype

    def run(self, graph: Graph) -> tuple[Graph, int]:
        return _Conversion(graph, self.dtype).run()


for _dtype in TARGETS:
    register(ConvertPrecision(_dtype))


def converting(names: Sequence[str], dtype: str) -> list[str]:
    """The passes `names` with the conversion to `dtype` in its place. Raises PassError for another dtype."""
    if dtype not in TARGETS:
        raise PassError(f"graphs are converted to {' or '.join(TARGETS)}, not to {dtype!r}")
    place = names.index("weight_prologue") if "weight_prologue" in names else len(names)
    return [*names[:place], f"convert_to_{dtype}", *names[place:]]


class _Conversion:
    """One run: nodes are copied in their order, with casts where an operand has not the dtype that it needs."""

    def __init__(self, graph: Graph, dtype: str) -> None:
        self._graph = graph
        self._dtype = dtype
        names = [value.name for value in (*graph.inputs, *graph.parameters)]
        names += [value.name for node in graph.nodes for value in node.outputs]
        self._builder = Builder(names)
        self._weights = set(weight_nodes(graph))
        self._wide = _read_wide(graph)
        self._new: dict[Value, Value] = {}
        self._cast: dict[tuple[Value, str], Value] = {}
        self._precision = dict.fromkeys(graph.inputs, Precision.OPEN)
        self._precision.update(dict.fromkeys(graph.parameters, Precision.WEIGHT))
        self._creations: dict[Value, Node] = {}

    def run(self) -> tuple[Graph, int]:
        for node in self._graph.nodes:
            self._builder.origin = node.origin
            self._convert(node)
        outputs = tuple(self._read(value, value.dtype) for value in self._graph.outputs)
        changed = sum(old is not new for old, new in self._new.items())
        if not changed:
            return self._graph, 0
        nodes = tuple(self._builder.nodes)
        return Editor(dataclasses.replace(self._graph, nodes=nodes, outputs=outputs)).finish(), changed

    def _convert(self, node: Node) -> None:
        dtype, precision = self._decide(node)
        inputs: list[Value | None] = []
        for position, value in enumerate(node.inputs):
            # A mask is added to scores that are float32 inside of the op, and holds numbers beyond float16's.
            mask = node.op.name == "attention" and position == node.op.position("mask")
            if value is None or dtype is None or mask or value.dtype != WIDE:
                inputs.append(None if value is None else self._new.get(value, value))
            else:
                inputs.append(self._read(value, dtype))
        new = dataclasses.replace(node, inputs=tuple(inputs))
        types = node.op.output_types(new.input_types(), node.attributes)
        for old, kind in zip(node.outputs, types, strict=True):
            self._new[old] = old if kind.dtype == old.dtype else Value(old.type.with_dtype(kind.dtype), old.name)
            self._precision[old] = precision
        new = dataclasses.replace(new, outputs=tuple(self._new[value] for value in node.outputs))
        self._builder.nodes.append(new)
        if node.op.kind is Kind.CREATION:
            self._creations[new.output] = new

    def _decide(self, node: Node) -> tuple[str | None, Precision]:
        """The dtype in which its float32 operands are read (None: as they are), and what its results are."""
        name, kind = node.op.name, node.op.kind
        if node in self._weights:
            return None, Precision.WEIGHT
        if kind is Kind.CREATION:
            return None, Precision.OPEN
        if kind is Kind.OPAQUE or node.op.nested or name in COMPUTED_WIDE or _is_complex(node):
            return WIDE, Precision.WIDE
        if name in TAKES_ANY:
            return None, Precision.OPEN
        if kind is Kind.CONTRACTION or name in COMPUTED_NARROW:
            return self._dtype, Precision.NARROW
        return self._follow(node)

    def _follow(self, node: Node) -> tuple[str | None, Precision]:
        """Of an op that would do with either dtype: what its operands say."""
        if node in self._wide:
            return WIDE, Precision.WIDE
        read = [value for value in node.inputs if value is not None and value.dtype == WIDE]
        found = {self._precision[value] for value in read if self._new.get(value, value) not in self._creations}
        if Precision.WIDE in found:
            # Beside something narrow it is computed in float32 still, but who reads the result may round it.
            return WIDE, Precision.NARROW if Precision.NARROW in found else Precision.WIDE
        if Precision.NARROW in found or found == {Precision.WEIGHT}:
            return self._dtype, Precision.NARROW
        return None, Precision.OPEN

    def _read(self, value: Value, dtype: str) -> Value:
        """What stands for a float32 value of the old graph, in `dtype`; cast once, whoever reads it."""
        new = self._new.get(value, value)
        if new.dtype == dtype:
            return new
        key = (new, dtype)
        if key not in self._cast:
            created = self._creations.get(new)
            if created is not None and created.op.name in ("constant", "full"):
                self._cast[key] = self._created(created, dtype)
            else:
                self._cast[key] = self._builder.add(op_named("cast"), (new,), {"dtype": dtype})[0]
        return self._cast[key]

    def _created(self, node: Node, dtype: str) -> Value:
        """A constant in `dtype`. What is finite stays finite: 0 * -inf, and rows of -inf alone, would be nan."""
        bound = float(limits(dtype).max)
        if node.op.name == "full":
            number = float(node.attributes["value"])
            number = min(max(number, -bound), bound) if numpy.isfinite(number) else number
            attributes = {**node.attributes, "value": number, "dtype": dtype}
            return self._builder.add(node.op, (), attributes)[0]
        array = node.attributes["value"].array
        clipped = numpy.where(numpy.isfinite(array), numpy.clip(array, -bound, bound), array)
        return self._builder.add(node.op, (), {"value": Constant(clipped.astype(numpy_dtype(dtype)))})[0]


def _is_complex(node: Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return any(value is not None and value.dtype.startswith("complex") for value in values)


def _read_wide(graph: Graph) -> set[Node]:
    """The nodes that would do with either dtype and whose results go into ops that compute in float32 alone.

    Scores on their way into a softmax, squares on their way into a mean: rounding them would save nothing.
    """
    readers: dict[Value, list[Node]] = {}
    found: set[Node] = set()
    outputs = set(graph.outputs)
    for node in reversed(graph.nodes):
        for value in node.inputs:
            if value is not None:
                readers.setdefault(value, []).append(node)
        movable = node.op.kind in (Kind.POINTWISE, Kind.VIEW, Kind.MOVEMENT) and outputs.isdisjoint(node.outputs)
        if not movable or node.op.name in COMPUTED_NARROW | COMPUTED_WIDE | TAKES_ANY:
            continue
        after = [reader for value in node.outputs for reader in readers.get(value, ())]
        if after and all(reader in found or reader.op.name in COMPUTED_WIDE for reader in after):
            found.add(node)
    return found
