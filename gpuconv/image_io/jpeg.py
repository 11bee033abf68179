"""JPEG: Pillow reads the header, imagecodecs (libjpeg-turbo) the pixels, but for CMYK."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuconv.image_io.metadata import (
    EXIF_PREFIX,
    Metadata,
    Resolution,
    bare_exif,
    upright_exif,
)
from gpuconv.image_io.quiet import quietly
from gpuconv.image_io.types import Image, PageSpec, Pixels
from gpuconv.image_io.whole import WholeImage, whole_image

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile

QUALITY = 95

_END_OF_IMAGE = b"\xff\xd9"
_EXIF, _PROFILE, _DENSITY = 0xFFE1, 0xFFE2, 0xFFE0
_PROFILE_PREFIX = b"ICC_PROFILE\0"
_LARGEST_SEGMENT = 65533
_DENSITY_END = 20
"""Where the start marker and the density segment that libjpeg writes end."""


def open_jpeg(file: IO[bytes]) -> WholeImage:
    """What a JPEG file is, its pixels on demand. Raises ValueError where it is broken."""
    picture, start = _open_header(file)
    metadata = Metadata(
        picture.info.get("icc_profile"),
        bare_exif(picture.info.get("exif")),
        _resolution(picture),
    )
    grey = picture.mode == "L"
    spec = PageSpec(picture.height, picture.width, 1 if grey else 3, np.dtype(np.uint8))
    workspace = _libjpeg_bytes(file, picture, start)
    decode: Callable[[bytes], Pixels] = partial(_decode, start)
    if picture.mode == "CMYK":
        transform, profile = _to_srgb(metadata.icc_profile)
        metadata = Metadata(profile, metadata.exif, metadata.resolution)
        decode = partial(_decode_cmyk, transform)
        workspace += 11 * spec.pixels  # Pillow's CMYK and RGB of 4 bytes each, and a copy
    return whole_image(
        file, "JPEG", spec, metadata, decode, lossless=False, workspace_bytes=workspace
    )


def write(file: IO[bytes], image: Image) -> None:
    """Encode the one page of a uint8 image without alpha, without chroma subsampling."""
    import imagecodecs

    (page,) = image.pages
    height, width = page.color.shape[:2]
    metadata = image.metadata
    profile = metadata.profile_for(page.channels)
    exif = upright_exif(metadata.exif, width, height)
    dpi = metadata.resolution.dpi if metadata.resolution is not None else None
    pixels = np.ascontiguousarray(page.color)
    data = imagecodecs.jpeg8_encode(pixels, level=QUALITY, subsampling="444")
    x, y = (0, 0) if dpi is None else (min(round(d), 65535) for d in dpi)
    density = struct.pack(">BHH", 1, x, y) if x and y else struct.pack(">BHH", 0, 1, 1)
    file.write(data[:2] + _segment(_DENSITY, b"JFIF\0\1\1" + density + b"\0\0"))
    if exif is not None:
        file.write(_segment(_EXIF, EXIF_PREFIX + exif))
    if profile is not None:
        size = _LARGEST_SEGMENT - len(_PROFILE_PREFIX) - 2
        parts = [profile[at : at + size] for at in range(0, len(profile), size)]
        for number, part in enumerate(parts, start=1):
            file.write(_segment(_PROFILE, _PROFILE_PREFIX + bytes((number, len(parts))) + part))
    file.write(memoryview(data)[_DENSITY_END:])


def write_peak_bytes(spec: PageSpec) -> int:
    """Memory that writing a page needs beyond its pixels: twice the file, if it is noise."""
    return spec.nbytes * 7 // 4 + (1 << 20)


def _open_header(file: IO[bytes]) -> tuple[JpegImageFile, int]:
    """The header, and where the first scan's data starts. A JPEG's other frames are previews."""
    from PIL.JpegImagePlugin import JpegImageFile

    file.seek(0)
    with quietly():
        try:
            picture = JpegImageFile(file)
        except SyntaxError as error:
            raise ValueError("the JPEG header is broken") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError("the file is truncated") from error
    if not picture.tile:
        raise ValueError("the file is truncated")
    return picture, file.tell()


def _libjpeg_bytes(file: IO[bytes], picture: JpegImageFile, start: int) -> int:
    """What libjpeg holds: some rows, or all coefficients where the scans do not go row by row."""
    layers = len(picture.layer)
    rows = 64 * (picture.width + 64) * layers + (1 << 20)
    head = struct.pack(">HB", 6 + 2 * layers, layers)  # of a scan that has all layers
    file.seek(start - 6 - 2 * layers)
    if "progressive" not in picture.info and file.read(3) == head:
        return rows
    across, down = max(x[1] for x in picture.layer), max(x[2] for x in picture.layer)
    units = -(-picture.width // (8 * across)) * -(-picture.height // (8 * down))
    return rows + sum(128 * units * x[1] * x[2] for x in picture.layer)


def _decode(start: int, data: bytes) -> Pixels:
    import imagecodecs

    _check_end(start, data)
    try:
        pixels: Pixels = imagecodecs.jpeg8_decode(data)
    except imagecodecs.Jpeg8Error as error:
        raise ValueError(f"the JPEG file is damaged: {error}") from error
    return pixels


def _decode_cmyk(transform: Any, data: bytes) -> Pixels:
    """CMYK through its colour profile to sRGB, or without one, plainly."""
    from PIL import ImageCms
    from PIL.JpegImagePlugin import JpegImageFile

    with quietly():
        picture = JpegImageFile(io.BytesIO(data))
    picture.load()
    turned = picture.convert("RGB") if transform is None else None
    turned = turned or ImageCms.applyTransform(picture, transform)
    return np.asarray(turned)


def _to_srgb(profile: bytes | None) -> tuple[Any, bytes | None]:
    """How to turn CMYK of a colour profile into sRGB, and that one's profile; or nothing."""
    from PIL import ImageCms

    if profile is None:
        return None, None
    try:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, srgb, "CMYK", "RGB"), srgb.tobytes()
    except (ImageCms.PyCMSError, OSError):  # a broken profile: as without
        return None, None


def _resolution(picture: JpegImageFile) -> Resolution | None:
    try:
        x, y = (Fraction(d).limit_denominator(10_000) for d in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Resolution(x, y) if x > 0 and y > 0 else None


def _check_end(start: int, data: bytes) -> None:
    """libjpeg would fill what is missing with grey. A scan's own bytes never look like its end."""
    if data.rfind(_END_OF_IMAGE, start) < 0:
        raise ValueError("the file is truncated")


def _segment(marker: int, content: bytes) -> bytes:
    if len(content) > _LARGEST_SEGMENT:
        raise ValueError(f"a segment of {len(content)} bytes is too long; write PNG or TIFF")
    return struct.pack(">HH", marker, len(content) + 2) + content
