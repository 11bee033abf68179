"""One picture that shows an image before and after filtering: all of it, and a detail."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import ceil, floor, isqrt, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.extras import need
from gpuconv.image_io import open_image, write_image
from gpuconv.image_io.metadata import Metadata
from gpuconv.image_io.types import Image, ImageError, OpenImage, Page, PageSpec, Pixels
from gpuconv.memory import default_limit, format_bytes

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFont

Read = Callable[[range, range], Page]
"""A rectangle of the page that is shown: rows, columns."""

Size = tuple[int, int]
"""(height, width)."""

INK, FAINT, PAPER, EDGE, WARM = "#1b1f24", "#6b7280", "#ffffff", "#dee2e6", "#e8590c"
CHECKS = (255, 233)
"""The two greys behind what is transparent, in squares of CHECK pixels."""

CHECK = 12
MARGIN, GAP = 56, 40
LONGEST, AREA = 720, 720 * 540
"""The longest side and the area of a whole picture on the page."""

NARROWEST, LOWEST = 360, 270
"""The least width of a column and height of a detail, if the image has so much."""

PART_PIXELS = 1 << 19
"""What is read and reduced at a time."""

SAMPLED_PIXELS = 1 << 18
"""How many pixels, about, black and white are found from."""

MOST_ZOOM = 32


def draw_preview(
    before: Path, after: Path, caption: str, path: Path, *, memory_limit: int | None = None
) -> None:
    """Draw page 0 of an image before and after filtering: all of it, and its richest detail.

    All four pictures share one black and one white. TIFF, .npy and Zarr are read in parts, in
    about 64 MiB whatever their size. The same files make the same bytes.

    caption : what was done, such as the text of a pipeline.
    path : the PNG that is written; it appears when it is whole.
    memory_limit : bytes that a file which must be read whole may need; None: `default_limit()`.

    Raises
    ------
    ImageError : an image cannot be read, needs more memory than the limit, or the picture cannot
        be written.
    MissingExtraError : the packages that read and draw images are not installed.
    """
    need("a preview", "image", "PIL", "tifffile", "imagecodecs")
    limit = default_limit() if memory_limit is None else memory_limit
    with open_image(before) as image, open_image(after) as result:
        layout = plan_layout(image.header.pages[0], result.header.pages[0])
        profile = image.header.metadata.profile_for(3)
    old = _look(before, limit, layout, None)
    new = _look(after, limit, layout, old.place)
    page = np.asarray(_compose(caption, layout, old, new))
    _make_folder(path)
    write_image(path, Image((Page(page),), metadata=Metadata(icc_profile=profile)))


# What goes where


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes on the page, in its pixels.

    before : of the image before filtering, in its own pixels.
    whole, detail : of the pictures of both rows.
    zoom : page pixels along a side of a pixel of the image before filtering, in the detail.
    """

    before: Size
    whole: Size
    detail: Size
    zoom: int

    @property
    def column(self) -> int:
        """Width of either column."""
        return max(self.whole[1], NARROWEST)

    @property
    def field(self) -> tuple[float, float]:
        """Height and width of the detail, in pixels of the image before filtering."""
        return self.detail[0] / self.zoom, self.detail[1] / self.zoom


