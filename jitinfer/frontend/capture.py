"""The dynamic function, run once under observation: its results, and whether they can stand for every later call."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle

from jitinfer.frontend.exclusion import PADDLE
from jitinfer.frontend.tree import Tree, flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


_EVALUATING = threading.local()


def evaluating_reference() -> bool:
    """Whether this thread runs a dynamic function to compare with: then compiled functions inside run dynamically."""
    return getattr(_EVALUATING, "depth", 0) > 0


@contextmanager
def _as_reference() -> Iterator[None]:
    _EVALUATING.depth = getattr(_EVALUATING, "depth", 0) + 1
    try:
        yield
    finally:
        _EVALUATING.depth -= 1


@dataclass
class Evaluation:
    """One run of the dynamic function. `result` is what it returned, itself."""

    result: Any
    tree: Tree | None
    tensors: list[paddle.Tensor]
    changed_input: str

    def detached(self) -> Any:
        """The result in new containers and with tensors that share memory with nothing, as a program returns it."""
        assert self.tree is not None
        return unflatten(self.tree, [tensor.detach().clone() for tensor in self.tensors])


class Reference:
    """The dynamic function for one call's arguments, evaluated at most once, when it is first asked for."""

    def __init__(self, call: Callable[[], Any], inputs: Sequence[paddle.Tensor], names: Sequence[str]) -> None:
        self._call = call
        self._inputs = inputs
        self._names = names
        self._random_before: Any = None
        self.evaluation: Evaluation | None = None
        self.error: BaseException | None = None

    def evaluate(self) -> Evaluation:
        """Raises whatever the function raises; asked again, the same error without running it again."""
        if self.error is not None:
            raise self.error
        if self.evaluation is None:
            self._random_before = paddle.get_rng_state()
            versions = [tensor.inplace_version for tensor in self._inputs]
            try:
                with PADDLE.shared(), paddle.no_grad(), _as_reference():
                    result = self._call()
            except BaseException as error:
                self.error = error
                raise
            changed = [
                name
                for name, tensor, version in zip(self._names, self._inputs, versions, strict=True)
                if tensor.inplace_version != version
            ]
            tree, tensors = _flatten_or_none(result)
            self.evaluation = Evaluation(result, tree, tensors, changed[0] if changed else "")
        return self.evaluation

    def expected(self) -> Sequence[paddle.Tensor]:
        return self.evaluate().tensors

    def under_the_same_randomness(self, run: Callable[[], Any]) -> Any:
        """`run()` with the random numbers that the dynamic function drew; the generators are then as it left them."""
        if self._random_before is None:
            return run()
        after = paddle.get_rng_state()
        paddle.set_rng_state(self._random_before)
        try:
            return run()
        finally:
            paddle.set_rng_state(after)


def _flatten_or_none(result: Any) -> tuple[Tree | None, list[Any]]:
    try:
        return flatten(result, "result")
    except TypeError:  # a result of a kind that no specialisation can rebuild
        return None, []


def rebuilds(evaluation: Evaluation) -> bool:
    """Whether the result's structure can be taken apart and put together again."""
    if evaluation.tree is None:
        return False
    try:
        again = unflatten(evaluation.tree, evaluation.tensors)
        tree, tensors = flatten(again, "result")
    except Exception:  # noqa: BLE001 - a user's class may refuse in any way
        return False
    same = all(one is other for one, other in zip(tensors, evaluation.tensors, strict=False))
    return tree == evaluation.tree and same and type(again) is type(evaluation.result)
