"""The graph: the intermediate representation that passes rewrite and engines lower. It needs NumPy alone."""

from jitinfer.graph import operations as _operations
from jitinfer.graph.arithmetic import ops
from jitinfer.graph.builder import Builder, Tensor
from jitinfer.graph.evaluation import evaluate
from jitinfer.graph.graph import Graph
from jitinfer.graph.node import Constant, Node, Origin, Value
from jitinfer.graph.op import Kind, Op, op_named, register, table
from jitinfer.graph.parser import parse
from jitinfer.graph.text import to_text
from jitinfer.graph.types import TensorType
from jitinfer.graph.view import View

del _operations

__all__ = [
    "Builder",
    "Constant",
    "Graph",
    "Kind",
    "Node",
    "Op",
    "Origin",
    "Tensor",
    "TensorType",
    "Value",
    "View",
    "evaluate",
    "op_named",
    "ops",
    "parse",
    "register",
    "table",
    "to_text",
]
