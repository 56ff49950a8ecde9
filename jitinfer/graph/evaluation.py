"""Evaluating a graph by NumPy: the meaning of every op, for tests, verification and debugging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from jitinfer.errors import GraphError
from jitinfer.graph.types import FLOATING, NARROW, TensorType, dtype_name, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.graph.graph import Graph
    from jitinfer.graph.node import Node, Value
    from jitinfer.graph.view import View

Array = numpy.ndarray[Any, Any]


def evaluate(
    graph: Graph, inputs: Sequence[Array], weights: Sequence[Array] = (), *, arithmetic: str = "float32"
) -> list[Array]:
    """The outputs of `graph`.

    Args:
        inputs, weights: arrays of exactly the types of `graph.inputs` and `graph.weights`.
        arithmetic: "float32": narrower floating types are widened to float32 for each op and its result is rounded
            back to its own dtype. "float64": every floating value is float64 throughout, outputs included: the exact
            result, as far as that goes, of what the graph says.

    Raises GraphError where an array has not the type that the graph says.
    """
    if arithmetic not in ("float32", "float64"):
        raise GraphError(f"arithmetic is 'float32' or 'float64', not {arithmetic!r}")
    given = [*_checked(graph.inputs, inputs, arithmetic), *_checked(graph.weights, weights, arithmetic)]
    return evaluate_unchecked(graph, given, arithmetic)


def evaluate_unchecked(graph: Graph, given: Sequence[Array], arithmetic: str) -> list[Array]:
    """As `evaluate`, of arrays that are known to fit: inputs, then weights."""
    split = len(graph.inputs)
    parameters = list(given[split:])
    if graph.prologue is not None:
        parameters = evaluate_unchecked(graph.prologue, parameters, arithmetic)
    values: dict[Value, Array] = dict(
        zip((*graph.inputs, *graph.parameters), (*given[:split], *parameters), strict=True)
    )
    last_use = {value: position for position, node in enumerate(graph.nodes) for value in node.inputs if value}
    kept = set(graph.outputs)
    for position, node in enumerate(graph.nodes):
        arrays = [None if value is None else values[value] for value in node.inputs]
        results = evaluate_node(node, arrays, arithmetic)
        values.update(zip(node.outputs, results, strict=True))
        for value in (*node.inputs, *node.outputs):
            if value is not None and value not in kept and last_use.get(value, position) <= position:
                values.pop(value, None)
    return [values[value] for value in graph.outputs]


def evaluate_node(node: Node, arrays: Sequence[Array | None], arithmetic: str = "float32") -> list[Array]:
    """The results of one node, through its views and stores."""
    seen = [
        array if array is None or view is None else apply_view(array, view)
        for array, view in ((array, node.view(position)) for position, array in enumerate(arrays))
    ]
    if arithmetic == "float32":
        seen = [_widened(array) for array in seen]
    extra = {"arithmetic": arithmetic} if node.op.nested else {}
    try:
        with numpy.errstate(all="ignore"):
            results = node.op.evaluate(*seen, **node.attributes, **extra)
    except GraphError as error:
        if node.op.nested or not str(node.origin):
            raise
        raise GraphError(f"{error} (at {node.origin})") from error
    results = results if isinstance(results, tuple) else (results,)
    placed = []
    for position, (value, result) in enumerate(zip(node.outputs, results, strict=True)):
        dtype = numpy_dtype(_wide(value.type).dtype if arithmetic == "float64" else value.dtype)
        array = numpy.asarray(result).astype(dtype, copy=False)
        store = node.store(position)
        placed.append(array if store is None else apply_store(array, store, value.shape))
        if placed[-1].shape != value.shape:
            raise GraphError(f"{node.op.name} at {node.origin} gives shape {placed[-1].shape} for {value}")
    return placed


def apply_view(array: Array, view: View) -> Array:
    """Read `array`, as it lies in row-major order, through `view`."""
    flat = numpy.ascontiguousarray(array).reshape(-1)
    if view.size == 0:
        return numpy.empty(view.shape, array.dtype)
    if not view.within(flat.size):
        raise GraphError(f"the view {view} leaves its buffer of {flat.size} elements")
    strides = [stride * array.itemsize for stride in view.strides]
    return numpy.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides, writeable=False)


def apply_store(array: Array, store: View, shape: tuple[int, ...]) -> Array:
    """A buffer of `shape` into which `array` was written through `store`, which must fill all of it."""
    places = apply_view(numpy.arange(array.size), store)
    if not numpy.array_equal(numpy.sort(places, axis=None), numpy.arange(array.size)):
        raise GraphError(f"the view {store} does not write every element of its buffer once")
    flat = numpy.empty(array.size, array.dtype)
    flat[places.reshape(-1)] = array.reshape(-1)
    return flat.reshape(shape)


def _checked(values: Sequence[Value], arrays: Sequence[Array], arithmetic: str) -> list[Array]:
    if len(values) != len(arrays):
        raise GraphError(f"the graph takes {len(values)} arrays here, not {len(arrays)}")
    checked = []
    for value, array in zip(values, arrays, strict=True):
        array = numpy.asarray(array)
        if TensorType(array.shape, dtype_name(array.dtype)) != value.type:
            raise GraphError(f"{value} is given an array {array.dtype}{list(array.shape)}")
        checked.append(array.astype(numpy_dtype(_wide(value.type).dtype)) if arithmetic == "float64" else array)
    return checked


def _widened(array: Array | None) -> Array | None:
    return array.astype(numpy.float32) if array is not None and dtype_name(array.dtype) in NARROW else array


def _wide(kind: TensorType) -> TensorType:
    if kind.dtype == "complex64":
        return kind.with_dtype("complex128")
    return kind.with_dtype("float64") if kind.dtype in FLOATING else kind
