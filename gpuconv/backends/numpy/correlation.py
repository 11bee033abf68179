"""Cross-correlation of feature maps, region by region.

gemm: the windows of a tile are gathered into columns and multiplied by the weights (BLAS).
direct: tap after tap, the whole tile is multiplied by one weight a channel and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpuconv.backends.numpy.activation import activate, activate_integers
from gpuconv.backends.numpy.sums import PairwiseSum
from gpuconv.backends.numpy.tile import ArraySource, Region, Values, even, load
from gpuconv.backends.numpy.window_tiles import boxes, part_sizes, tiles
from gpuconv.border import Border
from gpuconv.dtypes import (
    FLOAT32,
    FLOAT64,
    INT64,
    DType,
    is_float,
    is_integer_type,
    magnitude,
    saturate,
)
from gpuconv.plan.conv import Activation
from gpuconv.window import AxisWindow

BLOCK_TAPS = 128
"""Taps summed by one matrix product, one after another, at most; blocks are summed pairwise."""

BLOCK_ROOT = 3
"""Taps of a block for each √T of all T: its error stays below the contract's 2·√T·eps·Σ|x||w|
whatever the data, as B terms added one after another err by at most B/2 eps."""

EXACT_BLOCK_TAPS = 512
"""The same where no sum is rounded."""

DIRECT_TAPS = 16
"""Taps added one after another by shifted multiply-adds."""

PART_TAPS = 512
"""Taps of all channels gathered at once."""

COLUMN_ELEMENTS = 1 << 18
"""Elements of a matrix of gathered windows."""

SUM_ELEMENTS = 1 << 18
"""Sums of one tile."""

DIRECT_ELEMENTS = 1 << 16
"""Sums of one tile of shifted multiply-adds, which passes over them once a tap."""

LOADED_ELEMENTS = 1 << 19
"""Input elements of one tile."""

WEIGHT_ELEMENTS = 1 << 21
"""Weights kept converted; more are converted tile by tile."""

LEAST_POSITIONS = 64
"""Positions of one image that are worth a matrix product of their own."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Number types of a convolution: of operands and block sums, and of sums of blocks."""

    work: DType
    total: DType
    block: int


