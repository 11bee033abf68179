"""The chapters of the demo, one slide each. Every value shown is computed by gpuconv."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuconv import filters, kernels
from gpuconv.conv import conv2d
from gpuconv.demo import draw
from gpuconv.demo.coins import find_coins, receptive_fields
from gpuconv.demo.draw import COOL, INK, PAPER, QUARTERS, RING, WARM, Pixels
from gpuconv.demo.photos import as_pixels, brightness, photograph
from gpuconv.explain import EXAMPLE_IMAGE, explain, products
from gpuconv.pool import avg_pool2d, max_pool2d

EYE = (99, 164)
"""(y, x) of a corner of the cat's pupil."""

FOUR_KERNELS = {
    "edge": kernels.edge,
    "blur": kernels.gaussian(2.0, 9),
    "sharpen": kernels.sharpen,
    "emboss": kernels.emboss,
}

BORDERS = {
    "constant": "0 0 | a b c d | 0 0",
    "edge": "a a | a b c d | d d",
    "reflect": "c b | a b c d | c b",
    "symmetric": "b a | a b c d | d c",
    "wrap": "c d | a b c d | a b",
}

POOLED = np.array([[1, 3, 2, 9], [7, 4, 1, 5], [8, 2, 4, 2], [6, 0, 3, 7]])


def an_image_is_numbers() -> Figure:
    """Chapter 1."""
    figure = draw.slide(
        1,
        "An image is a grid of numbers",
        "Black is 0, white is 255. A colour photograph is three such grids: red, green and blue.",
    )
    zoom(figure, draw.box(figure, 0.04, 0.31, 0.38, 0.48), draw.box(figure, 0.48, 0.06, 0.50, 0.73))
    pixels = photograph("chelsea.png")
    for channel, title in enumerate(("red", "green", "blue")):
        small = draw.box(figure, 0.04 + channel * 0.1317, 0.06, 0.1166, 0.18)
        alone = np.zeros_like(pixels)
        alone[..., channel] = pixels[..., channel]
        draw.photo(small, alone)
        draw.name(small, title, size=14, pad=5)
    return figure


def zoom(
    figure: Figure, whole: Axes, close: Axes, *, size: tuple[int, int] = (12, 12), text: float = 13
) -> None:
    """The cat, and some of its pixels as numbers."""
    grey = brightness(photograph("chelsea.png"))
    (top, left), (rows, columns) = EYE, size
    draw.photo(whole, grey)
    draw.window(whole, top, left, size, width=2)
    draw.numbers(close, grey[top : top + rows, left : left + columns], size=text, shades=True)
    draw.window(close, 0, 0, size, width=2.5)
    if rows == columns:  # side by side: from the right edge to the left one
        ends = [((left + columns - 0.5, top - 0.5 + y), (-0.5, y - 0.5)) for y in (0, rows)]
    else:  # one above the other
        ends = [((left - 0.5 + x, top + rows - 0.5), (x - 0.5, -0.5)) for x in (0, columns)]
    draw.beam(figure, whole, close, ends)


def the_sliding_window() -> Figure:
    """Chapter 2."""
    figure = draw.slide(
        2,
        "The sliding window",
        "A small grid of weights, the kernel, slides over the image. "
        "Multiply what lies under it, add up, write one pixel.",
    )
    worked = explain(EXAMPLE_IMAGE, kernels.sharpen, at=(0, 0), padding=1)
    image, kernel = (
        draw.box(figure, 0.04, 0.25, 0.30, 0.50),
        draw.box(figure, 0.42, 0.36, 0.15, 0.29),
    )
    result = draw.box(figure, 0.66, 0.25, 0.30, 0.50)
    window_at_work(image, kernel, result, text=17)
    draw.name(image, "image, zeros around it", size=16)
    draw.name(kernel, "kernel", size=16)
    draw.name(result, "output, being filled", size=16)
    draw.sign(figure, 0.38, 0.50, "×")
    draw.sign(figure, 0.615, 0.50, "=")
    terms = products(worked.patches[0], worked.kernel)
    figure.text(0.5, 0.155, terms, size=20, ha="center", color=INK)
    told = f"= {worked.results[0]}"
    figure.text(0.5, 0.085, told, size=24, ha="center", color=WARM, weight="bold")
    figure.text(
        0.5,
        0.04,
        "An 8-bit image stores it as 255: it saturates.",
        size=14,
        ha="center",
        color=draw.FAINT,
    )
    return figure


