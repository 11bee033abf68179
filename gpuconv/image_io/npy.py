"""NumPy's .npy files, read by rectangles and not by maps: mapped pages count as memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import IO, Any

import numpy as np

from gpuconv.image_io.array_axes import axes_of, pages_of, shape_of
from gpuconv.image_io.metadata import ArrayLayout, Metadata
from gpuconv.image_io.parts import BAND_BYTES, ByteReader, bands, checked, gather
from gpuconv.image_io.quiet import quietly
from gpuconv.image_io.types import Header, Image, OpenImage, Page, Pixels

MAGIC = b"\x93NUMPY"

_SMALL_RUN = 8 << 10
"""Neighbouring bytes that are read together, even if only some of them are wanted."""


class OpenNpy(OpenImage):
    """A .npy file whose header was read. Its size is checked: nothing is missing."""

    by_parts = True

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        shape, fortran, self._dtype = _read_header(file)
        self._offset = file.tell()
        self._reader = ByteReader(file)
        specs = pages_of(shape, self._dtype)
        if self._reader.size < self._offset + prod(shape) * self._dtype.itemsize:
            raise ValueError("the file is truncated: pixel data is missing")
        self._axes = axes_of(shape)
        self._fortran = fortran and sum(size > 1 for size in shape) > 1
        self._shape = shape[::-1] if self._fortran else shape
        metadata = Metadata(layout=ArrayLayout(self._axes))
        self.header = Header(specs, "NPY", metadata, compressed=False)
        self.peak_bytes = self.header.nbytes * (2 if self._fortran else 1)
        self.peak_bytes += min(self.header.nbytes, 2 * BAND_BYTES)

    def read(self) -> Image:
        header = self.header
        if self._fortran:  # pages may lie interleaved: all are read at once
            whole = self._read([range(size) for size in self._shape])
            stack = whole if "N" in self._axes else whole[None]
            pages = tuple(Page.split(pixels, alpha=header.pages[0].alpha) for pixels in stack)
        else:
            pages = tuple(
                gather(spec, partial(self.read_part, i)) for i, spec in enumerate(header.pages)
            )
        return Image(pages, "NPY", header.metadata, compressed=False)

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        spec = self.header.pages[page]
        samples = range(spec.channels + spec.alpha)
        wanted = {"N": range(page, page + 1), "H": rows, "W": columns, "C": samples}
        box = [wanted[axis] for axis in self._axes]
        pixels = self._read(box[::-1] if self._fortran else box)
        return Page.split(pixels[0] if "N" in self._axes else pixels, alpha=spec.alpha)

    def close(self) -> None:
        self._file.close()

    def _read(self, box: Sequence[range]) -> Pixels:
        """The elements of a box of stored axes, as the array has them."""
        pixels = _read_box(self._reader, self._offset, self._shape, self._dtype, box)
        return pixels.T if self._fortran else pixels


def write_parts(file: IO[bytes], header: Header, pages: Iterable[Iterable[Page]]) -> None:
    """Write one array of pages that come as full-width bands."""
    dtype = header.pages[0].dtype
    _, shape = shape_of(header)
    told: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "shape": shape}
    np.lib.format.write_array_header_1_0(file, told | {"fortran_order": False})
    for spec, page in zip(header.pages, pages, strict=True):
        for band in checked(spec, page):
            file.write(np.ascontiguousarray(band).data)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis varies fastest, and dtype. Nothing is unpickled."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f".npy files of version {version} are not supported")
    with quietly():
        shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("a .npy file of Python objects (pickled) is refused")
    return shape, fortran, dtype


def _read_box(
    reader: ByteReader,
    offset: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    box: Sequence[range],
) -> Pixels:
    """A box of an array that lies at `offset` in C order, in native byte order."""
    found = np.empty([len(side) for side in box], dtype.newbyteorder("="))
    axis = len(shape) - 1  # what lies inside of this axis is read whole
    while axis > 0 and (
        len(box[axis]) == shape[axis] or prod(shape[axis:]) * dtype.itemsize <= _SMALL_RUN
    ):
        axis -= 1
    inner = tuple(shape[axis + 1 :])
    step = prod(inner) * dtype.itemsize
    inside = tuple(slice(side.start, side.stop) for side in box[axis + 1 :])
    for outer in product(*(enumerate(side) for side in box[:axis])):
        start = 0
        for (_, i), size in zip(outer, shape[:axis], strict=True):
            start = start * size + i
        target = found[tuple(place for place, _ in outer)]
        for run in bands(box[axis], step):
            place = target[run.start - box[axis].start : run.stop - box[axis].start]
            at = offset + (start * shape[axis] + run.start) * step
            if dtype.isnative and place.shape[1:] == inner:
                reader.read_into(at, place.data)
            else:
                data = np.frombuffer(reader.read(at, len(run) * step), dtype)
                place[...] = data.reshape(len(run), *inner)[(slice(None), *inside)]
    return found
