"""A graph: inputs, parameters, nodes in order, outputs."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from jitinfer.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jitinfer.graph.node import Node, Value


@dataclass(frozen=True, eq=False)
class Graph:
    """A function from `inputs` and `parameters` to `outputs`. Never changed: a pass makes another one.

    `prologue`: computes `parameters` from what it takes as inputs, the weights of the model; None: they are the
    weights themselves. Nodes stand in an order in which they can be evaluated.
    """

    inputs: tuple[Value, ...]
    parameters: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    prologue: Graph | None = field(default=None)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that computes a value; inputs and parameters have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def weights(self) -> tuple[Value, ...]:
        """What the model's weights are bound to: the prologue's inputs, or the parameters."""
        return self.parameters if self.prologue is None else self.prologue.inputs

    def counts(self) -> Counter[str]:
        """How many nodes there are of each op, by name."""
        return Counter(node.op.name for node in self.nodes)

    @property
    def flops(self) -> int:
        """Multiplications and additions of one evaluation."""
        return sum(
            node.op.flops(node.input_types(), [value.type for value in node.outputs], **node.attributes)
            for node in self.nodes
        )

    def walk(self) -> Iterator[Node]:
        """All nodes, those of nested graphs included, not those of the prologue."""
        for node in self.nodes:
            yield node
            for nested in nested_graphs(node):
                yield from nested.walk()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content: equal for equal graphs in any process, whatever their values are called."""
        from jitinfer.graph.text import canonical_text

        return hashlib.sha256(canonical_text(self).encode()).hexdigest()

    def __str__(self) -> str:
        from jitinfer.graph.text import to_text

        return to_text(self)

    def check(self) -> None:
        """Raises GraphError unless names are unique, every value is defined before it is used, and types fit.

        All dims of inputs and parameters are known, and only opaque nodes read, or compute, values with other dims.
        """
        if self.prologue is not None:
            self.prologue.check()
            if self.prologue.prologue is not None:
                raise GraphError("the prologue has a prologue")
            computed = [value.type for value in self.prologue.outputs]
            if computed != [value.type for value in self.parameters]:
                raise GraphError("the prologue's outputs are not of the types of the parameters")
        defined = {*self.inputs, *self.parameters}
        names = {value.name for value in defined}
        if len(defined) != len(self.inputs) + len(self.parameters):
            raise GraphError("an input or parameter stands there twice")
        for given in (*self.inputs, *self.parameters):
            if not given.type.known:
                raise GraphError(f"the dims of {given}, which the graph is given, are not known")
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value not in defined:
                    raise GraphError(f"{node.op.name} at {node.origin} uses {value} before it is computed")
            check_node(node)
            for nested in nested_graphs(node):
                nested.check()
                if nested.prologue is not None:
                    raise GraphError(f"{node.op.name} at {node.origin} holds a graph with a prologue")
            names.update(value.name for value in node.outputs)
            if defined.intersection(node.outputs):
                raise GraphError(f"{node.op.name} at {node.origin} computes a value that is there already")
            defined.update(node.outputs)
        if len(names) != len(defined):
            raise GraphError("two values have one name")
        for value in self.outputs:
            if value not in defined:
                raise GraphError(f"the output {value} is not computed")


def nested_graphs(node: Node) -> Iterator[Graph]:
    """The graphs among a node's attributes."""
    for attribute in node.attributes.values():
        if isinstance(attribute, Graph):
            yield attribute


def check_node(node: Node) -> None:
    """Raises GraphError unless the outputs have the types that follow from the inputs."""
    for position, read in enumerate(node.inputs):
        view = node.view(position)
        if read is not None and view is not None and not view.within(read.type.size):
            raise GraphError(f"{node.op.name} at {node.origin} reads {read} through {view}, beyond its elements")
    types = node.op.output_types(node.input_types(), node.attributes)
    if len(types) != len(node.outputs):
        raise GraphError(f"{node.op.name} has {len(types)} results, not {len(node.outputs)}")
    for position, (value, wanted) in enumerate(zip(node.outputs, types, strict=True)):
        store = node.store(position)
        fits = value.type == wanted if store is None else (value.dtype, value.type.size) == (wanted.dtype, wanted.size)
        if not fits:
            raise GraphError(f"{node.op.name} gives {wanted}, not {value}")
        if store is not None and store.size != wanted.size:
            raise GraphError(f"{node.op.name} at {node.origin} stores {wanted} through the view {store}")
        if store is not None and not (store.within(value.type.size) and store.distinct()):
            raise GraphError(f"{node.op.name} at {node.origin} does not fill {value} through the view {store}")
