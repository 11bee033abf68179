"""PNG, JPEG and WebP: opening and writing them, by format."""

from __future__ import annotations

from typing import IO

from gpuconv.image_io import jpeg, png, webp
from gpuconv.image_io.quiet import quietly
from gpuconv.image_io.types import Image, OpenImage, PageSpec

__all__ = ["open_compressed", "quietly", "write", "write_peak_bytes"]

_OPEN = {"PNG": png.open_png, "JPEG": jpeg.open_jpeg, "WebP": webp.open_webp}
_WRITE = {"PNG": png.write, "JPEG": jpeg.write, "WebP": webp.write}


def open_compressed(file: IO[bytes], kind: str) -> OpenImage:
    """What a "PNG", "JPEG" or "WebP" file is, its pixels on demand.

    Raises whatever the decoder raises; a ValueError where the file is broken or an animation.
    """
    return _OPEN[kind](file)


def write(file: IO[bytes], kind: str, image: Image) -> None:
    """Encode the one page of an image that the format can hold."""
    _WRITE[kind](file, image)


def write_peak_bytes(kind: str, spec: PageSpec, *, lossless: bool = True) -> int:
    """Memory that writing a page needs beyond its pixels. `lossless` is the image's."""
    if kind == "WebP":
        return webp.write_peak_bytes(spec, lossless=lossless)
    return png.write_peak_bytes(spec) if kind == "PNG" else jpeg.write_peak_bytes(spec)
