"""A key and bytes -> the bytes again, or nothing; never something else."""

from __future__ import annotations

from jitinfer.cache.container import Entry, Header
from jitinfer.cache.explain import Difference, Explanation
from jitinfer.cache.key import JSON, Key
from jitinfer.cache.location import cache_location
from jitinfer.cache.store import Cache
from jitinfer.cache.summary import Damage, Stats, Summary

__all__ = [
    "JSON",
    "Cache",
    "Damage",
    "Difference",
    "Entry",
    "Explanation",
    "Header",
    "Key",
    "Stats",
    "Summary",
    "cache_location",
]
