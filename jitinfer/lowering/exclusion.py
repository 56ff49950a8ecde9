"""Kernels that were found wrong for nodes of one form, and are not offered for them any more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.kernels.family import Config

if TYPE_CHECKING:
    from jitinfer.cache import JSON


@dataclass(frozen=True)
class Exclusion:
    """A family with one configuration, or (None) with any, for nodes of a form (`choice.form_of`)."""

    form: str
    family: str
    config: Config | None = None

    def covers(self, form: str, family: str, config: Config | None) -> bool:
        """config: None for all of them."""
        return (self.form, self.family) == (form, family) and self.config in (None, config)

    def document(self) -> list[JSON]:
        config = None if self.config is None else self.config.document()
        return [self.form, self.family, config]

    @staticmethod
    def restore(document: Any) -> Exclusion:
        """The inverse of `document`; raises TypeError or ValueError if it is not one."""
        form, family, config = document
        return Exclusion(str(form), str(family), None if config is None else Config.restore(config))


Exclusions: TypeAlias = Collection[Exclusion]


def documents(exclusions: Exclusions) -> list[JSON]:
    """In an order of their own, for a key."""
    return sorted((each.document() for each in exclusions), key=repr)
