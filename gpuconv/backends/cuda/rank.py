"""Launches of kernels_cu/rank.cu and rank_large.cu: medians and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, TILING, Stack, stacks
from gpuconv.backends.cuda.keys import KEY_TYPES, KEYS, give_bits, key_types, pack_keys
from gpuconv.backends.cuda.launch import (
    ANY,
    DTYPES,
    SHARED_BYTES,
    WIDE_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    blocks,
    struct,
    tile_pitch,
)
from gpuconv.backends.cuda.strips import STRIPS, WARPS, Shape, fits_strips, halo
from gpuconv.dtypes import DType
from gpuconv.plan import RankPlan, gpu

FILE, STRIP_FILE, LARGE_FILE = "rank.cu", "rank_strip.cu", "rank_large.cu"
ROWS = 8

MEDIAN_ROWS = 32
"""Outputs of a tile of `median`, rows at most."""

STRIP_CHANNELS = (1, 2, 3, 4)
STRIP_ROWS = 256
"""Of `median_strip`: interleaved channels, rows of a strip."""

MARCH_ROWS = 64
"""Rows of a march of `rank_counts`, at least."""

FEWEST_LOG = 8
"""Sorted tiles have at least 2^8 entries."""

COMPARE_CLOCKS = {1: 0.04, 2: 0.04, 4: 0.1, 8: 0.2}
EXCHANGE_CLOCKS, PROCESSOR_BYTES = 40, 200 * 1024
"""What sm_90 takes to compare entries, by bytes of a pixel; to exchange pixels of a window; and
what it has of shared memory for tables."""

WORKSPACE_BYTES = 48 << 20
"""Memory for sorted tiles."""

CHUNK_BYTES = 32 * 1024
"""Shared memory of `rank_sort`."""

ENTRIES = {1: "uint32", 2: "uint32", 4: "uint64", 8: "complex128"}
"""What memory for an entry is allocated as, by the bytes of a pixel."""

LANES = gpu.LANES

WINDOW = (*(("height", "i4"), ("width", "i4"), ("pad_y", "i4"), ("pad_x", "i4"), ("rank", "i4")),)
RANK = struct(
    "RankParams",
    *(("images", IMAGES), ("tiling", TILING), ("keys", KEYS), *WINDOW),
    *(("rows", "i4"), ("pitch", "i4"), ("wide_stores", "i4")),
)
MEDIAN_STRIP = struct("MedianParams", ("images", IMAGES), ("strips", STRIPS), ("keys", KEYS))
COUNTS = struct(
    "CountsParams",
    *(("images", IMAGES), ("tiling", TILING), ("keys", KEYS), *WINDOW, ("rows", "i4")),
)
SORTED = struct(
    "SortedParams",
    *(("images", IMAGES), ("keys", KEYS), ("first", "i8"), ("jobs", "i8")),
    *(("down", "i4"), ("across", "i4"), ("rows", "i4"), *WINDOW, ("count", "i4")),
    ("padded", "i4"),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for key in KEY_TYPES:
        yield Variant(FILE, "rank_any", (key, key, key))
        for size in gpu.NETWORKS:
            yield Variant(FILE, "median", (str(size), key))
    for dtype in DTYPES:
        yield Variant(FILE, "rank_any", (dtype, ANY, ANY))
    for key in KEY_TYPES[:3]:
        for channels in STRIP_CHANNELS:
            yield Variant(STRIP_FILE, "median_strip", (key, str(channels)))
    for fields in gpu.COUNTERS:
        yield Variant(LARGE_FILE, "rank_counts", (str(fields),))
    for key in KEY_TYPES:
        yield Variant(LARGE_FILE, "rank_sort", (key,))
    for types in (*((key, key) for key in KEY_TYPES), *((dtype, ANY) for dtype in DTYPES)):
        yield Variant(LARGE_FILE, "rank_entries", types)
        yield Variant(LARGE_FILE, "rank_bits", types)


def launches(
    plan: RankPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes; three a part of it where tiles are sorted in memory."""
    form = plan.on_gpu
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        give_bits(stack.packed, plan.images.dtype, plan.images.value)
        types = key_types(plan.images.dtype, stack.input.dtype, stack.output.dtype)
        if types[-1] == ANY and form in ("network", "counts"):
            form = gpu.rank_converted(plan.sizes, plan.images.dtype)
        if form == "network":
            yield _strip(plan, stack, types) or _median(plan, stack, types)
        elif form == "counts":
            yield _counts(plan, stack)
        elif form == "sorted":
            yield from _sorted(plan, stack, types, launcher)
        else:
            yield _tiled(plan, stack, Variant(FILE, "rank_any", types), ROWS, LANES, ROWS)


