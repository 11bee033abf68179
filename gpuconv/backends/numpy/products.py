"""Sums of a convolution as products of weights with planes of the input.

Planes of many channels are multiplied as they lie, tap by tap (kn2row: Vasudevan, Anderson and
Gregg, 2017); of few, the views of all taps are first copied below each other (im2col: Chellapilla,
Puri and Simard, 2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.staging import Layout, Part, Phase, PlaneSums, Staged, Tap, taps_of
from gpuconv.backends.numpy.tile import Region, Values, even
from gpuconv.plan import cpu

GATHERED_TAPS = 512
"""Taps of all channels gathered at once."""

COLUMN_ELEMENTS = 1 << 18
"""Elements of a matrix of gathered windows."""

SUM_ELEMENTS = 1 << 17
"""Sums of one chunk: few enough for the caches, enough that calls cost little beside them."""

JUNK = 1.25
"""Sums made for each output, at most, so that rows need not be cut out of the planes."""


@dataclass(frozen=True, slots=True)
class Block:
    """What one product sums: channels through one tap, or some of the gathered columns."""

    number: int
    part: Part
    taken: slice
    tap: Tap | None


class Products(PlaneSums):
    """Sums of tiles, computed by BLAS."""

    def __init__(self, operands: Operands, outputs: Sequence[int]) -> None:
        groups, outs, channels, *kernel = operands.weight.shape
        self.places_last = channels < cpu.PLANES
        terms = GATHERED_TAPS if self.places_last else channels * prod(kernel)
        super().__init__(operands, outputs, terms, JUNK)
        self.blocks = [
            Block(number, *block) for number, block in enumerate(self._cut(operands.numbers.block))
        ]
        step = self.parts[0].channels.stop
        depth = step * prod(w.size for w in self.windows) if self.places_last else step
        self.chunk = max(
            1, min(COLUMN_ELEMENTS // (groups * depth), SUM_ELEMENTS // (groups * outs))
        )
        self._matrices: list[Values | None] = [None] * len(self.blocks)

    def _cut(self, limit: int) -> Iterator[tuple[Part, slice, Tap | None]]:
        """The blocks of all parts, of at most `limit` terms."""
        for part in self.parts:
            length = part.channels.stop - part.channels.start
            taps: list[Tap | None] = [None]
            if self.places_last:
                length *= prod(t.stop - t.start for t in part.box)
            else:
                taps = [*taps_of(self.operands.windows, part.box)]
            step = even(length, limit)
            for tap in taps:
                for k in range(0, length, step):
                    yield part, slice(k, min(length, k + step)), tap

    def staged(self, layout: Layout, batch: slice, region: Region, scratch: Scratch) -> Staged:
        """The planes of a tile, from which columns are gathered."""
        return Gathered(self.operands, layout, batch, region, self.places_last, scratch)

    def fill(self, block: Block, staged: Gathered, chunk: tuple[slice, slice], out: Values) -> None:
        """Write the product of a block."""
        if block.tap is None:
            columns = staged.columns(block.part, chunk[1])[:, block.taken]
        else:
            staged.stage(block.part)
            seen = staged.seen(block.tap, chunk[0], block.taken, chunk[1])
            columns = blas_ready(seen.reshape(*seen.shape[:2], -1))
        matrix = self._matrix(block)
        if out.dtype == matrix.dtype:
            np.matmul(matrix, columns, out=out)
        else:
            out[...] = np.matmul(matrix, columns)

    def _matrix(self, block: Block) -> Values:
        """The weights of a block: (g, o, terms)."""
        known = self._matrices[block.number]
        if known is not None:
            return known
        weights = self.operands.weights(block.part.channels, block.part.box)
        if block.tap is not None:
            matrix = np.ascontiguousarray(
                weights[(slice(None), slice(None), block.taken, *block.tap.index)]
            )
        else:
            shape, rows = (*weights.shape[:2], -1), []
            for phase in block.part.phases:
                taps: tuple[Any, ...] = (..., *(p.taps for p in phase))
                rows.append(np.moveaxis(weights[taps], 2, -1).reshape(shape))
            matrix = np.concatenate(rows, axis=2)[..., block.taken]
        if self.operands.keep:
            self._matrices[block.number] = matrix
        return matrix


class Gathered(Staged):
    """Planes, and columns gathered from them: of the chunk that was asked for last."""

    _views: Sequence[Values] = ()
    _columns: Values | None = None
    _places: slice | None = None

    def columns(self, part: Part, places: slice) -> Values:
        """All that some places see, phase after phase, tap after tap: (g, terms, places)."""
        if self.stage(part):
            self._views, self._places = [self._view(phase) for phase in part.phases], None
        if self._columns is None or places != self._places:
            self._places, self._columns = places, self._gather(places)
        return self._columns

    def _view(self, phase: tuple[Phase, ...]) -> Values:
        """What the outputs see through the taps of a phase: (g, *taps, c, places or outputs)."""
        layout, plane = self.layout, self.planes[tuple(p.residue for p in phase)]
        places, inner = layout.outputs, plane.strides[2:]
        if layout.flat:
            steps = [s * plane.itemsize for s in layout.steps[1:]]
            corner = sum(p.first * s for p, s in zip(phase, layout.steps[1:], strict=True))
            plane, places, inner = plane[..., corner:], (layout.run,), (plane.itemsize,)
        else:
            steps = list(plane.strides[3:])
            firsts: tuple[Any, ...] = (..., *(slice(p.first, None) for p in phase))
            plane = plane[firsts]
        strides = (p.step * s for p, s in zip(phase, steps, strict=True))
        return as_strided(
            plane,
            (len(plane), *(p.count for p in phase), plane.shape[1], *places),
            (plane.strides[0], *strides, plane.strides[1], *inner),
            writeable=False,
        )

    def _gather(self, chosen: slice) -> Values:
        views = [v[..., chosen] for v in self._views] if self.layout.flat else self._views
        rank = len(self.layout.steps)
        counts = [prod(v.shape[1 : rank + 1]) for v in views]
        places = prod(views[0].shape[rank + 1 :])
        if self._columns is None or self._columns.shape[1:] != (sum(counts), places):
            columns = self.scratch.take((len(views[0]), sum(counts), places), views[0].dtype)
        else:
            columns = self._columns
        row = 0
        for view, count in zip(views, counts, strict=True):
            columns[:, row : row + count].reshape(view.shape)[...] = view
            row += count
        return columns


def blas_ready(matrices: Values) -> Values:
    """Matrices as BLAS takes them; copied only if they lie otherwise."""
    (rows, columns), (m, n), item = matrices.strides[-2:], matrices.shape[-2:], matrices.itemsize
    row_major, column_major = (columns, rows, n), (rows, columns, m)
    fits = any(
        inner == item and outer >= item * length
        for inner, outer, length in (row_major, column_major)
    )
    return matrices if fits and matrices.flags.aligned else np.ascontiguousarray(matrices)
