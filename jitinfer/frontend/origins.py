"""Where in the user's model each operation of a trace comes from."""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paddle
from paddle.nn.layer import layers

from jitinfer.frontend.program import entries
from jitinfer.frontend.replacement import replaced
from jitinfer.graph.node import NOWHERE, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LAYERS = "struct_name"
"""The attribute that holds an operation's path of layers."""

_FRAME = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INTERNAL = (os.path.dirname(paddle.__file__) + os.sep, _PACKAGE + os.sep)


def origins_of(callstacks: Sequence[Sequence[str]], layers: Sequence[str]) -> tuple[Origin, ...]:
    """One origin for each operation.

    Args:
        callstacks: for each operation the Python frames of its creation, outermost first, as Paddle writes them.
        layers: for each operation the path of layers that Paddle gives it, "" for none.
    """
    places: dict[str, str] = {}
    found = []
    for callstack, layer in zip(callstacks, layers, strict=True):
        for frame in callstack:
            if frame not in places:
                places[frame] = _place(frame)
        place = next((places[frame] for frame in reversed(callstack) if places[frame]), "")
        found.append(Origin(place, layer) if place or layer else NOWHERE)
    return tuple(found)


def packed(origins: Sequence[Origin]) -> Any:
    """As JSON, each place and layer once."""
    places, layers = (
        {name: position for position, name in enumerate(dict.fromkeys(names))}
        for names in ([each.place for each in origins], [each.layer for each in origins])
    )
    return [list(places), list(layers), [[places[each.place], layers[each.layer]] for each in origins]]


def unpacked(document: Any) -> tuple[Origin, ...]:
    """The inverse of `packed`; raises KeyError, TypeError, ValueError or IndexError if it is given something else."""
    places, layers, pairs = document
    return tuple(Origin(str(places[place]), str(layers[layer])) for place, layer in pairs)


def _place(frame: str) -> str:
    """ "file:line" of a frame in the user's code; "" for others."""
    found = _FRAME.match(frame)
    if found is None or found["file"].startswith(_INTERNAL):
        return ""
    return f"{found['file']}:{found['line']}"


class LayerPaths:
    """Which layers' calls each operation of a program was made in, as "/DiT_0/Block_2/Linear_0".

    The number counts the calls of layers of one class inside of one call. Paddle keeps such paths too, but by
    counters of the process, and gives them to the wrong operations where parameters come in between.
    """

    def __init__(self) -> None:
        self._path = ""
        self._calls: Counter[str] = Counter()
        self._spans: list[tuple[int, int, str]] = []
        self._thread = threading.get_ident()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """For the time of a trace, in the place of Paddle's own."""
        original = layers.name_struct

        def name_struct(prefix: str) -> Any:
            return self._call(prefix) if threading.get_ident() == self._thread else original(prefix)

        with replaced(layers, name_struct=name_struct):
            yield

    @contextmanager
    def _call(self, class_name: str) -> Iterator[None]:
        outer, before = self._path, _newest()
        call = f"{outer}/{class_name}"
        self._path = f"{call}_{self._calls[call]}"
        self._calls[call] += 1
        try:
            yield
        finally:
            self._spans.append((before, _newest(), self._path))
            self._path = outer

    def write(self, operations: Iterable[Any]) -> None:
        """Into an attribute of the operations of the program that was traced, where Paddle has its own."""
        by_number = {operation.id(): operation for operation in operations}
        numbers = sorted(by_number)
        paths: dict[int, str] = {}
        for before, last, path in self._spans:  # inner calls come first
            for number in numbers[bisect_right(numbers, before) : bisect_right(numbers, last)]:
                paths.setdefault(number, path)
        for number, path in paths.items():
            by_number[number].set_str_attr(LAYERS, path)


def _newest() -> int:
    """The number of the newest operation: Paddle counts them as they are made."""
    block = paddle.base.libpaddle.pir.get_current_insertion_point().block()
    newest = -1
    while block is not None:  # also those around it: this one may be empty still
        newest = max(newest, _last(block))
        block = block.parent_block
    return newest


def _last(block: Any) -> int:
    if block.empty():
        return -1
    operation = block.back()
    newest: int = max([operation.id(), *map(_last, operation.blocks())])
    return newest


def layers_in(document: Any) -> list[str]:
    """The path of layers of each operation of a serialised program, nested ones after the one that holds them."""
    return [
        next((each["AT"]["D"] for each in entry.get("A", ()) if _named(each, LAYERS)), "")
        for entry in entries(document["program"]["regions"][0]["blocks"][0])
    ]


def _named(attribute: Any, name: str) -> bool:
    return isinstance(attribute, dict) and attribute.get("N") == name
