"""Writing graphs down: `ops.softmax(x * 2.0)` adds nodes to the graph that `x` belongs to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.graph.arithmetic import Arithmetic
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import NOWHERE, Attribute, Constant, Node, Origin, Value
from jitinfer.graph.op import op_named
from jitinfer.graph.types import DTYPES, TensorType, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.op import Op
    from jitinfer.graph.view import View


class Tensor(Arithmetic):
    """A value together with the builder of its graph: what `ops` functions take and return."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Builder, value: Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> str:
        return self.value.type.dtype

    def apply(self, op: Op, operands: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
        return self.builder.apply(op, operands, attributes)

    def __repr__(self) -> str:
        return repr(self.value)


class Builder:
    """Collects nodes. `origin` is what the nodes added next are said to come from."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self.inputs: list[Value] = []
        self.parameters: list[Value] = []
        self.nodes: list[Node] = []
        self.origin: Origin = NOWHERE
        self._names: dict[str, int] = {}
        self._taken = set(taken)

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Tensor:
        return self._given(self.inputs, name, shape, dtype)

    def parameter(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Tensor:
        return self._given(self.parameters, name, shape, dtype)

    def _given(self, among: list[Value], name: str, shape: Sequence[int], dtype: str) -> Tensor:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) or name in self._taken:
            raise GraphError(f"{name!r} cannot be the name of a value: it is taken, or no identifier")
        if dtype not in DTYPES or any(dim < 0 for dim in shape):
            raise GraphError(f"there is no tensor of shape {list(shape)} and dtype {dtype!r}")
        self._taken.add(name)
        value = Value(TensorType(tuple(int(dim) for dim in shape), dtype), name)
        among.append(value)
        return Tensor(self, value)

    def tensor(self, value: Value) -> Tensor:
        return Tensor(self, value)

    def constant(self, data: Any, dtype: str | None = None) -> Tensor:
        """A constant of any array or number; `dtype` defaults to the array's."""
        array = numpy.asarray(data) if dtype is None else numpy.asarray(data).astype(numpy_dtype(dtype))
        result: Tensor = self.apply(op_named("constant"), (), {"value": Constant(array)})
        return result

    def name(self, stem: str) -> str:
        """A name that is not taken yet: `stem_0`, `stem_1`, ..."""
        while True:
            number = self._names.get(stem, 0)
            self._names[stem] = number + 1
            name = f"{stem}_{number}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def apply(self, op: Op, operands: Sequence[Any], attributes: dict[str, Attribute]) -> Any:
        """Add a node; Python numbers among the operands become constants of the first tensor's dtype.

        Returns a Tensor, or a tuple of them for an op with several results. Raises GraphError.
        """
        dtype = next((each.dtype for each in operands if isinstance(each, Tensor)), None)
        values: list[Value | None] = []
        for operand in operands:
            if isinstance(operand, (bool, int, float)):
                operand = self.constant(operand, dtype)
            if isinstance(operand, Tensor) and operand.builder is not self:
                raise GraphError(f"{op.name}: {operand} belongs to another graph")
            values.append(operand.value if isinstance(operand, Tensor) else operand)
        outputs = self.add(op, values, attributes)
        tensors = tuple(Tensor(self, value) for value in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    def add(
        self,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: dict[str, Attribute],
        views: Sequence[View | None] = (),
    ) -> tuple[Value, ...]:
        """Add a node over bare values. Raises GraphError."""
        return self.add_node(op, inputs, attributes, views).outputs

    def add_node(
        self,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: dict[str, Attribute],
        views: Sequence[View | None] = (),
    ) -> Node:
        inputs = tuple(inputs)
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        completed = op.complete(attributes)
        views = tuple(views)[: len(inputs)]
        probe = Node(op, inputs, completed, (), self.origin, views)
        types = op.output_types(probe.input_types(), completed)
        outputs = tuple(Value(each, self.name(op.name)) for each in types)
        node = Node(op, inputs, completed, outputs, self.origin, views)
        self.nodes.append(node)
        return node

    def build(self, *outputs: Tensor) -> Graph:
        """The graph of everything added so far, checked."""
        graph = Graph(
            tuple(self.inputs), tuple(self.parameters), tuple(self.nodes), tuple(each.value for each in outputs)
        )
        graph.check()
        return graph
