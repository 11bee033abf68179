"""What an image file is to gpuconv: pages of colour and alpha, and what they carry along."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from gpuconv.image_io.metadata import Metadata

Pixels = npt.NDArray[Any]

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".npy": "NPY",
    ".zarr": "Zarr",
}
"""File name suffix → format."""

BY_PARTS = ("TIFF", "NPY", "Zarr")
"""Formats that can be written, and mostly read, without ever being whole in memory."""


class ImageError(Exception):
    """An image file that cannot be read or written, with the reason in one line."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One picture.

    color : (H, W) grey or (H, W, C) colour.
    alpha : (H, W) of the same dtype, not multiplied into `color`; None where there is none.
    """

    color: Pixels
    alpha: Pixels | None = None

    @property
    def channels(self) -> int:
        """Colour channels: 1 for grey."""
        return 1 if self.color.ndim == 2 else int(self.color.shape[2])

    @property
    def interleaved(self) -> Pixels:
        """(H, W) or (H, W, C + alpha): colour and alpha as files hold them."""
        if self.alpha is None:
            return self.color
        color = self.color if self.color.ndim == 3 else self.color[..., None]
        return np.concatenate((color, self.alpha[..., None]), axis=2)

    @classmethod
    def split(cls, pixels: Pixels, *, alpha: bool) -> Page:
        """A page from interleaved pixels whose last channel is alpha, or is not."""
        if not alpha:
            one = pixels.ndim == 3 and pixels.shape[2] == 1
            return cls(np.ascontiguousarray(pixels[..., 0] if one else pixels))
        color = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :-1]
        return cls(np.ascontiguousarray(color), np.ascontiguousarray(pixels[..., -1]))

    def upright(self, orientation: int) -> Page:
        """The page turned as EXIF's orientation tag (1 to 8) says."""
        if orientation == 1:
            return self
        alpha = None if self.alpha is None else _turn(self.alpha, orientation)
        return Page(_turn(self.color, orientation), alpha)


@dataclass(frozen=True, slots=True)
class PageSpec:
    """Size and kind of a page (upright), known before it is decoded. 1 channel is grey."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]
    alpha: bool = False

    @property
    def color_shape(self) -> tuple[int, ...]:
        """(H, W) grey or (H, W, C) colour."""
        return (self.height, self.width, *((self.channels,) if self.channels > 1 else ()))

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def nbytes(self) -> int:
        """Bytes of colour and alpha in memory."""
        return self.pixels * (self.channels + self.alpha) * self.dtype.itemsize

    @classmethod
    def of(cls, page: Page) -> PageSpec:
        """What a page in memory is."""
        height, width = page.color.shape[:2]
        dtype = page.color.dtype
        return cls(height, width, page.channels, dtype, page.alpha is not None)


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file is, known before its pixels are decoded. See `Image` for the fields.

    tile : (height, width) of the tiles that a TIFF is made of; None where it has none.
    """

    pages: tuple[PageSpec, ...]
    format: str
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    compressed: bool = True
    tile: tuple[int, int] | None = None

    @property
    def pixels(self) -> int:
        """Pixels of all pages."""
        return sum(page.pixels for page in self.pages)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in memory."""
        return sum(page.nbytes for page in self.pages)


class OpenImage(Protocol):
    """An image file that is open: what it is, and its pixels on demand. A context manager.

    by_parts : whether `read_part` works, in memory of about twice the part.
    peak_bytes : the most memory that `read` holds, its result included, by estimate.
    """

    header: Header
    by_parts: bool
    peak_bytes: int

    def read(self) -> Image:
        """The whole image."""

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        """A rectangle of a page. Several threads may ask at once."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """The content of an image file; more than one page only in TIFF, NPY and Zarr.

    format : "PNG", "JPEG", "WebP", "TIFF", "NPY" or "Zarr": what the file was.
    lossless : whether the file kept every pixel (a WebP made of this image will, too).
    compressed : whether a TIFF or Zarr array made of this image is compressed.
    """

    pages: tuple[Page, ...]
    format: str = "PNG"
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    compressed: bool = True

    @property
    def pixels(self) -> int:
        """Pixels of all pages."""
        return sum(page.color.shape[0] * page.color.shape[1] for page in self.pages)

    @property
    def header(self) -> Header:
        """What this image is, without its pixels."""
        specs = tuple(PageSpec.of(page) for page in self.pages)
        return Header(specs, self.format, self.metadata, self.lossless, self.compressed)


def stored_part(
    spec: PageSpec, orientation: int, rows: range, columns: range
) -> tuple[range, range]:
    """Where the rectangle of an upright page lies in the page as it is stored."""
    if orientation in (3, 4, 7, 8):
        rows = range(spec.height - rows.stop, spec.height - rows.start)
    if orientation in (2, 3, 6, 7):
        columns = range(spec.width - columns.stop, spec.width - columns.start)
    return (columns, rows) if orientation in (5, 6, 7, 8) else (rows, columns)


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored pixels belong."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