def _window(plan: RankPlan) -> tuple[int, ...]:
    height, width = plan.windows
    return height.size, width.size, height.pad[0], width.pad[0], plan.rank


def _side(size: int, dtype: DType) -> int:
    """Of the squares of medians that a lane finds: twin of SIDE."""
    return 2 if size == 3 or dtype.itemsize == 8 else 4


def _median(plan: RankPlan, stack: Stack, types: tuple[str, ...]) -> Launch:
    """Networks over tiles in shared memory."""
    size = plan.windows[0].size
    side = _side(size, plan.images.dtype)
    rows = min(MEDIAN_ROWS, -(-stack.height // (2 * side)) * 2 * side)
    columns = LANES // stack.channels * stack.channels * side
    return _tiled(plan, stack, Variant(FILE, "median", (str(size), types[0])), rows, columns, WARPS)


def _strip(plan: RankPlan, stack: Stack, types: tuple[str, ...]) -> Launch | None:
    """Networks of 3×3 by strips, where rows begin at multiples of 16 bytes."""
    itemsize, channels = plan.images.dtype.itemsize, stack.channels
    if plan.count != 9 or itemsize > 4 or channels not in STRIP_CHANNELS:
        return None
    if not fits_strips(stack):
        return None
    lane = WIDE_BYTES // itemsize
    side = halo(channels, lane, itemsize)
    shape = Shape(STRIP_ROWS, LANES * lane, 1, 1, side, side)
    strips, grid = shape.strips(stack)
    params = np.array((stack.packed, strips, pack_keys(plan.images.dtype)), MEDIAN_STRIP)
    variant = Variant(STRIP_FILE, "median_strip", (types[0], str(channels)))
    return Launch(variant, grid, (LANES, WARPS, 1), (stack.input, stack.output, params))


def _tiled(
    plan: RankPlan, stack: Stack, variant: Variant, rows: int, columns: int, warps: int
) -> Launch:
    """A kernel over tiles of `rows` × `columns`, in no shared memory where none is enough."""
    height, width = plan.windows
    dtype: DType = plan.images.dtype
    pitch = tile_pitch(columns + (width.size - 1) * stack.channels, dtype)
    shared_bytes = (rows + height.size - 1) * pitch * dtype.itemsize
    if shared_bytes > SHARED_BYTES:
        pitch = shared_bytes = 0
    tiling, grid = stack.tiling(rows, columns)
    sizes = (*_window(plan), rows, pitch, stack.stores(WIDE_BYTES))
    params = np.array((stack.packed, tiling, pack_keys(dtype), *sizes), RANK)
    arrays = (stack.input, stack.output, params)
    return Launch(variant, grid, (LANES, min(warps, rows), 1), arrays, shared_bytes)


def _counts(plan: RankPlan, stack: Stack) -> Launch:
    """Tables of the 256 values of a byte."""
    height, width = plan.windows
    fields = gpu.counters(plan.count)
    shared_bytes = gpu.table_bytes(256 // fields, LANES + (width.size - 1) * stack.channels)
    # The first window of a march is counted whole.
    rows = min(stack.height, max(MARCH_ROWS, 2 * height.size))
    tiling, grid = stack.tiling(rows, LANES)
    packed = (stack.packed, tiling, pack_keys(plan.images.dtype), *_window(plan), rows)
    arrays = (stack.input, stack.output, np.array(packed, COUNTS))
    variant = Variant(LARGE_FILE, "rank_counts", (str(fields),))
    return Launch(variant, grid, (LANES, 1, 1), arrays, shared_bytes)


@dataclass(frozen=True, slots=True)
class SortedTile:
    """`rows` × 32 outputs; `count` pixels that their windows meet, `padded` to a power of two."""

    rows: int
    count: int
    padded: int
    shared_bytes: int


def _sorted_tile(plan: RankPlan, stack: Stack) -> SortedTile:
    """The tile whose outputs cost the fewest clocks of a multiprocessor.

    Sorting takes log2(n)·(log2(n) + 1)/2 rounds of n/2 comparisons, an exchange of pixels about
    EXCHANGE_CLOCKS of its warp, and tables decide how many warps there are to fill them.
    """
    height, width = (w.size for w in plan.windows)
    compare = COMPARE_CLOCKS[plan.images.dtype.itemsize]
    span, most = LANES - 1 + width, gpu.most_places(width)
    found: tuple[float, SortedTile] | None = None
    for log in range(FEWEST_LOG, most.bit_length() + 1):
        rows = min(min(2**log, most) // span - (height - 1), stack.height)
        if rows < 1:
            continue
        count = (rows + height - 1) * span
        padded = max(2**FEWEST_LOG, 1 << (count - 1).bit_length())
        levels = padded.bit_length() - 1
        shared_bytes = gpu.table_bytes(-(-count // 32), span)
        sort = padded / 2 * levels * (levels + 1) / 2 * compare
        march = width * (height + rows) * EXCHANGE_CLOCKS * shared_bytes / PROCESSOR_BYTES
        cost = (sort + march) / (LANES * rows)
        if found is None or cost < found[0]:
            found = cost, SortedTile(rows, count, padded, shared_bytes)
    assert found is not None
    return found[1]


def _sorted(
    plan: RankPlan, stack: Stack, types: tuple[str, ...], launcher: Launcher
) -> Iterator[Launch]:
    """Tiles gathered, sorted and ranked, as many at once as the workspace holds."""
    dtype, tile = plan.images.dtype, _sorted_tile(plan, stack)
    key, stored = f"uint{8 * dtype.itemsize}", types[-1]
    entry = np.dtype(ENTRIES[dtype.itemsize])
    down, across = -(-stack.height // tile.rows), -(-(stack.row // stack.channels) // LANES)
    jobs = stack.planes * stack.channels * down * across
    tile_bytes = tile.padded * entry.itemsize + 2 * tile.count
    step = min(jobs, WORKSPACE_BYTES // tile_bytes)
    entries = launcher.empty((step * tile.padded,), entry)
    order = launcher.empty((step * tile.count,), np.dtype(np.uint16))
    sort_bytes = min(CHUNK_BYTES, tile.padded * entry.itemsize)
    sizes = (down, across, tile.rows, *_window(plan), tile.count, tile.padded)
    for first in range(0, jobs, step):
        have = min(step, jobs - first)
        packed = (stack.packed, pack_keys(dtype), first, have, *sizes)
        params = np.array(packed, SORTED)
        ranked = (entries, order, stack.output)
        for kernel, arguments, threads, arrays, shared_bytes in (
            ("rank_entries", (types[0], stored), 256, (stack.input, entries), 0),
            ("rank_sort", (key,), 256, (entries, order), sort_bytes),
            ("rank_bits", (types[0], stored), LANES, ranked, tile.shared_bytes),
        ):
            variant = Variant(LARGE_FILE, kernel, arguments)
            yield Launch(variant, blocks(have), (threads, 1, 1), (*arrays, params), shared_bytes)