def window_at_work(image: Axes, kernel: Axes, result: Axes | None, *, text: float) -> None:
    """The example matrix with its zeros, the sharpen kernel, the first outputs."""
    padded = one_map(EXAMPLE_IMAGE, np.ones((1, 1)), padding=1)
    output = one_map(EXAMPLE_IMAGE, kernels.sharpen, padding=1)
    draw.numbers(image, padded, size=text, colors=ringed(7))
    draw.window(image, 0, 0, (3, 3))
    kernel_grid(kernel, kernels.sharpen, size=text * 1.2)
    draw.window(kernel, 0, 0, (3, 3))
    if result is None:
        return
    known = np.full(output.shape, np.nan)
    known[0, :3] = output[0, :3]
    colors = [[WARM if y == x == 0 else PAPER for x in range(5)] for y in range(5)]
    draw.numbers(result, known, size=text * 1.2, colors=colors)


def kernels_at_work() -> Figure:
    """Chapter 3."""
    figure = draw.slide(
        3,
        "The kernel decides: edge, blur, sharpen, emboss",
        "The same arithmetic over the same photograph; only the weights differ.",
    )
    tops = draw.grid(figure, 1, 5, bottom=0.52, top=0.77)[0]
    bottoms = draw.grid(figure, 1, 5, bottom=0.10, top=0.46)[0]
    draw.photo(bottoms[0], cat_face())
    draw.name(bottoms[0], "photograph", size=20)
    for above, below, (title, kernel) in zip(
        tops[1:], bottoms[1:], FOUR_KERNELS.items(), strict=True
    ):
        draw.name(above, title, size=20)
        kernel_grid(above, kernel, size=18)
        draw.photo(below, filters.filter2d(cat_face(), kernel, channel_axis=-1))
    return figure


def cat_face() -> Pixels:
    """256 x 256 pixels of the cat, in colour."""
    return photograph("chelsea.png")[20:276, 90:346]


def kernel_grid(axes: Axes, kernel: Pixels, *, size: float = 16) -> None:
    """A small kernel by its numbers, a large one by its colours."""
    if kernel.shape[0] <= 3:
        tints = [["#ffe3d3" if v > 0 else "#d0e4f7" if v < 0 else PAPER for v in r] for r in kernel]
        draw.numbers(axes, kernel, size=size, colors=tints)
    else:
        draw.signed(axes, kernel, reach=float(np.abs(kernel).max()) * 1.2, exact=True)
        height, width = kernel.shape
        draw.frame_grid(axes, height, width)
        draw.window(axes, 0, 0, (height, width), color="#ced4da", width=1)


def stride() -> Figure:
    """Chapter 4."""
    figure = draw.slide(
        4,
        "Stride: how far the window steps",
        "A dot is a computed output. Stride 2 leaves out every second column and every second row.",
    )
    tops = draw.grid(figure, 1, 3, bottom=0.49, top=0.77, left=0.06, right=0.94)[0]
    bottoms = draw.grid(figure, 1, 3, bottom=0.04, top=0.40, left=0.06, right=0.94)[0]
    for above, below, step in zip(tops, bottoms, (1, 2, 4), strict=True):
        count = stride_grid(above, step)
        draw.name(above, f"stride {step}:  11 x 11  →  {count} x {count}", size=18)
        size = stride_photo(below, step)
        draw.name(below, f"512 x 512  →  {size} x {size}", size=14, color=draw.FAINT, pad=4)
    return figure


def stride_grid(axes: Axes, step: int, *, dot: float = 6, line: float = 3) -> int:
    """An 11 x 11 image: the first two windows, and a dot where each output is computed."""
    draw.numbers(axes, np.full((11, 11), np.nan))
    rows, columns = one_map(np.zeros((11, 11)), np.ones((3, 3)), stride=step).shape
    for y, x in itertools.product(range(rows), range(columns)):
        axes.plot(1 + x * step, 1 + y * step, "o", color=COOL, ms=dot)
    draw.window(axes, 0, 0, (3, 3), width=line)
    draw.window(axes, 0, step, (3, 3), width=line * 0.7, style="--")
    return int(rows)


def stride_photo(axes: Axes, step: int) -> int:
    """A blurred photograph computed with that stride, at one scale for every stride."""
    blur = kernels.gaussian(1.0, 7)
    small = one_map(photograph("camera.png"), blur, stride=step, padding=3, padding_mode="reflect")
    draw.photo(axes, as_pixels(small))
    size = len(small)
    axes.set_xlim(size / 2 - 256, size / 2 + 256)
    axes.set_ylim(512, 0)
    return size


