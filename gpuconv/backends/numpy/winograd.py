"""Sums of 3x3 windows of many channels with 16 products for each 2x2 outputs instead of 36.

F(2x2, 3x3) of S. Winograd, "Arithmetic complexity of computations", 1980, as A. Lavin and S. Gray
apply it to feature maps (2016): Aᵀ((G g Gᵀ) ⊙ (Bᵀ d B))A for outputs 2x2, taps g and inputs d.
Inputs of even and odd rows and columns lie in planes of their own; there all that the transforms
add are runs that are shifted against each other. Windows are mixed: where a result is not finite,
the tile is summed by plain products.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.products import Products
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Region, Values, even

LEAST_CHANNELS = 64
"""Of input and output: with fewer, the transforms cost more than they save."""

MOST_PRODUCTS = 6.0
"""Products for each output, junk between rows and images included, that still save time."""

TRANSFORMED_ELEMENTS = 1 << 19
"""Of inputs and outputs of a tile: 16 for each 2x2."""

AT_ONCE = 8
"""Outputs whose weights are transformed at once."""

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""What transforms three taps."""


class Winograd:
    """Sums of tiles of maps with two spatial axes and one group."""

    def __init__(self, operands: Operands, outputs: Sequence[int]) -> None:
        _, outs, channels = operands.weight.shape[:3]
        self._operands, self.windows = operands, operands.windows
        self._fallback = Products(operands, outputs)
        self._weights: Values | None = None
        places = max(1, TRANSFORMED_ELEMENTS // (16 * (channels + outs)))
        self.outputs = self.chunk = 4 * places
        self.inputs = self._fallback.inputs

    @staticmethod
    def suits(operands: Operands, outputs: Sequence[int]) -> bool:
        """Whether this saves time and keeps the contract's bound."""
        groups, outs, channels = operands.weight.shape[:3]
        return (
            len(outputs) == 2
            and groups == 1
            and min(outs, channels) >= LEAST_CHANNELS
            and not operands.maps.channels_last
            and not operands.exact
            and operands.keep
            and all((w.size, w.stride, w.dilation) == (3, 1, 1) for w in operands.windows)
            and 16 * prod(-(-n // 2) + 1 for n in outputs) <= MOST_PRODUCTS * prod(outputs)
        )

    def sums(self, batch: slice, region: Region, scratch: Scratch) -> Values:
        """(O, b, *region)"""
        operands, dtype = self._operands, self._operands.numbers.work
        _, outs, channels = operands.weight.shape[:3]
        spans = [r.stop - r.start for r in (batch, *region)]
        down, across = (-(-n // 2) for n in spans[1:])
        plane = (spans[0], down + 1, across + 1)
        run = prod(plane) - plane[2] - 1
        total = operands.room(1, spans[0] * 4 * down * across, dtype, scratch)
        total = total.reshape(outs, spans[0], down, 2, across, 2)
        products = scratch.take((4, 4, outs, run), dtype)
        with Scratch() as inner:
            inputs = inner.take((4, 4, channels, run), dtype)
            self._transform(batch, region, plane, inputs)
            self._multiply(inputs.reshape(16, channels, run), products.reshape(16, outs, run))
        with Scratch() as inner:
            rows = inner.take((2, 4, outs, run), dtype)
            _gather(products, rows)
            sums = inner.take((2, 2, outs, prod(plane)), dtype)
            _gather(rows.swapaxes(0, 1), sums[..., :run].swapaxes(0, 1))
            cut = sums.reshape(2, 2, outs, *plane)[..., :down, :across]
            for y, x in np.ndindex(2, 2):
                total[:, :, :, y, :, x] = cut[y, x]
        whole = total.reshape(outs, spans[0], 2 * down, 2 * across)[:, :, : spans[1], : spans[2]]
        if np.isfinite(whole).all():
            return whole
        return self._fallback.sums(batch, region, scratch)

    def _transform(
        self, batch: slice, region: Region, plane: tuple[int, int, int], out: Values
    ) -> None:
        """Bᵀ d B of every 4x4 inputs: (4, 4, c, run)."""
        channels, run = out.shape[2:]
        step, size = plane[2], prod(plane)
        pairs = zip(region, plane[1:], strict=True)
        spread = tuple(slice(r.start, r.start + 2 * n - 2) for r, n in pairs)
        with Scratch() as scratch:
            planes = scratch.take((2, 2, channels, *plane), out.dtype)
            with Scratch() as inner:
                box = (slice(0, 3), slice(0, 3))
                tile = self._operands.load(batch, spread, slice(0, channels), box, inner)[0]
                for y, x in np.ndindex(2, 2):
                    planes[y, x] = tile[..., y::2, x::2]
            flat = planes.reshape(2, 2, channels, size)
            rows = scratch.take((4, 2, channels, run + 1), out.dtype)
            _spread([flat[y, :, :, at : at + run + 1] for at in (0, step) for y in (0, 1)], rows)
            columns = [rows[:, x, :, at : at + run] for at in (0, 1) for x in (0, 1)]
            _spread(columns, out.swapaxes(0, 1))

    def _multiply(self, inputs: Values, out: Values) -> None:
        """Sums over the channels, in blocks that are added one after another."""
        weights = self._transformed()
        channels = inputs.shape[1]
        step = even(channels, self._operands.numbers.block)
        np.matmul(weights[..., :step], inputs[:, :step], out=out)
        for first in range(step, channels, step):
            part = slice(first, first + step)
            with Scratch() as scratch:
                block = scratch.take(out.shape, out.dtype)
                out += np.matmul(weights[..., part], inputs[:, part], out=block)

    def _transformed(self) -> Values:
        """G g Gᵀ of all weights: (16, O, C)."""
        if self._weights is None:
            outs, channels = self._operands.weight.shape[1:3]
            weights = np.empty((16, outs, channels), self._operands.numbers.work)
            for first in range(0, outs, AT_ONCE):
                some = slice(first, first + AT_ONCE)
                taps = self._operands.weight[0, some].astype(np.float64)
                spread = np.matmul(np.kron(G, G), taps.reshape(-1, 9).T)
                weights[:, some] = spread.reshape(16, -1, channels)
            self._weights = weights  # whole, as other threads may read it at once
        return self._weights


def _spread(d: Sequence[Values], out: Values) -> None:
    """Bᵀ d along one axis."""
    np.subtract(d[0], d[2], out=out[0])
    np.add(d[1], d[2], out=out[1])
    np.subtract(d[2], d[1], out=out[2])
    np.subtract(d[1], d[3], out=out[3])


def _gather(m: Values, out: Values) -> None:
    """Aᵀ m along one axis."""
    np.add(m[0], m[1], out=out[0])
    out[0] += m[2]
    np.subtract(m[1], m[2], out=out[1])
    out[1] -= m[3]
