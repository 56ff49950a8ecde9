"""Paddle's translator of Python functions, kept to what the functions mean now.

The translator copies a function's globals, closure and defaults when it first sees it, and cannot use tensors that a
lambda, or a function without source, takes from them. It translates a method anew for each call, which is most of the
time of a trace, and takes functions of equal text for one. All of that is mended here, for the time of one trace.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paddle
from paddle.jit.dy2static import convert_call_func, parameter_recorder, program_translator
from paddle.jit.dy2static.convert_call_func import convert_call

from jitinfer.frontend.replacement import replaced
from jitinfer.frontend.sources import source_is_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_CODES: weakref.WeakKeyDictionary[types.FunctionType, types.CodeType] = weakref.WeakKeyDictionary()
"""What was the code of a function, as a method, when it was translated."""

_TREES: dict[tuple[str, int], dict[str, Any]] = {}
"""Of functions by where they stand: what the translator made of their texts."""


def refresh_translations() -> None:
    """Give every function that the translator has kept the globals, closure and defaults it has now."""
    for function, translated in list(program_translator._FUNCTION_CACHE._converted_static_func_caches.items()):
        original = inspect.unwrap(getattr(function, "__func__", function))
        if not isinstance(original, types.FunctionType) or not isinstance(translated, types.FunctionType):
            continue
        current = original.__globals__
        kept = translated.__globals__
        kept.update({name: value for name, value in current.items() if not name.startswith("__")})
        translated.__defaults__ = original.__defaults__
        translated.__kwdefaults__ = original.__kwdefaults__
        cells = dict(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
        for name, cell in zip(translated.__code__.co_freevars, translated.__closure__ or (), strict=True):
            if name in cells:
                try:
                    cell.cell_contents = cells[name].cell_contents
                except ValueError:  # not assigned yet in the function around it
                    continue


def translated_root(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `translated`, also for a function inside another one, which the translator leaves alone where it is called."""
    plain = getattr(function, "__func__", function)
    if not isinstance(plain, types.FunctionType) or not _has_usable_source(plain):
        return translated(function)
    static: Callable[..., Any] = program_translator.convert_to_static(plain)
    return functools.partial(static, function.__self__) if isinstance(function, types.MethodType) else static