def padding() -> Figure:
    """Chapter 5."""
    figure = draw.slide(
        5,
        "Padding: what lies beyond the edge",
        "Here a 3 x 3 kernel of ones. Without padding (valid) the output shrinks; "
        "with a ring of zeros (same) it keeps its size.",
    )
    row = draw.grid(figure, 1, 4, bottom=0.46, top=0.75, left=0.05, right=0.95)[0]
    padding_grids(row, text=13)
    draw.sign(figure, 0.278, 0.605, "→", size=28)
    draw.sign(figure, 0.735, 0.605, "→", size=28)
    row = draw.grid(figure, 1, 5, bottom=0.09, top=0.37, left=0.05, right=0.95)[0]
    for axes, (border, letters) in zip(row, BORDERS.items(), strict=True):
        bordered(axes, border)
        draw.name(axes, border + (" (zeros)" if border == "constant" else ""), size=16)
        axes.text(
            0.5,
            -0.08,
            letters,
            size=13,
            ha="center",
            va="top",
            transform=axes.transAxes,
            color=draw.FAINT,
            family="monospace",
        )
    return figure


def padding_grids(row: Sequence[Axes], *, text: float) -> None:
    """valid and same: what the window reads, what it gives."""
    ones = np.ones((3, 3))
    valid, same = one_map(EXAMPLE_IMAGE, ones), one_map(EXAMPLE_IMAGE, ones, padding="same")
    around = one_map(EXAMPLE_IMAGE, np.ones((1, 1)), padding=1)
    draw.numbers(row[0], EXAMPLE_IMAGE, size=text)
    draw.numbers(row[2], around, size=text * 0.85, colors=ringed(7))
    for axes, title in ((row[0], "valid: the window stays inside"), (row[2], "same: zeros around")):
        draw.window(axes, 0, 0, (3, 3))
        draw.name(axes, title, size=16)
    for axes, sums in ((row[1], valid), (row[3], same)):
        size = len(sums)
        colors = [[WARM if y == x == 0 else PAPER for x in range(size)] for y in range(size)]
        draw.numbers(axes, sums, size=text, colors=colors)
        draw.name(axes, f"5 x 5  →  {size} x {size}", size=16)


def bordered(axes: Axes, border: str, *, around: int = 60) -> None:
    """A photograph with its border drawn out: a 1x1 convolution of three separate channels."""
    picture = photograph("coffee.png")[40:360:2, 120:520:2]
    weights = np.ones((3, 1, 1, 1), np.float32)
    wide = conv2d(
        picture.astype(np.float32),
        weights,
        padding=around,
        groups=3,
        padding_mode=border,
        layout="NHWC",
    )
    draw.photo(axes, as_pixels(wide))
    draw.window(axes, around, around, picture.shape[:2], width=2)


def feature_maps() -> Figure:
    """Chapter 6."""
    bank = feature_bank()
    figure = draw.slide(
        6,
        "Feature maps: one per kernel",
        f"One call of conv2d with {len(bank)} kernels gives {len(bank)} maps. "
        "Red: the pattern is there; blue: its opposite; white: neither.",
    )
    grey = photograph("camera.png")
    whole = draw.box(figure, 0.04, 0.20, 0.25, 0.45)
    draw.photo(whole, grey)
    draw.name(whole, "photograph, 512 x 512", size=16)
    rows = draw.grid(figure, 2, 4, left=0.33, right=0.97, bottom=0.08, top=0.76, gap=(0.012, 0.11))
    cells = itertools.chain.from_iterable(rows)
    for axes, values, (title, kernel) in zip(cells, maps_of(grey, bank), bank.items(), strict=True):
        feature(axes, values, kernel)
        draw.name(axes, title, size=15, pad=6)
    return figure


def feature(axes: Axes, values: Pixels, kernel: Pixels) -> None:
    """One feature map, its kernel in the corner."""
    draw.signed(axes, values)
    corner = axes.inset_axes((0.0, 0.0, 0.26, 0.26))
    corner.set_xticks([])
    corner.set_yticks([])
    draw.signed(corner, kernel, reach=float(np.abs(kernel).max()), exact=True)


