"""PNG of 8 and 16 bits a sample.

imagecodecs (libpng) decodes. Rows are filtered with NumPy and compressed a band at a time, by
ISA-L where the package `isal` is installed and by zlib where not, so that a file is written in
little memory.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import IO, Any

import numpy as np

from gpuconv.image_io.metadata import (
    Metadata,
    Resolution,
    bare_exif,
    upright_exif,
)
from gpuconv.image_io.types import Image, Page, PageSpec, Pixels
from gpuconv.image_io.whole import WholeImage, whole_image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = (b"cICP", b"cHRM", b"gAMA", b"sRGB")

BAND_BYTES = 256 << 10
"""Filtered bytes that are compressed at a time: a small part of a second-level cache."""

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
_SAMPLED_ROWS = 32
_KEPT = (b"IHDR", b"IEND", b"tRNS", b"acTL", b"iCCP", b"eXIf", b"pHYs", *COLOR_CHUNKS)
_LARGEST_CHUNK = 16 << 20
_LARGEST_PROFILE = 4 << 20


def open_png(file: IO[bytes]) -> WholeImage:
    """What a PNG file is, its pixels on demand. Raises ValueError where it is broken."""
    found = _read_chunks(file)
    spec = _spec(found)
    frames = struct.unpack(">I", found[b"acTL"][:4])[0] if len(found.get(b"acTL", b"")) == 8 else 1
    if frames > 1:
        raise ValueError(f"an animation of {frames} frames; only still images are filtered")
    metadata = Metadata(
        _inflate_profile(found[b"iCCP"]) if b"iCCP" in found else None,
        bare_exif(found.get(b"eXIf")),
        _resolution(found.get(b"pHYs", b"")),
        tuple((kind, found[kind]) for kind in COLOR_CHUNKS if kind in found),
    )
    workspace = 64 * spec.height + (1 << 20)
    return whole_image(
        file, "PNG", spec, metadata, _decode, lossless=True, workspace_bytes=workspace
    )


def write(file: IO[bytes], image: Image) -> None:
    """Encode the one page of a uint8 or uint16 image."""
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
    encode(file, page, extra)


def encode(file: IO[bytes], page: Page, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Write a PNG of uint8 or uint16 pixels with `extra` chunks before its pixel data."""
    height, width = page.color.shape[:2]
    kind = (_GREY if page.channels == 1 else _RGB) + (4 if page.alpha is not None else 0)
    depth = 8 * page.color.dtype.itemsize
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    for name, content in extra:
        _write_chunk(file, name, content)
    packer = _compressor()
    for band in _filtered_bands(page):
        _write_data(file, packer.compress(band))
    _write_data(file, packer.flush())
    _write_chunk(file, b"IEND", b"")


def write_peak_bytes(spec: PageSpec) -> int:
    """Memory that writing a page needs beyond its pixels."""
    row = spec.nbytes // max(1, spec.height)
    return 8 * max(BAND_BYTES, row) + (1 << 20)


def _read_chunks(file: IO[bytes]) -> dict[bytes, bytes]:
    """The first chunk of each kind that is kept, up to IEND; of the others that they are there."""
    found: dict[bytes, bytes] = {}
    size = os.fstat(file.fileno()).st_size
    at = file.seek(len(SIGNATURE))
    while b"IEND" not in found:
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        at += 12 + length
        if at > size or not kind:
            raise ValueError("the file is truncated")
        if kind not in _KEPT or length > _LARGEST_CHUNK:
            found.setdefault(kind, b"")
            file.seek(at)
            continue
        content = file.read(length)
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack(">I", file.read(4))[0]:
            raise ValueError(f"the PNG file is damaged: the checksum of chunk {kind!r} is wrong")
        found.setdefault(kind, content)
    return found


def _spec(found: dict[bytes, bytes]) -> PageSpec:
    """The page as libpng gives it: palettes and bits spread out, a transparent colour as alpha."""
    header = found.get(b"IHDR", b"")
    if len(header) != 13 or b"IDAT" not in found:
        raise ValueError("the PNG header is broken")
    width, height, depth, kind, packing, filtering, interlace = struct.unpack(">IIBBBBB", header)
    sound = packing == filtering == 0 and interlace < 2 and 0 < width < 2**31 and 0 < height < 2**31
    if not sound or depth not in _DEPTHS.get(kind, ()):
        raise ValueError("the PNG header is broken")
    channels = 1 if kind in (_GREY, _GREY_ALPHA) else 3
    alpha = kind in (_GREY_ALPHA, _RGB_ALPHA) or b"tRNS" in found
    return PageSpec(height, width, channels, np.dtype(np.uint16 if depth == 16 else "u1"), alpha)


