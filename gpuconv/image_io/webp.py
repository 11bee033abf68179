"""WebP: its chunks are read here, imagecodecs (libwebp) decodes, Pillow encodes."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import IO, Any

import numpy as np

from gpuconv.image_io.metadata import EXIF_PREFIX, Metadata, bare_exif, upright_exif
from gpuconv.image_io.types import Image, PageSpec, Pixels
from gpuconv.image_io.whole import WholeImage, whole_image

QUALITY = 95

_HAS_ALPHA = 0x10
_LOSSLESS_SIGNATURE = 0x2F
_KEPT = (b"VP8X", b"ICCP", b"EXIF")


def open_webp(file: IO[bytes]) -> WholeImage:
    """What a WebP file is, its pixels on demand. Raises ValueError where it is broken."""
    found, frames = _read_chunks(file)
    if frames > 1:
        raise ValueError(f"an animation of {frames} frames; only still images are filtered")
    try:
        height, width, alpha = _size(found)
    except (KeyError, struct.error) as error:
        raise ValueError("the WebP header is broken") from error
    lossless = b"VP8L" in found
    spec = PageSpec(height, width, 3, np.dtype(np.uint8), alpha)
    metadata = Metadata(found.get(b"ICCP"), bare_exif(found.get(b"EXIF")))
    workspace = (4 if lossless else 5 if alpha else 0) * spec.pixels + (1 << 20)
    return whole_image(
        file,
        "WebP",
        spec,
        metadata,
        partial(_decode, alpha),
        lossless=lossless,
        workspace_bytes=workspace,
    )


def write(file: IO[bytes], image: Image) -> None:
    """Encode the one page of a uint8 image: without loss if its source had none."""
    import PIL.Image

    (page,) = image.pages
    height, width = page.color.shape[:2]
    options: dict[str, Any] = {"method": 4, "exact": True, "lossless": image.lossless}
    options["quality"] = 75 if image.lossless else QUALITY  # effort, where nothing is lost
    profile = image.metadata.profile_for(page.channels)
    exif = upright_exif(image.metadata.exif, width, height)
    if profile is not None:
        options["icc_profile"] = profile
    if exif is not None:
        options["exif"] = EXIF_PREFIX + exif
    picture = PIL.Image.fromarray(np.ascontiguousarray(page.interleaved))
    picture.save(file, "WebP", **options)


def write_peak_bytes(spec: PageSpec, *, lossless: bool) -> int:
    """Memory that writing a page needs beyond its pixels: most for what is kept without loss."""
    return (42 if lossless or spec.alpha else 30) * spec.pixels + (1 << 20)


def _read_chunks(file: IO[bytes]) -> tuple[dict[bytes, bytes], int]:
    """What tells of the image, of pixel data only the beginning; and the number of frames."""
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    head = file.read(12)
    if len(head) < 12 or struct.unpack_from("<I", head, 4)[0] + 8 > size:
        raise ValueError("the file is truncated")
    end = struct.unpack_from("<I", head, 4)[0] + 8
    found: dict[bytes, bytes] = {}
    frames, at = 0, 12
    while at + 8 <= end:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if at + 8 + length > end:
            raise ValueError("the file is truncated")
        frames += name == b"ANMF"
        found.setdefault(name, file.read(length if name in _KEPT else min(length, 10)))
        at += 8 + length + length % 2
    return found, frames


def _size(found: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """Height, width and whether there is alpha."""
    if b"VP8X" in found:
        flags, width_low, width_high, height_low, height_high = struct.unpack(
            "<B3xHBHB", found[b"VP8X"][:10]
        )
        width, height = width_low | width_high << 16, height_low | height_high << 16
        return height + 1, width + 1, bool(flags & _HAS_ALPHA)
    if b"VP8L" in found:
        signature, bits = struct.unpack("<BI", found[b"VP8L"][:5])
        if signature != _LOSSLESS_SIGNATURE:
            raise ValueError("the WebP header is broken")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bool(bits >> 28 & 1)
    width, height = struct.unpack("<6xHH", found[b"VP8 "][:10])
    return height & 0x3FFF, width & 0x3FFF, False


def _decode(alpha: bool, data: bytes) -> Pixels:
    import imagecodecs

    try:
        pixels: Pixels = imagecodecs.webp_decode(data, hasalpha=alpha)
    except imagecodecs.WebpError as error:
        raise ValueError(f"the WebP file is damaged: {error}") from error
    return pixels
