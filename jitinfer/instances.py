"""What is compiled for which object, and how long it is kept."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from jitinfer.cache import Cache, cache_location
from jitinfer.compilation import Compiler
from jitinfer.errors import ArgumentError, user_location
from jitinfer.frontend.signature import Signature
from jitinfer.frontend.state import INSTANCES, Observation

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitinfer.options import Options
    from jitinfer.specialization import Specialization


class Instance:
    """What is known for one receiver, and for the layers among the arguments."""

    def __init__(self) -> None:
        self.specializations: OrderedDict[Any, Specialization] = OrderedDict()
        self.observation: Observation | None = None
        self.untraceable: set[Any] = set()

    def touch(self, specialization: Specialization) -> None:
        """Mark as the most recently used."""
        if specialization.key in self.specializations:
            self.specializations.move_to_end(specialization.key)


class Instances(dict[Any, Instance]):
    """What an object carries of this library: goes with the object, and is neither copied nor pickled along."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Instances:
        return Instances()

    def __copy__(self) -> Instances:
        return Instances()

    def __reduce__(self) -> Any:
        return (Instances, ())


class Core:
    """What all bound forms of one compiled function share."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self.function = function
        self.options = options
        self.shapes = options.shapes
        self.name = getattr(function, "__qualname__", None) or type(function).__qualname__
        self.free = Signature(function)
        self._bound: Signature | None = None
        self.alone = Instances()
        self.alive: weakref.WeakSet[Instance] = weakref.WeakSet()
        self.lock = threading.RLock()
        self._cache: Cache | None = None
        self.compiler = Compiler(self.name, options, self.cache)

    @property
    def bound(self) -> Signature:
        if self._bound is None:
            self._bound = Signature(self.function, skip_receiver=True)
        return self._bound

    def cache(self) -> Cache:
        if self._cache is None:
            limit = int(self.options.cache_size_limit_gb * 1e9)
            self._cache = Cache(cache_location(self.options.save_model_dir), limit)
        return self._cache

    def instance(self, owners: tuple[Any, ...]) -> Instance:
        """What belongs to these objects; kept by the first of them, so that it never outlives it."""
        rest = owners if owners and isinstance(owners[0], type) else owners[1:]
        table = self.alone if rest is owners else self._table(owners[0])
        key = (self, *map(id, rest))
        found = table.get(key)
        if found is None:
            with self.lock:
                found = table.setdefault(key, Instance())
                self.alive.add(found)
            for owner in rest:
                weakref.finalize(owner, table.pop, key, None).atexit = False
        return found

    def _table(self, owner: Any) -> Instances:
        try:
            attributes = vars(owner)
            table = attributes.get(INSTANCES)
            if table is None:
                table = attributes[INSTANCES] = Instances()
        except TypeError:
            raise ArgumentError(
                f"objects of class {type(owner).__qualname__} have no __dict__ to keep compiled programs with "
                f"(at {user_location()}): leave out its __slots__, or decorate a plain function"
            ) from None
        found: Instances = table
        return found
