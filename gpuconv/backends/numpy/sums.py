"""Sums whose rounding error grows with the logarithm of their length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]

BLOCK_TAPS = 32
"""Terms added one after another before a block joins the pairwise sum."""


class PairwiseSum:
    """Adds blocks as a binary counter does: block sums of equal rank meet each other.

    Blocks handed in are owned by the sum and overwritten.
    """

    def __init__(self) -> None:
        self._levels: list[Values | None] = []

    def add(self, block: Values) -> None:
        """Take one more block."""
        for level, waiting in enumerate(self._levels):
            if waiting is None:
                self._levels[level] = block
                return
            block = np.add(waiting, block, out=waiting)
            self._levels[level] = None
        self._levels.append(block)

    def total(self) -> Values:
        """The sum of all blocks; at least one was added."""
        blocks = [block for block in self._levels if block is not None]
        result = blocks[0]
        for block in blocks[1:]:
            result = np.add(block, result, out=block)
        return result
