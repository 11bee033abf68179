"""What travels with the pixels of an image file: EXIF, colour profile, resolution.

EXIF is patched in place, byte for byte, so that tags nobody here understands (maker notes) stay
as they are. It is held without the "Exif\\0\\0" prefix: as the TIFF structure that it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

EXIF_PREFIX = b"Exif\x00\x00"

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_THUMBNAIL_OFFSETS, _THUMBNAIL_SIZES = (0x0201, 0x0111), (0x0202, 0x0117)
_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG


@dataclass(frozen=True, slots=True)
class Resolution:
    """Pixels a unit along x and y. `unit` is TIFF's: 1 none, 2 inch, 3 centimetre."""

    x: Fraction
    y: Fraction
    unit: int = 2

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels an inch, or None where the unit is unknown."""
        if self.unit not in (2, 3):
            return None
        scale = Fraction(1) if self.unit == 2 else Fraction(254, 100)
        return float(self.x * scale), float(self.y * scale)


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """How an array held its pages, for another like it.

    axes : "HW", "HWC", "NHW" or "NHWC", where N counts pages and C colours and alpha.
    chunks, shards : of a Zarr array, one number an axis.
    attributes : of a Zarr array, as JSON.
    """

    axes: str
    zarr_format: int | None = None
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    attributes: str = "{}"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an image file says besides its pixels.

    `color_chunks` are PNG's own colour chunks (gAMA, cHRM, ...), `description` is TIFF's,
    `layout` is that of .npy files and Zarr arrays.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    resolution: Resolution | None = None
    color_chunks: tuple[tuple[bytes, bytes], ...] = field(default=())
    description: str | None = None
    layout: ArrayLayout | None = None

    def profile_for(self, channels: int) -> bytes | None:
        """The colour profile, if it is one for images of that many colour channels."""
        space = {1: b"GRAY", 3: b"RGB "}.get(channels)
        fits = self.icc_profile is not None and self.icc_profile[16:20] == space
        return self.icc_profile if fits else None


def bare_exif(data: bytes | None) -> bytes | None:
    """EXIF without its prefix; None where there is none."""
    return (data or b"").removeprefix(EXIF_PREFIX) or None


def orientation(exif: bytes | None) -> int:
    """The orientation tag, 1 to 8; 1 (upright) where it is missing or broken."""
    if exif is None:
        return 1
    for entry in _Tiff(exif).entries(_Tiff(exif).first_ifd):
        if entry.tag == ORIENTATION and entry.value in range(1, 9):
            return entry.value
    return 1


def upright_exif(exif: bytes | None, width: int, height: int) -> bytes | None:
    """EXIF for the filtered picture: upright, of its size, without the old picture's thumbnail."""
    if exif is None:
        return None
    tiff = _Tiff(exif)
    for entry in tiff.entries(tiff.first_ifd):
        if entry.tag == ORIENTATION:
            tiff.store(entry, 1)
        elif entry.tag == EXIF_IFD:
            for inner in tiff.entries(entry.value):
                if inner.tag == _PIXEL_WIDTH:
                    tiff.store(inner, width)
                elif inner.tag == _PIXEL_HEIGHT:
                    tiff.store(inner, height)
    tiff.drop_thumbnail()
    return bytes(tiff.data)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tag of an image file directory whose value is a single integer."""

    tag: int
    format: str
    position: int
    value: int


class _Tiff:
    """A TIFF structure that can be read and patched. Broken parts are passed over."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.order = ">" if data[:2] == b"MM" else "<"
        self.first_ifd = self._integer("I", 4)

    def entries(self, ifd: int) -> Iterator[_Entry]:
        """The tags of the directory at offset `ifd`."""
        for i in range(self._integer("H", ifd) if ifd else 0):
            at = ifd + 2 + 12 * i
            tag, kind = self._integer("H", at), self._integer("H", at + 2)
            if self._integer("I", at + 4) == 1 and kind in _FORMATS:
                form = _FORMATS[kind]
                yield _Entry(tag, form, at + 8, self._integer(form, at + 8))

    def store(self, entry: _Entry, value: int) -> None:
        """Write a new value in the entry's own type, if it holds it."""
        size = struct.calcsize(entry.format)
        if value < 256**size and entry.position + size <= len(self.data):
            struct.pack_into(self.order + entry.format, self.data, entry.position, value)

    def drop_thumbnail(self) -> None:
        """Unlink the second directory and blank its picture: it shows the unfiltered pixels."""
        link = self.first_ifd + 2 + 12 * self._integer("H", self.first_ifd)
        thumbnail = self._integer("I", link)
        if not thumbnail:
            return
        found = {entry.tag: entry.value for entry in self.entries(thumbnail)}
        for start_tag, size_tag in zip(_THUMBNAIL_OFFSETS, _THUMBNAIL_SIZES, strict=True):
            start, size = found.get(start_tag, 0), found.get(size_tag, 0)
            if start >= 8 and size > 0 and start + size <= len(self.data):
                self.data[start : start + size] = bytes(size)
        struct.pack_into(self.order + "I", self.data, link, 0)

    def _integer(self, form: str, at: int) -> int:
        size = struct.calcsize(form)
        if at < 0 or at + size > len(self.data):
            return 0
        value: int = struct.unpack_from(self.order + form, self.data, at)[0]
        return value
