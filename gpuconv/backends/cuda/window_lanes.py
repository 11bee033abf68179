"""Launches of kernels_cu/window_lanes.cu: boxes of a few odd widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.launch import SHARED_BYTES, Launch, Variant, blocks, struct
from gpuconv.backends.cuda.strips import LANES, WARPS, fits_strips, strips_down
from gpuconv.border import Border
from gpuconv.dtypes import DType, is_float
from gpuconv.window import AxisWindow

FILE = "window_lanes.cu"

LANE_WINDOWS = struct(
    "LaneWindows",
    *(("images", IMAGES), ("jobs", "i8"), ("bands", "i8"), ("down", "i4"), ("rows", "i4")),
    *(("packs", "i4"), ("lanes", "i4"), ("beside", "i4")),
    *(("height", "i4"), ("top", "i4"), ("blocks", "i4")),
)
EXTREME_LANES = struct("ExtremeLanesParams", ("windows", LANE_WINDOWS), ("mask", "u4"))
MEAN_LANES = struct("MeanLanesParams", ("windows", LANE_WINDOWS), ("inverse", "f4"))

WIDTHS = (5, 7, 9, 15)
"""Pixels of a row of the windows that there are kernels for; they begin half as many before."""

EXTREME_TYPES = {
    **{"uint8": "uint8", "int8": "uint8", "uint16": "uint16", "int16": "uint16"},
    **{"float16": "float16", "bfloat16": "bfloat16", "float32": "float"},
}
"""What is compared, by dtype: signed integers lose their sign by one bit."""

MEAN_TYPES = {"uint8": "uint8", "float16": "float16", "bfloat16": "bfloat16", "float32": "float"}
"""What is averaged, by dtype."""

RISE = 4
"""Rows of results that a warp makes at a time: twin of RISE in kernels_cu/common/sliding.cuh."""

MOST_ROWS = 256
"""Rows of a strip where there are strips enough."""

RESIDENT = {1: 20, 2: 16, 4: 24}
"""Warps that a multiprocessor has registers for, at most, by the bytes of an element."""

BUSY = {1: 16, 2: 10, 4: 10}
"""Of these, as many as keep the memory busy: where strips are few, they are as tall as that allows,
and rows that are met again lie in the L1 cache."""

Windows = tuple[AxisWindow, AxisWindow]


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for width in map(str, WIDTHS):
        for dtype in dict.fromkeys(EXTREME_TYPES.values()):
            yield Variant(FILE, "extreme_lanes", (width, dtype))
        for dtype in MEAN_TYPES.values():
            yield Variant(FILE, "mean_lanes", (width, dtype))


def extreme_mask(dtype: DType, lowest: bool) -> int:
    """What is toggled in a word of pixels, so that the highest is wanted of unsigned numbers."""
    bits = 8 * dtype.itemsize
    sign, each = 1 << bits - 1, sum(1 << place for place in range(0, 32, bits))
    if is_float(dtype):
        return sign * each if lowest else 0
    return ((sign if dtype.kind == "i" else 0) ^ (2**bits - 1 if lowest else 0)) * each


def inverse_of(windows: Windows, dtype: DType) -> float | None:
    """What sums are multiplied by; None where they are not summed, or rounded, this way.

    Sums of bytes have 16 bits. Rounded as WindowSums tells, all means by odd counts and powers of
    two are right.
    """
    count = windows[0].size * windows[1].size
    if dtype.name not in MEAN_TYPES:
        return None
    if is_float(dtype):
        return 1 / count
    odd_or_power = count % 2 == 1 or count & (count - 1) == 0
    return round(2**24 / count) / 2**24 if odd_or_power and count * 255 < 2**16 else None


def column_bytes(dtype: DType) -> int:
    """What a thread has of sums of a block of RISE rows; nothing where they are running sums."""
    return {1: 0, 2: 32, 4: 16}[dtype.itemsize]


def extreme_launch(stack: Stack, windows: Windows, dtype: DType, lowest: bool) -> Launch | None:
    """A dilation, or an erosion for the `lowest`; None where another kernel serves it."""
    name = EXTREME_TYPES.get(dtype.name)
    if name is None:
        return None
    packed = _lane_windows(stack, windows, dtype.itemsize, 16)
    if packed is None:
        return None
    params = np.array((packed[0], extreme_mask(dtype, lowest)), EXTREME_LANES)
    return _launch("extreme_lanes", (str(windows[1].size), name), stack, params, packed[1])


def mean_launch(stack: Stack, windows: Windows, dtype: DType) -> Launch | None:
    """Means of boxes; None where another kernel serves them."""
    inverse = inverse_of(windows, dtype)
    if inverse is None:
        return None
    packed = _lane_windows(stack, windows, dtype.itemsize, column_bytes(dtype))
    if packed is None:
        return None
    params = np.array((packed[0], inverse), MEAN_LANES)
    arguments = (str(windows[1].size), MEAN_TYPES[dtype.name])
    return _launch("mean_lanes", arguments, stack, params, packed[1])


def _launch(
    kernel: str,
    arguments: tuple[str, ...],
    stack: Stack,
    params: np.ndarray[Any, Any],
    shared_bytes: int,
) -> Launch:
    jobs = int(params["windows"]["jobs"])
    return Launch(
        Variant(FILE, kernel, arguments),
        blocks(-(-jobs // WARPS)),
        (LANES * WARPS, 1, 1),
        (stack.input, stack.output, params),
        shared_bytes,
    )


def _lane_windows(
    stack: Stack, windows: Windows, itemsize: int, ring_bytes: int
) -> tuple[tuple[Any, ...], int] | None:
    """(a LANE_WINDOWS, the bytes of shared memory).

    `ring_bytes` hold what a lane has of a block of RISE rows.
    """
    height, width = windows
    pack = 4 if itemsize == 4 else 8
    if (
        width.size not in WIDTHS
        or (ring_bytes and height.size < RISE)
        or width.pad[0] != width.size // 2
        or stack.channels > 1
        or not fits_strips(stack)
        or stack.row % pack
    ):
        return None
    whole = max(height.size // RISE - 1, 0) if ring_bytes else 0
    shared_bytes = whole * ring_bytes * LANES * WARPS
    if shared_bytes > SHARED_BYTES:
        return None
    packs, beside = stack.row // pack, -(-(width.size // 2) // pack)
    constant = stack.packed["border"] == list(Border).index(Border.CONSTANT)
    lanes = packs + beside * (1 if constant else 2)
    own = LANES - 2 * beside
    down = strips_down(
        *(1, stack.planes * lanes, own, stack.height, MOST_ROWS),
        *(height.size - 1, BUSY[itemsize]),
    )
    rows = -(-stack.height // (down * RISE)) * RISE
    down = -(-stack.height // rows)
    bands = stack.planes * down
    jobs = -(-(bands * lanes - (0 if constant else beside) - beside) // own)
    packed = (
        *(stack.packed, jobs, bands, down, rows, packs, lanes, beside),
        *(height.size, height.pad[0], whole),
    )
    return packed, shared_bytes
