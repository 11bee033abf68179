"""How the demo's slides look: headings, pictures, grids of numbers, windows and arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, FancyArrowPatch, Rectangle

Pixels = npt.NDArray[Any]

INK, FAINT, PAPER = "#1b1f24", "#6b7280", "#ffffff"
WARM, COOL, PALE = "#e8590c", "#1971c2", "#f1f3f5"
QUARTERS = ("#fff3bf", "#d3f9d8", "#d0ebff", "#ffe3e3")
FIELDS = ("#f08c00", "#2f9e44", "#1971c2")
"""One colour for what a value of each layer sees."""

RING = "#ff6b6b"
SIGNED = "RdBu_r"
"""Colours of maps with a sign: blue below 0, white at 0, red above."""


def slide(number: int, title: str, caption: str) -> Figure:
    """A 16:9 page of 1600 x 900 pixels with its heading; the body is below y = 0.80."""
    figure = Figure(figsize=(16, 9), dpi=100, facecolor=PAPER)
    figure.text(0.04, 0.925, str(number), size=30, weight="bold", color=WARM, va="center")
    figure.text(0.075, 0.925, title, size=30, weight="bold", color=INK, va="center")
    figure.text(0.075, 0.865, caption, size=16, color=FAINT, va="center")
    return figure


def box(figure: Any, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without clutter at a place of the page (fractions of it)."""
    axes: Axes = figure.add_axes((left, bottom, width, height))
    axes.set_axis_off()
    return axes


def grid(
    figure: Figure,
    rows: int,
    columns: int,
    *,
    left: float = 0.04,
    right: float = 0.96,
    bottom: float = 0.05,
    top: float = 0.80,
    gap: tuple[float, float] = (0.02, 0.07),
) -> list[list[Axes]]:
    """Rows of axes without clutter; `gap` is (x, y) between them, in fractions of the page."""
    width = (right - left - gap[0] * (columns - 1)) / columns
    height = (top - bottom - gap[1] * (rows - 1)) / rows
    return [
        [
            box(
                figure,
                left + c * (width + gap[0]),
                top - height - r * (height + gap[1]),
                width,
                height,
            )
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def name(axes: Axes, text: str, *, size: float = 15, color: str = INK, pad: float = 8) -> None:
    """A title above the axes."""
    axes.set_title(text, size=size, color=color, pad=pad)


def photo(axes: Axes, pixels: Pixels, *, exact: bool = False) -> None:
    """Grey or colour pixels of 8 bits; `exact` shows each pixel as a square."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if exact else "auto")


def signed(axes: Axes, values: Pixels, *, reach: float | None = None, exact: bool = False) -> None:
    """Values around 0 in two colours; white is 0, full colour is `reach` (most of the values)."""
    reach = float(np.percentile(np.abs(values), 99)) if reach is None else reach
    axes.imshow(
        values,
        cmap=SIGNED,
        vmin=-max(reach, 1e-9),
        vmax=max(reach, 1e-9),
        interpolation="nearest" if exact else "auto",
    )


def heat(axes: Axes, values: Pixels, *, top: float) -> None:
    """Values from 0 to `top`, dark to bright, each an exact square."""
    axes.imshow(values, cmap="magma", vmin=0, vmax=max(top, 1e-9), interpolation="nearest")


def numbers(
    axes: Axes,
    matrix: Pixels,
    *,
    size: float = 14,
    shades: bool = False,
    colors: Sequence[Sequence[str]] | None = None,
) -> None:
    """A grid of numbers: on paper, on `shades` of grey as an image has, or on given `colors`.

    NaN is a cell without a number. A number on the warm colour is white and bold.
    """
    height, width = matrix.shape
    for y in range(height):
        for x in range(width):
            value = matrix[y, x]
            face, text = PAPER, INK
            if shades:
                face = str(float(np.clip(value / 255, 0, 1)))
                text = PAPER if value < 128 else INK
            if colors is not None:
                face = colors[y][x]
            marked = face == WARM
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="#ced4da", lw=0.8)
            )
            axes.text(
                x,
                y,
                short(value),
                ha="center",
                va="center",
                size=size,
                color=PAPER if marked else text,
                weight="bold" if marked else "normal",
            )
    frame_grid(axes, height, width)


def frame_grid(axes: Axes, height: int, width: int, *, margin: float = 0.06) -> None:
    """Square cells, the first row on top."""
    axes.set_xlim(-0.5 - margin, width - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    axes.set_aspect("equal")


def short(value: Any) -> str:
    """A number as a cell shows it; nothing for NaN."""
    number = float(value)
    if np.isnan(number):
        return ""
    return str(round(number)) if number == round(number) else f"{number:.2f}"


def window(
    axes: Axes,
    top: float,
    left: float,
    size: tuple[int, int],
    *,
    color: str = WARM,
    width: float = 3.5,
    style: str = "-",
) -> None:
    """The outline of a window over pixels."""
    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            size[1],
            size[0],
            fill=False,
            edgecolor=color,
            lw=width,
            ls=style,
            clip_on=False,
            zorder=5,
        )
    )


def sign(figure: Figure, x: float, y: float, text: str, *, size: float = 34) -> None:
    """A sign such as × or = between two pictures."""
    figure.text(x, y, text, size=size, color=INK, ha="center", va="center")


def arrow(figure: Figure, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two places of the page."""
    figure.add_artist(
        FancyArrowPatch(
            start,
            end,
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=22,
            lw=2.2,
            color=INK,
        )
    )


def beam(figure: Figure, source: Axes, target: Axes, corners: Sequence[Any]) -> None:
    """Thin lines from pixels of one picture to pixels of another: pairs ((x, y), (x, y))."""
    for here, there in corners:
        figure.add_artist(
            ConnectionPatch(
                xyA=here,
                coordsA=source.transData,
                xyB=there,
                coordsB=target.transData,
                color=WARM,
                lw=1.2,
                alpha=0.7,
            )
        )
