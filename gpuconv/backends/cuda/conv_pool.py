"""Launches of kernels_cu/conv_pool.cu: pooled convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuconv.backends.cuda.conv import CONV, THREADS, TILE, TYPES, plain, types_of
from gpuconv.backends.cuda.launch import (
    ANY,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    blocks,
    struct,
)
from gpuconv.dtypes import is_float
from gpuconv.plan import ConvPoolPlan

FILE = "conv_pool.cu"

COLUMNS = 16
"""Pooled places along a row of a tile, where the map is as wide."""

PIXELS = 4096
"""Positions convolved by one block, unless one window is larger."""

POOL_AXIS = struct(
    "PoolAxis",
    *(("output", "i4"), ("size", "i4"), ("stride", "i4"), ("pad", "i4"), ("tile", "i4")),
)
CONV_POOL = struct(
    "ConvPoolParams",
    *(("conv", CONV), ("row", POOL_AXIS), ("column", POOL_AXIS), ("jobs", "i8")),
    *(("channel_tiles", "i4"), ("down", "i4"), ("across", "i4"), ("average", "i4")),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for last in (False, True):
        for sums, *stored in TYPES:
            for value in _values(sums, stored[-1]):
                yield _variant(last, (sums, *stored), value)


def _values(sums: str, out: str) -> tuple[str, ...]:
    """What may be pooled: values of a feature map, exact."""
    if sums in ("int", "int64"):
        return "int64", "double"
    return ("double",) if out == ANY else (sums,)


def _variant(last: bool, types: Sequence[str], value: str) -> Variant:
    return Variant(FILE, "conv_pool", ("true" if last else "false", *types, value))


def launches(
    plan: ConvPoolPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch: TILE channels × a tile of pooled places a block."""
    pool, types = plan.pool, types_of(plan.conv)
    conv = plain(plan.conv, inputs, outputs[0])
    sizes = pool.output.spatial
    tile = _tile(plan)
    down, across = (-(-n // t) for n, t in zip(sizes, tile, strict=True))
    channel_tiles = -(-conv.outputs // TILE)
    jobs = pool.output.batch * down * across * plan.conv.groups * channel_tiles
    axes = [
        (n, w.size, w.stride, w.pad[0], t)
        for n, w, t in zip(sizes, pool.windows, tile, strict=True)
    ]
    average = pool.operation == "avg"
    params = np.array((conv.packed(), *axes, jobs, channel_tiles, down, across, average), CONV_POOL)
    integer, floats = _values(types[0], types[-1])[0], _values(types[0], types[-1])[-1]
    value = floats if is_float(plan.conv.out_dtype) else integer
    yield Launch(
        _variant(conv.last, types, value),
        blocks(jobs),
        (THREADS, 1, 1),
        conv.arguments(params),
    )


def _tile(plan: ConvPoolPlan) -> tuple[int, int]:
    """Pooled places (down, across) of a block: at most TILE, over a bounded number of positions."""
    (height, width), (row, column) = plan.pool.output.spatial, plan.pool.windows
    across = min(width, COLUMNS)
    down = min(height, TILE // across)
    across = min(width, TILE // down)

    def pixels() -> int:
        high = min(row.size, row.stride) * (down - 1) + row.size
        return high * (min(column.size, column.stride) * (across - 1) + column.size)

    while pixels() > PIXELS and down * across > 1:
        if down >= across:
            down = -(-down // 2)
        else:
            across = -(-across // 2)
    return down, across
