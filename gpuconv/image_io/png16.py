"""PNG chunks, and PNG with 16 bits a sample, which Pillow would cut to 8.

imagecodecs (libpng) decodes and encodes the pixels; chunks are read and added here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import IO

import numpy as np

from gpuconv.image_io.metadata import (
    Metadata,
    Resolution,
    bare_exif,
    orientation,
    upright_exif,
)
from gpuconv.image_io.types import Image, Page, Pixels, refuse_bomb

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = (b"cICP", b"cHRM", b"gAMA", b"sRGB")

_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # colour type → samples a pixel
_ADAM7 = (  # first row, first column, row step, column step of each pass
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of every chunk up to IEND. Raises ValueError where the file is broken."""
    at = len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise ValueError("the file is truncated")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            raise ValueError("the file is truncated")
        content = data[at + 8 : end - 4]
        if zlib.crc32(kind + content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the checksum of chunk {kind!r} is wrong")
        yield kind, content
        if kind == b"IEND":
            return
        at = end


def is_16_bit(data: bytes) -> bool:
    """Whether the PNG in `data` holds 16 bits a sample."""
    return data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def read(data: bytes) -> Image:
    """Decode a 16-bit PNG, upright. Raises a ValueError or zlib.error where it is damaged."""
    width, height = struct.unpack_from(">II", data, 16)
    refuse_bomb(width * height)
    page, found = decode(data)
    icc, resolution = None, None
    if b"iCCP" in found:
        icc = _inflate_profile(found[b"iCCP"])
    if len(found.get(b"pHYs", b"")) == 9:
        x, y, unit = struct.unpack(">IIB", found[b"pHYs"])
        if x and y:
            resolution = Resolution(Fraction(x, 100), Fraction(y, 100), 3 if unit == 1 else 1)
    exif = bare_exif(found.get(b"eXIf"))
    colors = tuple((kind, found[kind]) for kind in COLOR_CHUNKS if kind in found)
    metadata = Metadata(icc, exif, resolution, colors)
    return Image((page.upright(orientation(exif)),), "PNG", metadata)


def write(file: IO[bytes], image: Image) -> None:
    """Encode the one page of a uint16 image."""
    (page,) = image.pages
    height, width = page.color.shape[:2]
    metadata = image.metadata
    extra = list(metadata.color_chunks)
    profile = metadata.profile_for(page.channels)
    if profile is not None:
        extra.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    if metadata.resolution is not None and metadata.resolution.dpi is not None:
        x, y = (min(round(d / 0.0254), 2**31 - 1) for d in metadata.resolution.dpi)
        extra.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    exif = upright_exif(metadata.exif, width, height)
    if exif is not None:
        extra.append((b"eXIf", exif))
    file.write(encode(page, extra))


def decode(data: bytes) -> tuple[Page, dict[bytes, bytes]]:
    """Decode a 16-bit PNG: its pixels, and its chunks but for the pixel data."""
    import imagecodecs

    found: dict[bytes, bytes] = {}
    packed = []
    for kind, content in chunks(data):
        if kind == b"IDAT":
            packed.append(content)
        else:
            found.setdefault(kind, content)
    _check_stream(found[b"IHDR"], packed)
    pixels: Pixels = imagecodecs.png_decode(data)
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    page = Page.split(pixels, alpha=has_alpha)
    key = found.get(b"tRNS")
    if key is None or has_alpha:
        return page, found
    clear = page.color == np.frombuffer(key, ">u2")
    if clear.ndim == 3:
        clear = clear.all(axis=2)
    return Page(page.color, np.where(clear, 0, 65535).astype(np.uint16)), found


def encode(page: Page, extra: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG of uint16 pixels with `extra` chunks before its pixel data."""
    import imagecodecs

    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(page.interleaved)))
    header = len(SIGNATURE) + 25
    added = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in extra
    )
    return data[:header] + added + data[header:]


def _inflate_profile(chunk: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(chunk.partition(b"\0")[2][1:], 2**26)
    except zlib.error:
        return None


def _check_stream(header: bytes, packed: Sequence[bytes]) -> None:
    """The compressed stream must be whole: libpng would leave missing rows black."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 16 or color not in _SAMPLES or not width or not height:
        raise ValueError("the header is broken")
    wanted = 0
    for y, x, step_y, step_x in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - y) // step_y), -(-(width - x) // step_x)
        if rows > 0 and columns > 0:
            wanted += rows * (1 + columns * 2 * _SAMPLES[color])
    inflate = zlib.decompressobj()
    have = 0
    for content in packed:
        have += len(inflate.decompress(content, max(1, wanted + 1 - have)))
        if have > wanted:
            break
    if have < wanted:
        raise ValueError("the file is truncated")
