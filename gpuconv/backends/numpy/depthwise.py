"""Sums over single channels as products with banded (Toeplitz) matrices: BLAS for depthwise maps.

BAND rows of outputs see P rows of input between them. Those lie as columns, the images of a batch
beside each other and each row followed by its copies shifted by a column each. One small matrix for
each channel, with the kernel's rows on a band, makes all BAND rows. Its zeros meet elements outside
of windows: where a result is not finite, the tile is summed again, tap after tap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.slabs import Slabs
from gpuconv.backends.numpy.sums import all_finite
from gpuconv.backends.numpy.tile import Region, Values, even

BAND = 4
"""Rows of outputs of one product."""

COLUMN_ELEMENTS = 3 << 17
"""Elements of shifted rows at once: about a core's second cache."""

TILE_ELEMENTS = 1 << 19
"""Sums of one tile."""

LOADED_ELEMENTS = 1 << 19
"""Input elements of one tile."""


class Bands:
    """Sums of tiles of maps with two spatial axes."""

    def __init__(self, operands: Operands, outputs: Sequence[int]) -> None:
        groups, outs, _, height, width = operands.weight.shape
        self.operands, self.windows = operands, operands.windows
        self._fallback = Slabs(operands, outputs)
        step = even(width, operands.numbers.block // height)
        self._cuts = [slice(s, min(width, s + step)) for s in range(0, width, step)]
        self._matrices = [self._matrix(columns) for columns in self._cuts]
        self.outputs = self.chunk = max(1, TILE_ELEMENTS // (groups * outs))
        self.inputs = max(1, LOADED_ELEMENTS // groups)

    def _matrix(self, columns: slice) -> Values:
        """The kernels' rows on a band: (g, o, 1, BAND, P x columns)."""
        rows, taps = self.windows[0], self.operands.weight[:, :, 0, :, columns]
        shape = (*taps.shape[:2], 1, BAND, rows.input_span(BAND), taps.shape[-1])
        matrix = np.zeros(shape, self.operands.numbers.work)
        for b in range(BAND):
            first = b * rows.stride
            matrix[:, :, 0, b, first : first + rows.extent : rows.dilation] = taps
        return matrix.reshape(*shape[:4], -1)

    def sums(self, batch: slice, region: Region, scratch: Scratch, into: Values | None) -> Values:
        """(O, b, *region), in `into` where that is given."""
        operands = self.operands
        groups, outs = operands.weight.shape[:2]
        spans = [r.stop - r.start for r in (batch, *region)]
        box = tuple(slice(0, w.size) for w in self.windows)
        tile = operands.load(batch, region, slice(0, 1), box, scratch)
        total = into
        if total is None or total.strides[-1] != total.itemsize:
            total = scratch.take((groups * outs, *spans), operands.numbers.work)
        places = total.reshape(groups, outs, *spans)
        step = even(groups, COLUMN_ELEMENTS // (tile[0, 0].size * self._cuts[0].stop))
        for first in range(0, groups, step):
            some = slice(first, min(groups, first + step))
            for number, columns in enumerate(self._cuts):
                with Scratch() as inner:
                    self._multiply(tile[some, 0], number, columns, places[some], some, inner)
        if all_finite(places):
            return total
        return self._fallback.sums(batch, region, scratch, into)

    def _multiply(
        self,
        rows: Values,
        number: int,
        columns: slice,
        out: Values,
        groups: slice,
        scratch: Scratch,
    ) -> None:
        """Write, or add to what is there, what some columns of the kernels make of rows."""
        down, across = self.windows
        taps = columns.stop - columns.start
        count, batch, height = rows.shape[:3]
        outs, lines, width = out.shape[1], *out.shape[-2:]
        line = batch * width
        shifted = scratch.take((count, height, taps, batch, width), rows.dtype)
        corner = rows[..., columns.start * across.dilation :]
        group, image, row, pixel = rows.strides
        steps = (group, row, across.dilation * pixel, image, across.stride * pixel)
        np.copyto(shifted, as_strided(corner, shifted.shape, steps, writeable=False))
        beside = batch > 1 or number > 0
        target = scratch.take((count, outs, lines, line), out.dtype) if beside else out[:, :, 0]
        matrix = self._matrices[number][groups]
        whole = lines // BAND * BAND
        for first, bands, band in ((0, whole // BAND, BAND), (whole, 1, lines - whole)):
            if bands * band == 0:
                continue
            depth, start = down.input_span(band) * taps, shifted[:, first * down.stride :]
            group, row, place, _, item = shifted.strides
            seen = as_strided(
                start,
                (count, 1, bands, depth, line),
                (group, 0, band * down.stride * row, place, item),
                writeable=False,
            )
            part = target[:, :, first : first + bands * band]
            part = part.reshape(count, outs, bands, band, line)
            np.matmul(matrix[..., :band, :depth], seen, out=part)
        if beside:
            found = target.reshape(count, outs, lines, batch, width).swapaxes(2, 3)
            if number:
                out += found
            else:
                np.copyto(out, found)
