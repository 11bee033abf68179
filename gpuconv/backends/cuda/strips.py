"""Strips of planes, one a warp or one a lane: twin of kernels_cu/common/strip.cuh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import Stack
from gpuconv.backends.cuda.launch import WIDE_BYTES, blocks, struct

STRIPS = struct(
    "Strips",
    *(("jobs", "i8"), ("down", "i4"), ("across", "i4"), ("rows", "i4"), ("columns", "i4")),
    *(("above", "i4"), ("below", "i4"), ("before", "i4"), ("behind", "i4")),
)

LANE_STRIPS = struct(
    "LaneStrips",
    *(("jobs", "i8"), ("each", "i4"), ("packs", "i4"), ("rows", "i4"), ("elements", "i4")),
    *(("above", "i4"), ("below", "i4"), ("before", "i4"), ("behind", "i4")),
)

LANES, WARPS = 32, 4
"""Of a warp; of a block, whose warps share nothing but find each other's halo in the L1 cache."""

FEWEST_ROWS = 16
"""Of a strip, or the image's: shorter strips read their halo too often."""

MULTIPROCESSORS = 132
"""Of a large GPU (H100, H200)."""

BUSY = 0.9
"""Share of the warps that a multiprocessor has registers for whose reads fill the memory's time."""

FIRST_ROWS = 3
"""What a warp does before its first row takes about as long as so many rows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a warp makes at most, and what is read besides: fields of both structs."""

    rows: int
    columns: int
    above: int
    below: int
    before: int
    behind: int
    warps: int = 24
    """That a multiprocessor has registers for."""

    def strips(self, stack: Stack) -> tuple[np.ndarray[Any, Any], tuple[int, int, int]]:
        """(a STRIPS, the grid) over all planes of a stack; strips are shorter where jobs lack."""
        across = -(-stack.row // self.columns)
        again = self.above + self.below
        down = strips_down(*(stack.planes, across, 1, stack.height, self.rows, again, self.warps))
        rows = -(-stack.height // down)
        down = -(-stack.height // rows)
        jobs = stack.planes * down * across
        fields = (jobs, down, across, rows, self.columns)
        packed = np.array((*fields, self.above, self.below, self.before, self.behind), STRIPS)
        return packed, blocks(-(-jobs // WARPS))

    def lane_strips(self, stack: Stack) -> tuple[np.ndarray[Any, Any], tuple[int, int, int]]:
        """(a LANE_STRIPS, the grid): the same where lanes hand each other nothing."""
        elements = self.columns // LANES
        packs = -(-stack.row // elements)
        again = self.above + self.below
        down = strips_down(
            *(stack.planes, packs, LANES, stack.height, self.rows, again, self.warps)
        )
        rows = -(-stack.height // down)
        each = -(-packs * -(-stack.height // rows) // LANES)
        jobs = stack.planes * each
        fields = (jobs, each, packs, rows, elements)
        packed = np.array((*fields, self.above, self.below, self.before, self.behind), LANE_STRIPS)
        return packed, blocks(-(-jobs // WARPS))


@lru_cache(maxsize=256)
def strips_down(
    planes: int, across: int, together: int, height: int, most_rows: int, again: int, warps: int
) -> int:
    """How many strips of at most `most_rows` rows share `height`, `across` of them side by side.

    A warp, or a block, makes `together` strips of a plane. All that there is room for at once take
    as long as one of them; a few left over at the end take less, down to BUSY of it. Each strip
    reads `again` rows that others read too.
    """
    room = MULTIPROCESSORS * warps

    def time(down: int) -> float:
        rounds, rest = divmod(planes * -(-across * down // together), room)
        last = max(rest / room, BUSY) if rest else 0.0
        return (rounds + last) * (-(-height // down) + again + FIRST_ROWS)

    fewest, most = -(-height // most_rows), -(-height // min(FEWEST_ROWS, most_rows))
    return min(range(fewest, most + 1), key=time)


def halo(reach: int, lane: int, itemsize: int) -> int:
    """Elements that a lane of `lane` reads on either side: twin of StripRow::HALO."""
    need = reach * itemsize
    read = 4 if need <= 4 else 8 if need <= 8 else 16
    pack = min(max(read // itemsize, 1), lane)
    return -(-reach // pack) * pack


def fits_strips(stack: Stack) -> bool:
    """Whether rows of input and output begin at multiples of 16 bytes, in elements of one dtype."""
    same = stack.input.dtype == stack.output.dtype
    return same and bool(stack.packed["wide_loads"]) and stack.stores(WIDE_BYTES)
