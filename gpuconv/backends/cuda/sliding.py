"""Windows that slide over strips of planes: twin of kernels_cu/common/sliding.cuh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.launch import WIDE_BYTES, blocks, struct
from gpuconv.backends.cuda.strips import fits_strips
from gpuconv.border import Border
from gpuconv.window import AxisWindow

RISE = 4
"""Rows of results that a block makes at a time."""

MOST_SHARED_BYTES = 64 << 10
"""The shared memory that every supported GPU can give one block."""

MOST_THREADS, WARP = 256, 32

MOST_CHANNELS = {1: 64, 2: 4}
"""Interleaved channels, by the number of windows: a strip is whole packs of every channel."""

FILLING_BLOCKS = 132 * 8
"""Strips that keep a large GPU busy: shorter ones are taken until there are so many."""

LEAST_USEFUL = 0.25
PAIR_USEFUL = 0.5
"""Of the elements that a strip reads of a row, those that it answers for; else it is refused: the
general kernels, and two launches, are no slower then."""

SLIDING = struct(
    "Sliding",
    *(("images", IMAGES), ("jobs", "i8"), ("down", "i4"), ("across", "i4")),
    *(("rows", "i4"), ("columns", "i4"), ("height", "i4"), ("width", "i4")),
    *(("top", "i4"), ("left", "i4"), ("before", "i4"), ("lanes", "i4"), ("blocks", "i4")),
    *(("between", "i4"), ("more", "i4"), ("more_of", ("u4", 7)), ("ring_at", "i4")),
    *(("lines_at", "i4"),),
    *(("pitch_bytes", "i4"), ("totals_at", "i4"), ("mapped_at", "i4")),
)
PAIR = struct("Pair", ("first", SLIDING), ("second", SLIDING), ("held", "i4"), ("held_at", "i4"))

ROW_KINDS = ("Rows::Any", "Rows::Short", "Rows::Long")
"""Windows along rows that a kernel is made for. Twin of `Rows`."""

Windows = tuple[AxisWindow, AxisWindow]


@dataclass(frozen=True, slots=True)
class Slider:
    """A launch over all strips of a stack."""

    packed: np.ndarray[Any, Any]
    """A SLIDING of one element, or a PAIR."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class _Strip:
    """Strips of a row, and what a block over one holds. Counts elements."""

    across: int
    columns: int
    lanes: int
    threads: int
    halos: tuple[int, ...]
    """What each window needs on either side: whole packs of every channel."""

    held: int
    """Rows between two windows."""

    ring_at: tuple[int, ...]
    held_at: int
    lines_at: int
    pitch_bytes: int
    totals_at: int
    mapped_at: int
    shared_bytes: int


def rows_of(stack: Stack, width: AxisWindow, pack: int) -> str:
    """The one of ROW_KINDS that serves a window best."""
    if stack.channels > 1:
        return ROW_KINDS[0]
    return ROW_KINDS[1] if width.size <= pack else ROW_KINDS[2]


def plan_slider(stack: Stack, windows: Windows, pack: int, column_bytes: int) -> Slider | None:
    """The widest strips that shared memory allows; None where the general kernels serve better.

    `pack` elements of a row belong to a thread, `column_bytes` hold them while columns are
    reduced.
    """
    strip = _widest(stack, (windows,), pack, column_bytes)
    if strip is None or strip.columns < LEAST_USEFUL * strip.lanes * pack:
        return None
    sliding, grid = _slidings(stack, (windows,), strip, pack)
    return Slider(np.array(sliding[0], SLIDING), grid, (strip.threads, 1, 1), strip.shared_bytes)


def plan_pair(
    stack: Stack, first: Windows, second: Windows, pack: int, column_bytes: int
) -> Slider | None:
    """The same for two windows, the second over the results of the first."""
    steps = (first, second)
    if stack.packed["border"] == list(Border).index(Border.WRAP):
        return None  # rows of the other end are not at hand
    strip = _widest(stack, steps, pack, column_bytes)
    if strip is None or strip.columns < PAIR_USEFUL * strip.lanes * pack:
        return None
    sliding, grid = _slidings(stack, steps, strip, pack)
    packed = np.array((*sliding, strip.held, strip.held_at), PAIR)
    return Slider(packed, grid, (strip.threads, 1, 1), strip.shared_bytes)


