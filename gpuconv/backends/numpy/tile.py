"""Tiles: how every NumPy family reads its input and writes its output in bounded memory.

All arrays are seen as planes (B, *spatial, C): B counts what is independent, C what lies
interleaved behind each position. A `Source` answers for any region of such planes. An array is
one; so is every operation (`Node`), which computes a region when it is read. Operations on
operations therefore run tile by tile, and no intermediate image is ever whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuconv.border import Border, map_index
from gpuconv.dtypes import DType

Values = npt.NDArray[Any]
Region = tuple[slice, ...]

TILE_ELEMENTS = 1 << 17
"""Outputs of one tile: a few buffers of float64 fit into a core's cache."""

TILE_ROW = 2048
"""Outputs along the last spatial axis of a tile: long enough for vectors, short enough that a
wide image's tile is many rows high and its halo costs little."""


PICKED_ELEMENTS = 1 << 12
"""Tiles up to this size are picked from a picture one by one: that is one call."""

SPAN_ELEMENTS = 1 << 19
"""Inputs of a tile of several planes, or of a narrow image: under a large window they are mostly
halo."""

LEAST_ROW = 64
"""Elements that a row counts at least: buffers' rows are whole cache lines."""


class Source(Protocol):
    """Planes that can be read region by region."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, *spatial, C)."""

    @property
    def dtype(self) -> DType:
        """Of what `read` returns."""

    def read(self, batch: slice, region: Region) -> Values:
        """Values (b, *region, C); the region lies inside. Not to be written to."""


class ArraySource:
    """An array (B, *spatial, C) of any strides as a source."""

    def __init__(self, array: Values) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype: DType = array.dtype

    def read(self, batch: slice, region: Region) -> Values:
        """A view."""
        return self.array[(batch, *region)]


class _Converted:
    """A source whose values are converted when they are read."""

    def __init__(self, source: Source, dtype: DType) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = dtype

    def read(self, batch: slice, region: Region) -> Values:
        return self.source.read(batch, region).astype(self.dtype)


def converted(source: Source, dtype: DType) -> Source:
    """`source` as `dtype`."""
    return source if source.dtype == dtype else _Converted(source, dtype)


def load(
    source: Source,
    batch: slice,
    start: Sequence[int],
    stop: Sequence[int],
    border: Border,
    value: float,
    dtype: DType | None = None,
) -> Values:
    """Positions start..stop of each spatial axis, (b, *span, C), which may reach outside.

    A view of the source where nothing has to be answered by the border or converted.
    """
    dtype = source.dtype if dtype is None else dtype
    if all(a >= 0 and b <= n for a, b, n in zip(start, stop, source.shape[1:-1], strict=True)):
        block = source.read(batch, tuple(map(slice, start, stop)))
        return block if block.dtype == dtype else block.astype(dtype)
    span = tuple(b - a for a, b in zip(start, stop, strict=True))
    tile = np.empty((batch.stop - batch.start, *span, source.shape[-1]), dtype)
    load_into(tile, source, batch, start, stop, border, value)
    return tile


def load_into(
    tile: Values,
    source: Source,
    batch: slice,
    start: Sequence[int],
    stop: Sequence[int],
    border: Border,
    value: float,
) -> None:
    """`load` into a tile (b, *span, C) of any dtype."""
    ends = tuple(start), tuple(stop), source.shape[1:-1]
    if (
        len(ends[0]) == 2
        and tile.size <= PICKED_ELEMENTS
        and border is not Border.CONSTANT
        and type(source) is ArraySource
    ):
        rows, columns = _positions(*ends, border)
        np.copyto(tile, source.array[batch][:, rows, columns], "unsafe")
        return
    for place, index in _pieces(*ends, border):
        target = tile[place]
        if index is None:
            target[...] = value
        else:
            np.copyto(target, _gather(source, batch, index), "unsafe")


