"""A results file as one picture: `python -m bench.plot FILE.jsonl OUT.svg`.

A row a case of the cpu set, images of 4 Mpixel and layers; a mark a peer, at its time over
gpuconv's. With --sizes, for results of a GPU: see `curves`. The same lines make the same file, byte
for byte.

Exit status: 0; 2 if the file holds no such case of this number of threads, or several devices.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.curves import draw as draw_sizes
from bench.curves import panels
from bench.results import OURS, Line, latest, read
from bench.sets import select
from bench.table import counted, origin, short

Family = tuple[str, ...]
"""A title and the patterns of the names of its cases."""

COLUMNS: tuple[tuple[Family, ...], ...] = (
    (
        ("Dense kernel, float32", "filter2d/f32/1x2048x2048/*"),
        ("Dense kernel, uint8", "filter2d/u8/1x2048x2048/*"),
        ("Separable kernel, float32", "separable_filter2d/f32/1x2048x2048/*"),
        ("Gaussian blur, float32", "gaussian_blur/f32/1x2048x2048/*"),
        ("Gaussian blur, uint8", "gaussian_blur/u8/1x2048x2048/*"),
        ("Sobel magnitude", "sobel/*/1x2048x2048/*"),
    ),
    (
        ("Box blur, float32", "box_blur/f32/1x2048x2048/*"),
        ("Box blur, uint8", "box_blur/u8/1x2048x2048/*"),
        ("Median, uint8", "median_blur/u8/1x2048x2048/*"),
        ("Dilate, uint8", "dilate/u8/1x2048x2048/*"),
        ("Convolution layer, float32", "conv2d/f32/*"),
        ("Max pool, float32", "max_pool2d/f32/*"),
        ("Average pool, float32", "avg_pool2d/f32/8x*", "avg_pool2d/f32/1x1x2048x2048/*"),
    ),
)

PEERS = {
    "scipy": ("SciPy", "#0072B2", "o"),
    "opencv": ("OpenCV", "#D55E00", "D"),
    "torch": ("PyTorch", "#CC79A7", "s"),
    "skimage": ("scikit-image", "#009E73", "^"),
    "onnxruntime": ("ONNX Runtime", "#E69F00", "v"),
}
"""Name, colour (Okabe and Ito, 2008) and mark."""

TICKS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@dataclass(frozen=True, slots=True)
class Row:
    """A case's name for a reader, gpuconv's time and the peers' over it; or a title, without."""

    label: str
    time_ms: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)


def label(case: Case) -> str:
    """A case among those of its family: "7×7 stride 2, 3×224×224 → 64"."""
    if case.operation == "sobel":
        return case.dtype.name
    text = case.name.rpartition("/")[2]
    text = re.sub(r"^k(\d+)$", r"\1x\1", text).replace("sigma", "σ = ")
    text = re.sub(r"-s(\d+)$", r" stride \1", text).replace("-depthwise", " depthwise")
    if len(case.shape) == 4:
        text += ", " + "x".join(map(str, case.shape[1:]))
    return re.sub(r"-(\d+)(.*)", r"\2 → \1", text).replace("x", "×")


def family_rows(title: str, patterns: Sequence[str], lines: Sequence[Line]) -> list[Row]:
    """The title, and the cases that gpuconv and a peer have times of; nothing if there are none."""
    found = [Row(title)]
    for case in (case for pattern in patterns for case in select("cpu", pattern)):
        own = {line.implementation: line for line in lines if line.name == case.name}
        times = own[OURS].times_ms if OURS in own else None
        ratios = {
            name: line.ratio
            for name, line in own.items()
            if name in PEERS and line.ratio is not None
        }
        if times and ratios:
            found.append(Row(label(case), times["median"], ratios))
    return found if len(found) > 1 else []


def column_rows(families: Sequence[Family], lines: Sequence[Line]) -> list[Row]:
    """All rows of a column."""
    return [row for title, *patterns in families for row in family_rows(title, patterns, lines)]


def draw(columns: Sequence[Sequence[Row]], where: str) -> Any:
    """The figure; `where` tells machine, threads and commit."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = max(map(len, columns))
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    figure = Figure(figsize=(12, 2.2 + 0.2 * height), facecolor="white", layout=layout)
    for axes, rows in zip(figure.subplots(1, len(columns)), columns, strict=True):
        _draw_column(axes, rows)
        axes.set_ylim(height - 0.4, -1.6)
        axes.set_xlim(*_limits(columns))
        axes.set_xlabel("time of the library ÷ time of gpuconv")
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    marks = {name: mark for legend in legends for mark, name in zip(*legend, strict=True)}
    figure.legend(
        marks.values(), marks, loc="outside lower center", ncols=5, frameon=False, fontsize=11
    )
    figure.suptitle(
        f"gpuconv beside other libraries: images of 4 Mpixel, and layers of networks\n{where}"
    )
    return figure


def _limits(columns: Sequence[Sequence[Row]]) -> tuple[float, float]:
    """Room for every ratio, and for what is written about both sides of 1."""
    ratios = [ratio for rows in columns for row in rows for ratio in row.ratios.values()]
    return min(0.1, *ratios) / 1.4, max(30, *ratios) * 1.4


def _draw_column(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}×" for tick in TICKS])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(which="both", length=0, labelsize=9)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if row.ratios else "bold")
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
    for y, row in enumerate(rows):
        if row.time_ms is not None:
            axes.axhline(y, color="0.92", linewidth=0.8, zorder=0)
            axes.text(1.01, y, f"{short(row.time_ms)} ms", **beside)
    axes.text(1.01, -1, "gpuconv", fontweight="bold", **beside)
    axes.axvline(1, color="black", linewidth=1.5)
    aside = {"y": -1, "va": "center", "fontsize": 9, "style": "italic"}
    axes.text(0.9, s="← faster than gpuconv", ha="right", **aside)
    axes.text(1.1, s="slower than gpuconv →", ha="left", **aside)
    for name, (told, colour, marker) in PEERS.items():
        points = [(row.ratios[name], y) for y, row in enumerate(rows) if name in row.ratios]
        if points:
            style = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 6}
            axes.plot(*zip(*points, strict=True), label=told, **style)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the latest results of a file."""
    parser = argparse.ArgumentParser("python -m bench.plot", description=__doc__)
    parser.add_argument("file", type=Path, help="a file of JSON lines")
    parser.add_argument("picture", type=Path, help="the SVG file to write")
    parser.add_argument("--threads", type=int, metavar="N", help="default: 2; any with --sizes")
    parser.add_argument("--sizes", action="store_true", help="share of a copy against kernel size")
    options = parser.parse_args(argv)
    threads = options.threads or (None if options.sizes else 2)
    try:
        lines = [x for x in latest(read(options.file)) if threads in (None, x.threads)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found: list[Any] = panels(lines) if options.sizes else [column_rows(c, lines) for c in COLUMNS]
    devices = {line.device for line in lines}
    if not any(found):
        wanted = (
            "filters of several sizes" if options.sizes else "cases of the cpu set beside peers"
        )
        wanted += "" if threads is None else f", of {counted(threads)}"
        parser.error(f"{options.file} must hold {wanted}, got none")
    if len(devices) > 1:
        parser.error(f"{options.file} must be of one device, got {', '.join(sorted(devices))}")
    figure = draw_sizes if options.sizes else draw
    save(figure(found, origin(lines[0])), options.picture)
    return 0


def save(figure: Any, path: Path) -> None:
    """Write an SVG file that hangs on the figure alone."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "gpuconv"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
