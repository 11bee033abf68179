"""PNG of 8 bits, JPEG and WebP through Pillow."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuconv.image_io import png16
from gpuconv.image_io.metadata import (
    EXIF_PREFIX,
    Metadata,
    Resolution,
    bare_exif,
    orientation,
    upright_exif,
)
from gpuconv.image_io.types import Image, Page, refuse_bomb

if TYPE_CHECKING:
    import PIL.Image

QUALITY = 95
_QUIET = threading.Lock()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let Pillow parse headers without its warnings (large images, odd EXIF), one at a time."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(data: bytes, kind: str) -> Image:
    """Decode a "PNG", "JPEG" or "WebP" file, upright. Raises whatever the decoder raises."""
    import PIL.Image

    with quietly():
        try:
            picture: PIL.Image.Image = PIL.Image.open(io.BytesIO(data), formats=[kind.upper()])
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"a decompression bomb: {error}") from error
        except PIL.UnidentifiedImageError as error:
            raise ValueError(f"the {kind} header is broken") from error
    with picture:
        refuse_bomb(picture.width * picture.height)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and kind != "JPEG":  # a JPEG's other frames are previews and depth maps
            raise ValueError(f"an animation of {frames} frames; only still images are filtered")
        picture.load()
        exif = bare_exif(picture.info.get("exif"))
        metadata = Metadata(
            picture.info.get("icc_profile"), exif, _resolution(picture), _colors(data, kind)
        )
        if picture.mode == "CMYK":
            picture, profile = _cmyk_to_rgb(picture, metadata.icc_profile)
            metadata = Metadata(profile, exif, metadata.resolution)
        plain = _plain_mode(picture)
        pixels = np.asarray(plain)
        page = Page.split(pixels, alpha=plain.mode in ("LA", "RGBA"))
    lossless = kind == "PNG" or (kind == "WebP" and _is_lossless_webp(data))
    return Image((page.upright(orientation(exif)),), kind, metadata, lossless)


def write(file: IO[bytes], kind: str, image: Image) -> None:
    """Encode the one page of an 8-bit image."""
    import PIL.Image

    (page,) = image.pages
    height, width = page.color.shape[:2]
    metadata = image.metadata
    profile = metadata.profile_for(page.channels)
    exif = upright_exif(metadata.exif, width, height)
    dpi = metadata.resolution.dpi if metadata.resolution is not None else None
    picture = PIL.Image.fromarray(np.ascontiguousarray(page.interleaved))
    options: dict[str, Any] = {}
    if profile is not None:
        options["icc_profile"] = profile
    if exif is not None:
        options["exif"] = EXIF_PREFIX + exif
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        for name, content in metadata.color_chunks:
            chunks.add(name, content)
        options["pnginfo"] = chunks
    if kind == "JPEG":
        options.update(quality=QUALITY, subsampling=0)
    if kind == "WebP":
        options.update(lossless=image.lossless, quality=QUALITY, method=4, exact=True)
        if image.lossless:
            options["quality"] = 75  # effort, where nothing is lost
    elif dpi is not None:
        options["dpi"] = dpi
    picture.save(file, kind, **options)


def _plain_mode(picture: PIL.Image.Image) -> PIL.Image.Image:
    """L, LA, RGB or RGBA with the same colours."""
    clear = "transparency" in picture.info
    if picture.mode in ("P", "PA"):
        return picture.convert("RGBA" if clear or picture.mode == "PA" else "RGB")
    if picture.mode == "1":
        grey = picture.convert("L")
        if not clear:
            return grey
        level = 255 if picture.info["transparency"] else 0
        grey.putalpha(grey.point(lambda v: 0 if v == level else 255))
        return grey
    if picture.mode in ("L", "RGB"):
        return picture.convert(f"{picture.mode}A") if clear else picture
    if picture.mode in ("LA", "RGBA"):
        return picture
    raise ValueError(f"pixels of mode {picture.mode} are not supported")


def _cmyk_to_rgb(
    picture: PIL.Image.Image, profile: bytes | None
) -> tuple[PIL.Image.Image, bytes | None]:
    """CMYK through its colour profile to sRGB (with that profile), or without one, plainly."""
    from PIL import ImageCms

    if profile is not None:
        try:
            srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
            if turned is not None:
                return turned, srgb.tobytes()
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: as without
    return picture.convert("RGB"), None


def _resolution(picture: PIL.Image.Image) -> Resolution | None:
    try:
        x, y = (Fraction(d).limit_denominator(10_000) for d in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Resolution(x, y) if x > 0 and y > 0 else None


def _colors(data: bytes, kind: str) -> tuple[tuple[bytes, bytes], ...]:
    if kind != "PNG":
        return ()
    try:
        return tuple(c for c in png16.chunks(data) if c[0] in png16.COLOR_CHUNKS)
    except ValueError as error:
        raise ValueError(f"the PNG file is damaged: {error}") from error


def _is_lossless_webp(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name in (b"VP8 ", b"VP8L"):
            return bool(name == b"VP8L")
        at += 8 + size + size % 2
    return False