@lru_cache(maxsize=64)
def _positions(
    start: tuple[int, ...], stop: tuple[int, ...], sizes: tuple[int, ...], border: Border
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which row and column every place of a tile reads."""
    rows, columns = (
        map_index(np.arange(a, b), n, border) for a, b, n in zip(start, stop, sizes, strict=True)
    )
    return rows[:, np.newaxis], columns


Index = slice | npt.NDArray[np.int64]
"""What of an axis is read."""


Piece = tuple[tuple[slice, ...], tuple[Index, ...] | None]
"""A part of a tile, and what of each axis is read for it; None for the border's value."""


@lru_cache(maxsize=512)
def _pieces(
    start: tuple[int, ...], stop: tuple[int, ...], sizes: tuple[int, ...], border: Border
) -> tuple[Piece, ...]:
    """The parts of a tile before, inside and after every axis."""
    axes = [_axis_pieces(*axis, border) for axis in zip(start, stop, sizes, strict=True)]
    pieces = []
    for parts in product(*axes):
        places = (slice(None), *(place for place, _ in parts))
        indices = tuple(index for _, index in parts if index is not None)
        pieces.append((places, indices if len(indices) == len(parts) else None))
    return tuple(pieces)


def _axis_pieces(
    start: int, stop: int, length: int, border: Border
) -> list[tuple[slice, Index | None]]:
    """(place in the tile, what is read there; None for the border's value) along one axis."""
    low, high = min(max(start, 0), stop), max(min(stop, length), start)
    pieces: list[tuple[slice, Index | None]] = [
        (slice(a - start, b - start), _outside(a, b, length, border))
        for a, b in ((start, min(stop, 0)), (max(start, length), stop))
        if a < b
    ]
    if low < high:
        pieces.append((slice(low - start, high - start), slice(low, high)))
    return pieces


def _outside(start: int, stop: int, length: int, border: Border) -> Index | None:
    """What positions start..stop outside an axis read: a slice wherever one tells it."""
    if border is Border.CONSTANT:
        return None
    index = map_index(np.arange(start, stop), length, border)
    first, last, steps = int(index[0]), int(index[-1]), set(np.diff(index).tolist())
    if steps <= {0}:
        return slice(first, first + 1)
    if steps == {1}:
        return slice(first, last + 1)
    if steps == {-1}:
        return slice(first, last - 1 if last else None, -1)
    return index


def _gather(source: Source, batch: slice, indices: Sequence[Index]) -> Values:
    """What `indices` pick, axis by axis, from the range that covers them.

    An axis whose positions all read the same is 1 long.
    """
    if type(source) is ArraySource and all([type(index) is slice for index in indices]):
        array: Values = source.array[(batch, *indices)]
        return array
    region: list[slice] = []
    places: list[Index] = []
    for index in indices:
        low, high = _range(index)
        region.append(slice(low, high))
        if isinstance(index, slice):
            places.append(slice(None, None, index.step))
        else:
            places.append(index - low)
    block = source.read(batch, tuple(region))
    for axis, place in enumerate(places, start=1):
        block = block[(slice(None),) * axis + (place,)]
    return block


def _range(index: slice | npt.NDArray[np.int64]) -> tuple[int, int]:
    """The lowest position and the one behind the highest."""
    if not isinstance(index, slice):
        return int(index.min()), int(index.max()) + 1
    if index.step == -1:
        return (0 if index.stop is None else index.stop + 1), index.start + 1
    return index.start, index.stop


def tiles(
    shape: Sequence[int],
    elements: int | None = None,
    halo: Sequence[int] = (),
    row: int | None = None,
) -> Sequence[tuple[slice, Region]]:
    """Cut planes (B, *spatial, C) into (batch, region) of about `elements` values, `row` a row.

    `halo` counts what each plane's tile reads beyond its own size, axis by axis.
    """
    limits = TILE_ELEMENTS if elements is None else max(1, elements), row or TILE_ROW, SPAN_ELEMENTS
    return _tiles(tuple(shape), tuple(halo) or (0,) * (len(shape) - 2), *limits)


@lru_cache(maxsize=16)
def _tiles(
    shape: tuple[int, ...], halo: tuple[int, ...], elements: int, row: int, reach: int
) -> Sequence[tuple[slice, Region]]:
    batch, *spatial, inner = shape
    room = max(1, elements // max(1, inner))
    sizes = []
    for axis, length in enumerate(reversed(spatial)):
        limit = min(room, max(1, row // inner)) if axis == 0 and len(spatial) > 1 else room
        sizes.append(even(length, limit))
        room = max(1, room // sizes[-1])
    sizes.reverse()
    *spans, across = (n + more for n, more in zip(sizes, halo, strict=True))
    across = max(inner * across, LEAST_ROW)
    if spans:  # a narrow image under a wide window: fewer rows, but no more halo than rows
        rest = across * prod(spans[:-1])
        most = max(1, halo[-2], reach // rest - halo[-2])
        if sizes[-2] > most:
            sizes[-2] = even(spatial[-2], most)
            spans[-1] = sizes[-2] + halo[-2]
    room = max(1, min(room, reach // (across * prod(spans))))
    return [
        (
            slice(first, min(batch, first + room)),
            tuple(slice(c, min(n, c + s)) for c, s, n in zip(corner, sizes, spatial, strict=True)),
        )
        for first in range(0, batch, room)
        for corner in product(*(range(0, n, s) for n, s in zip(spatial, sizes, strict=True)))
    ]


def even(length: int, limit: int) -> int:
    """The size of pieces of at most `limit` (at least 1) that share `length` evenly."""
    pieces = -(-length // max(1, limit))
    return -(-length // pieces)
