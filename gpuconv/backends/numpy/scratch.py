"""Working memory: each thread keeps one block, and tasks cut their buffers from it.

Fresh memory costs a page fault every 4 KiB, more than most filters take to fill it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from types import TracebackType
from typing import Any

import numpy as np

from gpuconv.backends.numpy.tile import Values
from gpuconv.dtypes import DType

SCRATCH_BYTES = 63 << 16
"""The block that each thread keeps. A buffer for which no room is left is allocated by itself."""

LINE = 64
"""Bytes of a cache line: where buffers start."""

GAP = 17 * LINE
"""Bytes between buffers: two that lie a multiple of 4 KiB apart would evict each other."""


class _Block(threading.local):
    """A thread's block and how much of it is taken."""

    def __init__(self) -> None:
        self.memory: Any = np.empty(SCRATCH_BYTES + LINE, np.uint8)
        self.start = -self.memory.ctypes.data % LINE
        self.taken = 0


_block = _Block()


class Scratch:
    """Buffers that live until the end of a with block. They hold anything at first."""

    __slots__ = ("_before",)

    def __enter__(self) -> Scratch:
        self._before = _block.taken
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _block.taken = self._before

    def take(self, shape: Sequence[int], dtype: DType) -> Values:
        """An array of `shape`, contiguous."""
        first = _block.taken
        size = prod(shape) * dtype.itemsize
        last = first + size
        if last > SCRATCH_BYTES:
            return np.empty(shape, dtype)
        _block.taken = last + GAP - last % LINE
        return np.ndarray(shape, dtype, _block.memory, _block.start + first)


def room() -> int:
    """Bytes that this thread's block has left."""
    return SCRATCH_BYTES - _block.taken


def pitch(width: int, dtype: DType) -> int:
    """Elements from row to row of a buffer: whole cache lines, but no multiple of 4 KiB."""
    lines = -(-width * dtype.itemsize // LINE)
    return (lines + (lines % LINE == 0)) * LINE // dtype.itemsize
