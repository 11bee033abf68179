"""Sums over single channels as products with banded (Toeplitz) matrices: BLAS for depthwise maps.

BAND rows of outputs see P rows of input between them. Those lie as columns, each row followed by
its copies shifted by a column each, so that one small matrix for each channel, with the kernel's
rows on a band, makes all BAND rows. Its zeros meet elements outside of windows: where a result is
not finite, the tile is summed again, tap after tap.
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

COLUMN_ELEMENTS = 1 << 17
"""Elements of shifted rows at once: they fit into a core's cache."""

TILE_ELEMENTS = 1 << 19
"""Sums of one tile."""

LOADED_ELEMENTS = 1 << 19
"""Input elements of one tile."""

CHUNK = 256
"""Outputs of each channel that are worth a tile."""


class Bands:
    """Sums of tiles of maps with two spatial axes."""

    chunk = CHUNK

    def __init__(self, operands: Operands, outputs: Sequence[int]) -> None:
        groups, outs, _, height, width = operands.weight.shape
        self.operands, self.windows = operands, operands.windows
        self._fallback = Slabs(operands, outputs)
        step = even(width, operands.numbers.block // height)
        self._cuts = [slice(s, min(width, s + step)) for s in range(0, width, step)]
        self._matrices = [self._matrix(columns) for columns in self._cuts]
        self.outputs = max(1, TILE_ELEMENTS // (groups * outs))
        self.inputs = max(1, LOADED_ELEMENTS // groups)

    def _matrix(self, columns: slice) -> Values:
        """The kernels' rows on a band: (g, o, 1, 1, BAND, P x columns)."""
        rows, taps = self.windows[0], self.operands.weight[:, :, 0, :, columns]
        shape = (*taps.shape[:2], 1, 1, BAND, rows.input_span(BAND), taps.shape[-1])
        matrix = np.zeros(shape, self.operands.numbers.work)
        for b in range(BAND):
            first = b * rows.stride
            matrix[:, :, 0, 0, b, first : first + rows.extent : rows.dilation] = taps
        return matrix.reshape(*shape[:5], -1)

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
        item, taps = rows.itemsize, columns.stop - columns.start
        count, batch, height = rows.shape[:3]
        lines, width = out.shape[-2:]
        shifted = scratch.take((count, batch, height, taps, width), rows.dtype)
        corner = rows[..., columns.start * across.dilation :]
        steps = [across.dilation * rows.strides[-1], across.stride * rows.strides[-1]]
        shifted[...] = as_strided(
            corner, shifted.shape, (*rows.strides[:3], *steps), writeable=False
        )
        target = scratch.take(out.shape, out.dtype) if number else out
        matrix = self._matrices[number][groups]
        whole = lines // BAND * BAND
        for first, bands, band in ((0, whole // BAND, BAND), (whole, 1, lines - whole)):
            if bands * band == 0:
                continue
            depth = down.input_span(band) * taps
            start = shifted[:, :, first * down.stride :]
            seen = as_strided(
                start,
                (count, 1, batch, bands, depth, width),
                (
                    *(shifted.strides[0], 0, shifted.strides[1]),
                    *(band * down.stride * shifted.strides[2], width * item, item),
                ),
                writeable=False,
            )
            place = target[..., first : first + bands * band, :]
            place = place.reshape(*target.shape[:3], bands, band, width)
            np.matmul(matrix[..., :band, :depth], seen, out=place)
        if number:
            out += target