def feature_bank() -> dict[str, Pixels]:
    """Eight kernels of one size, 11 x 11, each looking for something else."""
    quarter = math.pi / 4
    bank = {
        "vertical edges": kernels.gabor(8, 0, 2.2, gamma=0.8, psi=math.pi / 2, size=11),
        "horizontal edges": kernels.gabor(8, 2 * quarter, 2.2, gamma=0.8, psi=math.pi / 2, size=11),
        "lines  /": kernels.gabor(6, quarter, 2, size=11),
        "lines  \\": kernels.gabor(6, 3 * quarter, 2, size=11),
        "upright lines": kernels.gabor(6, 0, 2, size=11),
        "level lines": kernels.gabor(6, 2 * quarter, 2, size=11),
        "small spots": -kernels.log(1.2, 11),
        "large spots": -kernels.log(2.4, 11),
    }
    return {title: _balanced(kernel) for title, kernel in bank.items()}


def maps_of(grey: Pixels, bank: dict[str, Pixels]) -> Pixels:
    """(H, W) → (K, H, W): the answers of K kernels."""
    weights = np.stack(list(bank.values())).astype(np.float32)[:, None]
    maps = grey.astype(np.float32)[None]
    result: Pixels = conv2d(maps, weights, padding="same", padding_mode="reflect")
    return result


def pooling() -> Figure:
    """Chapter 7."""
    figure = draw.slide(
        7,
        "Pooling: keep the strongest, or the mean",
        "A window that steps by its own size. Average pooling makes a smaller photograph; "
        "max pooling keeps what a feature map found.",
    )
    image = draw.box(figure, 0.04, 0.44, 0.22, 0.33)
    highs, means = (
        draw.box(figure, 0.035, 0.08, 0.11, 0.22),
        draw.box(figure, 0.155, 0.08, 0.11, 0.22),
    )
    pooling_numbers(image, highs, means, size=20)
    draw.name(image, "4 x 4", size=16)
    draw.name(highs, "max 2 x 2", size=16)
    draw.name(means, "average 2 x 2", size=16)
    draw.arrow(figure, (0.12, 0.43), (0.095, 0.345))
    draw.arrow(figure, (0.18, 0.43), (0.205, 0.345))
    above, below = draw.grid(
        figure, 2, 3, left=0.32, right=0.96, bottom=0.04, top=0.77, gap=(0.02, 0.07)
    )
    pixels = photograph("astronaut.png")[0:256, 96:352]
    for axes, title, shown in zip(
        above,
        ("photograph, 256 x 256", "max 8 x 8  →  32 x 32", "average 8 x 8  →  32 x 32"),
        pooled_photos(pixels),
        strict=True,
    ):
        draw.photo(axes, shown, exact=True)
        draw.name(axes, title)
    grey = brightness(pixels)
    edges = np.abs(one_map(grey, kernels.sobel_x, padding=1, padding_mode="reflect"))[None]
    for axes, title, shown in zip(
        below,
        ("feature map: upright edges", "max 8 x 8: they stay", "average 8 x 8: they fade"),
        (edges, max_pool2d(edges, 8), avg_pool2d(edges, 8)),
        strict=True,
    ):
        draw.heat(axes, shown[0], top=350)
        draw.name(axes, title)
    return figure


