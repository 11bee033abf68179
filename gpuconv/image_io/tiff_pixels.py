"""The pixels of one TIFF page: from the bytes of strips and tiles to grey or RGB, straight alpha.

tifffile fills the gaps of a damaged file with zeros; every gap is looked for here first.
Uncompressed pixels are read from where they lie, compressed ones strip by strip or tile by tile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.image_io.codestreams import CLAIMING, HEAD_BYTES, claimed_pixels
from gpuconv.image_io.parts import (
    BAND_BYTES,
    LARGEST_SEGMENT,
    ByteReader,
    SegmentCache,
    bands,
    cut,
    empty_page,
    put,
)
from gpuconv.image_io.types import Page, PageSpec, Pixels, stored_part

if TYPE_CHECKING:
    import tifffile

_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_MIN_WHITE, _MIN_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC = (_MIN_WHITE, _MIN_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR)
_JPEG = (6, 7, 34892, 33007)
_ORIENTATION = 274

_LARGE_PIXELS = 178_956_970
_LARGEST_EXPANSION = 100
"""How often larger than its file a page above _LARGE_PIXELS may be before it counts as a bomb."""

_READ_AHEAD = 4 << 20
"""Compressed bytes that tifffile holds while it decodes a whole page."""

_FINISHED_AT_ONCE = 256 << 10
_FINISHING = 24
"""Stored bytes that are finished together, and how many times as much CMYK takes meanwhile."""

_DECODING = {33003: 7, 33005: 7, 34712: 7}
"""Memory that a codec takes, in decoded segments, where it is much: JPEG 2000."""

_LARGEST_JPEG = 65500
"""Above this size tifffile decodes the pieces of an NDPI slide one by one."""

_LARGEST_CLAIM = 4
"""How often larger than it should be the picture in a strip or tile may be: some are padded."""

_NARROW_ROW = 8 << 10
"""Rows of fewer bytes are read whole, even if only some of their columns are wanted."""


class TiffPixels:
    """The pixels of one page, whole or by parts; the page is checked here.

    Stored pixels are (planes, rows, columns, samples): planes where colours are stored
    separately, samples where they lie side by side.

    spec : of the upright page.
    by_parts : whether `read_part` keeps to the part and a few segments.
    transient_bytes : what `read` holds besides its result, by estimate.
    segment_row_bytes : one row of decoded segments.
    """

    def __init__(
        self,
        page: tifffile.TiffPage,
        reader: ByteReader,
        cache: SegmentCache,
        number: int,
        behind: int = 0,
    ) -> None:
        """Look at page `number`, or image `behind` of a stack that its first page describes."""
        self._dtype = _check(page, reader.size)
        self._page, self._reader, self._cache, self._number = page, reader, cache, number
        self._planes, _, self._height, self._width, self._samples = page.shaped
        self._file_dtype = self._dtype.newbyteorder(page.parent.byteorder)
        self._lay_out(behind)
        tag = page.tags.get(_ORIENTATION)
        turn = int(tag.value) if tag is not None else 1
        self._turn = turn if 1 <= turn <= 8 else 1
        sample = np.zeros((self._planes, 1, 1, self._samples), self._dtype)
        one = _finish(page, sample)
        self._is_finished = self._turn == 1 and np.may_share_memory(sample, one.color)
        self._is_finished &= one.alpha is None and self._planes == 1
        size = (self._height, self._width) if self._turn < 5 else (self._width, self._height)
        self.spec = PageSpec(*size, one.channels, one.color.dtype, one.alpha is not None)
        self._estimate()
        page.decode  # noqa: B018  # computed on first use, which threads must not race for

    def read(self, lock: threading.RLock) -> Page:
        """The whole page. `lock` guards the file's position."""
        if self._page.compression == 1:
            stored = self._stored(range(self._height), range(self._width))
        else:
            for i in range(len(self._page.dataoffsets)):
                self._refuse_bomb(i)
            with lock:
                stored = self._page.asarray(squeeze=False, buffersize=_READ_AHEAD)[:, 0]
        return self._finish(stored)

    def read_part(self, rows: range, columns: range) -> Page:
        """A rectangle of the upright page."""
        return self._finish(self._stored(*stored_part(self.spec, self._turn, rows, columns)))

    def _lay_out(self, behind: int) -> None:
        """Where the segments (strips or tiles) lie, and whether they are plain pixels."""
        page = self._page
        self._offsets: Sequence[int] = page.dataoffsets
        rows = page.tilelength if page.is_tiled else page.rowsperstrip
        columns = page.tilewidth if page.is_tiled else self._width
        self._direct = page.compression == 1 and page.predictor == 1 and not page.is_subsampled
        self._direct &= page.is_contiguous or _is_plain(page, self._dtype)
        if self._direct and page.is_contiguous:
            rows, columns = self._height, self._width
            plane = page.nbytes // self._planes
            first = page.dataoffsets[0] + behind * page.nbytes
            self._offsets = [first + i * plane for i in range(self._planes)]
        self._segment = (rows, columns)
        self._grid = (ceil(self._height / rows), ceil(self._width / columns))
        self._has_whole_bytes = page.bitspersample in (8, 16, 32, 64)
        self._is_as_stored = self._has_whole_bytes and page.fillorder == 1
        self._is_as_stored &= self._file_dtype.isnative
        if self._direct:
            self._row_bytes = ceil(columns * self._samples * page.bitspersample / 8)

    def _estimate(self) -> None:
        page = self._page
        stored = prod(page.shaped) * self._dtype.itemsize
        segment = prod(self._segment) * self._samples * self._dtype.itemsize
        self.segment_row_bytes = 0 if self._direct else segment * self._grid[1] * self._planes
        in_pieces = page.jpegheader is None or max(self._height, self._width) > _LARGEST_JPEG
        self.by_parts = self._direct or (in_pieces and segment <= LARGEST_SEGMENT)
        needed = 0
        if not self._is_finished:
            needed += stored + min(stored, _FINISHED_AT_ONCE) * _FINISHING
        if self._direct:
            needed += 0 if self._is_as_stored else 2 * min(stored, BAND_BYTES)
        else:
            largest = max(page.databytecounts)
            needed += max(2 * min(sum(page.databytecounts), _READ_AHEAD), largest)
            at_once = max(1, page.maxworkers) * _DECODING.get(page.compression, 1.5)
            needed += min(int(at_once * segment), 8 * stored) + min(stored, BAND_BYTES)
        self.transient_bytes = needed

    def _stored(self, rows: range, columns: range) -> Pixels:
        """A rectangle of stored pixels."""
        shape = (self._planes, len(rows), len(columns), self._samples)
        stored = np.empty(shape, self._dtype)
        height, width = self._segment
        for i, ys in cut(self._height, height, rows):
            for j, xs in cut(self._width, width, columns):
                for plane in range(self._planes):
                    index = (plane * self._grid[0] + i) * self._grid[1] + j
                    place = stored[plane, _within(ys, rows.start), _within(xs, columns.start)]
                    inside = _moved(ys, i * height), _moved(xs, j * width)
                    if self._direct:
                        self._read_plain(place, self._offsets[index], *inside)
                    else:
                        self._copy_decoded(place, index, *inside)
        return stored

    def _read_plain(self, place: Pixels, offset: int, rows: range, columns: range) -> None:
        """Read a rectangle of an uncompressed segment."""
        pixel_bytes = self._samples * self._page.bitspersample // 8
        few = self._has_whole_bytes and 2 * len(columns) <= self._segment[1]
        if few and self._row_bytes >= _NARROW_ROW:
            for i, row in enumerate(rows):
                at = offset + row * self._row_bytes + columns.start * pixel_bytes
                data = self._reader.read(at, len(columns) * pixel_bytes)
                place[i] = self._unpack(data, 1, len(columns))[0]
            return
        for band in bands(rows, self._row_bytes):
            at = offset + band.start * self._row_bytes
            target = place[_within(band, rows.start)]
            whole_rows = len(columns) == self._segment[1] and target.flags.c_contiguous
            if whole_rows and self._is_as_stored:
                self._reader.read_into(at, target.data)
            else:
                data = self._reader.read(at, len(band) * self._row_bytes)
                pixels = self._unpack(data, len(band), self._segment[1])
                target[...] = pixels[:, _within(columns, 0)]

    def _unpack(self, data: bytes | bytearray, rows: int, columns: int) -> Pixels:
        """(rows, columns, samples) from uncompressed bytes; rows begin with a byte."""
        import imagecodecs

        page = self._page
        if page.fillorder == 2:
            data = imagecodecs.bitorder_decode(data)
        if self._has_whole_bytes:
            pixels: Pixels = np.frombuffer(data, self._file_dtype)
        else:
            row = columns * self._samples
            bits, dtype = page.bitspersample, self._file_dtype
            pixels = imagecodecs.packints_decode(data, dtype, bits, runlen=row)
        return pixels.reshape(rows, columns, self._samples)

    def _copy_decoded(self, place: Pixels, index: int, rows: range, columns: range) -> None:
        """Copy a rectangle of a compressed segment, decoded if it is not kept."""
        segment = self._cache.get((self._number, index), lambda: self._decode(index))
        place[...] = segment[_within(rows, 0), _within(columns, 0)]

    def _refuse_bomb(self, index: int) -> None:
        """Compare what a segment claims to hold with what it should: decoders believe it."""
        page = self._page
        if page.compression not in CLAIMING or page.jpegheader is not None:
            return
        count = min(page.databytecounts[index], HEAD_BYTES)
        head = self._reader.read(page.dataoffsets[index], count)
        claimed = claimed_pixels(bytes(head), page.compression)
        if claimed > _LARGEST_CLAIM * prod(self._segment) + HEAD_BYTES:
            raise ValueError(f"a decompression bomb: a strip or tile of {claimed} pixels")

    def _decode(self, index: int) -> Pixels:
        page = self._page
        self._refuse_bomb(index)
        data = self._reader.read(page.dataoffsets[index], page.databytecounts[index])
        options: dict[str, Any] = {}
        if page.compression in _JPEG:
            options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        segment, (_, _, row, column, _), _ = page.decode(bytes(data), index, **options)
        if segment is None:
            raise ValueError("the file is truncated: pixel data is missing")
        inside: Pixels = segment[0, : self._height - row, : self._width - column]
        rows, columns = self._segment
        wanted = (min(rows, self._height - row), min(columns, self._width - column))
        if inside.shape != (*wanted, self._samples):
            raise ValueError(f"a strip or tile is of shape {inside.shape}, not {wanted}")
        return inside.astype(self._dtype, copy=False)

    def _finish(self, stored: Pixels) -> Page:
        """Stored pixels as the upright page has them, a band at a time."""
        if self._is_finished or stored.nbytes <= _FINISHED_AT_ONCE:
            return _finish(self._page, stored).upright(self._turn)
        height, width = stored.shape[1:3]
        on_its_side = self._turn >= 5
        size = (width, height) if on_its_side else (height, width)
        page = empty_page(self.spec, *size)
        for rows in bands(range(height), stored.nbytes // height, _FINISHED_AT_ONCE):
            part = _finish(self._page, stored[:, _within(rows, 0)]).upright(self._turn)
            start = height - rows.stop if self._turn in (3, 4, 6, 7) else rows.start
            put(page, part, *((0, start) if on_its_side else (start, 0)))
        return page


def _within(part: range, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def _moved(part: range, start: int) -> range:
    return range(part.start - start, part.stop - start)


def _check(page: tifffile.TiffPage, file_size: int) -> np.dtype[Any]:
    """The dtype of the samples. Refused: what cannot be decoded, and what a damaged file lacks."""
    if page.dtype is None:
        raise ValueError(f"TIFF samples of {page.bitspersample} bits are not supported")
    if 0 in page.shaped:
        raise ValueError("the page holds no pixels")
    pixels = page.imagewidth * page.imagelength
    wanted = prod(page.shaped) * page.dtype.itemsize
    if pixels > _LARGE_PIXELS and wanted > file_size * _LARGEST_EXPANSION:
        raise ValueError(
            f"a decompression bomb: {pixels / 1e6:.0f} megapixels in a file of {file_size} bytes"
        )
    if page.photometric not in _PHOTOMETRIC:
        raise ValueError(f"TIFF pixels of kind {page.photometric!r} are not supported")
    if page.planarconfig not in (1, 2):
        raise ValueError(f"TIFF samples in planes of kind {page.planarconfig} are not supported")
    if page.imagedepth != 1:
        raise ValueError("TIFF volumes are not supported; store the planes as pages")
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.is_contiguous:
        missing = offsets[0] + wanted > file_size
    else:
        missing = min(len(offsets), len(counts)) < prod(page.chunked)
    segments = list(zip(offsets, counts, strict=False))
    if missing or any(
        offset <= 0 or count <= 0 or offset + count > file_size for offset, count in segments
    ):
        raise ValueError("the file is truncated: pixel data is missing")
    return page.dtype


def _is_plain(page: tifffile.TiffPage, dtype: np.dtype[Any]) -> bool:
    """Whether the segments are uncompressed rows of whole pixels, none of them missing."""
    bits = page.bitspersample
    if not isinstance(bits, int) or page.sampleformat == 5 or dtype.kind not in "buif":
        return False
    if bits not in (8, 16, 32, 64) and (bits > 31 or dtype.kind == "f"):
        return False
    samples = page.shaped[4]
    rows, columns = page.rowsperstrip, page.imagewidth
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    strips = ceil(page.imagelength / rows)
    row_bytes = ceil(columns * samples * bits / 8)
    for i, count in enumerate(page.databytecounts):
        last = not page.is_tiled and i % strips == strips - 1
        if count < row_bytes * (page.imagelength - rows * (strips - 1) if last else rows):
            return False
    return True


def _finish(page: tifffile.TiffPage, stored: Pixels) -> Page:
    """Stored pixels → grey or RGB, straight alpha, not yet upright."""
    pixels = np.moveaxis(stored[..., 0], 0, -1) if len(stored) > 1 else stored[0]
    if pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"TIFF pixels of dtype {pixels.dtype} are not supported")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind == "b":
        pixels = pixels.view(np.uint8)
    if page.photometric == _PALETTE:
        pixels = _palette(page)[pixels]
    elif page.bitspersample < 8 and pixels.dtype == np.uint8:
        pixels = pixels * np.uint8(255 // (2**page.bitspersample - 1))
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    kinds = tuple(int(kind) for kind in page.extrasamples)
    expected = {_RGB: 3, _YCBCR: 3, _SEPARATED: 4}.get(page.photometric, 1)
    has_alpha = samples == expected + 1 and (
        kinds[:1] in ((_ASSOCIATED_ALPHA,), (_UNASSOCIATED_ALPHA,)) or expected == 3
    )
    found = Page.split(pixels, alpha=has_alpha)
    color, alpha = found.color, found.alpha
    if page.photometric == _MIN_WHITE:
        color = np.invert(color) if color.dtype.kind == "u" else -color
    if page.photometric == _SEPARATED:
        color = _cmyk_to_rgb(color)
    if alpha is not None and kinds[:1] == (_ASSOCIATED_ALPHA,):
        color = _unmultiply(color, alpha)
    return Page(color, alpha)


def _palette(page: tifffile.TiffPage) -> Pixels:
    """(2 ** bits, 3) uint8: the colour of every value."""
    table = np.asarray(page.colormap if page.colormap is not None else ())
    if table.shape != (3, 2**page.bitspersample) or page.samplesperpixel != 1:
        raise ValueError("the palette is missing or broken")
    return (table >> 8).astype(np.uint8).T


def _cmyk_to_rgb(pixels: Pixels) -> Pixels:
    if pixels.dtype.kind != "u" or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise ValueError("CMYK pixels must be four 8- or 16-bit samples")
    top = int(np.iinfo(pixels.dtype).max)
    ink = pixels.astype(np.float64) / top
    rgb = (1 - ink[..., :3]) * (1 - ink[..., 3:])
    return np.rint(rgb * top).astype(pixels.dtype)


def _unmultiply(color: Pixels, alpha: Pixels) -> Pixels:
    """Colours that were multiplied by alpha, as they were before."""
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing is to be seen, or NaN
        weight = (alpha if color.ndim == 2 else alpha[..., None]).astype(np.float64)
        if color.dtype.kind == "f":
            return (color * (1 / np.maximum(weight, 1e-30))).astype(color.dtype)
    top = np.iinfo(alpha.dtype).max
    most = float(top) if float(top) <= top else np.nextafter(float(top), 0)  # 2**63 would overflow
    straight = color * (top / np.maximum(weight, 1))
    return np.clip(np.rint(straight), 0, most).astype(color.dtype)
