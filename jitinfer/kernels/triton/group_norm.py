"""Group norms of images, in blocks of pixels and channels that are read as they lie in memory.

Where the pixels of some groups fit into registers, one launch reads them once. Otherwise a first launch takes the
statistics of parts of each image, and a last one merges those of its groups and writes the results; where the parts are
many, a launch between the two merges them once for all.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family, KernelArgument, KernelLaunch, TypedPointer
from jitinfer.kernels.triton.group_norm_kernel import merge_splits, normalize_groups, split_statistics
from jitinfer.kernels.triton.group_norm_problem import MOST_HELD, Images, best_blocks, power
from jitinfer.runtime.plan import Pointer, Scalar, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.target import Target

MOST_CHANNELS = 8192
"""Of a group."""
MOST_PIXELS = 2**30
_KINDS = 6
_AHEAD = 3
"""Blocks on their way at a time, where they are copied ahead."""


class ImageNorm(Family):
    """Images of any layout whose pixels are walked with one stride; groups of up to 8192 channels.

    Groups that are one run of elements each, and that registers hold, are left to kernels of rows.
    """

    name = "image_norm"
    ops = ("group_norm",)

    def supports(self, node: Node, target: Target) -> bool:
        images = Images.of(node)
        if images is None or images.pixels > MOST_PIXELS or images.each > MOST_CHANNELS:
            return False
        return not images.runs or images.pixels * images.each > MOST_HELD

    def configs(self, node: Node, target: Target) -> Sequence[Config]:
        """The best blocks of each kind; the first two kinds of long loops also with blocks that are copied ahead."""
        images = Images.of(node)
        assert images is not None
        early = int(target.has_programmatic_launch)
        configs: list[Config] = []
        for blocks in best_blocks(images, target, _KINDS):
            ahead = blocks.steps > 2 and sum(each["stages"] > 1 for each in configs) < 2
            configs += [
                Config.of(**asdict(blocks), stages=stages, programmatic=early)
                for stages in ((1, _AHEAD) if ahead else (1,))
            ]
        return configs

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        images = Images.of(node)
        assert images is not None
        made = _Launches(node, images, config)
        return made.of_whole_images() if config["launches"] == 1 else made.of_parts()


class _Launches:
    """Those of one configuration."""

    def __init__(self, node: Node, images: Images, config: Config) -> None:
        self.images = images
        self.config = config
        self.chunks = images.count * images.groups // config["together"]
        self.blocks: dict[str, Any] = {
            "X": images.x_strides,
            "PIXELS": images.pixels,
            "GROUPS": images.groups,
            "EACH": images.each,
            "TOGETHER": config["together"],
            "BLOCK_P": config["pixels"],
            "BLOCK_C": power(config["together"] * images.each),
            "BLOCK_G": power(config["together"]),
            "WIDE": images.wide,
        }
        self.written: dict[str, Any] = {"Y": images.y_strides, "ACTIVATION": node.activation}
        self.tensors: dict[str, KernelArgument] = {
            "x": images.x.pointer,
            "y": images.y.pointer,
            "epsilon": Scalar("f32", float(node.epsilon)),
        }
        for name, each in (("scale", images.scale), ("bias", images.bias)):
            if each is None:
                self.written |= {name: None, name.upper(): 0}
            else:
                self.tensors[name] = each.pointer
                self.written[name.upper()] = each.strides[0]

    def of_whole_images(self) -> Candidate:
        none = {"means": None, "variances": None, **_parts(1, self.images.pixels)}
        return Candidate((self._launch(normalize_groups, self.tensors, self._results(none), self.chunks),))

    def of_parts(self) -> Candidate:
        """The statistics of parts, and in three launches those of whole images, in the workspace."""
        images, steps = self.images, self.config["steps"]
        share = steps * self.config["pixels"]
        splits = -(-images.pixels // share)
        groups = images.count * images.groups
        sizes = [4 * groups * splits] * 2 + [4 * groups] * (2 if self.config["launches"] == 3 else 0)
        *offsets, end = itertools.accumulate(map(aligned, sizes), initial=0)
        places = [TypedPointer(Pointer(WORKSPACE, offset), "float32") for offset in offsets]
        kept = dict(zip(("means", "variances"), places, strict=False))
        looped = {"SPLITS": splits, "STEPS": steps, "STAGES": self.config["stages"]}
        x = {"x": images.x.pointer}
        launches = [self._launch(split_statistics, {**x, **kept}, {**self.blocks, **looped}, self.chunks * splits)]
        parts = _parts(splits, share)
        if self.config["launches"] == 3:
            merged = dict(zip(("merged_means", "merged_variances"), places[2:], strict=True))
            constants = {"PIXELS": images.pixels, **parts}
            launches.append(self._launch(merge_splits, {**kept, **merged}, constants, groups))
            kept = dict(zip(("means", "variances"), places[2:], strict=True))
            parts = _parts(1, images.pixels)
        programs = self.chunks * -(-images.pixels // self.config["pixels"])
        launches.append(self._launch(normalize_groups, {**self.tensors, **kept}, self._results(parts), programs))
        return Candidate(tuple(launches), end)

    def _results(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """The constants of the launch that writes results."""
        return {**self.blocks, **self.written, **parts}

    def _launch(
        self, function: Any, arguments: Mapping[str, KernelArgument], constants: Mapping[str, Any], programs: int
    ) -> KernelLaunch:
        return KernelLaunch(
            function,
            arguments,
            {**constants, "DEPENDENT": bool(self.config["programmatic"])},
            (programs, 1, 1),
            num_warps=self.config["warps"],
            num_stages=1,
            programmatic=bool(self.config["programmatic"]),
        )


def _parts(splits: int, share: int) -> dict[str, Any]:
    """Into how many parts an image is divided, and their pixels, but for the last one's."""
    return {"SPLITS": splits, "SHARE": share, "BLOCK_S": power(splits)}
