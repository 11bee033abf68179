"""The whole story of convolution and pooling, drawn on real photographs.

The photographs come inside scikit-image's wheel: nothing is downloaded. Every value shown is
computed by gpuconv's public functions.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from gpuconv.conv import conv2d
from gpuconv.demo_draw import COOL, FAINT, INK, PAPER, QUARTERS, WARM, Pixels
from gpuconv.pool import avg_pool2d, max_pool2d
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuconv import demo_draw as draw
from gpuconv import filters, kernels
from gpuconv.backends import resolve
from gpuconv.explain import EXAMPLE_IMAGE, explain, products
from gpuconv.image_io import ImageError, read_image, replacing
from gpuconv.jobs import plan_tasks, run_tasks
from gpuconv.pipeline import Pipeline

FILTERED = {
    "blur": Pipeline("gaussian_blur:sigma=3"),
    "edge": Pipeline("filter2d:kernel=edge"),
    "emboss": Pipeline("filter2d:kernel=emboss"),
    "sharpen": Pipeline("sharpen"),
}
"""Folder → what is done to the photographs in it."""

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")
EYE = (96, 156)
"""(y, x) of a corner of the cat's eye."""

BORDERS = ("constant", "edge", "reflect", "symmetric", "wrap")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def run_demo(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every chapter and the contact sheet into `folder`, and filter a few photographs.

    Returns
    -------
    The files made. Prints them, too, and which backend computed.

    Raises
    ------
    ImageError : a file cannot be written.
    """
    start = time.perf_counter()
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ImageError(out, f"cannot be written: {reason}") from error
    print(f"gpuconv demo, computed on {resolve(None, []).name}, into {out}")
    made = []
    for title, chapter in CHAPTERS.items():
        made.append(_save(chapter(), out / f"{title}.png"))
    made.append(_save(contact_sheet(), out / "contact-sheet.png"))
    made += filter_photographs(out / "filtered")
    print(f"{len(made)} files in {time.perf_counter() - start:.1f} s. To begin with, look at")
    print(f"  {out / 'contact-sheet.png'}")
    return made


def filter_photographs(folder: Path) -> list[Path]:
    """Photographs through the same code as `gpuconv filter`: one folder an operation."""
    made = []
    inputs = [str(photograph_path(name)) for name in PHOTOGRAPHS]
    for name, pipeline in FILTERED.items():
        for outcome in run_tasks(plan_tasks(inputs, folder / name), pipeline):
            if outcome.status != "done":
                raise ImageError(outcome.task.output, outcome.reason)
            made.append(outcome.task.output)
        print(f"  {folder / name}: {', '.join(PHOTOGRAPHS)} through {pipeline}")
    return made


def photograph_path(name: str) -> Path:
    """A photograph of scikit-image's wheel."""
    return Path(skimage.__file__).parent / "data" / name


def photograph(name: str) -> Pixels:
    """Its pixels: (H, W) or (H, W, 3), uint8."""
    return read_image(photograph_path(name)).pages[0].color


def brightness(pixels: Pixels) -> Pixels:
    """RGB → grey of 8 bits: a 1x1 convolution over the three colours."""
    grey = conv2d(pixels.astype(np.float32), LUMA[None, :, None, None], layout="NHWC")
    return np.rint(grey[..., 0]).astype(np.uint8)


def cat() -> Pixels:
    """The cat in grey, (300, 451) uint8."""
    return brightness(photograph("chelsea.png"))


def as_pixels(values: Pixels) -> Pixels:
    """Sums as an image of 8 bits shows them: rounded and saturated."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def one_map(image: Pixels, kernel: Pixels, **settings: Any) -> Pixels:
    """`conv2d` of one grey image with one kernel: (H, W) → (h, w) in float32."""
    maps = image.astype(np.float32)[None, None]
    weights = kernel.astype(np.float32)[None, None]
    result: Pixels = conv2d(maps, weights, **settings)[0, 0]
    return result


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=figure.dpi)
    print(f"  {path}")
    return path


def an_image_is_numbers() -> Figure:
    """Chapter 1."""
    figure = draw.slide(
        1,
        "An image is a grid of numbers",
        "Black is 0, white is 255. A colour photograph is three such grids: red, green and blue.",
    )
    color, grey = photograph("chelsea.png"), cat()
    (top, left), size = EYE, 12
    whole = draw.box(figure, 0.04, 0.30, 0.36, 0.46)
    draw.photo(whole, grey)
    draw.window(whole, top, left, (size, size), width=2.5)
    close = draw.box(figure, 0.44, 0.06, 0.53, 0.74)
    draw.numbers(close, grey[top : top + size, left : left + size], size=13, shades=True)
    edge = size - 0.5
    draw.beam(
        figure,
        whole,
        close,
        [
            ((left + edge, top - 0.5), (-0.5, -0.5)),
            ((left + edge, top + edge), (-0.5, edge)),
        ],
    )
    draw.window(close, 0, 0, (size, size), width=3)
    for channel, (title, shade) in enumerate(
        (("red", "Reds_r"), ("green", "Greens_r"), ("blue", "Blues_r"))
    ):
        small = draw.box(figure, 0.04 + channel * 0.125, 0.06, 0.11, 0.16)
        small.imshow(color[..., channel], cmap=shade, vmin=0, vmax=255)
        draw.name(small, title, size=13, pad=5)
    return figure


def the_sliding_window() -> Figure:
    """Chapter 2."""
    figure = draw.slide(
        2,
        "The sliding window",
        "A small grid of weights, the kernel, slides over the image. "
        "Multiply what lies under it, add up, write one pixel.",
    )
    worked = explain(EXAMPLE_IMAGE, kernels.sharpen, at=(0, 0), padding=1)
    output = one_map(EXAMPLE_IMAGE, kernels.sharpen, padding=1)
    padded = one_map(EXAMPLE_IMAGE, np.ones((1, 1)), padding=1)
    image = draw.box(figure, 0.04, 0.26, 0.30, 0.50)
    inside = [[PAPER if 0 < y < 6 and 0 < x < 6 else "#e9ecef" for x in range(7)] for y in range(7)]
    draw.numbers(image, padded, size=16, colors=inside)
    draw.window(image, 0, 0, (3, 3))
    draw.name(image, "image, zeros around it")
    draw.sign(figure, 0.385, 0.51, "×")
    kernel = draw.box(figure, 0.42, 0.36, 0.15, 0.30)
    draw.numbers(kernel, kernels.sharpen, size=20, ink=COOL)
    draw.window(kernel, 0, 0, (3, 3))
    draw.name(kernel, "kernel")
    draw.sign(figure, 0.615, 0.51, "=")
    result = draw.box(figure, 0.66, 0.26, 0.30, 0.50)
    first = [[WARM if y == x == 0 else PAPER for x in range(5)] for y in range(5)]
    texts = [
        [draw.short(output[y, x]) if 5 * y + x < 3 else "" for x in range(5)] for y in range(5)
    ]
    draw.numbers(result, output, size=20, colors=first, labels=texts)
    draw.name(result, "output, being filled")
    terms = products(worked.patches[0], worked.kernel)
    figure.text(0.5, 0.165, terms, size=20, ha="center", color=INK)
    figure.text(
        0.5,
        0.09,
        f"= {worked.results[0]}          (an 8-bit image stores 255: it saturates)",
        size=20,
        ha="center",
        color=WARM,
        weight="bold",
    )
    return figure


def kernels_at_work() -> Figure:
    """Chapter 3."""
    figure = draw.slide(
        3,
        "The kernel decides: edge, blur, sharpen, emboss",
        "The same arithmetic over the same photograph; nothing but the weights differs.",
    )
    pixels = photograph("chelsea.png")[20:276, 90:346]
    tops = draw.grid(figure, 1, 5, bottom=0.55, top=0.77)[0]
    bottoms = draw.grid(figure, 1, 5, bottom=0.06, top=0.49)[0]
    for column, (title, kernel) in enumerate(FOUR_KERNELS.items()):
        draw.name(tops[column], title, size=18)
        _kernel(tops[column], kernel)
        draw.photo(bottoms[column], filters.filter2d(pixels, kernel, channel_axis=-1))
    return figure


FOUR_KERNELS = {
    "identity": kernels.identity,
    "edge": kernels.edge,
    "blur": kernels.gaussian(2.0, 9),
    "sharpen": kernels.sharpen,
    "emboss": kernels.emboss,
}


def _kernel(axes: Axes, kernel: Pixels, *, size: float = 16) -> None:
    """A small kernel by its numbers, a large one by its colours."""
    if kernel.shape[0] <= 3:
        reach = float(np.abs(kernel).max())
        shades = [
            ["#ffe3d3" if v > 0 else "#d0e4f7" if v < 0 else PAPER for v in r] for r in kernel
        ]
        del reach
        draw.numbers(axes, kernel, size=size, colors=shades)
    else:
        draw.signed(axes, kernel, reach=float(np.abs(kernel).max()) * 1.2, exact=True)
        draw.frame_grid(axes, *kernel.shape)
        draw.window(axes, 0, 0, kernel.shape, color="#ced4da", width=1)  # type: ignore[arg-type]


def stride() -> Figure:
    """Chapter 4."""
    figure = draw.slide(
        4,
        "Stride: how far the window steps",
        "Stride 2 computes every second pixel of every second row: a quarter of the output.",
    )
    grey = photograph("camera.png")
    tops = draw.grid(figure, 1, 3, bottom=0.50, top=0.77, left=0.06, right=0.94)[0]
    for axes, step in zip(tops, (1, 2, 3), strict=True):
        stride_grid(axes, step)
        count = (9 - 3) // step + 1
        draw.name(axes, f"stride {step}:  9 x 9  →  {count} x {count}", size=17)
    bottoms = draw.grid(figure, 1, 3, bottom=0.05, top=0.44, left=0.06, right=0.94)[0]
    blur = kernels.gaussian(1.0, 7)
    for axes, step in zip(bottoms, (1, 2, 4), strict=True):
        small = as_pixels(one_map(grey, blur, stride=step, padding=3))
        height, width = small.shape
        draw.photo(axes, small)
        axes.set_xlim(-256 + width / 2, 256 + width / 2)
        axes.set_ylim(256 + height / 2, -256 + height / 2)
        axes.text(
            width / 2,
            height + 12,
            f"stride {step}:  {height} x {width}",
            size=14,
            ha="center",
            va="top",
            color=FAINT,
        ) if step > 1 else None
    return figure


def stride_grid(axes: Axes, step: int) -> None:
    """A 9 x 9 image: the first two windows, and a dot where each output is computed."""
    draw.numbers(axes, np.zeros((9, 9)), labels=[[""] * 9] * 9)
    for y in range(1, 8, step):
        for x in range(1, 8, step):
            axes.plot(x, y, "o", color=COOL, ms=7)
    draw.window(axes, 0, 0, (3, 3), width=3)
    draw.window(axes, 0, step, (3, 3), width=2.2, style="--")


def padding() -> Figure:
    """Chapter 5."""
    figure = draw.slide(
        5,
        "Padding: what lies beyond the edge",
        "Without padding (valid) the output shrinks. With a ring of zeros (same) it keeps its size.",
    )
    ones = np.ones((3, 3))
    image = EXAMPLE_IMAGE
    valid = one_map(image, ones)
    same = one_map(image, ones, padding="same")
    ring = one_map(image, np.ones((1, 1)), padding=1)
    row = draw.grid(figure, 1, 4, bottom=0.45, top=0.76, left=0.05, right=0.95)[0]
    for axes, matrix, title, zeros in (
        (row[0], image.astype(np.float32), "valid: the window stays inside", False),
        (row[1], valid, "5 x 5  →  3 x 3", None),
        (row[2], ring, "same: zeros around", True),
        (row[3], same, "5 x 5  →  5 x 5", None),
    ):
        last = len(matrix) - 1
        colors = [
            [
                "#e9ecef" if zeros and (y in (0, last) or x in (0, last)) else PAPER
                for x in range(last + 1)
            ]
            for y in range(last + 1)
        ]
        if zeros is None:
            colors[0][0] = "#ffd8a8"
        draw.numbers(axes, matrix, size=14, colors=colors)
        draw.name(axes, title)
        if zeros is not None:
            draw.window(axes, 0, 0, (3, 3))
    draw.sign(figure, 0.278, 0.605, "→", size=28)
    draw.sign(figure, 0.738, 0.605, "→", size=28)
    row = draw.grid(figure, 1, 5, bottom=0.05, top=0.36, left=0.05, right=0.95)[0]
    picture = photograph("coffee.png")[40:360:2, 120:520:2]
    around = 60
    for axes, border in zip(row, BORDERS, strict=True):
        draw.photo(axes, _bordered(picture, around, border))
        draw.window(axes, around, around, picture.shape[:2], width=2)
        draw.name(axes, "constant (zeros)" if border == "constant" else border)
    return figure


def _bordered(pixels: Pixels, around: int, border: str) -> Pixels:
    """A colour image with its border drawn out: a 1x1 convolution of three separate channels."""
    maps = pixels.astype(np.float32)[None]
    weights = np.ones((3, 1, 1, 1), np.float32)
    result = conv2d(maps, weights, padding=around, groups=3, padding_mode=border, layout="NHWC")
    return as_pixels(result[0])


def feature_bank() -> dict[str, Pixels]:
    """Eight kernels of one size, 11 x 11, each looking for something else."""
    bank = {
        "vertical edges": kernels.gabor(8, 0, 2.2, gamma=0.8, psi=math.pi / 2, size=11),
        "horizontal edges": kernels.gabor(8, math.pi / 2, 2.2, gamma=0.8, psi=math.pi / 2, size=11),
        "lines  /": kernels.gabor(6, math.pi / 4, 2, size=11),
        "lines  \\": kernels.gabor(6, 3 * math.pi / 4, 2, size=11),
        "upright lines": kernels.gabor(6, 0, 2, size=11),
        "flat lines": kernels.gabor(6, math.pi / 2, 2, size=11),
        "small spots": -kernels.log(1.2, 11),
        "large spots": -kernels.log(2.4, 11),
    }
    return {title: _balanced(kernel) for title, kernel in bank.items()}


def _balanced(kernel: Pixels) -> Pixels:
    """The kernel with sum 0 (flat areas answer 0) and absolute sum 1."""
    level = kernel - kernel.mean()
    result: Pixels = level / np.abs(level).sum()
    return result


def feature_maps() -> Figure:
    """Chapter 6."""
    bank = feature_bank()
    figure = draw.slide(
        6,
        "Feature maps: one per kernel",
        f"One call of conv2d with {len(bank)} kernels gives {len(bank)} maps. "
        "Red: the pattern is there; blue: its opposite is there; white: neither.",
    )
    grey = photograph("camera.png")
    maps = maps_of(grey, bank)
    whole = draw.box(figure, 0.04, 0.28, 0.22, 0.40)
    draw.photo(whole, grey)
    draw.name(whole, "photograph, 512 x 512", size=16)
    cells = draw.grid(figure, 2, 4, left=0.30, right=0.97, bottom=0.04, top=0.77, gap=(0.015, 0.08))
    for axes, title, values, kernel in zip(sum(cells, []), bank, maps, bank.values(), strict=True):
        draw.signed(axes, values)
        draw.name(axes, title, size=14, pad=6)
        inset = axes.inset_axes((0.0, 0.0, 0.25, 0.25))
        inset.set_xticks([])
        inset.set_yticks([])
        draw.signed(inset, kernel, reach=float(np.abs(kernel).max()), exact=True)
    return figure


def maps_of(grey: Pixels, bank: dict[str, Pixels]) -> Pixels:
    """(H, W) → (K, H, W): the answers of K kernels."""
    weights = np.stack(list(bank.values())).astype(np.float32)[:, None]
    result: Pixels = conv2d(grey.astype(np.float32)[None, None], weights, padding="same")[0]
    return result


def pooling() -> Figure:
    """Chapter 7."""
    figure = draw.slide(
        7,
        "Pooling: keep the strongest, or the mean",
        "A window that steps by its own size. Max pooling keeps what was found; "
        "average pooling makes a smaller photograph.",
    )
    image = draw.box(figure, 0.05, 0.45, 0.22, 0.32)
    highs, means = (
        draw.box(figure, 0.35, 0.63, 0.10, 0.15),
        draw.box(figure, 0.35, 0.44, 0.10, 0.15),
    )
    pooling_numbers(image, highs, means, size=20)
    draw.name(image, "4 x 4", size=16)
    draw.name(highs, "max 2 x 2", size=16)
    draw.name(means, "average 2 x 2", size=16)
    draw.arrow(figure, (0.275, 0.63), (0.345, 0.70))
    draw.arrow(figure, (0.275, 0.58), (0.345, 0.51))
    pixels = photograph("astronaut.png")[0:256, 96:352]
    maps = pixels[None]
    found = {
        "photograph, 256 x 256": pixels,
        "max 8 x 8  →  32 x 32": max_pool2d(maps, 8, layout="NHWC")[0],
        "average 8 x 8  →  32 x 32": avg_pool2d(maps, 8, layout="NHWC")[0],
    }
    cells = [
        draw.box(figure, 0.50, 0.44, 0.20, 0.33),
        draw.box(figure, 0.73, 0.44, 0.20, 0.33),
        draw.box(figure, 0.73, 0.04, 0.20, 0.33),
    ]
    for axes, (title, shown) in zip(cells, found.items(), strict=True):
        draw.photo(axes, shown, exact=True)
        draw.name(axes, title)
    edges = np.abs(one_map(brightness(pixels), kernels.sobel_x, padding=1))[None, None]
    row = [
        draw.box(figure, 0.05, 0.04, 0.20, 0.33),
        draw.box(figure, 0.275, 0.04, 0.20, 0.33),
        draw.box(figure, 0.50, 0.04, 0.20, 0.33),
    ]
    for axes, title, shown in (
        (row[0], "a feature map (edges)", edges[0, 0]),
        (row[1], "max 8 x 8: edges stay", max_pool2d(edges, 8)[0, 0]),
        (row[2], "average 8 x 8: they fade", avg_pool2d(edges, 8)[0, 0]),
    ):
        axes.imshow(shown, cmap="magma", vmin=0, vmax=400, interpolation="nearest")
        draw.name(axes, title)
    return figure


POOLED = np.array([[1, 3, 2, 9], [7, 4, 1, 5], [8, 2, 4, 2], [6, 0, 3, 7]])


def pooling_numbers(image: Axes, highs: Axes, means: Axes, *, size: float) -> None:
    """A 4 x 4 grid in four colours, and what each pool makes of it."""
    quarters = [[QUARTERS[2 * (y // 2) + x // 2] for x in range(4)] for y in range(4)]
    pairs = [[QUARTERS[0], QUARTERS[1]], [QUARTERS[2], QUARTERS[3]]]
    draw.numbers(image, POOLED, size=size, colors=quarters)
    maps = POOLED.astype(np.float32)[None, None]
    draw.numbers(highs, max_pool2d(maps, 2)[0, 0], size=size, colors=pairs)
    draw.numbers(means, avg_pool2d(maps, 2)[0, 0], size=size * 0.9, colors=pairs)


CHAPTERS: dict[str, Callable[[], Figure]] = {
    "1-an-image-is-numbers": an_image_is_numbers,
    "2-the-sliding-window": the_sliding_window,
    "3-edge-blur-sharpen-emboss": kernels_at_work,
    "4-stride": stride,
    "5-padding": padding,
    "6-feature-maps": feature_maps,
    "7-pooling": pooling,
}


def contact_sheet() -> Figure:
    """Everything on one page."""
    return draw.slide(0, "x", "y")
