"""Launches of kernels_cu/rank.cu: medians and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, TILING, stacks
from gpuconv.backends.cuda.launch import (
    DTYPES,
    SHARED_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    both_kinds,
    cuda_type,
    stored_types,
    struct,
    tile_pitch,
)
from gpuconv.dtypes import DType
from gpuconv.plan import RankPlan

FILE = "rank.cu"
ROWS, COLUMNS = 8, 32

RANK = struct(
    "RankParams",
    *(("images", IMAGES), ("tiling", TILING), ("height", "i4"), ("width", "i4")),
    *(("pad_y", "i4"), ("pad_x", "i4"), ("rank", "i4"), ("pitch", "i4")),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for dtype in DTYPES:
        for stored in both_kinds(dtype, 2):
            yield _variant(dtype, stored)


def _variant(dtype: str, stored: tuple[str, ...]) -> Variant:
    return Variant(FILE, "rank_any", (dtype, *stored))


def launches(
    plan: RankPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes."""
    height, width = plan.windows
    dtype: DType = plan.images.dtype
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        pitch = tile_pitch(COLUMNS + (width.size - 1) * stack.channels, dtype)
        shared_bytes = (ROWS + height.size - 1) * pitch * dtype.itemsize
        if shared_bytes > SHARED_BYTES:
            pitch = shared_bytes = 0
        tiling, grid = stack.tiling(ROWS, COLUMNS)
        sizes = (height.size, width.size, height.pad[0], width.pad[0])
        params = np.array((stack.packed, tiling, *sizes, plan.rank, pitch), RANK)
        stored = stored_types(dtype, stack.input.dtype, stack.output.dtype)
        yield Launch(
            _variant(cuda_type(dtype), stored),
            grid,
            (COLUMNS, ROWS, 1),
            (stack.input, stack.output, params),
            shared_bytes,
        )