def _widest(
    stack: Stack, steps: tuple[Windows, ...], pack: int, column_bytes: int
) -> _Strip | None:
    most = MOST_CHANNELS[len(steps)]
    if not fits_strips(stack) or stack.row % pack or stack.channels > most:
        return None
    for threads in range(MOST_THREADS, 0, -WARP):
        strip = _strip(stack, steps, pack, column_bytes, threads)
        if strip is None:
            return None
        if strip.shared_bytes <= MOST_SHARED_BYTES:
            break
    else:
        return None
    # What lies outside copies what a strip of fewer elements may not hold.
    reach = sum(max(width.pad) for _, width in steps) * stack.channels
    constant = stack.packed["border"] == list(Border).index(Border.CONSTANT)
    if strip.across > 1 and not constant and strip.columns <= reach:
        return None
    return strip


def _strip(
    stack: Stack, steps: tuple[Windows, ...], pack: int, column_bytes: int, threads: int
) -> _Strip | None:
    """Strips of at most so many threads; None where their windows leave nothing of them."""
    channels = stack.channels
    unit = pack * channels
    halos = tuple(-(-max(width.pad) // pack) * unit for _, width in steps)
    columns = threads // channels * channels * pack - 2 * sum(halos)
    if columns < unit:
        return None
    across = -(-stack.row // columns)
    columns = -(-stack.row // (across * unit)) * unit
    lanes = (2 * sum(halos) + columns) // pack
    threads = -(-lanes // WARP) * WARP  # no wider than the row asks for
    place, ring_at = 0, []
    for height, _ in steps:
        ring_at.append(place)
        place += _blocks(height) * column_bytes * threads
    held_at, held = place, 0
    if len(steps) == 2:
        held = steps[1][0].size + 2 * RISE
        pixel_bytes = stack.input.dtype.itemsize
        place += held * _up(pack * pixel_bytes, 8) * threads
    lines_at, pitch_bytes = place, _up(4 * lanes * (pack + 1), WIDE_BYTES)
    totals_at = lines_at + 3 * pitch_bytes
    totals = lanes + (1 + max(_between(width, pack) for _, width in steps)) * channels
    mapped_at = _up(totals_at + 4 * totals, WIDE_BYTES)
    shared_bytes = mapped_at + 2 * pack * threads
    return _Strip(
        *(across, columns, lanes, threads, halos, held, tuple(ring_at), held_at, lines_at),
        *(pitch_bytes, totals_at, mapped_at, shared_bytes),
    )


def _slidings(
    stack: Stack, steps: tuple[Windows, ...], strip: _Strip, pack: int
) -> tuple[list[tuple[Any, ...]], tuple[int, int, int]]:
    """(a SLIDING for each window, the grid)."""
    wanted = -(-FILLING_BLOCKS // (stack.planes * strip.across))
    fewest = max(4 * RISE, 2 * sum(height.size for height, _ in steps))
    down = max(1, min(wanted, stack.height // fewest))
    rows = _up(-(-stack.height // down), RISE)
    down = -(-stack.height // rows)
    jobs = stack.planes * down * strip.across
    packed = []
    for place, (height, width) in enumerate(steps):
        more = (width.size - 1) % pack
        packed.append(
            (
                *(stack.packed, jobs, down, strip.across, rows, strip.columns),
                *(height.size, width.size, height.pad[0], width.pad[0]),
                *(sum(strip.halos[: place + 1]), strip.lanes, _blocks(height)),
                *(_between(width, pack), more, [i < more for i in range(7)]),
                *(
                    strip.ring_at[place],
                    strip.lines_at,
                    strip.pitch_bytes,
                    strip.totals_at,
                    strip.mapped_at,
                ),
            )
        )
    return packed, blocks(jobs)


def _blocks(height: AxisWindow) -> int:
    """Whole blocks of RISE rows between a window's heads and tails."""
    return max(height.size // RISE - 1, 0)


def _between(width: AxisWindow, pack: int) -> int:
    """Whole packs between the two that a window ends in, at least; 0 for short ones."""
    return max((width.size - 1) // pack - 1, 0)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
