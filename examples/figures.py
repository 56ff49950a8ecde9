"""The two figures of a pipeline example: the images side by side, and the timings as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from pathlib import Path

DYNAMIC, COMPILED = "#9aa5b1", "#2f6fde"
_GAP, _CAPTION = 8, 26


def draw_images(dynamic: numpy.ndarray, compiled: numpy.ndarray, path: Path, magnified: int = 1000) -> None:
    """The dynamic image, the compiled one, and their difference magnified; each [height, width, 3] in 0..1."""
    gap = numpy.abs(compiled - dynamic)
    panels = [("dynamic", dynamic), ("compiled", compiled), (f"difference x {magnified}", gap * magnified)]
    height, width = dynamic.shape[:2]
    enlarged = max(1, 256 // width)
    height, width = height * enlarged, width * enlarged
    sheet = Image.new("RGB", (3 * width + 4 * _GAP, height + _GAP + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (caption, values) in enumerate(panels):
        left = _GAP + position * (width + _GAP)
        panel = Image.fromarray((values.clip(0, 1) * 255).round().astype("uint8"))
        sheet.paste(panel.resize((width, height), Image.Resampling.NEAREST), (left, _CAPTION))
        draw.text((left, 5), caption, fill="black", font=ImageFont.load_default(14))
    sheet.save(path)


def draw_timings(found: dict[str, Any], path: Path) -> None:
    """Left: how long a call takes, dynamic and compiled. Right: how long the first call takes, cold and warm."""
    figure, (calls, starts) = plt.subplots(1, 2, figsize=(9, 2.9), width_ratios=(3, 2), layout="constrained")
    seconds = dict(list(found["seconds"].items())[:2])
    for row, (dynamic, compiled) in enumerate(seconds.values()):
        for offset, value, colour in ((-0.2, dynamic, DYNAMIC), (0.2, compiled, COMPILED)):
            calls.barh(row + offset, value * 1e3, 0.38, color=colour)
        calls.text(dynamic * 1e3, row - 0.2, f" {dynamic * 1e3:.0f} ms", va="center", fontsize=9)
        text = f" {compiled * 1e3:.0f} ms, {dynamic / compiled:.1f}x faster"
        calls.text(compiled * 1e3, row + 0.2, text, va="center", fontsize=9)
    calls.set_yticks(range(len(seconds)), [name.replace(", ", ",\n") for name in seconds])
    calls.set_title(f"one call: dynamic (grey), compiled (blue); {found['threads']} threads", fontsize=10)
    calls.margins(x=0.18)

    first = {
        name.replace(", ", ",\n").replace("second process", "2nd process"): sum(values)
        for name, values in found["first_call_seconds"].items()
    }
    starts.barh(range(len(first)), list(first.values()), 0.6, color=COMPILED)
    for row, value in enumerate(first.values()):
        starts.text(value, row, f" {value:.1f} s", va="center", fontsize=9)
    starts.set_yticks(range(len(first)), list(first))
    starts.set_title("first call of both models", fontsize=10)
    starts.margins(x=0.22)
    for axes in (calls, starts):
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
