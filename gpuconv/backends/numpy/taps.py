"""Weighted sums tap by tap: of all taps, where each must count, or of a few that are not 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.sums import BLOCK_TAPS, PairwiseSum
from gpuconv.backends.numpy.tile import Values


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


@dataclass(frozen=True, slots=True)
class FewTaps:
    """The taps of a kernel that are not 0: what is weighted alike is added before it is multiplied.

    groups : (weight > 0, ((row, column), minus), ...) from the largest weight on, its positive
        taps first.
    """

    shape: tuple[int, int]
    groups: tuple[tuple[float, tuple[tuple[int, int, bool], ...]], ...]

    @classmethod
    def of(cls, kernel: Values) -> FewTaps:
        """Of a kernel (KH, KW)."""
        alike: dict[float, list[tuple[int, int, bool]]] = {}
        for y, x in np.argwhere(kernel).tolist():
            weight = kernel[y, x].item()
            alike.setdefault(abs(weight), []).append((y, x, weight < 0))
        groups = (
            (weight, tuple(sorted(taps, key=itemgetter(2))))
            for weight, taps in sorted(alike.items(), reverse=True)
        )
        return cls(kernel.shape, tuple(groups))

    def __call__(self, tile: Values, inner: int, out: Values) -> None:
        """Σ kernel·tile, (b, h + KH − 1, pitch) to (b, h, pitch), both contiguous, of one dtype.

        Rows are taken for one line: what starts in a row's last columns means nothing.
        """
        count, _, pitch = tile.shape
        pixels, sums = tile.reshape(count, -1), out.reshape(count, -1)
        length = sums.shape[1] - (self.shape[1] - 1) * inner
        sums[:, length:] = 0
        total = sums[:, :length]
        if not self.groups:
            total[...] = 0
        with Scratch() as scratch:
            term = total
            for place, (weight, taps) in enumerate(self.groups):
                if place == 1:
                    term = scratch.take(sums.shape, tile.dtype)[:, :length]
                views = []
                for y, x, _ in taps:
                    first = y * pitch + x * inner
                    views.append(pixels[:, first : first + length])
                # The sum of the group, negated where its first tap is: then all of them are.
                negative, left = taps[0][2], views[0]
                for (_, _, minus), view in zip(taps[1:], views[1:], strict=True):
                    (np.add if minus == negative else np.subtract)(left, view, out=term)
                    left = term
                if weight != 1 or len(taps) == 1:
                    np.multiply(left, tile.dtype.type(weight), out=term)
                if place:
                    (np.subtract if negative else np.add)(total, term, out=total)
                elif negative:
                    np.negative(total, out=total)
