"""Weighted sums over images: dense or separable stencils, magnitudes, unsharp masks.

Sums in float32 and float64 are matrix products (`toeplitz`), for integer images exact ones. Sums
in wider words, and those of a tile that holds NaN or Inf, which a product would spread, are taken
tap by tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from gpuconv.backends.numpy.exact import (
    Words,
    drop_bits,
    pixel_half,
    rounded,
    whole_magnitude,
    whole_unsharp,
)
from gpuconv.backends.numpy.images import ImageNode, input_ranges, run_images, stage
from gpuconv.backends.numpy.passes import two_passes
from gpuconv.backends.numpy.scratch import Scratch, pitch
from gpuconv.backends.numpy.spectra import SpectralSums, tile_sizes
from gpuconv.backends.numpy.sums import PairwiseSum, all_finite
from gpuconv.backends.numpy.taps import FewTaps, shifted, weighted_sum, window_sum
from gpuconv.backends.numpy.tile import Region, Source, Values, load_into
from gpuconv.backends.numpy.toeplitz import ColumnSums, RowSums, WindowSums
from gpuconv.dtypes import (
    FLOAT32,
    DType,
    is_float,
    limits,
    saturate,
)
from gpuconv.plan.cpu import chain_of, in_one_pass
from gpuconv.plan.filters import LinearPlan
from gpuconv.quantize import Stencil

TILE_BYTES = 1 << 20
"""Of a tile's sums."""

GATHERED = 1 << 13
"""Pixels of all windows of an image that are few enough to be gathered."""

FEW_ELEMENTS = 1 << 19
"""Of a tile whose few taps are summed in int16, or of the tiles of two such sums."""

DENSE_ELEMENTS = 1 << 19
"""Elements of a dense stencil's tile; more kernel rows than fit are taken in groups."""

BLOCK_ROWS = 2
"""Rows that every product makes at once, at least: NaN or Inf in what it reads spoils them all."""

MOST_CHANNELS = 4
"""Interleaved channels along which products are banded; with more they would be mostly zeros."""

INT16 = np.dtype(np.int16)

KEPT_TAPS = 4096
"""Largest window whose matrices are kept from call to call."""


