"""Binding a call to a function's signature, fast when the same form of call comes again."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from jitinfer.errors import ArgumentError, user_location

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_POSITION, _KEYWORD, _DEFAULT, _REST, _REST_KEYWORDS = range(5)

Step = tuple[str, int, Any]
"""Name of a parameter, where its value comes from, and which one there."""


class Signature:
    """How values reach the parameters of one function.

    `bind` returns the values in the order of the parameters; `*args` arrive as one tuple, `**kwargs` as one dict sorted
    by name, so the same call in another spelling binds to equal values.
    """

    def __init__(self, function: Callable[..., Any], *, skip_receiver: bool = False) -> None:
        try:
            signature = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):  # a builtin without a text signature
            signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
        parameters = list(signature.parameters.values())
        if skip_receiver and parameters:
            if parameters[0].kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
                parameters = parameters[1:]
            signature = signature.replace(parameters=parameters)
        self.inspected = signature
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.parameters = parameters
        self.names = tuple(parameter.name for parameter in parameters)
        self._plans: dict[tuple[int, tuple[str, ...]], tuple[Step, ...]] = {}

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Raises ArgumentError for a missing, unexpected or repeated argument, as Python would say it."""
        form = (len(args), tuple(kwargs))
        plan = self._plans.get(form)
        if plan is None:
            plan = self._plans[form] = self._plan(*form)
        values: list[Any] = []
        for _name, source, which in plan:
            if source == _POSITION:
                values.append(args[which])
            elif source == _KEYWORD:
                values.append(kwargs[which])
            elif source == _DEFAULT:
                values.append(which)
            elif source == _REST:
                values.append(args[which:])
            else:
                values.append({name: kwargs[name] for name in which})
        return values

    def _plan(self, count: int, keywords: tuple[str, ...]) -> tuple[Step, ...]:
        try:
            bound = self.inspected.bind(*range(count), **dict.fromkeys(keywords))
        except TypeError as error:
            raise ArgumentError(f"{self.name}(): {error} (at {user_location()})") from None
        plan: list[Step] = []
        position = 0
        for parameter in self.parameters:
            name, kind = parameter.name, parameter.kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                plan.append((name, _REST, position))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                plan.append((name, _REST_KEYWORDS, tuple(sorted(bound.arguments.get(name, {})))))
            elif name not in bound.arguments:
                plan.append((name, _DEFAULT, parameter.default))
            elif kind is not inspect.Parameter.KEYWORD_ONLY and position < count:
                plan.append((name, _POSITION, position))
                position += 1
            else:
                plan.append((name, _KEYWORD, name))
        return tuple(plan)

    def unbind(self, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values of `bind` as the positional and keyword arguments of a call."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter, value in zip(self.parameters, values, strict=True):
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return args, kwargs