def _decode(data: bytes) -> Pixels:
    import imagecodecs

    try:
        pixels: Pixels = imagecodecs.png_decode(data)
    except imagecodecs.PngError as error:
        if "Not enough" in str(error):
            raise ValueError("the file is truncated") from error
        raise ValueError(f"the PNG file is damaged: {error}") from error
    return pixels


def _resolution(chunk: bytes) -> Resolution | None:
    if len(chunk) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", chunk)
    if not x or not y:
        return None
    return Resolution(Fraction(x, 100), Fraction(y, 100), 3 if unit == 1 else 1)


def _inflate_profile(chunk: bytes) -> bytes | None:
    try:
        profile = zlib.decompressobj().decompress(chunk.partition(b"\0")[2][1:], _LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if 0 < len(profile) < _LARGEST_PROFILE else None  # longer: there may be more


def _filtered_bands(page: Page) -> Iterator[Pixels]:
    """Rows as PNG compresses them, some at a time: a filter's number, then the filtered bytes."""
    height, width = page.color.shape[:2]
    pixel = _pixel_bytes(page)
    step = max(1, BAND_BYTES // (width * pixel))
    number = _best_filter(page)
    filtered = np.full((step, 1 + width * pixel), number, np.uint8)
    known = np.zeros((step + 1, pixel + width * pixel), np.uint8)  # and zeros beyond the edges
    for start in range(0, height, step):
        rows = _big_endian(page, slice(start, start + step))
        count = len(rows)
        known[0] = known[step]
        known[1 : count + 1, pixel:] = rows
        guess = _FILTERS[number](known[1 : count + 1, :-pixel], known[:count, pixel:])
        np.subtract(rows, guess, out=filtered[:count, 1:])
        yield filtered[:count]


def _best_filter(page: Page) -> int:
    """The filter that leaves the least entropy in some of the rows; of photographs mostly 3."""
    height, pixel = page.color.shape[0], _pixel_bytes(page)
    numbers = np.unique(np.linspace(0, height - 1, _SAMPLED_ROWS).astype(int))
    rows = np.concatenate([_big_endian(page, slice(y, y + 1)) for y in numbers])
    above = np.concatenate([_big_endian(page, slice(y, y + 1)) for y in np.maximum(numbers, 1) - 1])
    left = np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]

    def entropy(number: int) -> float:
        counts = np.bincount((rows - _FILTERS[number](left, above)).ravel())
        return -float(counts @ np.log2(np.maximum(counts, 1) / rows.size))

    return min(_FILTERS, key=entropy)


def _mean(left: Pixels, above: Pixels) -> Pixels:
    """(left + above) // 2 without a carry."""
    mean = (left ^ above) >> 1
    mean += left & above
    return mean


_FILTERS: dict[int, Callable[[Pixels, Pixels], Any]] = {
    0: lambda left, above: 0,
    1: lambda left, above: left,
    2: lambda left, above: above,
    3: _mean,
}
"""PNG's filters without branches (PNG 9.2): what a byte is expected to be, and is stored less."""


def _pixel_bytes(page: Page) -> int:
    return (page.channels + (page.alpha is not None)) * page.color.dtype.itemsize


def _big_endian(page: Page, rows: slice) -> Pixels:
    """Bytes of some rows, as PNG orders them."""
    part = Page(page.color[rows], None if page.alpha is None else page.alpha[rows]).interleaved
    part = np.ascontiguousarray(part.astype(part.dtype.newbyteorder(">"), copy=False))
    return part.view(np.uint8).reshape(len(part), -1)


def _compressor() -> Any:
    """What compresses a zlib stream piece by piece, fast."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1, strategy=zlib.Z_RLE)
    return isal_zlib.compressobj(1)


def _write_data(file: IO[bytes], packed: bytes) -> None:
    if packed:
        _write_chunk(file, b"IDAT", packed)


def _write_chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I4s", len(content), kind))
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
