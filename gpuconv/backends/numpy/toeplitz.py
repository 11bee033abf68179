"""Weighted sums over neighbours as matrix products with banded (Toeplitz) matrices.

B sums of neighbouring windows of K taps read P = B + K − 1 values between them. A matrix with
the taps on a band makes all B from the P, and BLAS is so fast that its zeros cost less than the
passes over memory that it saves:

    [ a b c 0 ]   [ x0 ]
    [ 0 a b c ] · [ x1 ]    B = 2, K = 3
                  [ x2 ]
                  [ x3 ]

Rows of a tile are multiplied from the left, columns from the right. A window takes both at once:
its tile is laid out anew, every row followed by copies of itself that are shifted by a column
each. Every product stays so small that OpenBLAS multiplies it as it lies, unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuconv.backends.numpy.scratch import GAP, Scratch, room
from gpuconv.backends.numpy.sums import PairwiseSum
from gpuconv.backends.numpy.threads import wide_vectors
from gpuconv.backends.numpy.tile import Values, even

PRODUCT = 990_000
"""Multiplications of one product, M·N·K. OpenBLAS packs the matrices of products above 10^6."""

MOST_PHASES = 6
"""Of a window's sums. Behind every row of a tile there are zeros for the last."""

COLUMNS = 2048
"""Most columns that a window's layout is made for."""

LAYOUT_BYTES = 1_800_000
"""Of a window's layout: about a core's second cache. Shorter calls of several threads would wait
for each other, as only one runs Python at a time."""


def band(taps: Values, block: int, step: int = 1) -> Values:
    """(block, block + (K − 1)·step): row b holds the taps from column b on, `step` apart."""
    matrix = np.zeros((block, block + (len(taps) - 1) * step), taps.dtype)
    for b in range(block):
        matrix[b, b : b + (len(taps) - 1) * step + 1 : step] = taps
    return matrix


def _parts(taps: Values, chain: int) -> list[tuple[int, Values]]:
    """Taps in parts of at most `chain`, each with the place of its first."""
    size = even(len(taps), chain)
    return [(first, taps[first : first + size]) for first in range(0, len(taps), size)]


def _view(array: Values, shape: Sequence[int], strides: Sequence[int], first: int) -> Values:
    """A view of a contiguous array. `strides` and `first` count elements."""
    item = array.itemsize
    steps = [s * item for s in strides]
    view: Values = np.ndarray(tuple(shape), array.dtype, array, first * item, steps)
    return view


SumPart = Callable[[Values, int, Values, Values], None]
"""(tile, first, matrix, out): one part of sums, whose first tap lies `first` places further on."""


def _sum_parts(
    sum_part: SumPart, tile: Values, parts: Sequence[tuple[int, Values]], out: Values
) -> None:
    """All parts of sums, added pairwise."""
    if len(parts) == 1:
        sum_part(tile, *parts[0], out)
        return
    total = PairwiseSum()
    with Scratch() as scratch:
        for first, matrix in parts:
            part = scratch.take(out.shape, out.dtype)
            sum_part(tile, first, matrix, part)
            total.add(part)
        out[...] = total.total()


class RowSums:
    """Weighted sums along H; parts of at most `chain` terms are added pairwise."""

    def __init__(self, taps: Values, chain: int) -> None:
        block = 4 if len(taps) < 32 else 8
        self.parts = [(first, band(part, block)) for first, part in _parts(taps, chain)]

    def __call__(self, tile: Values, out: Values) -> None:
        """Σ taps[i]·tile[:, y + i], from (b, h + K − 1, pitch) to (b, h, n ≤ pitch)."""
        _sum_parts(_sum_rows, tile, self.parts, out)


