"""Medians and ranks: networks of minima and maxima, counts per level, or selection, by size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuconv.backends.numpy.images import ImageNode, input_ranges, run_images
from gpuconv.backends.numpy.morphology import compared_as
from gpuconv.backends.numpy.neighbours import window_sums
from gpuconv.backends.numpy.network import Network, selection_network
from gpuconv.backends.numpy.scratch import Scratch, pitch
from gpuconv.backends.numpy.tile import Region, Values, even, load, load_into
from gpuconv.dtypes import is_float, limits, saturate
from gpuconv.plan import cpu
from gpuconv.plan.filters import RankPlan

TILE_ELEMENTS = 1 << 19
"""Pixels of a tile that a network takes band by band."""

BAND_BYTES = 384 << 10
"""Most that a band of a tile takes in one of a network's values."""

NETWORK_BYTES = 3 << 20
"""Of all of a network's values."""

TILE_BYTES = 1 << 22
"""All shifted copies of a tile whose windows are gathered."""


def run(plan: RankPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a RankPlan."""
    if plan.on_cpu == "network":
        run_images(NetworkNode, plan, inputs, outputs, TILE_ELEMENTS)
    else:
        itemsize = max(2, plan.images.dtype.itemsize)
        elements = max(64, TILE_BYTES // (itemsize * cpu.NETWORK_TAPS))
        run_images(RankNode, plan, inputs, outputs, elements)


class NetworkNode(ImageNode[RankPlan]):
    """A RankPlan of a small window over a source of its dtype."""

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """The wanted rank of every window, in bands of equally many rows."""
        plan, inner = self.plan, self.shape[-1]
        sizes = [w.size for w in plan.windows]
        network = selection_network(*sizes, plan.rank)
        dtype = compared_as(plan.images.dtype)
        (top, _), (left, right) = input_ranges(plan.windows, region)
        count, height, width = out.shape
        row = (right - left) * inner
        line = pitch(row, dtype)
        room = min(BAND_BYTES, NETWORK_BYTES // (network.held + 1))
        rows = even(height, max(1, room // (count * line * dtype.itemsize) - sizes[0] + 1))
        convert = not is_float(self.dtype) and limits(self.dtype) != limits(dtype)
        with Scratch() as scratch:
            tile = scratch.take((count, rows + sizes[0] - 1, line), dtype)
            tile[:, :, row:] = 0
            pixels = tile[:, :, :row].reshape(*tile.shape[:2], right - left, inner)
            compare, found = _bind(network, tile, inner, scratch)
            found = found[:, :rows, :width]
            # The last band is moved up, to be as high as the others.
            for y in (*range(0, height - rows, rows), height - rows):
                start, stop = (top + y, left), (top + y + tile.shape[1], right)
                border, value = plan.images.border, plan.images.value
                load_into(pixels, self.source, batch, start, stop, border, value)
                compare()
                band = saturate(found, self.dtype) if convert else found
                np.copyto(out[:, y : y + rows], band, "unsafe")


def _bind(
    network: Network, tile: Values, inner: int, scratch: Scratch
) -> tuple[Callable[[], None], Values]:
    """(what carries the network out over a tile (b, rows, pitch), where its result will be).

    Rows are taken for one line: what starts in a row's last columns means nothing.
    """
    count, rows, line = tile.shape
    lines: dict[int, Values] = {0: tile.reshape(count, -1)}
    spare: list[Values] = []
    length = rows * line
    bound = []
    whole = lines[0]
    for step in network.steps:
        n = length - step.reach[0] * line - step.reach[1] * inner
        first, second = (
            lines[value][:, y * line + x * inner : y * line + x * inner + n]
            for value, y, x in (step.first, step.second)
        )
        whole = spare.pop() if spare else scratch.take((count, length), tile.dtype)
        bound.append((np.maximum if step.larger else np.minimum, first, second, whole[:, :n]))
        lines[step.into] = whole
        spare += [lines.pop(value) for value in step.free]

    def compare() -> None:
        for ufunc, first, second, out in bound:
            ufunc(first, second, out=out)

    return compare, whole.reshape(tile.shape)


class RankNode(ImageNode[RankPlan]):
    """A RankPlan of a large window over a source of its dtype."""

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """The wanted rank of every window."""
        plan, images = self.plan, self.plan.images
        (top, bottom), (left, right) = input_ranges(plan.windows, region)
        start, stop = (top, left), (bottom, right)
        dtype = compared_as(images.dtype)
        tile = load(self.source, batch, start, stop, images.border, images.value, dtype)
        size = [w.size for w in plan.windows]
        if plan.on_cpu == "levels":
            found = _by_counting(tile, size, plan.rank).reshape(out.shape)
        else:
            found = _by_selection(_window_views(tile, size), plan.rank)
        if not is_float(self.dtype):
            found = saturate(found, self.dtype)
        np.copyto(out, found, "unsafe")


def _window_views(tile: Values, size: Sequence[int]) -> list[Values]:
    """One view (b, h, w·C) of the tile for every place in the window."""
    count, rows, columns, inner = tile.shape
    height, width = rows - size[0] + 1, (columns - size[1] + 1) * inner
    flat = tile.reshape(count, rows, columns * inner)
    return [
        flat[:, i : i + height, j * inner : j * inner + width]
        for i in range(size[0])
        for j in range(size[1])
    ]


def _by_counting(tile: Values, size: Sequence[int], rank: int) -> Values:
    """8-bit pixels: the rank is the number of levels at which too few pixels are as dark."""
    low, high = int(tile.min()), int(tile.max())
    counts = np.uint16 if size[0] * size[1] < 2**16 else np.uint32
    height, width = (n - s + 1 for n, s in zip(tile.shape[1:3], size, strict=True))
    found = np.full((tile.shape[0], height, width, tile.shape[3]), low, tile.dtype)
    for level in range(low, high):
        darker = (tile <= level).astype(counts)
        middle = np.empty((tile.shape[0], height, *tile.shape[2:]), counts)
        window_sums(darker, size[0], 1, middle)
        inside = np.empty(found.shape, counts).swapaxes(1, 2)
        window_sums(middle.swapaxes(1, 2), size[1], 1, inside)
        inside = inside.swapaxes(1, 2)
        found += np.less_equal(inside, rank)
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
