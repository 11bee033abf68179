"""Weighted sums tap by tap: of all taps, where each must count, or of a few that are not 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.sums import BLOCK_TAPS, PairwiseSum
from gpuconv.backends.numpy.tile import Values

MOST_TAPS = 9
"""Weights other than 0. With more, products of matrices are quicker."""


def window_sum(tile: Values, kernel: Values, shape: tuple[int, ...], inner: int) -> Values:
    """Σ kernel·tile tap by tap, (b, h, w·C): rows that fill a block are one sum."""
    _, height, width = shape
    total, group = PairwiseSum(), max(1, BLOCK_TAPS // kernel.shape[1])
    for first in range(0, kernel.shape[0], group):
        part = kernel[first : first + group]
        rows = (tile[:, first + i : first + i + height] for i in range(len(part)))
        views = [view for row in rows for view in shifted(row, part.shape[1], inner, width)]
        total.add(weighted_sum(views, part.ravel()))
    return total.total()


def shifted(tile: Values, count: int, inner: int, width: int) -> list[Values]:
    """Views (b, h, width) of a tile (b, h, pitch), each one pixel further right."""
    return [tile[:, :, j * inner : j * inner + width] for j in range(count)]


def weighted_sum(views: Sequence[Values], weights: Values) -> Values:
    """Σ weights[i]·views[i]. Floats in blocks summed pairwise; every term counts, even 0·Inf."""
    total = PairwiseSum()
    term = np.empty(views[0].shape, weights.dtype)
    for first in range(0, len(views), BLOCK_TAPS):
        block = np.multiply(views[first], weights[first])
        for view, weight in zip(
            views[first + 1 : first + BLOCK_TAPS],
            weights[first + 1 : first + BLOCK_TAPS],
            strict=True,
        ):
            block += np.multiply(view, weight, out=term)
        total.add(block)
    return total.total()


def add_taps(tile: Values, kernel: Values, inner: int, out: Values) -> None:
    """Σ kernel·tile from (b, h + KH − 1, pitch) to (b, h, pitch), both contiguous, of one dtype.

    Taps of 0 do not count, and what is weighted alike is added before it is multiplied. Rows are
    taken for one line: what starts in a row's last columns means nothing.
    """
    count, _, pitch = tile.shape
    reach = (kernel.shape[1] - 1) * inner
    pixels, sums = tile.reshape(count, -1), out.reshape(count, -1)
    length = sums.shape[1] - reach
    sums[:, length:] = 0
    total = sums[:, :length]
    alike: dict[float, list[tuple[bool, Values]]] = {}
    for y, x in np.argwhere(kernel).tolist():
        first = y * pitch + x * inner
        taps = alike.setdefault(abs(kernel[y, x].item()), [])
        taps.append((kernel[y, x] < 0, pixels[:, first : first + length]))
    if not alike:
        total[...] = 0
    with Scratch() as scratch:
        term = scratch.take(sums.shape, tile.dtype)[:, :length]
        for place, (weight, taps) in enumerate(sorted(alike.items(), reverse=True)):
            taps.sort(key=lambda tap: tap[0])
            target = term if place else total
            negative, start = taps[0]
            if len(taps) == 1:
                np.multiply(start, tile.dtype.type(weight), out=target)
            else:
                minus, other = taps[1]
                (np.subtract if minus != negative else np.add)(start, other, out=target)
                for minus, other in taps[2:]:
                    (np.subtract if minus != negative else np.add)(target, other, out=target)
                if weight != 1:
                    np.multiply(target, tile.dtype.type(weight), out=target)
            if place:
                (np.subtract if negative else np.add)(total, term, out=total)
            elif negative:
                np.negative(total, out=total)
