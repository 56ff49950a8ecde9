"""Which tiles are worth trying for a product: a model of the time that each would take, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import triton

from jitinfer.graph.types import itemsize
from jitinfer.kernels.family import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitinfer.kernels.contractions import Contraction
    from jitinfer.kernels.target import Target

MOST = 12
"""Configurations that are offered."""

_LAUNCH = 1.3e-6  # seconds that a second kernel costs
_RAMP = 0.9e-6  # until the first tiles have come from memory
_L2_FACTOR = 1.4  # of the bandwidth of the memory, for tiles that many programs read
_SPLITS_OF_A_TILE = 2  # that are offered
_REDUCING_BYTES = 3  # an element of a part is written once and read once, in L2: the time of so many bytes of memory


@dataclass(frozen=True)
class _Tile:
    """efficiency: of the arithmetic units while nothing else holds them up."""

    m: int
    n: int
    k: int
    warps: int
    efficiency: float


_TILES = {
    2: (
        _Tile(128, 256, 64, 8, 0.88),
        _Tile(256, 128, 64, 8, 0.85),
        _Tile(128, 128, 64, 8, 0.75),
        _Tile(128, 128, 64, 4, 0.75),
        _Tile(64, 256, 64, 4, 0.75),
        _Tile(64, 128, 64, 4, 0.62),
        _Tile(128, 64, 64, 4, 0.62),
        _Tile(64, 64, 64, 4, 0.45),
        _Tile(64, 64, 128, 4, 0.48),
        _Tile(64, 32, 128, 4, 0.3),
        _Tile(32, 64, 128, 4, 0.25),
        _Tile(16, 64, 128, 4, 0.15),
    ),
    # Without matrix units: each product is one of a thread's own.
    4: (
        _Tile(128, 64, 16, 8, 0.6),
        _Tile(64, 64, 16, 4, 0.6),
        _Tile(64, 32, 32, 4, 0.5),
        _Tile(32, 32, 32, 4, 0.4),
        _Tile(16, 64, 32, 4, 0.3),
    ),
}
_FLOAT32_SHARE = 1 / 15  # of the rate of the matrix units


@dataclass(frozen=True)
class _Choice:
    tile: _Tile
    stages: int
    splits: int
    bulk: bool
    flatten: bool = False
    persistent: bool = False
    early: bool = False

    def config(self, target: Target, resident: int) -> Config:
        return Config.of(
            block_m=self.tile.m,
            block_n=self.tile.n,
            block_k=self.tile.k,
            warps=self.tile.warps,
            stages=self.stages,
            splits=self.splits,
            bulk=int(self.bulk),
            host_maps=1,
            flatten=int(self.flatten),
            programs=target.sm_count * resident if self.persistent else 0,
            early=int(self.early),
            programmatic=int(target.has_programmatic_launch),
        )


def tile_configs(contraction: Contraction, target: Target, *, bulk: bool) -> list[Config]:
    """At most MOST, the most promising first. bulk: tiles are copied by TMA."""
    choices = list(_choices(contraction, target, bulk))
    seconds = [_seconds(contraction, choice, target) for choice in choices]
    found: dict[Config, None] = {}
    splits_of: dict[_Tile, int] = {}
    for position in sorted(range(len(choices)), key=lambda position: seconds[position]):
        choice = choices[position]
        splits_of[choice.tile] = splits_of.get(choice.tile, 0) + 1
        if splits_of[choice.tile] > _SPLITS_OF_A_TILE:
            continue
        for each in _variants(contraction, choice, target):
            found[each.config(target, _resident(each, contraction, target))] = None
    return list(found)[:MOST]


def _choices(contraction: Contraction, target: Target, bulk: bool) -> Iterator[_Choice]:
    # Warps multiply 64 rows together where they read tiles that TMA has laid out, 16 elsewhere.
    least = 64 if bulk else 16
    for tile in _TILES[itemsize(contraction.x.dtype)]:
        taller = tile.m > least and tile.m >= 2 * triton.next_power_of_2(contraction.rows)
        wider = tile.n > 64 and tile.n >= 2 * triton.next_power_of_2(contraction.columns)
        if taller or wider or tile.m < least:
            continue
        steps = -(-contraction.depth // tile.k)
        for splits in (1, 2, 3, 4, 6, 8):
            # No part may be empty, and none shorter than the loads that run ahead of it.
            if splits == 1 or (steps >= 4 * splits and -(-steps // splits) * (splits - 1) < steps):
                yield _with_stages(_Choice(tile, 0, splits, bulk), contraction, target)


def _with_stages(choice: _Choice, contraction: Contraction, target: Target) -> _Choice:
    """As many loads in flight as there is room for, five at most."""
    room = target.shared_memory - 2048
    if choice.flatten:
        # The tile on its way out has a place of its own, as numbers of 32 bits or in quarters of them.
        room -= choice.tile.m * choice.tile.n * (4 if choice.splits > 1 else 1)
    if target.compute_capability < 90:
        room = min(room, 96 * 1024)
    return replace(choice, stages=max(2, min(5, room // _stage_bytes(choice, contraction))))


def _stage_bytes(choice: _Choice, contraction: Contraction) -> int:
    return (choice.tile.m + choice.tile.n) * choice.tile.k * itemsize(contraction.x.dtype)


def _resident(choice: _Choice, contraction: Contraction, target: Target) -> int:
    """Programs on one multiprocessor at a time."""
    by_memory = target.shared_memory // (choice.stages * _stage_bytes(choice, contraction) + 2048)
    held = choice.tile.m * choice.tile.n // (32 * choice.tile.warps) + 48
    by_registers = 65536 // (held * 32 * choice.tile.warps)
    return max(1, min(by_memory, by_registers, 4))


def _seconds(contraction: Contraction, choice: _Choice, target: Target) -> float:
    tile, size = choice.tile, itemsize(contraction.x.dtype)
    flops = target.flops * (_FLOAT32_SHARE if size == 4 else 1) / target.sm_count
    through_l2 = _L2_FACTOR * target.bandwidth / target.sm_count
    step = max(
        2 * tile.m * tile.n * tile.k / (flops * tile.efficiency),
        (tile.m + tile.n) * tile.k * size / through_l2,
    )
    steps = -(-contraction.depth // (tile.k * choice.splits))
    tiles = -(-contraction.rows // tile.m) * -(-contraction.columns // tile.n) * contraction.stack * choice.splits
    most = -(-tiles // target.sm_count)  # tiles of the busiest multiprocessor
    written = tile.m * tile.n * (4 if choice.splits > 1 else size * (2 if contraction.residual else 1))
    busy = most * steps * step + written / through_l2
    rows = contraction.stack * contraction.rows
    # Of windows of an image that overlap, each element counts once.
    others = min(rows * contraction.depth, contraction.x.reach + 1) + rows * contraction.columns
    moved = contraction.weight_bytes + others * size
    total = _RAMP + max(busy, moved / target.bandwidth)
    if choice.splits > 1:
        parts = choice.splits * contraction.stack * contraction.rows * contraction.columns * 4
        total += _LAUNCH + parts * _REDUCING_BYTES / (4 * target.bandwidth)
    return total


def _variants(contraction: Contraction, choice: _Choice, target: Target) -> list[_Choice]:
    """The ways to run one tile: each for itself, or one after another."""
    tile = choice.tile
    tiles = -(-contraction.rows // tile.m) * -(-contraction.columns // tile.n) * contraction.stack * choice.splits
    early = contraction.residual is not None and choice.splits == 1
    plain = replace(choice, early=early)
    found = [plain]
    if choice.bulk and tiles > target.sm_count * _resident(choice, contraction, target):
        found.append(_with_stages(replace(choice, persistent=True, flatten=True), contraction, target))
    return found
