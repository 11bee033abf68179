"""Launches of kernels_cu/window_channels.cu: boxes over pixels of many channels, and of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv.backends.cuda import window_lanes
from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.launch import SHARED_BYTES, Launch, Variant, blocks, struct
from gpuconv.backends.cuda.strips import LANES, fits_strips, strips_down
from gpuconv.backends.cuda.window_lanes import (
    EXTREME_TYPES,
    MEAN_TYPES,
    RISE,
    Windows,
    column_bytes,
    extreme_mask,
    inverse_of,
)
from gpuconv.border import Border
from gpuconv.dtypes import DType

FILE = "window_channels.cu"

CHANNEL_WINDOWS = struct(
    "ChannelWindows",
    *(("images", IMAGES), ("jobs", "i8"), ("slices", "i4"), ("across", "i4"), ("down", "i4")),
    *(("rows", "i4"), ("columns", "i4"), ("cells", "i4"), ("pitch", "i4")),
    *(("height", "i4"), ("width", "i4"), ("top", "i4"), ("left", "i4"), ("blocks", "i4")),
    ("cells_at", "i4"),
)
EXTREME_CHANNELS = struct("ExtremeChannelsParams", ("windows", CHANNEL_WINDOWS), ("mask", "u4"))
MEAN_CHANNELS = struct("MeanChannelsParams", ("windows", CHANNEL_WINDOWS), ("inverse", "f4"))

SLICE = {1: 4, 2: 2, 4: 2}
"""Packs of channels that a strip has side by side, by the bytes of an element."""

THREADS, SIDE = 256, 4
"""Of a block, at most; columns of pixels that one reduces at once."""

MOST_ROWS = 256
"""Rows of a strip where there are strips enough."""

LEAST_USEFUL = 0.5
"""Of the pixels that a strip reads of a row, those that it answers for; else it is refused."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for dtype in dict.fromkeys(EXTREME_TYPES.values()):
        yield Variant(FILE, "extreme_channels", (dtype,))
    for dtype in MEAN_TYPES.values():
        yield Variant(FILE, "mean_channels", (dtype,))


def extreme_launch(stack: Stack, windows: Windows, dtype: DType, lowest: bool) -> Launch | None:
    """A dilation, or an erosion for the `lowest`; None where another kernel serves it."""
    if stack.channels == 1:
        return window_lanes.extreme_launch(stack, windows, dtype, lowest)
    name = EXTREME_TYPES.get(dtype.name)
    if name is None:
        return None
    packed = _channel_windows(stack, windows, dtype, 16, 16)
    if packed is None:
        return None
    params = np.array((packed[0], extreme_mask(dtype, lowest)), EXTREME_CHANNELS)
    return _launch("extreme_channels", (name,), stack, params, *packed[1:])


def mean_launch(stack: Stack, windows: Windows, dtype: DType) -> Launch | None:
    """Means of boxes; None where another kernel serves them."""
    if stack.channels == 1:
        return window_lanes.mean_launch(stack, windows, dtype)
    inverse = inverse_of(windows, dtype)
    if inverse is None:
        return None
    cell_bytes = 32 if dtype.itemsize == 2 else 16
    packed = _channel_windows(stack, windows, dtype, column_bytes(dtype), cell_bytes)
    if packed is None:
        return None
    params = np.array((packed[0], inverse), MEAN_CHANNELS)
    return _launch("mean_channels", (MEAN_TYPES[dtype.name],), stack, params, *packed[1:])


def _launch(
    kernel: str,
    arguments: tuple[str, ...],
    stack: Stack,
    params: np.ndarray[Any, Any],
    threads: int,
    shared_bytes: int,
) -> Launch:
    return Launch(
        Variant(FILE, kernel, arguments),
        blocks(int(params["windows"]["jobs"])),
        (threads, 1, 1),
        (stack.input, stack.output, params),
        shared_bytes,
    )


def _channel_windows(
    stack: Stack, windows: Windows, dtype: DType, ring_bytes: int, cell_bytes: int
) -> tuple[tuple[Any, ...], int, int] | None:
    """(a CHANNEL_WINDOWS, threads of a block, bytes of shared memory).

    `ring_bytes` hold what a thread has of a block of RISE rows, `cell_bytes` of a row.
    """
    height, width = windows
    packs = SLICE[dtype.itemsize]
    elements = packs * (4 if dtype.itemsize == 4 else 8)
    constant = stack.packed["border"] == list(Border).index(Border.CONSTANT)
    if (
        width.size < SIDE
        or (ring_bytes and height.size < RISE)
        or not constant
        or stack.channels % elements
        or not fits_strips(stack)
    ):
        return None
    pixels, slices = stack.row // stack.channels, stack.channels // elements
    most = (THREADS // packs - width.size + 1) // SIDE * SIDE
    if most < LEAST_USEFUL * THREADS // packs:
        return None
    across = -(-pixels // most)
    columns = -(-pixels // (across * SIDE)) * SIDE
    across = -(-pixels // columns)
    cells = columns + width.size - 1
    threads = -(-cells * packs // LANES) * LANES
    pitch = cells | 1
    whole = max(height.size // RISE - 1, 0) if ring_bytes else 0
    cells_at = whole * ring_bytes * threads
    shared_bytes = cells_at + RISE * pitch * packs * cell_bytes
    if shared_bytes > SHARED_BYTES:
        return None
    resident = 2 * THREADS // threads  # blocks of a multiprocessor that keep the memory busy
    down = strips_down(
        *(stack.planes * slices, across, 1, stack.height, MOST_ROWS, height.size - 1, resident)
    )
    rows = -(-stack.height // (down * RISE)) * RISE
    down = -(-stack.height // rows)
    jobs = stack.planes * slices * across * down
    packed = (
        *(stack.packed, jobs, slices, across, down, rows, columns, cells, pitch),
        *(height.size, width.size, height.pad[0], width.pad[0], whole, cells_at),
    )
    return packed, threads, shared_bytes
