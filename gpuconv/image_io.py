"""Read and write image files: PNG, JPEG, WebP and TIFF, upright and with what they carry along.

JPEG is written at quality 95 without chroma subsampling; WebP without loss if the source had
none, else at quality 95; TIFF compressed (deflate) if the source was.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuconv import png16, tiff_io
from gpuconv.extras import need
from gpuconv.image_types import FORMATS, MAX_PIXELS, Image, ImageError, Page
from gpuconv.metadata import (
    EXIF_PREFIX,
    Metadata,
    Resolution,
    bare_exif,
    orientation,
    upright_exif,
)

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["FORMATS", "Image", "ImageError", "Page", "format_of", "read_image", "write_image"]

QUALITY = 95
_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = {b"GIF8": "GIF", b"BM": "BMP", b"%PDF": "PDF", b"\0\0\0\x0cjP  ": "JPEG 2000"}
_HOLDS = {"PNG": ("uint8", "uint16"), "JPEG": ("uint8",), "WebP": ("uint8",)}
_OPENING = threading.Lock()


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The image format that a file name stands for: "PNG", ...; None where it is none of them."""
    return FORMATS.get(Path(path).suffix.lower())


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a PNG, JPEG, WebP or TIFF file, known by its content and not by its name.

    Pixels are turned upright; palettes, CMYK and 1-bit pixels become grey or RGB; 16-bit and
    float pixels stay as they are.

    Raises
    ------
    ImageError : the file is missing, unreadable, empty, not an image, damaged or a bomb.
    MissingExtraError : the packages that read images are not installed.
    """
    need("reading images", "image", "PIL", "tifffile", "imagecodecs")
    try:
        with _open_regular(path) as file:
            return _decode(file)
    except ImageError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise ImageError(path, f"cannot be read: {os.strerror(error.errno)}") from error
        raise ImageError(path, f"cannot be decoded: {error}") from error
    except MemoryError as error:
        raise ImageError(path, "cannot be decoded: not enough memory") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = str(error) or type(error).__name__
        raise ImageError(path, f"cannot be decoded: {reason}") from error


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image in the format that the name stands for; the file appears when it is whole.

    Raises
    ------
    ImageError : the format cannot hold these pixels, or the file cannot be written.
    MissingExtraError : the packages that write images are not installed.
    """
    need("writing images", "image", "PIL", "tifffile", "imagecodecs")
    kind = format_of(path)
    if kind is None:
        raise ImageError(path, f"its name must end in {', '.join(FORMATS)}")
    reason = _misfit(kind, image)
    if reason:
        raise ImageError(path, reason)
    try:
        with replacing(path) as file:
            if kind == "TIFF":
                tiff_io.write(file, image)
            else:
                _encode(file, kind, image)
    except OSError as error:
        what = os.strerror(error.errno) if error.errno is not None else str(error)
        raise ImageError(path, f"cannot be written: {what}") from error
    except Exception as error:  # encoders have limits of their own (sizes, EXIF length)
        raise ImageError(path, f"cannot be written as {kind}: {error}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` when the block ends well, and vanishes when it does not."""
    temporary = Path(path).parent / f".gpuconv-{secrets.token_hex(6)}.tmp"
    try:
        with temporary.open("xb+") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading, unless it is a folder, pipe or device: those may wait for ever."""
    wait_not = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait_not))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError(path, "cannot be read: not a regular file")
    return file


def _decode(file: IO[bytes]) -> Image:
    head = file.read(16)
    file.seek(0)
    if not head:
        raise ValueError("the file is empty")
    if head[:4] in _TIFF_MAGIC:
        return tiff_io.read(file)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "WebP"
    if kind is None:
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
        raise ValueError(f"not a PNG, JPEG, WebP or TIFF image{f' but {other}' if other else ''}")
    data = file.read()
    if kind == "PNG" and png16.is_16_bit(data):
        return _decode_png16(data)
    return _decode_with_pillow(data, kind)


def _decode_png16(data: bytes) -> Image:
    width, height = png16.size_of(data)
    _refuse_bomb(width * height)
    page, chunks = png16.read(data)
    icc, resolution = None, None
    if b"iCCP" in chunks:
        icc = _inflate_profile(chunks[b"iCCP"])
    if b"pHYs" in chunks and len(chunks[b"pHYs"]) == 9:
        x, y, unit = struct.unpack(">IIB", chunks[b"pHYs"])
        if x and y:
            resolution = Resolution(Fraction(x, 100), Fraction(y, 100), 3 if unit == 1 else 1)
    exif = bare_exif(chunks.get(b"eXIf"))
    colors = tuple((kind, chunks[kind]) for kind in png16.COLOR_CHUNKS if kind in chunks)
    metadata = Metadata(icc, exif, resolution, colors)
    return Image((page.upright(orientation(exif)),), "PNG", metadata)


def _decode_with_pillow(data: bytes, kind: str) -> Image:
    import PIL.Image

    with _OPENING, warnings.catch_warnings():  # Pillow warns of large images, we decide below
        warnings.simplefilter("ignore")
        try:
            picture: PIL.Image.Image = PIL.Image.open(
                io.BytesIO(data), formats=[kind.upper(), *(["MPO"] if kind == "JPEG" else [])]
            )
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(_bomb_reason(str(error))) from error
        except PIL.UnidentifiedImageError as error:
            raise ValueError(f"the {kind} header is broken") from error
    with picture:
        _refuse_bomb(picture.width * picture.height)
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


def _encode(file: IO[bytes], kind: str, image: Image) -> None:
    import PIL.Image

    (page,) = image.pages
    height, width = page.color.shape[:2]
    metadata = image.metadata
    profile = metadata.profile_for(page.channels)
    exif = upright_exif(metadata.exif, width, height)
    dpi = metadata.resolution.dpi if metadata.resolution is not None else None
    if page.color.dtype == np.uint16:
        file.write(png16.write(page, _png16_chunks(metadata, profile, exif)))
        return
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


def _png16_chunks(
    metadata: Metadata, profile: bytes | None, exif: bytes | None
) -> list[tuple[bytes, bytes]]:
    import zlib

    found = list(metadata.color_chunks)
    if profile is not None:
        found.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    if metadata.resolution is not None and metadata.resolution.dpi is not None:
        x, y = (min(round(d / 0.0254), 2**31 - 1) for d in metadata.resolution.dpi)
        found.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if exif is not None:
        found.append((b"eXIf", exif))
    return found


def _inflate_profile(chunk: bytes) -> bytes | None:
    import zlib

    try:
        return zlib.decompressobj().decompress(chunk.partition(b"\0")[2][1:], 2**26)
    except zlib.error:
        return None


def _misfit(kind: str, image: Image) -> str | None:
    """Why the format cannot hold these pixels; None where it can."""
    if kind == "TIFF":
        return None
    if len(image.pages) != 1:
        return f"{kind} holds one page, this image has {len(image.pages)}; write TIFF"
    (page,) = image.pages
    dtype = page.color.dtype.name
    if dtype not in _HOLDS[kind]:
        better = "PNG or TIFF" if dtype == "uint16" else "TIFF"
        return f"{kind} cannot hold {dtype} pixels; write {better}"
    if page.channels not in (1, 3):
        return f"{kind} cannot hold {page.channels} colour channels; write TIFF"
    if page.alpha is not None and kind == "JPEG":
        return "JPEG cannot hold an alpha channel; write PNG, WebP or TIFF"
    return None


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


def _refuse_bomb(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise ValueError(_bomb_reason(f"{pixels / 1e6:.0f} megapixels"))


def _bomb_reason(what: str) -> str:
    return f"a decompression bomb: {what}, more than {MAX_PIXELS / 1e6:.0f} megapixels"
