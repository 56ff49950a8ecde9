"""Kernels that lost the device once: the processes to come leave them out. Kept for each kind of device."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitinfer.cache import Key
from jitinfer.engines.making import foreign_families
from jitinfer.lowering.environment import environment
from jitinfer.lowering.exclusion import Exclusion

if TYPE_CHECKING:
    from jitinfer.cache import JSON, Cache
    from jitinfer.lowering.fault import KernelFaultError
    from jitinfer.runtime.device import Device

logger = logging.getLogger("jitinfer.engines")


@dataclass(frozen=True)
class Fault:
    """What must not be chosen any more, and of which it was found out: the kernel in words, and the driver's words.

    source: of a family that is not this library's, a digest; with other code it is offered again.
    """

    exclusion: Exclusion
    kernel: str
    failure: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.kernel} is left out: it lost the device once: {self.failure}"

    def document(self) -> list[JSON]:
        return [self.exclusion.document(), self.kernel, self.failure, self.source]

    @staticmethod
    def restore(document: Any) -> Fault:
        """The inverse of `document`; raises TypeError or ValueError if it is not one."""
        exclusion, *words = document
        return Fault(Exclusion.restore(exclusion), *map(str, words))


class Faults:
    """Those of one kind of device, in one cache."""

    def __init__(self, cache: Cache, device: Device) -> None:
        self._cache = cache
        self._key = Key("faults", environment(device))

    def known(self) -> list[Fault]:
        """Those of kernels that are still what they were."""
        sources = foreign_families()
        return [fault for fault in self._kept() if fault.source == sources.get(fault.exclusion.family, "")]

    def add(self, error: KernelFaultError) -> bool:
        """Whether the processes to come will know.

        It is the one configuration; the whole family, for this form of nodes, where another of its configurations has
        lost the device before.
        """
        exclusion, source = error.exclusion, foreign_families().get(error.exclusion.family, "")
        with self._cache.lock(self._key):
            kept = self._kept()
            alike = [
                each.exclusion.config
                for each in kept
                if (each.exclusion.form, each.exclusion.family, each.source)
                == (exclusion.form, exclusion.family, source)
            ]
            if not {None, exclusion.config} & {*alike}:
                if alike:
                    exclusion = dataclasses.replace(exclusion, config=None)
                kept.append(Fault(exclusion, error.kernel, error.failure, source))
                self._cache.put(self._key, {}, {"faults": [each.document() for each in kept]})
        of = error.exclusion
        return any(each.exclusion.covers(of.form, of.family, of.config) for each in self.known())

    def _kept(self) -> list[Fault]:
        entry = self._cache.get(self._key)
        if entry is None:
            return []
        document: Any = entry.metadata
        try:
            return [Fault.restore(each) for each in document["faults"]]
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("what is known of kernels that lost the device cannot be read: %s", error)
            return []
