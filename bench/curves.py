"""Share of a copy's speed against the size of the kernel: `bench.plot FILE OUT.svg --sizes`.

A panel an operation and dtype, a line a library, over the images of which the file holds most
cases. The same lines make the same file, byte for byte.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.peers.common import gaussian_radius
from bench.results import OURS, Line

PANELS = (
    ("Dense kernel, uint8", "filter2d", "uint8"),
    ("Dense kernel, float32", "filter2d", "float32"),
    ("Separable kernel, float32", "separable_filter2d", "float32"),
    ("Gaussian blur, uint8", "gaussian_blur", "uint8"),
    ("Box blur, uint8", "box_blur", "uint8"),
    ("Box blur, float32", "box_blur", "float32"),
    ("Median, uint8", "median_blur", "uint8"),
    ("Dilate, uint8", "dilate", "uint8"),
    ("Dilate, float32", "dilate", "float32"),
)
"""Title, operation, dtype."""

STYLES = {
    OURS: ("gpuconv", "black", "o"),
    "cupy": ("CuPy", "#0072B2", "v"),
    "cucim": ("cuCIM", "#009E73", "^"),
    "torch-cuda": ("PyTorch", "#CC79A7", "s"),
    "kornia": ("kornia", "#E69F00", "P"),
    "torchvision": ("torchvision", "#56B4E9", "X"),
    "opencv": ("OpenCV, CPU", "#D55E00", "D"),
    "scipy": ("SciPy, CPU", "#999999", "<"),
    "torch": ("PyTorch, CPU", "#F0E442", ">"),
    "skimage": ("scikit-image, CPU", "#666666", "*"),
}
"""Name, colour (Okabe and Ito, 2008) and mark."""

Curves = dict[str, list[tuple[int, float]]]
"""(size, share) by library, in the order of sizes."""


def size_of(name: str) -> int | None:
    """The kernel's size along an axis, from a case's name."""
    label = name.rpartition("/")[2]
    if found := re.fullmatch(r"k(\d+)|(\d+)x\2", label):
        return int(found[1] or found[2])
    if found := re.fullmatch(r"sigma([\d.]+)", label):
        return 2 * gaussian_radius(float(found[1])) + 1
    return None


@dataclass(frozen=True, slots=True)
class Panel:
    """A title and its lines."""

    title: str
    curves: Curves


def panels(lines: Sequence[Line]) -> list[Panel]:
    """The panels that the lines fill, of images of one shape."""
    timed = [
        line
        for line in lines
        if line.copy_share is not None
        and line.implementation in STYLES
        and size_of(line.name) is not None
        and any((line.name.partition("/")[0], line.dtype) == panel[1:] for panel in PANELS)
    ]
    if not timed:
        return []
    ((shape, _),) = Counter(tuple(line.shape) for line in timed).most_common(1)
    found = []
    for title, operation, dtype in PANELS:
        curves: Curves = {}
        for line in timed:
            own = line.name.partition("/")[0], line.dtype, tuple(line.shape)
            size = size_of(line.name)
            if own == (operation, dtype, shape) and size is not None and line.copy_share:
                curves.setdefault(line.implementation, []).append((size, line.copy_share))
        if curves:
            ordered = {name: sorted(curves[name]) for name in STYLES if name in curves}
            found.append(Panel(title, ordered))
    return found


def draw(found: Sequence[Panel], where: str) -> Any:
    """The figure; `where` tells machine and commit."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = min(3, len(found))
    down = -(-len(found) // across)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(4.2 * across, 1.4 + 3 * down), facecolor="white", layout=layout)
    grid = figure.subplots(down, across, squeeze=False, sharey=True).flat
    least = min(share for panel in found for curve in panel.curves.values() for _, share in curve)
    for axes, panel in zip(grid, found, strict=False):
        _draw_panel(axes, panel, min(0.01, least) / 1.5)
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    for axes in grid[::across]:
        axes.set_ylabel("share of a copy's bandwidth")
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    marks = {name: mark for legend in legends for mark, name in zip(*legend, strict=True)}
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"Image read once and written once, against the size of the kernel\n{where}")
    return figure


def _draw_panel(axes: Any, panel: Panel, least: float) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({size for curve in panel.curves.values() for size, _ in curve})
    axes.set_xticks(sizes, [f"{size}×{size}" for size in sizes], fontsize=8)
    axes.set_yticks((0.01, 0.1, 1), ("1 %", "10 %", "100 %"), fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(least, 1.5)
    axes.grid(color="0.92", linewidth=0.8)
    axes.axhline(1, color="0.6", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    for name, curve in panel.curves.items():
        told, colour, marker = STYLES[name]
        width = 2 if name == OURS else 1
        axes.plot(
            *zip(*curve, strict=True),
            label=told,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=width,
            zorder=3 if name == OURS else 2,
        )
