"""Read and write image files: PNG, JPEG, WebP and TIFF, upright and with what they carry along.

JPEG is written at quality 95 without chroma subsampling; WebP without loss if the source had
none, else at quality 95; TIFF compressed (deflate) if the source was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gpuconv.extras import need
from gpuconv.image_io import pillow, png16, tiff
from gpuconv.image_io.types import FORMATS, Image, ImageError, Page

__all__ = ["FORMATS", "Image", "ImageError", "Page", "format_of", "read_image", "write_image"]

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = {b"GIF8": "GIF", b"BM": "BMP", b"%PDF": "PDF", b"\0\0\0\x0cjP  ": "JPEG 2000"}
_HOLDS = {"PNG": ("uint8", "uint16"), "JPEG": ("uint8",), "WebP": ("uint8",)}


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
    except ValueError as error:
        raise ImageError(path, f"cannot be decoded: {error}") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = f"the file is damaged ({type(error).__name__}: {error!s:.80})"
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
                tiff.write(file, image)
            elif kind == "PNG" and image.pages[0].color.dtype == "uint16":
                png16.write(file, image)
            else:
                pillow.write(file, kind, image)
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
        return tiff.read(file)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "WebP"
    if kind is None:
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
        raise ValueError(f"not a PNG, JPEG, WebP or TIFF image{f' but {other}' if other else ''}")
    data = file.read()
    if kind == "PNG" and png16.is_16_bit(data):
        return png16.read(data)
    return pillow.read(data, kind)


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
