"""What reading and writing by parts have in common: bytes at an offset, bands of rows, segments."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import ceil
from typing import IO

import numpy as np

from gpuconv.image_io.types import Page, PageSpec, Pixels

BAND_BYTES = 4 << 20
"""What is read or finished at a time, where the size is free."""

LARGEST_SEGMENT = 64 << 20
"""A file whose strips, tiles or chunks are larger than this when decoded is read as a whole."""


class ByteReader:
    """Reads a file at any offset. Several threads may ask at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytearray:
        """The `count` bytes at `offset`."""
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a contiguous buffer with the bytes at `offset`."""
        rest = buffer.cast("B") if buffer.nbytes else memoryview(b"")
        while rest.nbytes:
            count = self._read_some(offset, rest)
            if count == 0:
                raise ValueError("the file is truncated: pixel data is missing")
            rest, offset = rest[count:], offset + count

    def _read_some(self, offset: int, rest: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [rest], offset)
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(rest.nbytes)
        rest[: len(data)] = data
        return len(data)


class SegmentCache:
    """Decoded segments; what was not asked for the longest is let go first.

    Two threads that need the same segment decode it once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._kept: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._busy: set[Hashable] = set()
        self._changed = threading.Condition()

    def widen(self, capacity: int) -> None:
        """Keep at least so many bytes."""
        with self._changed:
            more = max(0, capacity - self._capacity)
            self._capacity, self._free = self._capacity + more, self._free + more

    def get(self, key: Hashable, decode: Callable[[], Pixels]) -> Pixels:
        """The segment of that key, decoded if it is not there."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._busy)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            self._busy.add(key)
        try:
            segment = decode()
            self._keep(key, segment)
            return segment
        finally:
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()

    def _keep(self, key: Hashable, segment: Pixels) -> None:
        with self._changed:
            self._kept[key] = segment
            self._free -= segment.nbytes
            while self._free < 0:
                _, old = self._kept.popitem(last=False)
                self._free += old.nbytes


def bands(rows: range, row_bytes: int, size: int = BAND_BYTES) -> Iterator[range]:
    """Neighbouring rows in bands of about `size` bytes."""
    step = max(1, size // max(1, row_bytes))
    for start in range(rows.start, rows.stop, step):
        yield range(start, min(start + step, rows.stop))


def cut(length: int, step: int, wanted: range) -> Iterator[tuple[int, range]]:
    """(i, elements of `wanted` in it) for every piece i of an axis cut into pieces of `step`."""
    for i in range(wanted.start // step, -(-wanted.stop // step)):
        piece = range(max(wanted.start, i * step), min(wanted.stop, (i + 1) * step, length))
        if piece:
            yield i, piece


def empty_page(spec: PageSpec, height: int, width: int) -> Page:
    """Room for a rectangle of such a page."""
    color = np.empty((height, width, *spec.color_shape[2:]), spec.dtype)
    return Page(color, np.empty((height, width), spec.dtype) if spec.alpha else None)


def gather(spec: PageSpec, read: Callable[[range, range], Page], step: int = 1) -> Page:
    """A whole page from bands of `step` rows, or several times as many."""
    page = empty_page(spec, spec.height, spec.width)
    steps = range(ceil(spec.height / step))
    for some in bands(steps, step * spec.nbytes // spec.height):
        rows = range(some.start * step, min(some.stop * step, spec.height))
        put(page, read(rows, range(spec.width)), rows.start, 0)
    return page


def put(page: Page, part: Page, row: int, column: int) -> None:
    """Copy a rectangle to its place in a page."""
    height, width = part.color.shape[:2]
    place = np.s_[row : row + height, column : column + width]
    page.color[place] = part.color
    if page.alpha is not None and part.alpha is not None:
        page.alpha[place] = part.alpha


def cut_page(page: Page) -> Iterator[Page]:
    """A page in memory as bands."""
    spec = PageSpec.of(page)
    for rows in bands(range(spec.height), spec.nbytes // max(1, spec.height)):
        band = slice(rows.start, rows.stop)
        yield Page(page.color[band], None if page.alpha is None else page.alpha[band])


def checked(spec: PageSpec, page: Iterable[Page]) -> Iterator[Pixels]:
    """The bands of a page, interleaved; an error where they are not what `spec` says."""
    row = 0
    for band in page:
        found = PageSpec.of(band)
        wanted = PageSpec(found.height, spec.width, spec.channels, spec.dtype, spec.alpha)
        if found != wanted or row + found.height > spec.height:
            raise ValueError(f"rows {row} and on are {found}, not of {spec}")
        row += found.height
        yield band.interleaved
    if row != spec.height:
        raise ValueError(f"{row} rows came, not of {spec}")


def regroup(spec: PageSpec, page: Iterable[Page], rows: int) -> Iterator[Pixels]:
    """The bands of a page as interleaved blocks of `rows` rows; the last may have fewer.

    A block is valid until the next is asked for.
    """
    block: Pixels | None = None
    filled, left = 0, spec.height
    for band in checked(spec, page):
        start = 0
        while start < len(band):
            size = min(rows, left)
            count = min(size - filled, len(band) - start)
            if count == size:
                yield band[start : start + size]
            else:
                if block is None:
                    block = np.empty((rows, *band.shape[1:]), band.dtype)
                block[filled : filled + count] = band[start : start + count]
                filled += count
                if filled == size:
                    yield block[:size]
            start += count
            if count == size or filled == size:
                filled, left = 0, left - size
