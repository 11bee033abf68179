"""The contact sheet: the whole story on one slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuconv import filters, kernels
from gpuconv.demo import chapters, draw
from gpuconv.demo.coins import find_coins
from gpuconv.demo.photos import as_pixels, photograph
from gpuconv.explain import EXAMPLE_IMAGE, explain, products


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the eight places of the sheet, in fractions of the page."""

    figure: Figure
    left: float
    bottom: float
    width: float = 0.215
    height: float = 0.35

    def box(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes at a place of the panel (fractions of the panel)."""
        return draw.box(
            self.figure,
            self.left + left * self.width,
            self.bottom + bottom * self.height,
            width * self.width,
            height * self.height,
        )

    def heading(self, number: int, title: str) -> None:
        """The chapter's number and name above the panel."""
        top = self.bottom + self.height + 0.03
        style: dict[str, Any] = {"size": 16, "weight": "bold", "va": "center"}
        self.figure.text(self.left, top, str(number), color=draw.WARM, **style)
        self.figure.text(self.left + 0.016, top, title, color=draw.INK, **style)


def contact_sheet() -> Figure:
    """Eight chapters on a page of 1920 x 1080 pixels."""
    figure = Figure(figsize=(16, 9), dpi=120, facecolor=draw.PAPER)
    figure.text(
        0.035, 0.945, "Convolution and pooling", size=27, weight="bold", color=draw.INK, va="center"
    )
    figure.text(
        0.965,
        0.945,
        "eight ideas, real photographs, computed with gpuconv",
        size=15,
        color=draw.FAINT,
        va="center",
        ha="right",
    )
    for i, (title, body) in enumerate(BODIES.items()):
        panel = Panel(figure, 0.035 + 0.2383 * (i % 4), 0.505 if i < 4 else 0.04)
        panel.heading(i + 1, title)
        body(panel)
    return figure


def _label(axes: Axes, text: str) -> None:
    draw.name(axes, text, size=10, pad=3)


def _numbers(panel: Panel) -> None:
    whole, close = panel.box(0, 0.5, 1, 0.5), panel.box(0, 0, 1, 0.42)
    chapters.zoom(panel.figure, whole, close, size=(4, 10), text=9)


def _window(panel: Panel) -> None:
    image, kernel = panel.box(0, 0.28, 0.58, 0.72), panel.box(0.66, 0.44, 0.34, 0.4)
    chapters.window_at_work(image, kernel, None, text=8.5)
    worked = explain(EXAMPLE_IMAGE, kernels.sharpen, at=(0, 0), padding=1)
    told = panel.box(0, 0, 1, 0.24)
    terms = [
        term
        for term, pixel, weight in zip(
            products(worked.patches[0], worked.kernel).split(" + "),
            worked.patches[0].flat,
            worked.kernel.flat,
            strict=True,
        )
        if pixel and weight
    ]
    sums = f"0*0 + … + {' + '.join(terms)}"
    told.text(0.5, 0.72, sums, size=11, ha="center", va="center", color=draw.INK)
    result = f"= {worked.results[0]}"
    told.text(0.5, 0.2, result, size=18, ha="center", va="center", color=draw.WARM, weight="bold")


def _kernels(panel: Panel) -> None:
    for i, (title, kernel) in enumerate(chapters.FOUR_KERNELS.items()):
        axes = panel.box(0.5 * (i % 2), 0.52 - 0.52 * (i // 2), 0.5, 0.43)
        draw.photo(axes, filters.filter2d(chapters.cat_face(), kernel, channel_axis=-1))
        _label(axes, title)


def _stride(panel: Panel) -> None:
    left = 0.0
    blur = kernels.gaussian(1.0, 7)
    for i, (step, width) in enumerate(((1, 0.56), (2, 0.28), (4, 0.14))):
        sketch = panel.box(0.34 * i, 0.65, 0.32, 0.31)
        chapters.stride_grid(sketch, step, dot=2.5, line=1.8)
        _label(sketch, f"stride {step}")
        axes = panel.box(left, 0.0, width, 0.57)
        axes.set_anchor("S")
        small = chapters.one_map(
            photograph("camera.png"), blur, stride=step, padding=3, padding_mode="reflect"
        )
        draw.photo(axes, as_pixels(small))
        left += width + 0.01


def _padding(panel: Panel) -> None:
    around = panel.box(0, 0.05, 0.58, 0.85)
    ring = chapters.one_map(EXAMPLE_IMAGE, np.ones((1, 1)), padding=1)
    draw.numbers(around, ring, size=8.5, colors=chapters.ringed(7))
    draw.window(around, 0, 0, (3, 3), width=3)
    _label(around, "zeros around: same size")
    for i, border in enumerate(("edge", "reflect", "wrap")):
        axes = panel.box(0.63, 0.69 - 0.345 * i, 0.37, 0.265)
        chapters.bordered(axes, border)
        _label(axes, border)


def _maps(panel: Panel) -> None:
    grey, bank = photograph("camera.png"), chapters.feature_bank()
    whole = panel.box(0, 0.51, 0.32, 0.44)
    draw.photo(whole, grey)
    _label(whole, "photograph")
    chosen = ("vertical edges", "horizontal edges", "lines  /", "lines  \\", "large spots")
    part = {title: bank[title] for title in chosen}
    for i, (values, (title, kernel)) in enumerate(
        zip(chapters.maps_of(grey, part), part.items(), strict=True), start=1
    ):
        axes = panel.box(0.34 * (i % 3), 0.51 - 0.51 * (i // 3), 0.32, 0.44)
        chapters.feature(axes, values, kernel)
        _label(axes, title)


def _pooling(panel: Panel) -> None:
    image = panel.box(0, 0.47, 0.46, 0.5)
    highs, means = panel.box(0.52, 0.58, 0.22, 0.28), panel.box(0.78, 0.58, 0.22, 0.28)
    chapters.pooling_numbers(image, highs, means, size=12)
    _label(highs, "max")
    _label(means, "average")
    pixels = photograph("astronaut.png")[0:256, 96:352]
    shown = zip(("photograph", "max", "average"), chapters.pooled_photos(pixels), strict=True)
    for i, (title, values) in enumerate(shown):
        axes = panel.box(0.345 * i, 0, 0.31, 0.36)
        draw.photo(axes, values, exact=True)
        _label(axes, title)


def _network(panel: Panel) -> None:
    grey = photograph("coins.png")
    layers = find_coins(grey)
    places = [panel.box(0.51 * (i % 2), 0.51 - 0.51 * (i // 2), 0.49, 0.44) for i in range(4)]
    for axes, title, values in (
        (places[0], "edges", layers.edges[0]),
        (places[1], "arcs", layers.arcs[0]),
        (places[2], "coins", layers.coins.max(axis=0)),
    ):
        draw.heat(axes, values, top=float(np.percentile(values, 99.8)))
        _label(axes, title)
    chapters.found_coins(places[3], grey, layers.found, size=5)
    _label(places[3], f"{len(layers.found)} found, no training")


BODIES = {
    "An image is numbers": _numbers,
    "The sliding window": _window,
    "The kernel decides": _kernels,
    "Stride": _stride,
    "Padding": _padding,
    "Feature maps": _maps,
    "Pooling": _pooling,
    "A small network": _network,
}
