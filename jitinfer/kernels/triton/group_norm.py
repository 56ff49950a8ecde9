"""Group norms of images, in blocks of pixels and channels that are read as they lie in memory.

Where the pixels of some groups fit into registers, one launch reads them once. Otherwise a first launch takes the
statistics of parts of each image, and a last one writes the results. Either the statistics are of groups, and each
program of the last launch merges those of its own; or they are of channels, whose blocks need not end where groups do,
and a launch between the two merges them once for all.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from jitinfer.kernels.family import WORKSPACE, Candidate, Config, Family, KernelArgument, KernelLaunch, TypedPointer
from jitinfer.kernels.triton.group_norm_channels import merge_channels, normalize_channels
from jitinfer.kernels.triton.group_norm_kernel import normalize_groups, split_statistics
from jitinfer.kernels.triton.group_norm_problem import MOST_HELD, Blocks, Images, best_blocks, power
from jitinfer.runtime.plan import Pointer, Scalar, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitinfer.graph import Node
    from jitinfer.kernels.operands import Strided
    from jitinfer.kernels.target import Target

MOST_CHANNELS = 8192
"""Of a group."""
MOST_PIXELS = 2**30
_OFFERS = 8
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
        ahead = [each for each in best_blocks(images, target, _OFFERS) if not each.at_once(images)][:2]
        return [
            Config.of(**asdict(blocks), stages=stages, programmatic=early)
            for blocks in best_blocks(images, target, _OFFERS - len(ahead))
            for stages in ((1, _AHEAD) if blocks in ahead else (1,))
        ]

    def launches(self, node: Node, config: Config, target: Target) -> Candidate:
        images = Images.of(node)
        assert images is not None
        made = _Launches(node, images, config)
        return {1: made.of_whole_images, 2: made.of_groups, 3: made.of_channels}[config["launches"]]()


class _Launches:
    """Those of one configuration. each: channels of what has statistics of its own, a group or a channel."""

    def __init__(self, node: Node, images: Images, config: Config) -> None:
        self.images = images
        self.config = config
        self.each = images.each if config["launches"] < 3 else 1
        self.chunks = images.count * images.channels // (config["together"] * self.each)
        blocks = Blocks(*(config[each.name] for each in fields(Blocks)))
        self.at_once = blocks.at_once(images)
        self.share = config["steps"] * config["pixels"]
        self.splits = -(-images.pixels // self.share)
        self.block: dict[str, Any] = {
            "PIXELS": images.pixels,
            "BLOCK_P": config["pixels"],
            "BLOCK_C": power(config["together"] * self.each),
            "WIDE": images.wide,
        }
        self.groups: dict[str, Any] = {
            "GROUPS": images.channels // self.each,
            "EACH": self.each,
            "TOGETHER": config["together"],
            "BLOCK_G": power(config["together"]),
            "BLOCK_E": power(self.each),
        }
        self.written: dict[str, Any] = {
            "X": images.x_strides,
            "Y": images.y_strides,
            "BIAS": _stride(images.bias),
            "ACTIVATION": node.activation,
        }
        self.tensors: dict[str, KernelArgument | None] = {
            "x": images.x.pointer,
            "y": images.y.pointer,
            "bias": _pointer(images.bias),
        }
        self.scale: dict[str, KernelArgument | None] = {"scale": _pointer(images.scale)}
        self.epsilon: dict[str, KernelArgument | None] = {"epsilon": Scalar("f32", float(node.epsilon))}

    def of_whole_images(self) -> Candidate:
        none = {"means": None, "variances": None}
        return Candidate((self._normalize_groups(none, _parts(1, self.images.pixels), self.chunks),))

    def of_groups(self) -> Candidate:
        """The statistics of parts in the workspace: [images, groups, parts]."""
        splits, groups = self.splits, self.images.groups
        (means, variances), end = _places([self.images.count * groups * splits] * 2)
        kept = {"means": means, "variances": variances}
        last = self._normalize_groups(kept, _parts(splits, self.share), self._blocks)
        return Candidate((self._statistics(kept, (groups * splits, 1, splits)), last), end)

    def of_channels(self) -> Candidate:
        """Those of parts: [images, parts, channels], and of whole images: [images, channels]."""
        images, channels = self.images, self.images.channels
        sizes = [images.count * channels * self.splits] * 2 + [images.count * channels] * 2
        (means, variances, merged_means, factors), end = _places(sizes)
        kept = {"means": means, "variances": variances}
        merged = self._launch(
            merge_channels,
            {**kept, "merged_means": merged_means, "factors": factors, **self.scale, **self.epsilon},
            {
                "SCALE": _stride(images.scale),
                "PIXELS": images.pixels,
                "GROUPS": images.groups,
                "EACH": images.each,
                "BLOCK_E": power(images.each),
                **_parts(self.splits, self.share),
            },
            images.count * images.groups,
        )
        last = self._launch(
            normalize_channels,
            {**self.tensors, "means": merged_means, "factors": factors},
            {**self.block, **self.written, "CHANNELS": channels, "WIDTH": self.config["together"]},
            self._blocks,
        )
        return Candidate((self._statistics(kept, (channels * self.splits, channels, 1)), merged, last), end)

    @property
    def _blocks(self) -> int:
        return self.chunks * -(-self.images.pixels // self.config["pixels"])

    def _statistics(self, kept: Mapping[str, KernelArgument | None], strides: tuple[int, int, int]) -> KernelLaunch:
        """strides: of images, parts and groups, or channels, in `kept`."""
        parts = {"PARTS": strides, "SPLITS": self.splits, "STEPS": self.config["steps"]}
        stages = self.config["stages"]
        loop = {"AT_ONCE": stages == 1 and self.at_once, "STAGES": stages}
        constants = {**self.block, **self.groups, **parts, **loop, "X": self.images.x_strides}
        return self._launch(
            split_statistics, {"x": self.images.x.pointer, **kept}, constants, self.chunks * self.splits
        )

    def _normalize_groups(
        self, kept: Mapping[str, KernelArgument | None], parts: Mapping[str, Any], programs: int
    ) -> KernelLaunch:
        constants = {**self.block, **self.groups, **self.written, **parts, "SCALE": _stride(self.images.scale)}
        arguments = {**self.tensors, **self.scale, **self.epsilon, **kept}
        return self._launch(normalize_groups, arguments, constants, programs)

    def _launch(
        self, function: Any, tensors: Mapping[str, KernelArgument | None], constants: Mapping[str, Any], programs: int
    ) -> KernelLaunch:
        """Tensors that there are not are constants."""
        arguments = {name: each for name, each in tensors.items() if each is not None}
        none = {name: None for name in tensors if name not in arguments}
        return KernelLaunch(
            function,
            arguments,
            {**constants, **none, "DEPENDENT": bool(self.config["programmatic"])},
            (programs, 1, 1),
            num_warps=self.config["warps"],
            num_stages=1,
            programmatic=bool(self.config["programmatic"]),
        )


def _pointer(vector: Strided | None) -> TypedPointer | None:
    return None if vector is None else vector.pointer


def _stride(vector: Strided | None) -> int:
    return 0 if vector is None else vector.strides[0]


def _places(sizes: Sequence[int]) -> tuple[list[KernelArgument], int]:
    """Where so many numbers each are kept in the workspace, in float32, and where they end."""
    *offsets, end = itertools.accumulate((aligned(4 * size) for size in sizes), initial=0)
    return [TypedPointer(Pointer(WORKSPACE, offset), "float32") for offset in offsets], end


def _parts(splits: int, share: int) -> dict[str, Any]:
    """Into how many parts an image is divided, and their pixels, but for the last one's."""
    return {"SPLITS": splits, "SHARE": share, "BLOCK_S": power(splits)}
