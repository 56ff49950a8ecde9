"""The arguments of a loop's body, as objects of their own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paddle.base import core

from jitinfer.frontend.replacement import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def owned_arguments() -> Iterator[None]:
    """Let `Block.args` return copies, where Paddle's own objects borrow the memory of the block's list of arguments.

    `paddle.static.nn.while_loop` keeps the last of them until it returns. A variable that the body is the first to
    assign becomes one more argument, for which the list moves, and that object refers to memory that is free. pybind11
    looks for an object with the address of a value before it makes a new one: where the results of the loop come to
    lie at that address on their way to Python, it gives out the old object for one of them. That is then whatever
    lies there next, so the program returned another of its values, a constant or a loop's counter, or one that is
    nowhere in it. It depends on the state of the heap how often.
    """
    block: Any = core.pir.Block
    borrowed = block.args

    def args(self: Any) -> list[Any]:
        return [argument._clone() for argument in borrowed(self)]

    with replaced(block, args=args):
        yield