def pooled_photos(pixels: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """A colour photograph, its 8 x 8 maxima, its 8 x 8 means."""
    return pixels, max_pool2d(pixels, 8, layout="NHWC"), avg_pool2d(pixels, 8, layout="NHWC")


def pooling_numbers(image: Axes, highs: Axes, means: Axes, *, size: float) -> None:
    """A 4 x 4 grid in four colours, and what each pool makes of it."""
    quarters = [[QUARTERS[2 * (y // 2) + x // 2] for x in range(4)] for y in range(4)]
    pairs = [[QUARTERS[0], QUARTERS[1]], [QUARTERS[2], QUARTERS[3]]]
    draw.numbers(image, POOLED, size=size, colors=quarters)
    maps = POOLED.astype(np.float32)[None]
    draw.numbers(highs, max_pool2d(maps, 2)[0], size=size, colors=pairs)
    draw.numbers(means, avg_pool2d(maps, 2)[0], size=size * 0.85, colors=pairs)


def a_small_network() -> Figure:
    """Chapter 8."""
    figure = draw.slide(
        8,
        "A stack: convolution, ReLU, pooling, and again",
        "ReLU sets what is negative to 0. Edges become arcs, arcs become coins: "
        "weights set by hand, no training.",
    )
    grey = photograph("coins.png")
    layers, fields = find_coins(grey), receptive_fields()
    whole, last = (
        draw.box(figure, 0.035, 0.42, 0.22, 0.33),
        draw.box(figure, 0.035, 0.04, 0.22, 0.33),
    )
    middle = nested_fields(whole, grey, layers.found)
    draw.name(whole, "photograph, and what one value sees", size=14)
    found_coins(last, grey, layers.found)
    draw.name(last, f"{len(layers.found)} coins found", size=16)
    for column, (title, maps, size, color) in enumerate(
        (
            ("layer 1: edges", layers.edges[::2], fields[0], draw.FIELDS[0]),
            ("layer 2: arcs", layers.arcs[::2], fields[1], draw.FIELDS[1]),
            ("layer 3: coins", layers.coins, fields[2], draw.FIELDS[2]),
        )
    ):
        left = 0.29 + column * 0.235
        cells = draw.grid(
            figure, 2, 2, left=left, right=left + 0.22, bottom=0.42, top=0.73, gap=(0.006, 0.011)
        )
        top = float(np.percentile(maps, 99.8))
        shown = [*maps, maps.max(axis=0)][:4]
        for axes, values in zip(itertools.chain.from_iterable(cells), shown, strict=True):
            draw.heat(axes, values, top=top)
        count, height, width = maps.shape
        told = f"{2 * count} maps" if column < 2 else f"{count} maps and their maximum"
        figure.text(left + 0.11, 0.765, title, size=18, ha="center", va="center", color=INK)
        seen = draw.box(figure, left, 0.075, 0.22, 0.27)
        draw.photo(seen, crop(grey, middle[column], size), exact=True)
        draw.window(seen, 0, 0, (size, size), color=color, width=4)
        draw.name(seen, f"one value sees {size} x {size} pixels", size=14, color=color)
        seen.text(
            0.5,
            -0.05,
            f"{told}, {height} x {width}",
            size=13,
            ha="center",
            va="top",
            color=draw.FAINT,
            transform=seen.transAxes,
        )
    return figure


def nested_fields(
    axes: Axes, grey: Pixels, found: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Draw what one value of each layer sees; returns the (y, x) that each is centred on."""
    draw.photo(axes, grey)
    y, x = min(found, key=lambda centre: math.dist(centre, (195, 170)))
    places = [(y, x - 17), (y, x - 17), (y, x)]
    for place, size, color in zip(places, receptive_fields(), draw.FIELDS, strict=True):
        draw.window(axes, place[0] - size // 2, place[1] - size // 2, (size, size), color=color)
    return places


def found_coins(
    axes: Axes, grey: Pixels, found: Sequence[tuple[int, int]], *, size: float = 9
) -> None:
    """The photograph with a mark on every coin that the network found."""
    draw.photo(axes, grey)
    for y, x in found:
        axes.plot(x, y, "o", ms=size, mfc="none", mec=RING, mew=size / 3.6)


def crop(grey: Pixels, centre: tuple[int, int], size: int) -> Pixels:
    """The size x size pixels around a place."""
    top, left = (max(0, c - size // 2) for c in centre)
    return grey[top : top + size, left : left + size]


def one_map(image: Pixels, kernel: Pixels, **settings: Any) -> Pixels:
    """`conv2d` of one grey image with one kernel: (H, W) → (h, w) in float32."""
    maps, weights = image.astype(np.float32)[None], kernel.astype(np.float32)[None, None]
    result: Pixels = conv2d(maps, weights, **settings)[0]
    return result


def ringed(size: int) -> list[list[str]]:
    """Colours of a size x size grid whose outermost cells are padding."""
    return [
        ["#e9ecef" if {y, x} & {0, size - 1} else PAPER for x in range(size)] for y in range(size)
    ]


def _balanced(kernel: Pixels) -> Pixels:
    """The kernel with sum 0 (flat areas answer 0) and absolute sum 1."""
    level = kernel - kernel.mean()
    result: Pixels = level / np.abs(level).sum()
    return result


CHAPTERS: dict[str, Callable[[], Figure]] = {
    "1-an-image-is-numbers": an_image_is_numbers,
    "2-the-sliding-window": the_sliding_window,
    "3-edge-blur-sharpen-emboss": kernels_at_work,
    "4-stride": stride,
    "5-padding": padding,
    "6-feature-maps": feature_maps,
    "7-pooling": pooling,
    "8-a-small-network": a_small_network,
}
