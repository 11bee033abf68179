"""Sums whose rounding error grows with the logarithm of their length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Block = TypeVar("Block")

BLOCK_TAPS = 32
"""Terms added one after another before a block joins the pairwise sum."""


class Pairwise(Generic[Block]):
    """Merges blocks as a binary counter does: results of equal rank meet each other.

    `merge` may overwrite its first argument: blocks handed in are owned.
    """

    def __init__(self, merge: Callable[[Block, Block], Block]) -> None:
        self._merge = merge
        self._levels: list[Block | None] = []

    def add(self, block: Block) -> None:
        """Take one more block."""
        for level, waiting in enumerate(self._levels):
            if waiting is None:
                self._levels[level] = block
                return
            block = self._merge(waiting, block)
            self._levels[level] = None
        self._levels.append(block)

    def total(self) -> Block:
        """The merger of all blocks; at least one was added."""
        blocks = [block for block in self._levels if block is not None]
        result = blocks[0]
        for block in blocks[1:]:
            result = self._merge(block, result)
        return result


class PairwiseSum(Pairwise[Values]):
    """The sum of arrays of one shape, which it overwrites."""

    def __init__(self) -> None:
        super().__init__(lambda waiting, block: np.add(waiting, block, out=waiting))


def all_finite(sums: Values) -> bool:
    """Whether sums (..., rows, columns) show that none met NaN or Inf, by the sum of each row."""
    rows = np.matmul(sums, np.ones(sums.shape[-1], sums.dtype))
    return bool(np.isfinite(rows).all())