def choose_numbers(input: DType, weight: DType, sums: DType, taps: int) -> Numbers:
    """Float sums are blocked; integer ones use the fastest type that holds a block exactly."""
    if is_float(input):
        return Numbers(sums, sums, min(BLOCK_TAPS, ceil(BLOCK_ROOT * sqrt(taps))))
    largest = magnitude(input) * magnitude(weight)
    for work, exact in ((FLOAT32, 2**24), (FLOAT64, 2**53)):
        block = min(exact // largest, EXACT_BLOCK_TAPS)
        if block >= min(taps, BLOCK_TAPS):
            fits = [t for t, n in ((work, exact), (FLOAT64, 2**53)) if taps * largest <= n]
            return Numbers(work, fits[0] if fits else INT64, block)
    return Numbers(INT64, INT64, EXACT_BLOCK_TAPS)


@dataclass(frozen=True, slots=True)
class Maps:
    """An input feature map, its channels split into groups, and what surrounds it.

    `array` is (N, G, C, *spatial), or (N, *spatial, G, C) with `channels_last`.
    """

    array: Values
    channels_last: bool
    border: Border = Border.CONSTANT
    value: Any = 0

    def load(
        self,
        batch: slice,
        groups: slice,
        channels: slice,
        start: Sequence[int],
        stop: Sequence[int],
        dtype: DType,
    ) -> Values:
        """(b, g, c, *span), laid out in memory as the array is."""
        inner = (groups.start, channels.start), (groups.stop, channels.stop)
        if self.channels_last:
            start, stop = (*start, *inner[0]), (*stop, *inner[1])
        else:
            start, stop = (*inner[0], *start), (*inner[1], *stop)
        source = ArraySource(self.array[..., np.newaxis])
        tile = load(source, batch, start, stop, self.border, self.value, dtype)[..., 0]
        return np.moveaxis(tile, (-2, -1), (1, 2)) if self.channels_last else tile


@dataclass(frozen=True, slots=True)
class Ending:
    """What happens to sums (..., O): the bias, the activation, the dtype of the result."""

    bias: Values | None
    activation: Activation
    dtype: DType
    exact: bool

    def of_channels(self, part: slice) -> Ending:
        """The ending of some output channels."""
        bias = None if self.bias is None else self.bias[part]
        return Ending(bias, self.activation, self.dtype, self.exact)

    def apply(self, sums: Values) -> Values:
        """Results, to be converted to `dtype` as they are. May overwrite the sums."""
        if self.exact and (self.bias is not None or self.activation is not None):
            sums = sums.astype(np.int64)
        if self.bias is not None:
            sums += self.bias
        if not self.exact:
            return activate(sums, self.activation)
        sums = activate_integers(sums, self.activation)
        return saturate(sums, self.dtype) if is_integer_type(self.dtype) else sums


class Correlation:
    """Some output channels of a convolution: a source of planes (N, *spatial, O).

    weight : (G, O, C, *kernel) of the groups `groups` of `maps`.
    windows : their stride, dilation and first pad, one a spatial axis.
    last : whether results lie in memory with channels last.
    """

    def __init__(
        self,
        maps: Maps,
        groups: slice,
        weight: Values,
        windows: Sequence[AxisWindow],
        outputs: Sequence[int],
        numbers: Numbers,
        ending: Ending,
        algorithm: str,
        last: bool,
    ) -> None:
        self.dtype = ending.dtype
        self._maps, self._groups, self._weight = maps, groups, weight
        self._windows, self._numbers, self._ending = windows, numbers, ending
        self._algorithm = algorithm
        self._last = last if algorithm == "gemm" else maps.channels_last
        group_count, outs, channels = weight.shape[:3]
        self.shape = (maps.array.shape[0], *outputs, group_count * outs)

        self._pointwise = all(w.size == w.stride == 1 for w in windows)
        sizes = part_sizes(windows, PART_TAPS, group_count)
        self._box = [
            AxisWindow(n, w.stride, w.dilation) for n, w in zip(sizes, windows, strict=True)
        ]
        reach = prod(w.extent for w in self._box) * group_count
        step = even(channels, min(PART_TAPS // prod(sizes), LOADED_ELEMENTS // reach))
        self._parts = [
            (slice(c, min(channels, c + step)), box)
            for c in range(0, channels, step)
            for box in boxes(weight.shape[3:], sizes)
        ]
        self._inputs = max(1, LOADED_ELEMENTS // (group_count * step))
        columns = COLUMN_ELEMENTS // (group_count * step * prod(sizes))
        sums = SUM_ELEMENTS // (group_count * outs)
        direct = DIRECT_ELEMENTS // (group_count * outs)
        self._outputs = max(1, min(columns, sums) if algorithm == "gemm" else direct)
        self._matrices: list[Values | None] = [None] * len(self._parts)

    def read(self, batch: slice, region: Region) -> Values:
        """Results (b, *region, O)."""
        spans = (r.stop - r.start for r in (batch, *region))
        result = np.empty((*spans, self.shape[-1]), self.dtype)
        self.fill(result, batch, region)
        return result

    def fill(self, out: Values, batch: slice, region: Region) -> None:
        """Write the results of a region into `out` (b, *region, O)."""
        origin = [r.start for r in (batch, *region)]
        cells = tiles(batch, region, self._box, outputs=self._outputs, inputs=self._inputs)
        sums = self._gemm if self._algorithm == "gemm" else self._direct
        for images, tile in cells:
            place = tuple(
                slice(r.start - o, r.stop - o) for r, o in zip((images, *tile), origin, strict=True)
            )
            out[place] = self._ending.apply(sums(images, tile))

    def _load(self, batch: slice, region: Region, channels: slice, box: Region) -> Values:
        """What a tile reads through some taps: (b, g, c, *span)."""
        start, stop = [], []
        for w, outputs, taps in zip(self._windows, region, box, strict=True):
            part = AxisWindow(taps.stop - taps.start, w.stride, w.dilation)
            start.append(outputs.start * w.stride - w.pad[0] + taps.start * w.dilation)
            stop.append(start[-1] + part.input_span(outputs.stop - outputs.start))
        return self._maps.load(batch, self._groups, channels, start, stop, self._numbers.work)

    def _empty(self, batch: int, outputs: Sequence[int]) -> Values:
        """Room for products (b, g, o, *outputs)."""
        inner = self._weight.shape[:2]
        if self._last:
            memory = np.empty((batch, *outputs, *inner), self._numbers.work)
            return np.moveaxis(memory, (-2, -1), (1, 2))
        return np.empty((batch, *inner, *outputs), self._numbers.work)

    def _gemm(self, batch: slice, region: Region) -> Values:
        """Sums (b, *region, O) as products of weights with gathered windows."""
        spans = [r.stop - r.start for r in (batch, *region)]
        sums = PairwiseSum()
        for number, (channels, box) in enumerate(self._parts):
            columns = self._columns(self._load(batch, region, channels, box), spans[1:], box)
            matrix = self._matrix(number)
            taps = matrix.shape[-1]
            step = even(taps, self._numbers.block)
            for k in range(0, taps, step):
                block = self._empty(len(columns), columns.shape[-1:])
                np.matmul(matrix[..., k : k + step], columns[..., k : k + step, :], out=block)
                sums.add(block.astype(self._numbers.total, copy=False))
        total = sums.total()
        if len(total) == spans[0]:
            return np.moveaxis(total.reshape(spans[0], -1, *spans[1:]), 1, -1)
        return np.moveaxis(total.reshape(-1, *spans), 0, -1)

    def _columns(self, tile: Values, outputs: Sequence[int], box: Region) -> Values:
        """The windows of a tile (b, g, c, *span) as columns: (b, g, K, P), or (1, g, K, b·P)."""
        batch, groups, channels = tile.shape[:3]
        taps = [t.stop - t.start for t in box]
        alone = prod(outputs) >= LEAST_POSITIONS or batch == 1
        if self._pointwise and alone and not self._maps.channels_last:
            return _ready(tile.reshape(batch, groups, channels, -1))
        steps = tile.strides[3:]
        windows = as_strided(
            tile,
            (batch, groups, channels, *taps, *outputs),
            (
                *tile.strides[:3],
                *(s * w.dilation for s, w in zip(steps, self._windows, strict=True)),
                *(s * w.stride for s, w in zip(steps, self._windows, strict=True)),
            ),
            writeable=False,
        )
        rank = len(taps)
        kernel, places = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
        count = channels * prod(taps)
        if self._maps.channels_last:
            rows = np.ascontiguousarray(windows.transpose(1, 0, *places, *kernel, 2))
            return rows.reshape(1, groups, -1, count).swapaxes(-1, -2)
        rows = np.ascontiguousarray(windows.transpose(1, 2, *kernel, 0, *places))
        return rows.reshape(1, groups, count, -1)

    def _matrix(self, number: int) -> Values:
        """The weights of a part (g, o, K), taps in the order of `_columns`."""
        known = self._matrices[number]
        if known is not None:
            return known
        channels, box = self._parts[number]
        part = self._weight[(slice(None), slice(None), channels, *box)]
        if self._maps.channels_last:
            part = np.moveaxis(part, 2, -1)
        matrix = part.reshape(*part.shape[:2], -1).astype(self._numbers.work, copy=False)
        matrix = _ready(matrix)
        if self._weight.size <= WEIGHT_ELEMENTS:
            self._matrices[number] = matrix
        return matrix

    def _direct(self, batch: slice, region: Region) -> Values:
        """Sums (b, *region, O), tap after tap over whole planes."""
        numbers, spans = self._numbers, [r.stop - r.start for r in (batch, *region)]
        sums = PairwiseSum()
        block = products = self._empty(spans[0], spans[1:])
        limit, done = min(DIRECT_TAPS, numbers.block), 0
        for channels, box in self._parts:
            tile = self._load(batch, region, channels, box)
            weight = self._weight[:, :, channels, *box].astype(numbers.work, copy=False)
            for c, *tap in np.ndindex(weight.shape[2:]):
                seen = tile[:, :, c : c + 1, *self._seen(tap, spans[1:])]
                scale = weight[:, :, c, *tap].reshape(*weight.shape[:2], *[1] * len(tap))
                if done % limit:
                    block += np.multiply(seen, scale, out=products)
                else:
                    if done:
                        sums.add(block.astype(numbers.total, copy=False))
                    block = np.multiply(seen, scale, out=self._empty(spans[0], spans[1:]))
                done += 1
        sums.add(block.astype(numbers.total, copy=False))
        return np.moveaxis(sums.total().reshape(spans[0], -1, *spans[1:]), 1, -1)

    def _seen(self, tap: Sequence[int], outputs: Sequence[int]) -> list[slice]:
        """What every output sees through a tap of a loaded part."""
        return [
            slice(t * w.dilation, t * w.dilation + (n - 1) * w.stride + 1, w.stride)
            for t, w, n in zip(tap, self._windows, outputs, strict=True)
        ]


def _ready(matrices: Values) -> Values:
    """Matrices as BLAS takes them; copied only if they lie otherwise."""
    (rows, columns), (m, n), item = matrices.strides[-2:], matrices.shape[-2:], matrices.itemsize
    row_major, column_major = (columns, rows, n), (rows, columns, m)
    fits = any(
        inner == item and outer >= item * length
        for inner, outer, length in (row_major, column_major)
    )
    return matrices if fits and matrices.flags.aligned else np.ascontiguousarray(matrices)
