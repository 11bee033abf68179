"""TIFF files: pages of any depth through tifffile, EXIF through Pillow."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuconv.image_io.metadata import (
    EXIF_IFD,
    EXIF_PREFIX,
    GPS_IFD,
    Metadata,
    Resolution,
    upright_exif,
)
from gpuconv.image_io.parts import LARGEST_SEGMENT, ByteReader, SegmentCache, regroup
from gpuconv.image_io.quiet import quietly
from gpuconv.image_io.tiff_pixels import TiffPixels
from gpuconv.image_io.types import Header, Image, OpenImage, Page, PageSpec, Pixels

if TYPE_CHECKING:
    import PIL.Image
    import tifffile

_LOSSY = (6, 7, 34712, 34887, 50002)
_ASCII, _LONG = 2, 4
_INTEROPERABILITY = 0xA005
_TEXT_TAGS = (271, 272, 306, 315, 33432)
"""Make, model, date, artist, copyright."""

_CACHE_BYTES = 32 << 20
_PAGES_KEPT = 8

_TILE = 256
_LARGEST_TILE = 1 << 20
_LARGEST_TILE_ROW = 64 << 20
_ENCODED_TOGETHER = 8 << 20
_LEVEL = 1
"""Of deflate: a tenth larger than level 6 on photographs, and four times as fast."""

_MOST_WORKERS = 8

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else it writes to stderr


class OpenTiff(OpenImage):
    """A TIFF file whose pages are known and checked, but not decoded."""

    def __init__(self, file: IO[bytes]) -> None:
        import tifffile

        self._file = file
        self._reader = ByteReader(file)
        self._cache = SegmentCache(_CACHE_BYTES)
        self._lock = threading.RLock()
        self._kept: OrderedDict[int, TiffPixels] = OrderedDict()
        _refuse_loops(file)
        file.seek(0)
        self._tiff = tifffile.TiffFile(file, _multifile=False)
        count = len(self._tiff.pages)
        if not count:
            raise ValueError("the file holds no page, or is truncated")
        _check_chain(self._tiff)
        first = self._tiff.pages[0]
        if not isinstance(first, tifffile.TiffPage):
            raise ValueError("the first page is broken")
        self._stack = _images_behind_one_page(self._tiff, first, self._reader.size)
        specs, transient = [], 0
        self.by_parts = True
        for i in range(count):
            pixels = self._page(i)
            specs.append(pixels.spec)
            transient = max(transient, pixels.transient_bytes)
            self.by_parts &= pixels.by_parts
            self._cache.widen(min(pixels.segment_row_bytes, LARGEST_SEGMENT))
        if self._stack > 1:
            specs *= self._stack
        metadata = _metadata(self._tiff, first)
        file.seek(0)
        self.header = Header(
            tuple(specs),
            "TIFF",
            replace(metadata, exif=_read_exif(file)),
            lossless=first.compression not in _LOSSY,
            compressed=first.compression != 1,
            tile=(first.tilelength, first.tilewidth) if first.is_tiled else None,
        )
        self.peak_bytes = self.header.nbytes + transient

    def read(self) -> Image:
        header = self.header
        found = tuple(self._page(i).read(self._lock) for i in range(len(header.pages)))
        return Image(found, "TIFF", header.metadata, header.lossless, header.compressed)

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        return self._page(page).read_part(rows, columns)

    def close(self) -> None:
        self._tiff.close()
        self._file.close()

    def _page(self, number: int) -> TiffPixels:
        """A page, parsed; the last few stay so."""
        with self._lock:
            if number not in self._kept:
                behind = number if self._stack > 1 else 0
                page = self._tiff.pages[number - behind].aspage()
                self._kept[number] = TiffPixels(page, self._reader, self._cache, number, behind)
                if len(self._kept) > _PAGES_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]


def write(file: IO[bytes], image: Image) -> None:
    """Write every page, in the order given. `file` must be readable, too."""
    header = image.header
    contents: Iterable[tuple[Pixels, dict[str, Any]]] = (
        (page.interleaved.reshape(_stored_shape(spec)), {})
        for spec, page in zip(header.pages, image.pages, strict=True)
    )
    _write(file, header, contents, header.nbytes)


def write_peak_bytes(spec: PageSpec) -> int:
    """Memory that `write` needs for a page besides its pixels, by estimate."""
    return spec.alpha * spec.nbytes + min(spec.nbytes, _ENCODED_TOGETHER)


def write_parts(file: IO[bytes], header: Header, pages: Iterable[Iterable[Page]]) -> None:
    """Write tiled pages that come as full-width bands. `file` must be readable, too."""
    sizes = [_tile_size(spec, header.tile) for spec in header.pages]
    padded = sum(
        ceil(spec.height / y) * y * ceil(spec.width / x) * x * spec.nbytes // spec.pixels
        for spec, (y, x) in zip(header.pages, sizes, strict=True)
    )
    contents = (
        (_tiles(spec, page, size), _tile_options(spec, size))
        for spec, size, page in zip(header.pages, sizes, pages, strict=True)
    )
    _write(file, header, contents, padded)


def _write(
    file: IO[bytes],
    header: Header,
    contents: Iterable[tuple[Pixels | Iterator[Pixels], dict[str, Any]]],
    total_bytes: int,
) -> None:
    """Write pages given as pixels or tiles, each with what tifffile must know about them."""
    import tifffile

    metadata = header.metadata
    first = header.pages[0]
    exif = upright_exif(metadata.exif, first.width, first.height)
    texts, directories = _exif_parts(lambda found: found.load(EXIF_PREFIX + exif if exif else b""))
    tags: list[Any] = [
        (tag, _ASCII, 0, text.encode("latin-1"), True) for tag, text in texts.items()
    ]
    tags += [(tag - 1, _LONG, 1, 0, True) for tag in directories]  # links: see below
    with tifffile.TiffWriter(file, bigtiff=total_bytes > 2**32 - 2**26) as tiff:
        for spec, (pixels, options) in zip(header.pages, contents, strict=True):
            color = spec.channels == 3
            unspecified = spec.channels - (3 if color else 1)
            extra = ["unspecified"] * unspecified + ["unassalpha"] * spec.alpha
            resolution, description = metadata.resolution, metadata.description
            tiff.write(
                pixels,
                photometric="rgb" if color else "minisblack",
                planarconfig="contig" if spec.channels + spec.alpha > 1 else None,
                extrasamples=extra or None,
                compression="zlib" if header.compressed else None,
                compressionargs={"level": _LEVEL} if header.compressed else None,
                predictor=header.compressed and _is_predicted(spec.dtype),
                iccprofile=metadata.profile_for(spec.channels),
                description=None if description is None else description.encode(),
                resolution=None
                if resolution is None
                else (resolution.x.as_integer_ratio(), resolution.y.as_integer_ratio()),
                resolutionunit=None if resolution is None else resolution.unit,
                extratags=tags,
                software=False,
                metadata=None,
                contiguous=False,
                maxworkers=min(_MOST_WORKERS, os.cpu_count() or 1),
                buffersize=_ENCODED_TOGETHER,
                **options,
            )
            if not isinstance(pixels, np.ndarray):
                next(pixels, None)  # tifffile stops at the last tile; rows beyond are an error
            metadata, tags = replace(metadata, exif=None, description=None), []  # told once
    if directories:
        _append_directories(file, directories)


def _is_predicted(dtype: np.dtype[Any]) -> bool:
    """TIFF has no predictor for integers of 64 bits."""
    return dtype.kind == "f" or dtype.itemsize <= 4


def _tile_size(spec: PageSpec, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """The source's tiles where they will do; lower ones where a row of them is too much."""
    height, width = _TILE, _TILE
    if wanted is not None:
        fits = wanted[0] % 16 == wanted[1] % 16 == 0 and 0 < wanted[0] * wanted[1] <= _LARGEST_TILE
        height, width = wanted if fits else (height, width)
    row_bytes = spec.nbytes // spec.height
    if height * row_bytes > _LARGEST_TILE_ROW:
        height = max(16, min(height, _LARGEST_TILE_ROW // row_bytes) // 16 * 16)
    return height, width


def _stored_shape(spec: PageSpec) -> tuple[int, ...]:
    samples = spec.channels + spec.alpha
    return (spec.height, spec.width, *((samples,) if samples > 1 else ()))


def _tile_options(spec: PageSpec, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "shape": _stored_shape(spec),
        "dtype": spec.dtype,
        "tile": size,
    }


def _tiles(spec: PageSpec, page: Iterable[Page], size: tuple[int, int]) -> Iterator[Pixels]:
    """(height, width, samples) tiles in the order of a TIFF, filled up with zeros at the edges."""
    height, width = size
    samples = spec.channels + spec.alpha
    for block in regroup(spec, page, height):
        for x in range(0, spec.width, width):
            part = block[:, x : x + width].reshape(len(block), -1, samples)
            tile = np.zeros((height, width, samples), spec.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _images_behind_one_page(
    tiff: tifffile.TiffFile, first: tifffile.TiffPage, file_size: int
) -> int:
    """How many images ImageJ or tifffile describe by their first page; 1 where they don't."""
    if not ((tiff.is_imagej or tiff.is_shaped) and len(tiff.pages) == 1 and len(tiff.series) == 1):
        return 1
    series = tiff.series[0]
    count = int(series.size) // max(1, int(first.size))
    if count <= 1:
        return 1
    if series.dataoffset is None or series.dataoffset + count * first.nbytes > file_size:
        raise ValueError("the file is truncated: images of the stack are missing")
    return count


def _refuse_loops(file: IO[bytes]) -> None:
    """Follow the chain of pages once: tifffile would follow a loop for ever."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    count_form, tag_bytes, link_form = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    link, at = head[8:] if big else head[4:8], 0
    while len(link) == struct.calcsize(link_form):
        at = struct.unpack(order + link_form, link)[0]
        if at in seen:
            raise ValueError("the file is damaged: its pages form a loop")
        if at == 0 or at >= 2**63:
            return
        seen.add(at)
        file.seek(at)
        count = file.read(struct.calcsize(count_form))
        if len(count) < struct.calcsize(count_form):
            return
        tags = struct.unpack(order + count_form, count)[0]
        link = file.read(min(tags, 4096) * tag_bytes + len(link))[-len(link) :]


def _check_chain(tiff: tifffile.TiffFile) -> None:
    """The last page found must be the last there is."""
    form = tiff.tiff
    handle = tiff.filehandle
    last = tiff.pages[len(tiff.pages) - 1]
    handle.seek(last.offset)
    count = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    handle.seek(last.offset + form.tagnosize + count * form.tagsize)
    link = handle.read(form.offsetsize)
    if len(link) < form.offsetsize or struct.unpack(form.offsetformat, link)[0] != 0:
        raise ValueError("the file is truncated: pages are missing")


def _metadata(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Metadata:
    described_by_a_program = tiff.is_imagej or tiff.is_shaped or tiff.is_ome
    description = page.description if not described_by_a_program else ""
    icc = page.tags.get(34675)
    return Metadata(
        icc_profile=None if icc is None else bytes(icc.value),
        resolution=_resolution(page),
        description=description or None,
    )


def _resolution(page: tifffile.TiffPage) -> Resolution | None:
    x, y, unit = (page.tags.get(tag) for tag in (282, 283, 296))
    if x is None or y is None:
        return None
    try:
        across, down = Fraction(*x.value), Fraction(*y.value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if across <= 0 or down <= 0:
        return None
    return Resolution(across, down, 2 if unit is None else int(unit.value))


def _read_exif(file: IO[bytes]) -> bytes | None:
    """The camera's part of a TIFF's tags as EXIF; None where there is none or it is broken."""
    texts, directories = _exif_parts(lambda exif: exif.load_from_fp(file))
    if not texts and not directories:
        return None
    head = b"II*\0" + struct.pack("<I", 8)
    links = dict.fromkeys(directories, 0)
    at = len(head) + len(_directory_bytes(texts | links, head, 8))
    blocks = []
    for link, tags in directories.items():
        blocks.append(_directory_bytes(tags, head, at))
        links[link] = at
        at += len(blocks[-1])
    return head + _directory_bytes(texts | links, head, 8) + b"".join(blocks)


def _exif_parts(
    load: Callable[[PIL.Image.Exif], None],
) -> tuple[dict[int, Any], dict[int, dict[int, Any]]]:
    """EXIF as TIFF holds it: text tags, and the EXIF and GPS directories by their links.

    Nothing where the tags are broken: Pillow raises anything then, and the pixels are sound.
    """
    import PIL.Image

    found = PIL.Image.Exif()
    try:
        with quietly():
            load(found)
            texts = {tag: found[tag] for tag in _TEXT_TAGS if isinstance(found.get(tag), str)}
            pairs = {link: dict(found.get_ifd(link)) for link in (EXIF_IFD, GPS_IFD)}
            pairs[EXIF_IFD].pop(_INTEROPERABILITY, None)  # a link, which would lead astray
            for tags in (texts, *pairs.values()):
                _directory_bytes(tags, b"II*\0" + bytes(4), 0)
    except Exception:
        return {}, {}
    return texts, {link: tags for link, tags in pairs.items() if tags}


def _append_directories(file: IO[bytes], directories: dict[int, dict[int, Any]]) -> None:
    """Put EXIF and GPS directories at the end of a TIFF and link page one to them.

    tifffile does not write these links; it was given placeholders, each numbered one less, which
    become the links here.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        entries = {tag: tiff.pages.first.tags[tag - 1] for tag in directories}
        places = {tag: (entry.offset, entry.valueoffset) for tag, entry in entries.items()}
        order, version = tiff.byteorder, tiff.tiff.version
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", version)
    head += struct.pack(order + "HHQ", 8, 0, 0) if version == 43 else bytes(4)
    for tag, values in directories.items():
        offset = file.seek(0, os.SEEK_END)
        offset += file.write(bytes(offset % 2))
        file.write(_directory_bytes(values, head, offset))
        code, link = places[tag]
        file.seek(code)
        file.write(struct.pack(order + "H", tag))
        file.seek(link)
        file.write(struct.pack(order + "I", offset))


def _directory_bytes(values: dict[int, Any], head: bytes, offset: int) -> bytes:
    """A directory as it stands at `offset` in a TIFF that begins with `head`."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    ifd = ImageFileDirectory_v2(ifh=head)
    for tag, value in values.items():
        text = isinstance(value, str)
        ifd[tag] = value.encode("latin-1") if text else value  # as Pillow decoded it
        if text:
            ifd.tagtype[tag] = _ASCII
    return bytes(ifd.tobytes(offset))