def _sum_rows(tile: Values, first: int, matrix: Values, out: Values) -> None:
    """One part, whose first tap lies on row `first` of the tile."""
    (count, rows, row), (_, height, width) = tile.shape, out.shape
    block, reach = matrix.shape
    blocks, tail = divmod(height, block)
    step = _columns(width, PRODUCT // (block * reach))
    for x in range(0, width, step):
        n = min(step, width - x)
        if blocks:
            bands = _view(
                tile,
                (count, blocks, reach, n),
                (rows * row, block * row, row, 1),
                first * row + x,
            )
            target = out[:, : height - tail, x : x + n].reshape(count, blocks, block, n)
            np.matmul(matrix, bands, out=target)
        if tail:
            top, span = first + height - tail, reach - block + tail
            below = tile[:, top : top + span, x : x + n]
            np.matmul(matrix[:tail, :span], below, out=out[:, height - tail :, x : x + n])


def _columns(width: int, limit: int) -> int:
    """Pieces of at most `limit` columns that share `width` evenly, in whole vectors."""
    size = even(width, max(16, limit))
    return min(width, -(-size // 16) * 16)


class ColumnSums:
    """Weighted sums along W over `inner` interleaved channels, in parts as `RowSums`."""

    def __init__(self, taps: Values, inner: int, chain: int) -> None:
        self.inner = inner
        block = 16 if inner == 1 else 32
        self.parts = [
            (first * inner, np.ascontiguousarray(band(part, block, inner).T))
            for first, part in _parts(taps, chain)
        ]

    def __call__(self, tile: Values, out: Values) -> None:
        """Σ taps[j]·tile[:, :, x + j·inner], from (b, h, pitch) to (b, h, w·inner)."""
        _sum_parts(_sum_columns, tile, self.parts, out)


def _sum_columns(tile: Values, first: int, matrix: Values, out: Values) -> None:
    """One part, whose first tap lies on column `first` of the tile."""
    (count, rows, row), (_, height, width) = tile.shape, out.shape
    reach, block = matrix.shape
    blocks, tail = divmod(width, block)
    step = max(1, PRODUCT // (reach * block))
    for y in range(0, height, step):
        n = min(step, height - y)
        if blocks:
            bands = _view(
                tile, (count, blocks, n, reach), (rows * row, block, row, 1), y * row + first
            )
            target = out[:, y : y + n, : width - tail].reshape(count, n, blocks, block)
            np.matmul(bands, matrix, out=target.transpose(0, 2, 1, 3))
        if tail:
            left, span = first + width - tail, reach - block + tail
            beside = tile[:, y : y + n, left : left + span]
            np.matmul(beside, matrix[:span, :tail], out=out[:, y : y + n, width - tail :])


RATES = {True: (75, 140, 156, 172), False: (32, 57, 72, 86)}
"""Operations a nanosecond of products with 1-3, 4-7, 8-11 and more rows: with AVX-512 and without,
as measured on a Zen 5."""


def _cost(count: int, height: int, width: int, chain: int, phases: int, block: int) -> float:
    """Nanoseconds an output of windows cut so: products, copies, additions."""
    shifts = -(-width // phases)
    products = 2 * count * phases * shifts * (block + height - 1)
    sums = phases * -(-shifts // max(1, chain // height))
    additions = count * (0.3 + 0.15 * sums) if sums > 1 else 0
    rate = RATES[wide_vectors()][min(3, count * phases * block // 4)]
    return products / rate + 0.1 * shifts + additions


class WindowSums:
    """Weighted sums over windows, of one kernel or of several at once.

    Each sum is made of `phases`: one over every second (or third, …) column of the window, that
    many of which share a copy of the tile. Parts of at most `chain` terms are added pairwise.
    """

    def __init__(self, kernels: Values, inner: int, chain: int) -> None:
        count, height, width = kernels.shape
        self.count, self.height, self.inner = count, height, inner
        self.phases, self.block = min(
            ((phases, block) for phases in range(1, MOST_PHASES + 1) for block in (2, 4, 8)),
            key=lambda choice: _cost(count, height, width, chain, *choice),
        )
        shifts = -(-width // self.phases)
        padded = np.zeros((count, height, shifts * self.phases), kernels.dtype)
        padded[:, :, :width] = kernels
        phased = padded.reshape(count, height, shifts, self.phases).transpose(0, 3, 1, 2)
        self.group = even(shifts, max(1, chain // height))
        self.parts = [
            (first, self._matrix(phased[..., first : first + self.group]))
            for first in range(0, shifts, self.group)
        ]

    def _matrix(self, taps: Values) -> Values:
        """(count, phases, B, P, shifts) of taps (count, phases, KH, shifts)."""
        count, phases, height, shifts = taps.shape
        block = self.block
        matrix = np.zeros((count, phases, block, block + height - 1, shifts), taps.dtype)
        for b in range(block):
            matrix[:, :, b, b : b + height] = taps
        return matrix

    def __call__(self, tile: Values, outs: Sequence[Values]) -> None:
        """Fill outs (b, h, w·inner) from a tile (b, h + KH − 1, pitch).

        Behind each row of the tile lie zeros, those of `phases` − 1 pixels at least.
        """
        _, height, width = outs[0].shape
        reach, more = self.block + self.height - 1, (self.phases - 1) * self.inner
        factors = self.count * self.phases * self.block * reach * self.group
        step = _columns(width, min(COLUMNS, PRODUCT // factors - more))
        held = 0 if len(self.parts) == self.phases == 1 else len(self.parts)
        row = tile.itemsize * (step + more) * (self.group + held * self.count * self.phases)
        most = (min(LAYOUT_BYTES, room()) - 3 * GAP) // row - self.height + 1
        rows = max(self.block, min(128, most) // self.block * self.block)
        for top in range(0, height, rows):
            for left in range(0, width, step):
                place = slice(top, top + rows), slice(left, left + step)
                self._fill(tile, top, left, [out[:, *place] for out in outs])

    def _fill(self, tile: Values, top: int, left: int, outs: Sequence[Values]) -> None:
        """The outputs from (top, left) on, in as many rows and columns as `outs` have."""
        height = outs[0].shape[1]
        tail = height % self.block
        for first, last, block in (
            (0, height - tail, self.block),
            (height - tail, height, tail),
        ):
            if first < last:
                blocks = [
                    out[:, first:last].reshape(out.shape[0], -1, block, out.shape[2])
                    for out in outs
                ]
                self._fill_blocks(tile, top + first, left, blocks)

    def _fill_blocks(self, tile: Values, top: int, left: int, outs: Sequence[Values]) -> None:
        """Outputs (b, blocks, B, n)."""
        count, blocks, block, width = outs[0].shape
        phases, inner = self.phases, self.inner
        columns = width + (phases - 1) * inner
        rows = self.count * phases * block
        shape = (count, blocks, rows, columns)
        if phases == 1 and len(self.parts) == 1:
            self._product(tile, top, left, 0, outs)
            return
        with Scratch() as scratch:
            if len(self.parts) == 1:
                sums = scratch.take(shape, tile.dtype)
                self._product(tile, top, left, 0, [sums])
            else:
                total = PairwiseSum()
                for part in range(len(self.parts)):
                    product = scratch.take(shape, tile.dtype)
                    self._product(tile, top, left, part, [product])
                    total.add(product)
                sums = total.total()
            for kernel, out in enumerate(outs):
                first = kernel * phases * block
                terms = [
                    sums[
                        :,
                        :,
                        first + t * block : first + (t + 1) * block,
                        t * inner : t * inner + width,
                    ]
                    for t in range(phases)
                ]
                if phases == 1:
                    out[...] = terms[0]
                for t in range(1, phases):
                    np.add(out if t > 1 else terms[0], terms[t], out=out)

    def _product(
        self, tile: Values, top: int, left: int, part: int, outs: Sequence[Values]
    ) -> None:
        """One part of the sums (b, blocks, rows, columns): all rows, or those of each kernel."""
        first, whole = self.parts[part]
        count, blocks, rows, columns = outs[0].shape
        block = rows * len(outs) // (self.count * self.phases)
        reach, shifts = block + self.height - 1, whole.shape[-1]
        matrices = whole[:, :, :block, :reach].reshape(len(outs), rows, reach * shifts)
        (_, tile_rows, row), span = tile.shape, blocks * block + self.height - 1
        step = self.phases * self.inner
        line = shifts * columns
        with Scratch() as scratch:
            layout = scratch.take((count, span, shifts, columns), tile.dtype)
            shifted = _view(
                tile,
                layout.shape,
                (tile_rows * row, row, step, 1),
                top * row + left + first * step,
            )
            np.copyto(layout, shifted)
            bands = _view(
                layout,
                (count, blocks, reach * shifts, columns),
                (span * line, block * line, columns, 1),
                0,
            )
            for matrix, out in zip(matrices, outs, strict=True):
                np.matmul(matrix, bands, out=out)
