"""Sums of a convolution as shifted multiply-adds over planes: channels by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.staging import Layout, Part, PlaneSums, Staged, Tap, taps_of
from gpuconv.backends.numpy.tile import Values, even

BLOCK_TAPS = 16
"""Taps added one after another."""

SUM_ELEMENTS = 1 << 15
"""Sums of one chunk, which are passed over once a tap: they fit into a core's cache."""

BUFFER = 1024
"""Elements that NumPy buffers. It copies a run times a number through its buffer unless the run
is longer than a third of that, which costs more than to multiply.
"""

JUNK = 3.0
"""Sums made for each output, at most, so that rows need not be cut out of the planes."""

Block = tuple[Part, Sequence[tuple[int, Tap]]]
"""Channels, each with a tap, that are added one after another."""


class Slabs(PlaneSums):
    """Sums of tiles, tap after tap."""

    def __init__(self, operands: Operands, outputs: Sequence[int]) -> None:
        groups, outs, channels, *kernel = operands.weight.shape
        super().__init__(operands, outputs, channels * prod(kernel), JUNK)
        limit = min(BLOCK_TAPS, operands.numbers.block)
        self.blocks = []
        for part in self.parts:
            count = part.channels.stop - part.channels.start
            taps = [(c, t) for c in range(count) for t in taps_of(operands.windows, part.box)]
            step = even(len(taps), limit)
            self.blocks += [(part, taps[k : k + step]) for k in range(0, len(taps), step)]
        self.chunk = max(1, SUM_ELEMENTS // (groups * outs))

    def steps(self, layout: Layout) -> tuple[int, int]:
        """Long runs of some groups, or some places of all interleaved groups."""
        groups, outs = self.operands.weight.shape[:2]
        if self.operands.last or not layout.flat:
            return groups, even(layout.run, self.chunk)
        some = even(groups, SUM_ELEMENTS // (layout.run * outs))
        return some, even(layout.run, max(1, SUM_ELEMENTS // (some * outs)))

    def fill(self, block: Block, staged: Staged, chunk: tuple[slice, slice], out: Values) -> None:
        """Write the sums of a block."""
        part, terms = block
        staged.stage(part)
        groups, places = chunk
        weights = self.operands.weights(part.channels, part.box)[groups]
        with Scratch() as scratch, np.errstate(all="ignore"):
            np.setbufsize(BUFFER)  # until errstate ends
            room = len(out), out.shape[-1], weights.dtype, scratch
            products = self.operands.room(*room)
            sums = out if out.dtype == products.dtype else self.operands.room(*room)
            for number, (c, tap) in enumerate(terms):
                seen = staged.seen(tap, groups, slice(c, c + 1), places)
                shape = (*out.shape[:2], *seen.shape[2:])
                scale = weights[(slice(None), slice(None), c, *tap.index)].reshape(
                    *shape[:2], *[1] * (seen.ndim - 2)
                )
                target = products if number else sums
                np.multiply(seen, scale, out=target.reshape(shape))
                if number:
                    sums += products
            if sums is not out:
                out[...] = sums
