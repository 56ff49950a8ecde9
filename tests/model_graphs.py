"""Models as graphs, each traced and imported once for all tests of a process."""

from collections.abc import Callable
from functools import cache

from graphs import Imported, imported
from models import Case, build


@cache
def model_graph(builder: Callable[[], Case]) -> Imported:
    """Of one of `models.BUILDERS`, which are small enough to be kept; nobody writes into its arrays."""
    return large_model_graph(builder)


def large_model_graph(builder: Callable[[], Case]) -> Imported:
    """Of any builder, and not kept."""
    case = build(builder)
    found = imported(case.function, case.tensors, case.arguments, case.layer)
    for array in (*found.inputs, *found.weights, *found.expected):
        array.setflags(write=False)
    return found