def plan_layout(before: PageSpec, after: PageSpec) -> Layout:
    """Large images are reduced, small ones magnified by an integer.

    The detail shows a ninth of the image or less, but no image is reduced there.
    """
    height, width = before.height, before.width
    scale = min(LONGEST / max(height, width), sqrt(AREA / before.pixels))
    scale = floor(scale) if scale >= 1 else scale
    whole = max(1, round(height * scale)), max(1, round(width * scale))
    columns = max(whole[1], NARROWEST)
    rows = max(LOWEST, columns * 9 // 16)
    zoom = min(MOST_ZOOM, ceil(3 * sqrt(rows * columns / before.pixels)))
    growth = max(ceil(after.height / height), ceil(after.width / width))
    zoom = growth * ceil(zoom / growth)
    detail = min(rows, height * zoom), min(columns, width * zoom)
    return Layout((height, width), whole, detail, zoom)


def source_pixels(start: int, count: int, zoom: int, before: int, after: int) -> Pixels:
    """Which pixels of the filtered image lie under `count` page pixels of a detail, along an axis.

    start : the first pixel of the detail, of the `before` there are.
    """
    ratio, shift = same_field(before, after)
    places = (start - shift + (np.arange(count) + 0.5) / zoom) / ratio
    return np.clip(np.floor(places), 0, after - 1).astype(np.int64)


def same_field(before: int, after: int) -> tuple[float, float]:
    """Pixels of `before` for each of `after`, along an axis, and where the first of them lies.

    Where about every n-th is there (pooling; n = 1: a window that stays inside), it is taken to be
    exactly so, and what lacks to lie in equal parts at both ends, or at the last if below n.
    """
    step = round(before / after)
    lost = before - step * after
    if step == 0 or abs(lost) > max(step - 1, min(16, before // 8)):
        return before / after, 0
    return step, lost // 2 if abs(lost) >= step else 0


# What is kept of an image


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is shown of an image.

    whole, detail : (C + 1, H, W) float32: grey or red, green, blue, multiplied by the coverage,
        and the coverage, 0 to 1.
    sample : (N,) values of the image, evenly spread, all finite.
    place : the upper left pixel of the detail, of the image before filtering.
    """

    spec: PageSpec
    whole: Pixels
    detail: Pixels
    sample: Pixels
    place: tuple[int, int]


def reach_of(dtype: np.dtype[Any], sample: Pixels) -> tuple[float, float]:
    """The values to show as black and white.

    8 bits: all there are. More, unsigned: all there are, or from the least to the most where those
    lie within a sixteenth. Signed and floats: all but the outermost half percent at both ends.
    """
    if dtype.kind != "u":
        return _most_of(sample) if sample.size else (0.0, 1.0)
    most = float(np.iinfo(dtype).max)
    if dtype.itemsize > 1 and sample.size:
        black, white = float(sample.min()), float(sample.max())
        if 0 < white - black < most / 16:
            return black, white
    return 0.0, most


def shared_reach(before: View, after: View) -> tuple[float, float]:
    """Black and white of all pictures: those of `before`.

    Where a quarter of the filtered image lies beyond them (edges have a sign), they give way.
    """
    black, white = reach_of(before.spec.dtype, before.sample)
    beyond = (after.sample < black) | (after.sample > white)
    if beyond.size and beyond.mean() > 0.25:
        low, high = _most_of(after.sample)
        return min(black, low), max(white, high)
    return black, white


def _most_of(sample: Pixels) -> tuple[float, float]:
    """Where the values lie, but for half a percent at both ends."""
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _look(path: Path, limit: int, layout: Layout, place: tuple[int, int] | None) -> View:
    """Read what is shown; the detail is where it is richest, unless a place is given."""
    with open_image(path) as image:
        spec, read = image.header.pages[0], _reader(image, path, limit)
        whole, sample = _reduced(spec, read, layout.whole)
        if place is None:
            pixels = render(whole, reach_of(spec.dtype, sample), 0)
            place = _richest_place(pixels, layout)
        rows, columns = (
            source_pixels(start, count, layout.zoom, size, given)
            for start, count, size, given in zip(
                place, layout.detail, layout.before, (spec.height, spec.width), strict=True
            )
        )
        part = _planes(read(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1)))
    detail = part[:, rows - rows[0]][:, :, columns - columns[0]]
    return View(spec, whole, detail, sample, place)


def _reader(image: OpenImage, path: Path, limit: int) -> Read:
    """Reads page 0 by parts, or has read all of it."""
    if image.by_parts:
        return partial(image.read_part, 0)
    if image.peak_bytes > limit:
        raise ImageError(
            path,
            f"needs more memory than the limit of {format_bytes(limit)}: "
            f"about {format_bytes(image.peak_bytes)}",
        )
    page = image.read().pages[0]

    def cut(rows: range, columns: range) -> Page:
        place = np.s_[rows.start : rows.stop, columns.start : columns.stop]
        return Page(page.color[place], None if page.alpha is None else page.alpha[place])

    return cut


def _reduced(spec: PageSpec, read: Read, size: Size) -> tuple[Pixels, Pixels]:
    """The whole page by area mean, and a sample of its values.

    Blocks of `step` pixels are averaged as they come: parts consist of such blocks, so that the
    result is the same whatever the parts. A finer reduction, below 2, follows at the end.
    """
    import PIL.Image

    step = max(1, spec.height // size[0]), max(1, spec.width // size[1])
    shape = ceil(spec.height / step[0]), ceil(spec.width / step[1])
    spread = max(1, isqrt(spec.pixels // SAMPLED_PIXELS))
    blocks = np.empty((4 if spec.channels >= 3 else 2, *shape), np.float32)
    samples = []
    for rows, columns in _parts(spec, step):
        page = read(rows, columns)
        place = np.s_[-rows.start % spread :: spread, -columns.start % spread :: spread]
        samples.append(_values(page, place))
        y, x = rows.start // step[0], columns.start // step[1]
        for target, plane in zip(blocks, _planes(page), strict=True):
            mean = np.asarray(PIL.Image.fromarray(plane).reduce(step[::-1]))
            target[y : y + mean.shape[0], x : x + mean.shape[1]] = mean
    extent = spec.height / step[0], spec.width / step[1]
    return np.stack([_resized(plane, extent, size) for plane in blocks]), np.concatenate(samples)


def _parts(spec: PageSpec, step: Size) -> Iterator[tuple[range, range]]:
    """Rectangles of whole blocks of pixels: full rows where those are not too long."""
    height = step[0] * max(1, PART_PIXELS // (step[0] * spec.width))
    width = spec.width
    if step[0] * width > PART_PIXELS:
        width = step[1] * max(1, PART_PIXELS // (step[0] * step[1]))
    for top in range(0, spec.height, height):
        for left in range(0, spec.width, width):
            rows = range(top, min(top + height, spec.height))
            yield rows, range(left, min(left + width, spec.width))


def _resized(plane: Pixels, extent: tuple[float, float], size: Size) -> Pixels:
    """(H, W) to `size`; `extent` is what counts of it. Pixels that grow stay squares.

    A Hamming window, unlike Lanczos', never leaves the range of what it averages.
    """
    import PIL.Image

    image = PIL.Image.fromarray(plane)
    grown = [ceil(new / old) for new, old in zip(size, plane.shape, strict=True)]
    if grown != [1, 1]:
        larger = plane.shape[1] * grown[1], plane.shape[0] * grown[0]
        image = image.resize(larger, PIL.Image.Resampling.NEAREST)
    box = (0, 0, extent[1] * grown[1], extent[0] * grown[0])
    return np.asarray(image.resize(size[::-1], PIL.Image.Resampling.HAMMING, box))


def _colors(page: Page) -> Pixels:
    """(H, W, 1 or 3): what is shown of a page's channels."""
    color = page.color if page.color.ndim == 3 else page.color[..., None]
    return color[..., : 3 if color.shape[2] >= 3 else 1]


def _coverage(alpha: Pixels) -> Pixels:
    """Alpha as a number from 0 to 1."""
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    cover: Pixels = np.clip(np.nan_to_num(alpha.astype(np.float32)) / most, 0, 1)
    return cover


def _planes(page: Page) -> Pixels:
    """A page as a View holds it. What is not finite is transparent."""
    colors = np.moveaxis(_colors(page), 2, 0)
    planes = np.empty((len(colors) + 1, *colors.shape[1:]), np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        planes[:-1] = colors
    planes[-1] = 1 if page.alpha is None else _coverage(page.alpha)
    if page.alpha is not None:
        planes[:-1] *= planes[-1]
    if colors.dtype.kind == "f":
        planes[:, ~np.isfinite(planes).all(axis=0)] = 0
    return planes


def _values(page: Page, place: Any) -> Pixels:
    """(N,) finite values of a page at some places, without those nobody sees."""
    colors = _colors(page)[place]
    if page.alpha is not None:
        colors = colors[page.alpha[place] > 0]
    with np.errstate(over="ignore"):
        values = colors.astype(np.float32)
    finite: Pixels = values[np.isfinite(values)]
    return finite


def _richest_place(pixels: Pixels, layout: Layout) -> tuple[int, int]:
    """Where the detail has the strongest contrast between neighbours, a little for the middle."""
    grey = pixels.mean(axis=2)
    contrast = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    contrast += np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    sums = np.pad(contrast.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    starts, firsts, lasts, offcenter = [], [], [], []
    for size, field, length in zip(layout.before, layout.field, layout.whole, strict=True):
        free = max(0, floor(size - field))
        start = np.linspace(0, free, 1 + ceil(4 * free / field)).astype(np.int64)
        first = np.minimum(start * length // size, length - 1)
        starts.append(start)
        firsts.append(first)
        last = np.ceil((start + field) * length / size).astype(np.int64)
        lasts.append(np.clip(last, first + 1, length))
        offcenter.append((2 * start / max(1, free) - 1) ** 2 if free else np.zeros(1))
    (y0, x0), (y1, x1) = (np.ix_(*firsts), np.ix_(*lasts))
    mean = (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / ((y1 - y0) * (x1 - x0))
    worth = (mean + 1e-6) * (1 - 0.25 * np.add.outer(*offcenter))
    y, x = np.unravel_index(int(worth.argmax()), worth.shape)
    return int(starts[0][y]), int(starts[1][x])


# Drawing


def render(planes: Pixels, reach: tuple[float, float], check: int = CHECK) -> Pixels:
    """A View's pixels as (H, W, 3) uint8 over a checkerboard of `check` pixels; 0: over grey."""
    black, white = reach
    cover = planes[-1]
    with np.errstate(over="ignore"):
        colors = (planes[:-1] - np.float32(black) * cover) * np.float32(255 / (white - black))
    y, x = np.indices(cover.shape, sparse=True)
    board = np.float32(128) if not check else np.choose((y // check + x // check) % 2, CHECKS)
    pixels = np.clip(colors, 0, 255 * cover) + (1 - cover) * board
    pixels = np.rint(pixels).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*cover.shape, 3)))


def _compose(caption: str, layout: Layout, old: View, new: View) -> PIL.Image.Image:
    """The page: caption, labels, four pictures."""
    import PIL.Image

    reach = shared_reach(old, new)
    width = 2 * MARGIN + GAP + 2 * layout.column
    lines = _wrapped(caption, 30, width - 2 * MARGIN)
    note = _note(old, new, reach)
    top = MARGIN + 42 * len(lines) + (28 if note else 0) + 60
    lower = top + layout.whole[0] + 66
    page = PIL.Image.new("RGB", (width, lower + layout.detail[0] + MARGIN), PAPER)
    for number, line in enumerate(lines):
        _write(page, MARGIN, MARGIN + 24 + 42 * number, line, 30, INK)
    if note:
        _write(page, MARGIN, MARGIN + 18 + 42 * len(lines), note, 18, FAINT)
    for view, name, left in (
        (old, "before", MARGIN),
        (new, "after", MARGIN + layout.column + GAP),
    ):
        _label(page, left, top, name, _size_text(view.spec))
        _show(page, left, top, render(view.whole, reach), EDGE)
        _label(page, left, lower, "detail", _detail_text(layout, view.spec))
        _show(page, left, lower, render(view.detail, reach), WARM)
        _outline(page, left, top, layout, old.place)
    return page


def _size_text(spec: PageSpec) -> str:
    dtype = "" if spec.dtype == "uint8" else f"  ·  {spec.dtype.name}"
    return f"{spec.width} × {spec.height}{dtype}"


def _detail_text(layout: Layout, spec: PageSpec) -> str:
    """How large pixels are in the detail."""
    after = spec.height, spec.width
    y, x = (
        f"{layout.zoom * same_field(old, new)[0]:.1f}".removesuffix(".0")
        for old, new in zip(layout.before, after, strict=True)
    )
    if x == y:
        return "1:1" if x == "1" else f"magnified {x}×"
    return f"magnified {x}× across, {y}× down"


def _note(old: View, new: View, reach: tuple[float, float]) -> str:
    """Which values are black and white, unless that goes without saying."""
    if old.spec.dtype == new.spec.dtype == "uint8":
        return ""
    black, white = (f"{value:.0f}" if value % 1 == 0 else f"{value:.3g}" for value in reach)
    return f"black is {black}, white is {white}"


def _label(page: PIL.Image.Image, left: int, top: int, name: str, text: str) -> None:
    """A picture's name and what is to know about it, above it."""
    end = _write(page, left, top - 14, name, 22, INK)
    _write(page, end + 14, top - 14, text, 18, FAINT)


def _show(page: PIL.Image.Image, left: int, top: int, pixels: Pixels, edge: str) -> None:
    """A picture with a thin edge around it."""
    import PIL.Image
    import PIL.ImageDraw

    height, width = pixels.shape[:2]
    page.paste(PIL.Image.fromarray(pixels), (left, top))
    box = (left - 2, top - 2, left + width + 1, top + height + 1)
    PIL.ImageDraw.Draw(page).rectangle(box, outline=edge, width=2)


def _outline(
    page: PIL.Image.Image, left: int, top: int, layout: Layout, place: tuple[int, int]
) -> None:
    """Where the detail lies in the whole picture; nothing where it is all of it."""
    import PIL.ImageDraw

    ends: list[tuple[int, int]] = []
    for start, field, size, length in zip(
        place, layout.field, layout.before, layout.whole, strict=True
    ):
        first, last = (round(at * length / size) for at in (start, min(size, start + field)))
        ends.append((first, max(first, last - 1)))
    (y0, y1), (x0, x1) = ends
    if (y1 - y0 + 1, x1 - x0 + 1) == layout.whole:
        return
    draw = PIL.ImageDraw.Draw(page)
    for grow, color, width in ((3, PAPER, 4), (2, WARM, 2)):
        box = (left + x0 - grow, top + y0 - grow, left + x1 + grow, top + y1 + grow)
        draw.rectangle(box, outline=color, width=width)


def _write(page: PIL.Image.Image, left: int, base: int, text: str, size: int, color: str) -> int:
    """Write a line with its feet at `base`; returns where it ends.

    Pillow's own font has no ×: it is a + that is turned.
    """
    import PIL.Image
    import PIL.ImageDraw

    font = _font(size)
    draw = PIL.ImageDraw.Draw(page)
    for number, piece in enumerate(text.split("×")):
        if number:
            sign = PIL.Image.new("L", (size, size))
            PIL.ImageDraw.Draw(sign).text((size / 2, size / 2), "+", 255, font, "mm")
            sign = sign.rotate(45, PIL.Image.Resampling.BICUBIC)
            place = left + _length("+", size) // 2 - size // 2, base - size * 6 // 7
            page.paste(color, (*place, place[0] + size, place[1] + size), sign)
            left += _length("+", size)
        draw.text((left, base), piece, color, font, "ls")
        left += _length(piece, size)
    return left


def _wrapped(text: str, size: int, width: int, most: int = 4) -> list[str]:
    """A text in lines, broken behind a blank or a comma where there is one."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < most:
        counts = range(1, len(rest) + 1)
        count = max(1, bisect_right(counts, width, key=lambda n: _length(rest[:n], size)))
        if count < len(rest):
            blank, comma = rest.rfind(" ", 0, count), rest.rfind(",", 0, count)
            count = blank + 1 or comma + 1 or count
        lines.append(rest[:count].strip())
        rest = rest[count:].strip()
    if rest:
        lines[-1] = lines[-1][:-1] + "…"
    return lines


def _length(text: str, size: int) -> int:
    return ceil(_font(size).getlength(text))


@cache
def _font(size: int) -> PIL.ImageFont.FreeTypeFont:
    import PIL.ImageFont

    font = PIL.ImageFont.load_default(size)
    assert isinstance(font, PIL.ImageFont.FreeTypeFont)
    return font


def _make_folder(path: Path) -> None:
    """The folder that the picture will lie in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ImageError(path, f"cannot be written: {reason}") from error