def translated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its control flow over tensors made static, for use inside a trace."""
    if isinstance(function, types.FunctionType) and not _has_usable_source(function):
        return _with_symbolic_tensors(function)
    call: Callable[..., Any] = convert_call(function)
    return call


def _has_usable_source(function: types.FunctionType) -> bool:
    if function.__name__ == "<lambda>":
        return False
    return source_is_current(function)


def _with_symbolic_tensors(function: types.FunctionType) -> types.FunctionType:
    """A copy whose globals and closure hold parameters of the traced program in the places of tensors."""
    scope = dict(function.__globals__)
    for name in function.__code__.co_names:
        if isinstance(scope.get(name), paddle.Tensor):
            scope[name] = _symbolic(scope[name])
    cells = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            content = None
        cells.append(types.CellType(_symbolic(content)) if isinstance(content, paddle.Tensor) else cell)
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, tuple(cells) or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _symbolic(tensor: paddle.Tensor) -> Any:
    program = paddle.static.default_main_program()
    return parameter_recorder._global_parameter_recorder.get(program, tensor)


@contextmanager
def current_sources_only() -> Iterator[None]:
    """Let the translator take a function whose file was edited since its import as one without source."""
    original = program_translator.func_to_source_code

    def checked(function: Any, *args: Any, **kwargs: Any) -> str:
        if not source_is_current(function):
            raise OSError(f"the source of {function!r} is not that of its code")
        text: str = original(function, *args, **kwargs)
        return text

    with replaced(program_translator, func_to_source_code=checked):
        yield


@contextmanager
def own_lines() -> Iterator[None]:
    """Let each function have its own lines, where the translator gives those of the first one of equal text."""
    cache = program_translator.FunctionCache
    original = cache._convert

    def converted(self: Any, function: Any) -> Any:
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
        trees = self._code_to_ast_caches
        self._code_to_ast_caches = _TREES.setdefault(place, {})
        try:
            return original(self, function)
        finally:
            self._code_to_ast_caches = trees

    with replaced(cache, _convert=converted):
        yield


@contextmanager
def methods_kept() -> Iterator[None]:
    """Let the translator keep what it makes of a method as it does of a function, while its code is the same.

    It keeps that by the bound method, which is a new object each time, and gone at once.
    """
    cache = program_translator.FunctionCache
    original = cache.convert_with_cache

    def kept(self: Any, function: Any) -> Any:
        if not isinstance(function, types.MethodType) or not isinstance(function.__func__, types.FunctionType):
            return original(self, function)
        plain = function.__func__
        if _CODES.get(plain) is not plain.__code__:
            self._converted_static_func_caches.pop(plain, None)
        static = original(self, plain)
        _CODES[plain] = plain.__code__
        return static

    with replaced(cache, convert_with_cache=kept):
        yield


@contextmanager
def judged_once() -> Iterator[None]:
    """Let the translator judge a function once, and not at each call: it looks for it among all those of some modules.

    A layer is judged by its `forward`, and a method by its function.
    """
    original = convert_call_func.is_unsupported
    judged: dict[tuple[int, bool], tuple[Any, bool]] = {}  # with what is judged, whose number must not become another's

    def is_unsupported(function: Any) -> bool:
        is_layer = isinstance(function, paddle.nn.Layer)
        decisive = function.forward if is_layer else function
        decisive = getattr(decisive, "__func__", decisive)
        key = id(decisive), is_layer
        if key not in judged:
            judged[key] = decisive, original(function)
        return judged[key][1]

    with replaced(convert_call_func, is_unsupported=is_unsupported):
        yield


@contextmanager
def keywords_of_builtins() -> Iterator[None]:
    """Let `zip` and `enumerate` take their keywords, which the translator's own do not have."""
    zipped, enumerated = convert_call_func.convert_zip, convert_call_func.convert_enumerate

    def convert_zip(*iterables: Any, strict: bool = False) -> Any:
        pairs = zipped(*iterables)  # refuses tensors whose length is not known
        return zip(*iterables, strict=True) if strict else pairs

    def convert_enumerate(iterable: Any, start: int = 0) -> Any:
        return enumerated(iterable, start)

    with replaced(convert_call_func, convert_zip=convert_zip, convert_enumerate=convert_enumerate):
        yield


@contextmanager
def own_records() -> Iterator[None]:
    """Let a trace find no parameter and no assignment that Paddle has recorded for another, and leave none behind.

    They are recorded by the program's address, and forgotten where a trace succeeds only. After one that has failed,
    the next program at its address would get values that are gone with it; and its weights would be kept for ever.
    """
    parameters = parameter_recorder._global_parameter_recorder
    assignments = parameter_recorder._global_inplace_map
    with replaced(parameters, params_dict={}, tensor2value={}), replaced(assignments, params_dict={}):
        yield


@contextmanager
def quiet_translator() -> Iterator[None]:
    """Paddle's translator warns about every function that it runs as it is; those warnings say nothing to our users."""
    logger = logging.getLogger("Dynamic-to-Static")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def distinct_names(tensors: Iterable[paddle.Tensor]) -> Iterator[None]:
    """Paddle takes tensors of one name for one parameter: where names repeat, all tensors have others meanwhile."""
    held: dict[int, paddle.Tensor] = {id(tensor): tensor for tensor in tensors}
    names = [tensor.name for tensor in held.values()]
    if len(set(names)) == len(names):
        yield
        return
    try:
        for position, tensor in enumerate(held.values()):
            tensor.name = f"jitinfer_parameter_{position}"
        yield
    finally:
        for tensor, name in zip(held.values(), names, strict=True):
            tensor.name = name