def run(plan: LinearPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a LinearPlan."""
    inner = inputs[0].shape[-1] if plan.images.channels_last else 1
    run_images(LinearNode, plan, inputs, outputs, *_prepared(plan, inner).tile)


class Prepared:
    """What a LinearPlan asks for whatever the pixels are."""

    def __init__(self, plan: LinearPlan, inner: int) -> None:
        first = plan.stencils[0]
        self.algorithm = plan.on_cpu
        self.whole = not is_float(plan.images.dtype)
        self.accumulator: DType = np.dtype(first.accumulator.removesuffix("x2"))
        self.products = self.algorithm in ("window", "transforms", "passes")
        # Powers of two are exact: where nothing else is done to the sums they ride on the weights.
        self.scaled = self.products and plan.combine == "sum" and not plan.delta
        self.kernels = _windows(plan.stencils, self.scaled)
        taps = prod(w.size for w in plan.windows)  # exact sums may be as long as they like
        self.chain = taps if self.whole else chain_of(taps)
        self.window: WindowSums | None = None
        if self.products and self.kernels is not None and taps <= KEPT_TAPS:
            self.window = WindowSums(self.kernels, inner, self.chain)
        self.passes: list[Passes] = []
        if self.kernels is None:
            chain = taps if self.whole else chain_of(taps, passes=2)
            some = min(inner, MOST_CHANNELS)
            for stencil in plan.stencils:
                column, row = _taps(stencil, self.scaled)
                self.passes.append(
                    (column, row, RowSums(column, chain), ColumnSums(row, some, chain))
                )
        self.few: tuple[tuple[FewTaps, ...], ...] = ()
        if self.algorithm == "few":
            self.few = _tap_steps(plan.stencils)
        self.saturates = self.whole and (not self.scaled or _may_saturate(plan))
        self.tile = self._tile(plan)

    def _tile(self, plan: LinearPlan) -> tuple[int, int | None]:
        """(elements of a tile, its longest row)."""
        sums = 4 if plan.combine == "unsharp" else len(plan.stencils)
        elements = TILE_BYTES // (self.accumulator.itemsize * sums)
        if self.algorithm == "few":
            return FEW_ELEMENTS // sums, None
        if self.algorithm == "transforms":
            rows, row = tile_sizes(*(w.size for w in plan.windows))
            return min(elements, rows * row), row
        return elements, None


Passes = tuple[Values, Values, RowSums, ColumnSums]
"""The taps of a column and of a row, and the products that sum with them."""


def _prepared(plan: LinearPlan, inner: int) -> Prepared:
    """Kept with the plan."""
    found: Prepared | None = plan.memo.get(("numpy", inner))
    if found is None:
        found = plan.memo["numpy", inner] = Prepared(plan, inner)
    return found


class LinearNode(ImageNode[LinearPlan]):
    """A LinearPlan over a source of its dtype."""

    def __init__(self, plan: LinearPlan, source: Source) -> None:
        super().__init__(plan, source)
        self.how = how = _prepared(plan, self.shape[-1])
        self.spectral: SpectralSums | None = None
        if how.algorithm == "transforms":
            assert how.kernels is not None
            shift = plan.stencils[0].shift if how.scaled else 0
            self.spectral = SpectralSums(
                how.kernels[0], self.shape[-1], shift if how.whole else None
            )

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """Filtered pixels."""
        plan = self.plan
        if self.how.algorithm == "words":
            self._finish(self._word_sums(batch, region), out, batch, region)
            return
        if self.how.algorithm == "few":
            self._fill_few(batch, region, out)
            return
        direct = (
            self.how.products
            and not self.how.whole
            and plan.combine == "sum"
            and out.dtype == self.how.accumulator
            and out.strides[2] == out.itemsize
            and out.flags.aligned
        )
        count, height, width = out.shape
        shape = count, height, pitch(width, self.how.accumulator)
        with Scratch() as scratch:
            sums = [
                out if direct else scratch.take(shape, self.how.accumulator)[:, :, :width]
                for _ in plan.stencils
            ]
            if not self.how.products or not self._sum(batch, region, sums, banded=True):
                self._sum(batch, region, sums, banded=False)
            self._finish(sums, out, batch, region)

    def _fill_few(self, batch: slice, region: Region, out: Values) -> None:
        """A few taps of 8-bit pixels, summed in int16."""
        plan, inner = self.plan, self.shape[-1]
        (top, bottom), (left, right) = input_ranges(plan.windows, region)
        start, stop, images = (top, left), (bottom, right), plan.images
        count, height, width = out.shape
        with Scratch() as scratch:
            tile = stage(
                self.source, batch, start, stop, images.border, images.value, INT16, scratch
            )
            shape = count, height, tile.shape[2]
            sums = [scratch.take(shape, INT16) for _ in plan.stencils]
            for steps, found in zip(self.how.few, sums, strict=True):
                with Scratch() as inside:
                    middle = tile
                    for step in steps[:-1]:
                        rows = middle.shape[1] - step.shape[0] + 1
                        target = inside.take((count, rows, shape[2]), INT16)
                        step(middle, inner, target)
                        middle = target
                    steps[-1](middle, inner, found)
            result = sums[0]
            if plan.combine == "magnitude":
                down, across = (scratch.take(shape, FLOAT32) for _ in sums)
                np.copyto(down, sums[0])
                np.copyto(across, sums[1])
                np.multiply(down, down, out=down)
                np.multiply(across, across, out=across)
                np.add(down, across, out=down)
                result = np.rint(np.sqrt(down, out=down), out=down)
            elif plan.delta:
                np.add(result, INT16.type(plan.delta), out=result)
            result = _clipped(result, self.dtype)
            np.copyto(out, result[:, :, :width], "unsafe")

    def _sum(self, batch: slice, region: Region, sums: Sequence[Values], *, banded: bool) -> bool:
        """Fill `sums` (b, h, w·C), one a stencil; False if products met what they would spread."""
        if self.how.kernels is not None:
            if self.how.products and self.how.kernels[0].size * prod(self.shape[1:]) <= GATHERED:
                self._sum_gathered(self.how.kernels, batch, region, sums)
                return True
            value = self.plan.images.value
            self._sum_windows(self.how.kernels, self.source, value, batch, region, sums, banded)
            rows = 1 if self.spectral else BLOCK_ROWS
            return self.how.whole or all(all_finite(s[:, ::rows]) for s in sums)
        return all(
            self._sum_passes(stencil, passes, batch, region, s, banded)
            for stencil, passes, s in zip(self.plan.stencils, self.how.passes, sums, strict=True)
        )

    def _sum_gathered(
        self, kernels: Values, batch: slice, region: Region, sums: Sequence[Values]
    ) -> None:
        """Small images: their windows as the rows of a matrix, a product for each image."""
        (top, bottom), (left, right) = input_ranges(self.plan.windows, region)
        images, inner = self.plan.images, self.shape[-1]
        _, height, width = sums[0].shape
        weights = kernels.reshape(len(kernels), -1)
        step = max(1, 8 * GATHERED // (weights[0].size * height * width))
        for first in range(batch.start, batch.stop, step):
            some = slice(first, min(batch.stop, first + step))
            count = some.stop - some.start
            tile = np.empty((count, bottom - top, right - left, inner), sums[0].dtype)
            ends = (top, left), (bottom, right)
            load_into(tile, self.source, some, *ends, images.border, images.value)
            plane, row, pixel, item = tile.strides
            shape = count, height, width, *kernels.shape[1:]
            seen = np.ndarray(shape, tile.dtype, tile, 0, (plane, row, item, row, pixel))
            windows = seen.reshape(count, height * width, -1)
            place = slice(first - batch.start, some.stop - batch.start)
            for taps, out in zip(weights, sums, strict=True):
                out[place] = np.matmul(windows, taps).reshape(count, height, width)

    def _sum_windows(
        self,
        kernels: Values,
        source: Source,
        value: float,
        batch: slice,
        region: Region,
        sums: Sequence[Values],
        banded: bool,
    ) -> None:
        """One pass. Kernel rows come in groups that keep the tile small."""
        (_, _), (left, right) = input_ranges(self.plan.windows, region)
        count, height, _ = sums[0].shape
        size = kernels.shape[1]
        room = DENSE_ELEMENTS // (count * (right - left) * self.shape[-1]) - height + 1
        if size <= room or (banded and self.spectral is not None):
            self._sum_rows(kernels, 0, self.how.window, source, value, batch, region, sums, banded)
            return
        group = max(1, room)
        totals = [PairwiseSum() for _ in sums]
        for first in range(0, size, group):
            part = kernels[:, first : first + group]
            parts = [np.empty(s.shape, s.dtype) for s in sums]
            self._sum_rows(part, first, None, source, value, batch, region, parts, banded)
            for total, s in zip(totals, parts, strict=True):
                total.add(s)
        for total, s in zip(totals, sums, strict=True):
            s[...] = total.total()

    def _sum_rows(
        self,
        kernels: Values,
        first: int,
        window: WindowSums | None,
        source: Source,
        value: float,
        batch: slice,
        region: Region,
        sums: Sequence[Values],
        banded: bool,
    ) -> None:
        """The part that some rows of the kernels, from `first` on, have in the sums."""
        (top, _), (left, right) = input_ranges(self.plan.windows, region)
        top, inner = top + first, self.shape[-1]
        bottom = top + kernels.shape[1] + sums[0].shape[1] - 1
        border, dtype = self.plan.images.border, sums[0].dtype
        with Scratch() as scratch:
            tile = stage(source, batch, (top, left), (bottom, right), border, value, dtype, scratch)
            if not banded:
                for kernel, s in zip(kernels, sums, strict=True):
                    s[...] = window_sum(tile, kernel, s.shape, inner)
            elif self.spectral is not None:
                self.spectral(tile, sums[0])
            else:
                (window or WindowSums(kernels, inner, self.how.chain))(tile, sums)

    def _sum_passes(
        self,
        stencil: Stencil,
        passes: Passes,
        batch: slice,
        region: Region,
        sums: Values,
        banded: bool,
    ) -> bool:
        """Two passes, the first one's sums rounded to fixed point; False as in `_sum`."""
        dtype, inner = self.how.accumulator, self.shape[-1]
        column, row, down, across = passes

        def reduce(tile: Values, out: Values) -> None:
            if banded:
                down(tile, out)
            else:
                height, width = out.shape[1:]
                rows = [tile[:, i : i + height, :width] for i in range(column.size)]
                out[...] = weighted_sum(rows, column)
            if dtype.kind == "f":
                if stencil.column_shift:
                    np.rint(out, out=out)
            else:
                out[...] = drop_bits(out, stencil.column_shift)

        with Scratch() as scratch:
            middle, width = two_passes(
                self.source,
                batch,
                region,
                self.plan.windows,
                self.plan.images.border,
                self.plan.images.value,
                dtype,
                reduce,
                scratch,
            )
            if banded and not self.how.whole and not all_finite(middle[:, ::BLOCK_ROWS, :width]):
                return False
            if banded and inner <= MOST_CHANNELS:
                across(middle, sums)
            else:
                sums[...] = weighted_sum(shifted(middle, row.size, inner, sums.shape[2]), row)
        return True

    def _word_sums(self, batch: slice, region: Region) -> list[Words]:
        """Sums that outgrow 64 bits: one of the pixels' high halves, one of their low halves."""
        half, pad = 4 * self.plan.images.dtype.itemsize, self.plan.images.value
        assert self.how.kernels is not None
        count, height, width = (s.stop - s.start for s in (batch, *region))
        found = []
        for upper in (True, False):
            sums = [
                np.empty((count, height, width * self.shape[-1]), np.int64)
                for _ in self.how.kernels
            ]
            source, value = pixel_half(self.source, pad, upper)
            self._sum_windows(self.how.kernels, source, value, batch, region, sums, banded=False)
            found.append(sums)
        return [
            (high + (low >> half), low & ((1 << half) - 1))
            for high, low in zip(*found, strict=True)
        ]

    def _finish(
        self, sums: Sequence[Values | Words], out: Values, batch: slice, region: Region
    ) -> None:
        """From the stencils' sums to pixels in `out` (b, h, w·C)."""
        if not self.how.whole:
            self._finish_floats([s for s in sums if not isinstance(s, tuple)], out, batch, region)
            return
        plan, first = self.plan, sums[0]
        if plan.combine == "magnitude":
            result = whole_magnitude(first, sums[1], plan)
        elif isinstance(first, tuple):
            result = rounded(first, plan)
        elif plan.combine == "unsharp":
            pixels = self.source.read(batch, region).reshape(first.shape)
            result = whole_unsharp(pixels, first, plan)
        elif self.how.scaled:
            result = np.rint(first, out=first) if plan.stencils[0].shift else first
        else:
            result = rounded(first, plan)
        if self.how.saturates:
            result = _clipped(result, self.dtype)
        np.copyto(out, result, "unsafe")

    def _finish_floats(
        self, sums: Sequence[Values], out: Values, batch: slice, region: Region
    ) -> None:
        plan, result = self.plan, sums[0]
        with Scratch() as scratch:
            if plan.combine == "magnitude":
                _roots(_squares(result, sums[1], scratch), result, sums[1], out.shape[2], out)
                return
            elif plan.combine == "unsharp":
                # x + amount·(x − blur)
                pixels = self.source.read(batch, region).reshape(result.shape)
                pixels = pixels.astype(result.dtype, copy=False)
                np.subtract(pixels, result, out=result)
                np.multiply(result, result.dtype.type(plan.amount), out=result)
                np.add(pixels, result, out=result)
            elif plan.delta:
                np.add(result, result.dtype.type(plan.delta), out=result)
            if result is not out:
                np.copyto(out, result, "unsafe")


def _taps(stencil: Stencil, scaled: bool) -> tuple[Values, Values]:
    """(column, row) in the accumulator, where it is a float one with the shifts applied."""
    assert stencil.column is not None
    assert stencil.row is not None
    dtype = np.dtype(stencil.accumulator)
    column, row = stencil.column.array, stencil.row.array
    if dtype.kind == "f":
        column = column * 0.5**stencil.column_shift
        row = row * 0.5 ** (stencil.shift * scaled)
    return column.astype(dtype), row.astype(dtype)


def _windows(stencils: tuple[Stencil, ...], scaled: bool) -> Values | None:
    """(n, KH, KW) taps of what is summed in one pass, as `_taps`; None where two are taken."""
    if not in_one_pass(stencils):
        return None
    dtype = np.dtype(stencils[0].accumulator.removesuffix("x2"))
    kernels = []
    for s in stencils:
        if s.dense is not None:
            kernel = s.dense.array
        else:
            assert s.column is not None
            assert s.row is not None
            kernel = np.outer(s.column.array, s.row.array)
        kernels.append(kernel * 0.5**s.shift if scaled else kernel)
    return np.stack(kernels).astype(dtype)


def _tap_steps(stencils: tuple[Stencil, ...]) -> tuple[tuple[FewTaps, ...], ...]:
    """What makes up each stencil, one after another: a column and a row, or a window."""
    steps: list[tuple[FewTaps, ...]] = []
    for s in stencils:
        if s.dense is not None:
            steps.append((FewTaps.of(s.dense.array),))
        else:
            assert s.column is not None
            assert s.row is not None
            column, row = s.column.array[:, np.newaxis], s.row.array[np.newaxis]
            steps.append((FewTaps.of(column), FewTaps.of(row)))
    return tuple(steps)


def _may_saturate(plan: LinearPlan) -> bool:
    """Whether rounded sums might leave the output's dtype; no, for most blurs."""
    stencil = plan.stencils[0]
    passes = [f.array for f in (stencil.dense, stencil.column, stencil.row) if f is not None]
    if any((taps < 0).any() for taps in passes):
        return True
    shifts = [stencil.column_shift, stencil.shift][-len(passes) :]
    (low, high), (least, most) = limits(plan.images.dtype), limits(plan.images.out_dtype)
    for taps, shift in zip(passes, shifts, strict=True):
        gain = int(taps.sum())
        low, high = low * gain >> shift, -(-high * gain >> shift)
    return low < least or high > most


def _clipped(values: Values, dtype: DType) -> Values:
    """Whole numbers saturated: in place, still of their own dtype, where that holds the limits."""
    low, high = limits(dtype)
    if high < 2**24 if values.dtype.kind == "f" else high <= limits(values.dtype)[1]:
        return np.clip(values, low, high, out=values)
    return saturate(values, dtype)


def _squares(down: Values, across: Values, scratch: Scratch) -> Values:
    """down² + across²."""
    total, square = (scratch.take(down.shape, down.dtype) for _ in range(2))
    np.multiply(down, down, out=total)
    np.multiply(across, across, out=square)
    return np.add(total, square, out=total)


def _roots(total: Values, down: Values, across: Values, width: int, out: Values) -> None:
    """Fill `out` with roots of float sums of squares; by hypot where squares overflow or vanish."""
    info = np.finfo(down.dtype)
    least, most = info.tiny / info.eps, info.max / 4
    if total.min() < least or not total.max() <= most:
        odd = (total < least) & ((down != 0) | (across != 0)) | ~(total <= most)
        if odd.any():
            np.sqrt(total, out=total)
            total[odd] = np.hypot(down[odd], across[odd])
            np.copyto(out, total[:, :, :width], "unsafe")
            return
    np.sqrt(total[:, :, :width], out=out, casting="unsafe")
