"""Launches of kernels_cu/rank.cu: medians and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, TILING, Stack, stacks
from gpuconv.backends.cuda.keys import KEY_TYPES, KEYS, give_bits, key_types, pack_keys
from gpuconv.backends.cuda.launch import (
    ANY,
    DTYPES,
    SHARED_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    struct,
    tile_pitch,
)
from gpuconv.dtypes import DType
from gpuconv.plan import RankPlan

FILE = "rank.cu"
ROWS, COLUMNS = 8, 32

MEDIAN_SIZES = (3, 5, 7)
MEDIAN_ROWS, MEDIAN_COLUMNS, MEDIAN_WARPS = 32, 64, 8
"""Outputs of a tile of `median`, rows at most; warps at most."""

RANK = struct(
    "RankParams",
    *(("images", IMAGES), ("tiling", TILING), ("keys", KEYS), ("height", "i4"), ("width", "i4")),
    *(("pad_y", "i4"), ("pad_x", "i4"), ("rank", "i4"), ("rows", "i4"), ("pitch", "i4")),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for key in KEY_TYPES:
        yield Variant(FILE, "rank_any", (key, key, key))
        for size in MEDIAN_SIZES:
            yield Variant(FILE, "median", (str(size), key))
    for dtype in DTYPES:
        yield Variant(FILE, "rank_any", (dtype, ANY, ANY))


def launches(
    plan: RankPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes."""
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        give_bits(stack.packed, plan.images.dtype, plan.images.value)
        types = key_types(plan.images.dtype, stack.input.dtype, stack.output.dtype)
        size = plan.windows[0].size
        square = plan.windows[1].size == size and plan.rank == plan.count // 2
        if square and size in MEDIAN_SIZES and types[-1] != ANY:
            rows = min(MEDIAN_ROWS, -(-stack.height // 2) * 2)
            variant = Variant(FILE, "median", (str(size), types[0]))
            launch = _launch(plan, stack, variant, rows, MEDIAN_COLUMNS)
            if launch.shared_bytes:
                yield launch
                continue
        yield _launch(plan, stack, Variant(FILE, "rank_any", types), ROWS, COLUMNS)


def _launch(plan: RankPlan, stack: Stack, variant: Variant, rows: int, columns: int) -> Launch:
    """A kernel over tiles of `rows` × `columns`, in no shared memory where none is enough."""
    height, width = plan.windows
    dtype: DType = plan.images.dtype
    pitch = tile_pitch(columns + (width.size - 1) * stack.channels, dtype)
    shared_bytes = (rows + height.size - 1) * pitch * dtype.itemsize
    if shared_bytes > SHARED_BYTES:
        pitch = shared_bytes = 0
    tiling, grid = stack.tiling(rows, columns)
    sizes = (height.size, width.size, height.pad[0], width.pad[0])
    params = np.array(
        (stack.packed, tiling, pack_keys(dtype), *sizes, plan.rank, rows, pitch), RANK
    )
    return Launch(
        variant,
        grid,
        (32, min(MEDIAN_WARPS, rows), 1),
        (stack.input, stack.output, params),
        shared_bytes,
    )
