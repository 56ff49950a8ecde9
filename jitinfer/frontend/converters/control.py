"""Control flow: branches and loops that depend on data become nested graphs, all others are followed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jitinfer.frontend.converters.complex_numbers import whole
from jitinfer.frontend.converters.registry import PirOp, converter, supported
from jitinfer.graph import Builder, Graph, Tensor, op_named
from jitinfer.graph.node import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.frontend.importing import Importer

LONGEST = 64
"""Rounds up to which a loop, whose condition depends on constants alone, is written out."""


@converter("if")
def conditional(importer: Importer, op: PirOp, condition: Any) -> Any:
    known = importer.number(condition)
    if known is not None:
        return importer.run(op.blocks[0 if known else 1])
    branches = [importer.nested() for _ in op.blocks]
    yielded = [branch.run(block) for branch, block in zip(branches, op.blocks, strict=True)]
    captured = _distinct(tensor for branch in branches for tensor in branch.captured.values())
    then, otherwise = (
        _graph(branch, [branch.capture(tensor) for tensor in captured], results)
        for branch, results in zip(branches, yielded, strict=True)
    )
    return _added(importer, "conditional", [condition, *captured], {"then": then, "otherwise": otherwise})


@converter("while")
def while_loop(importer: Importer, op: PirOp, running: Any, *operands: Any) -> Any:
    (block,) = op.blocks
    arguments = [each["#"] for each in block.get("args", ())]
    written_out = _written_out(importer, block, arguments, running, operands)
    if written_out is not None:
        return written_out
    # Paddle carries variables that live inside of a round only, with anything for their first value
    read = [
        argument in importer.used or number in importer.used
        for argument, (number, _) in zip(arguments, op.results, strict=True)
    ]
    carried = [_one(operand) for operand in _where(read, operands)]
    body = importer.nested()
    inputs = [body.builder.input(f"carried_{i}", each.shape, each.dtype) for i, each in enumerate(carried)]
    for number, tensor in zip(_where(read, arguments), inputs, strict=True):
        body.bind(number, tensor)
    still_running, *following = body.run(block)
    inputs += [body.capture(tensor) for tensor in body.captured.values()]
    graph = _graph(body, inputs, [still_running, *_where(read, following)])
    given = [running, *carried, *body.captured.values()]
    results = iter(_added(importer, "while_loop", given, {"body": graph, "carried": len(carried)}))
    return [next(results) if each else None for each in read]


def _written_out(
    importer: Importer, block: Any, arguments: Sequence[int], running: Any, operands: Sequence[Any]
) -> Sequence[Any] | None:
    """The carried values at the end, if the number of rounds depends on constants alone, and is small."""
    mark = importer.mark()
    values: Sequence[Any] = operands
    for _ in range(LONGEST + 1):
        known = importer.number(running)
        if known is None:
            break
        if not known:
            return values
        for number, value in zip(arguments, values, strict=True):
            importer.bind(number, value)
        running, *values = importer.run(block)
    importer.forget(mark)
    return None


def _where(chosen: Sequence[bool], among: Sequence[Any]) -> list[Any]:
    return [each for each, wanted in zip(among, chosen, strict=True) if wanted]


def _graph(inside: Importer, inputs: Sequence[Tensor], results: Sequence[Any]) -> Graph:
    built: Graph = inside.builder.build(*map(_one, results))
    return dataclasses.replace(built, inputs=tuple(tensor.value for tensor in inputs))


def _one(result: Any) -> Tensor:
    """Raises UnsupportedForm for anything but a tensor: a list has no place in a graph."""
    tensor = whole(result)
    supported(isinstance(tensor, Tensor), "a list, or nothing, that control flow gives")
    return tensor  # type: ignore[no-any-return]


def _distinct(tensors: Any) -> list[Tensor]:
    return list({tensor.value: tensor for tensor in tensors}.values())


def _added(importer: Importer, name: str, operands: Sequence[Tensor], attributes: dict[str, Any]) -> list[Tensor]:
    builder: Builder = importer.builder
    if not str(builder.origin):  # Paddle knows no lines of control flow itself: those of what decides stand for it
        deciding = (node.origin for node in reversed(builder.nodes) if operands[0].value in node.outputs)
        builder.origin = dataclasses.replace(next(deciding, NOWHERE), operation=builder.origin.operation)
    values = builder.add(op_named(name), [tensor.value for tensor in operands], attributes)
    return [builder.tensor(value) for value in values]
