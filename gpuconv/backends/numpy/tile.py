"""Tiles: how every NumPy family reads its input and writes its output in bounded memory.

All arrays are seen as planes (B, *spatial, C): B counts what is independent, C what lies
interleaved behind each position. A `Source` answers for any region of such planes. An array is
one; so is every operation (`Node`), which computes a region when it is read. Operations on
operations therefore run tile by tile, and no intermediate image is ever whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


SPAN_ELEMENTS = 1 << 19
"""Inputs of a tile of several planes: many small images under a large window are mostly halo."""


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
    sizes = source.shape[1:-1]
    dtype = source.dtype if dtype is None else dtype
    if all(a >= 0 and b <= n for a, b, n in zip(start, stop, sizes, strict=True)):
        block = source.read(batch, tuple(map(slice, start, stop)))
        return block if block.dtype == dtype else block.astype(dtype)
    span = tuple(b - a for a, b in zip(start, stop, strict=True))
    tile = np.empty((batch.stop - batch.start, *span, source.shape[-1]), dtype)
    axes = [list(_pieces(a, b, n, border)) for a, b, n in zip(start, stop, sizes, strict=True)]
    for pieces in product(*axes):
        target = tile[(slice(None), *(where for where, _ in pieces))]
        if any(index is None for _, index in pieces):
            target[...] = value
        else:
            np.copyto(target, _gather(source, batch, [index for _, index in pieces]), "unsafe")
    return tile


def _pieces(
    start: int, stop: int, length: int, border: Border
) -> Iterator[tuple[slice, slice | npt.NDArray[np.int64] | None]]:
    """Parts of start..stop before, inside and after an axis: (place in the tile, what to read)."""
    low, high = min(max(start, 0), stop), max(min(stop, length), start)
    for a, b in ((start, min(stop, 0)), (max(start, length), stop)):
        if a < b:
            place = slice(a - start, b - start)
            if border is Border.CONSTANT:
                yield place, None
            else:
                yield place, map_index(np.arange(a, b), length, border)
    if low < high:
        yield slice(low - start, high - start), slice(low, high)


def _gather(
    source: Source, batch: slice, indices: Sequence[slice | npt.NDArray[np.int64] | None]
) -> Values:
    """Read the range that covers `indices`, then pick from it axis by axis."""
    region = tuple(
        index if isinstance(index, slice) else slice(int(np.min(index)), int(np.max(index)) + 1)  # type: ignore[arg-type]
        for index in indices
    )
    block = source.read(batch, region)
    for axis, index in enumerate(indices, start=1):
        if isinstance(index, np.ndarray):
            block = block.take(index - region[axis - 1].start, axis)
    return block


def tiles(
    shape: Sequence[int], elements: int | None = None, halo: Sequence[int] = ()
) -> Iterator[tuple[slice, Region]]:
    """Cut planes (B, *spatial, C) into (batch, region) of about `elements` values.

    `halo` counts what each plane's tile reads beyond its own size, axis by axis.
    """
    batch, *spatial, inner = shape
    room = max(1, (elements or TILE_ELEMENTS) // max(1, inner))
    sizes = []
    for axis, length in enumerate(reversed(spatial)):
        limit = min(room, max(1, TILE_ROW // inner)) if axis == 0 and len(spatial) > 1 else room
        sizes.append(even(length, limit))
        room = max(1, room // sizes[-1])
    sizes.reverse()
    span = inner * prod(n + more for n, more in zip(sizes, halo or [0] * len(sizes), strict=True))
    room = max(1, min(room, SPAN_ELEMENTS // span))
    for first in range(0, batch, room):
        for corner in product(*(range(0, n, s) for n, s in zip(spatial, sizes, strict=True))):
            yield (
                slice(first, min(batch, first + room)),
                tuple(
                    slice(c, min(n, c + s)) for c, s, n in zip(corner, sizes, spatial, strict=True)
                ),
            )


def even(length: int, limit: int) -> int:
    """The size of pieces of at most `limit` (at least 1) that share `length` evenly."""
    pieces = -(-length // max(1, limit))
    return -(-length // pieces)


def compute(
    node: Source, out: Values, elements: int | None = None, halo: Sequence[int] = ()
) -> None:
    """Write every tile of `node` into `out`, planes of the same shape."""
    for batch, region in tiles(out.shape, elements, halo):
        out[(batch, *region)] = node.read(batch, region)
