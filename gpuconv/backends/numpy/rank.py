"""Medians and ranks: pruned sorting networks, counts per level, or selection, by window size.

Networks: Batcher's odd-even merge sort (1968), cut back to what the wanted rank depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gpuconv.backends.numpy.box import window_sums
from gpuconv.backends.numpy.images import ImageNode, run_images
from gpuconv.backends.numpy.linear import shifted_columns
from gpuconv.backends.numpy.tile import Region, Values, load
from gpuconv.dtypes import FLOAT32, is_float, saturate
from gpuconv.plan.filters import RankPlan

NETWORK_TAPS = 225
"""Largest window sorted by a network."""

TILE_BYTES = 1 << 22
"""All the window's shifted copies of one tile."""

Comparator = tuple[int, int, bool, bool]
"""(i, j, keep the smaller in i, keep the larger in j)."""


def run(plan: RankPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a RankPlan."""
    itemsize = max(2, plan.images.dtype.itemsize)
    elements = max(64, TILE_BYTES // (itemsize * min(plan.count, NETWORK_TAPS)))
    run_images(RankNode, plan, inputs, outputs, elements)


@lru_cache(maxsize=64)
def selection_network(count: int, rank: int) -> tuple[Comparator, ...]:
    """Comparators that leave the `rank`-th smallest of `count` values in place `rank`."""
    pairs = []
    step = 1
    while step < count:
        gap = step
        while gap >= 1:
            for start in range(gap % step, count - gap, 2 * gap):
                for i in range(start, min(start + gap, count - gap)):
                    if i // (2 * step) == (i + gap) // (2 * step):
                        pairs.append((i, i + gap))
            gap //= 2
        step *= 2
    needed = {rank}
    network = []
    for i, j in reversed(pairs):
        low, high = i in needed, j in needed
        if low or high:
            network.append((i, j, low, high))
            needed |= {i, j}
    return tuple(reversed(network))


class RankNode(ImageNode[RankPlan]):
    """A RankPlan over a source of its dtype."""

    def read(self, batch: slice, region: Region) -> Values:
        """The wanted rank of every window."""
        plan, images = self.plan, self.plan.images
        ranges = [w.input_range(r.start, r.stop) for w, r in zip(plan.windows, region, strict=True)]
        start, stop = zip(*ranges, strict=True)
        half_float = is_float(images.dtype) and images.dtype.itemsize == 2
        dtype = FLOAT32 if half_float else images.dtype
        tile = load(self.source, batch, start, stop, images.border, images.value, dtype)
        size = [w.size for w in plan.windows]
        if plan.count <= NETWORK_TAPS:
            found = _by_network(_window_views(tile, size), plan.rank)
        elif not is_float(dtype) and dtype.itemsize == 1:
            found = _by_counting(tile, size, plan.rank)
        else:
            found = _by_selection(_window_views(tile, size), plan.rank)
        found = found.reshape(tile.shape[0], *(r.stop - r.start for r in region), -1)
        if is_float(self.dtype):
            return found.astype(self.dtype, copy=False)
        return saturate(found, self.dtype)


def _window_views(tile: Values, size: Sequence[int]) -> list[Values]:
    """One view (b, h, w·C) of the tile for every place in the window."""
    height = tile.shape[1] - size[0] + 1
    return [v for i in range(size[0]) for v in shifted_columns(tile[:, i : i + height], size[1])]


def _by_network(views: list[Values], rank: int) -> Values:
    """Minima and maxima; NaN meets every path to the output."""
    values = list(views)
    owned: set[int] = set()
    spare: list[Values] = []

    def buffer() -> Values:
        return spare.pop() if spare else np.empty(views[0].shape, views[0].dtype)

    for i, j, low, high in selection_network(len(views), rank):
        first, second = values[i], values[j]
        if low:
            values[i] = np.minimum(first, second, out=buffer())
        if high:
            values[j] = np.maximum(first, second, out=buffer())
        spare.extend(v for place, v in ((i, first), (j, second)) if place in owned)
        owned.update((i, j))
    return values[rank]


def _by_counting(tile: Values, size: Sequence[int], rank: int) -> Values:
    """8-bit pixels: the rank is the number of levels at which too few pixels are as dark."""
    low, high = int(tile.min()), int(tile.max())
    counts = np.uint16 if size[0] * size[1] < 2**16 else np.uint32
    height, width = (n - s + 1 for n, s in zip(tile.shape[1:3], size, strict=True))
    found = np.full((tile.shape[0], height, width, tile.shape[3]), low, tile.dtype)
    for level in range(low, high):
        darker = (tile <= level).astype(counts)
        inside = window_sums(window_sums(darker, size[0], 1), size[1], 2)
        found += inside <= rank
    return found


def _by_selection(views: list[Values], rank: int) -> Values:
    """Windows gathered row by row and partially sorted (Hoare's selection)."""
    count = len(views)
    result: Values = np.empty(views[0].shape, views[0].dtype)
    step = max(1, TILE_BYTES // (count * result.itemsize))
    for row in np.ndindex(result.shape[0], result.shape[1]):
        for x in range(0, result.shape[2], step):
            windows = np.stack([v[row][x : x + step] for v in views], axis=1)
            # NaN sorts last: the last place tells whether the window holds one.
            windows.partition((rank, count - 1), axis=1)
            last = windows[:, -1]
            result[row][x : x + step] = np.where(last != last, last, windows[:, rank])
    return result
