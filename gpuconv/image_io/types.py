"""What an image file is to gpuconv: pages of colour and alpha, and what they carry along."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
}
"""File name suffix → format."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest compressed image that is decoded; Pillow's own limit."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """The content of an image file; more than one page only in TIFF.

    format : "PNG", "JPEG", "WebP" or "TIFF": what the file was.
    lossless : whether the file kept every pixel (a WebP made of this image will, too).
    compressed : whether a TIFF made of this image is compressed.
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


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored pixels belong."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def refuse_bomb(pixels: int) -> None:
    """Raise a ValueError if a compressed image claims more than MAX_PIXELS pixels."""
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"a decompression bomb: {pixels / 1e6:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}"
        )
