"""Launches of kernels_cu/pool.cu: windowed pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gpuconv.backends.cuda.adaptive import (
    DIVIDER,
    FEW_TAPS,
    NETWORK_DTYPES,
    OPERATION,
    PLACES,
    POOL_AXIS,
    PREPARED,
    RESIDENT,
    THREADS,
    Axis,
    Laid,
    Map,
    Prepared,
    divider,
    laid,
    operation,
    operation_name,
    pool_launches,
    pool_map,
    sum_type,
    windows,
)
from gpuconv.backends.cuda.images import NUMBER
from gpuconv.backends.cuda.launch import (
    CUDA_TYPES,
    SHARED_BYTES,
    WIDE_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    blocks,
    cuda_type,
    number,
    struct,
    tile_pitch,
)
from gpuconv.dtypes import FLOATS, highest, lowest, magnitude
from gpuconv.plan import PoolPlan
from gpuconv.window import AxisWindow

FILE = "pool.cu"

POOL = struct(
    "PoolParams",
    *(("z", POOL_AXIS), ("y", POOL_AXIS), ("x", POOL_AXIS)),
    *(("batch", PLACES), ("channel", PLACES), ("channels", DIVIDER)),
    *(("operation", OPERATION), ("outside", NUMBER), ("jobs", "i8")),
    *(("deep", "i4"), ("down", "i4"), ("across", "i4")),
    *(("tile_z", "i4"), ("tile_y", "i4"), ("x_bits", "i4"), ("span_z", "i4"), ("span_x", "i4")),
    *(("span_y", DIVIDER), ("rows", DIVIDER), ("tile_rows", DIVIDER)),
    *(("pitch", "i4"), ("along_y", "i4"), ("state_bytes", "i4")),
    *(("wide_loads", "i4"), ("load_bits", "i4")),
)

SMALL = struct(
    "SmallParams",
    *(("z", POOL_AXIS), ("y", POOL_AXIS), ("x", POOL_AXIS), ("batch", PLACES)),
    *(("operation", OPERATION), ("outside", NUMBER), ("threads", "i8")),
    *(("packs", DIVIDER), ("groups", DIVIDER), ("rows", "i4"), ("wide_stores", "i4")),
)

SMALL_WINDOWS = ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1))
"""Size, stride and padding that pool_small is compiled for, the same along both axes."""

MOST_ROWS = 16
"""Rows of windows that one of its threads takes, if there is work enough for all."""

ROW_BYTES = 256
"""Elements of a tile's row, in about, before they are reduced."""

TILE_WINDOWS = 2048
"""Windows of a tile, if shared memory holds them: eight a thread."""

LEAST_WINDOWS = 512
"""Tiles are not made smaller than this for the sake of more blocks."""

WANTED_BYTES = 24 * 1024
"""Shared memory of a block of which enough fit a multiprocessor."""

MANY_BLOCKS = 512
"""Blocks that keep a large device busy."""

FEW_CHANNELS = 16
"""Interleaved channels that are too few to be a row of a tile."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for name, dtype in CUDA_TYPES.items():
        for wanted in ("Extreme", "Choice", "Mean", *(["Norm"] if name in FLOATS else [])):
            yield _variant("pool_tile", wanted, dtype)
            if wanted in ("Extreme", "Mean") and name in NETWORK_DTYPES:
                for window in SMALL_WINDOWS:
                    yield _variant("pool_small", wanted, dtype, *window)


def _variant(kernel: str, operation: str, dtype: str, *numbers: int) -> Variant:
    extra = {"Choice": ", int32", "Mean": f", {_sum_type(dtype)}"}.get(operation, "")
    return Variant(FILE, kernel, (f"{operation}<{dtype}{extra}>", *map(str, numbers)))


def _sum_type(dtype: str) -> str:
    """Where sums of a tile are kept: those of narrow integers fit an int32 there."""
    return "int32" if dtype in ("uint8", "int8", "uint16", "int16") else sum_type(dtype, 1)


SUM_BYTES = {"int32": 4, "int64": 8, "int128": 16, "float": 4, "double": 8}


def launches(
    plan: PoolPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch; two where windows are few and huge."""
    return pool_launches(_prepared(plan, laid((*inputs, *outputs))), inputs[0], outputs, launcher)


@lru_cache(PREPARED)
def _prepared(plan: PoolPlan, arrays: tuple[Laid, ...]) -> tuple[Prepared, ...]:
    maps = pool_map(plan, arrays)
    one = _small(plan, maps, arrays) or _tiled(plan, maps, arrays[0])
    return windows(plan, arrays, maps) if one is None else (one,)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A map's axes in the order of memory, and what is left of batch and channels as planes."""

    axes: tuple[Axis, Axis, Axis]
    along_y: bool
    batch: int
    channels: int


def _geometry(maps: Map) -> Geometry | None:
    """The axes of tiles, if three are enough."""
    z, y, x = maps.axes
    flat = z.length == z.outputs == _window(z).size == 1
    channels = Axis(maps.channels, maps.channels, maps.channel_step, 0, AxisWindow(1))
    if maps.channels_inside:
        if not flat or maps.channels < FEW_CHANNELS:
            return None
        return Geometry((y, x, channels), True, maps.batch, 1)
    if not flat:
        return Geometry((z, y, x), False, maps.batch, maps.channels)
    planes = maps.batch * maps.channels
    merged = maps.batch == 1 or all(
        outer == inner * maps.channels
        for outer, inner in zip(maps.batch_step, maps.channel_step, strict=True)
    )
    if merged and planes < 2**31:
        step = maps.batch_step if maps.channels == 1 else maps.channel_step
        return Geometry((Axis(planes, planes, step, 0, AxisWindow(1)), y, x), False, 1, 1)
    return Geometry((channels, y, x), False, maps.batch, 1)


@dataclass(frozen=True, slots=True)
class Tile:
    """Windows of a tile along z and y and, as a power of two, along x."""

    z: int
    y: int
    x_bits: int

    def spans(self, axes: Sequence[Axis]) -> tuple[int, int, int]:
        """Elements that the windows reach over."""
        sizes = (self.z, self.y, 1 << self.x_bits)
        z, y, x = (_window(a).input_span(n) for a, n in zip(axes, sizes, strict=True))
        return z, y, x

    def smaller(self) -> Tile | None:
        """About half of it."""
        if self.z > 1 and self.z >= self.y:
            return Tile(-(-self.z // 2), self.y, self.x_bits)
        if self.y > 1:
            return Tile(self.z, -(-self.y // 2), self.x_bits)
        return Tile(1, 1, self.x_bits - 1) if self.x_bits > 3 else None


def _window(axis: Axis) -> AxisWindow:
    """The window of an axis that has one."""
    assert axis.window is not None
    return axis.window


def _first_tile(geometry: Geometry, itemsize: int) -> Tile:
    """The tile that is wanted if shared memory allows."""
    z, y, x = geometry.axes
    x_bits = min((ROW_BYTES // itemsize).bit_length() - 1, 7, (x.outputs - 1).bit_length())
    rows = TILE_WINDOWS >> x_bits
    if _window(z).size > 1:
        tile_z = min(z.outputs, max(1, int(rows**0.5)))
        tile_y = min(y.outputs, rows // tile_z)
    else:
        tile_y = min(y.outputs, max(32, rows // z.outputs))
        tile_z = min(z.outputs, max(1, rows // tile_y))
    return Tile(tile_z, tile_y, x_bits)


def _tiled(plan: PoolPlan, maps: Map, input: Laid) -> Prepared | None:
    """Windows that overlap, through shared memory; None where that is no use."""
    taps = prod(w.size for w in plan.windows)
    overlap = any(
        w.stride < w.extent and n > 1
        for w, n in zip(plan.windows, plan.output.spatial, strict=True)
    )
    geometry = _geometry(maps)
    if maps.channels_inside and taps <= FEW_TAPS:
        return None
    if not overlap or geometry is None or prod(plan.input.spatial) >= 2**31:
        return None
    name, dtype = operation_name(plan), cuda_type(plan.dtype)
    sums = _sum_type(dtype)
    if name == "Mean" and sums == "int32" and taps * magnitude(plan.dtype) >= 2**29:
        return None
    itemsize = plan.dtype.itemsize
    state_bytes = {"Extreme": itemsize, "Choice": max(8, 2 * itemsize), "Mean": SUM_BYTES[sums]}
    z, y, x = geometry.axes
    tile: Tile | None = _first_tile(geometry, itemsize)
    while tile is not None:
        span_z, span_y, span_x = tile.spans(geometry.axes)
        pitch = tile_pitch(span_x, plan.dtype)
        rows = tile.y if geometry.along_y else span_y
        states_at = span_z * span_y * pitch * itemsize
        shared_bytes = states_at + (span_z * rows * state_bytes.get(name, 8) << tile.x_bits)
        tiles = (-(-z.outputs // tile.z), -(-y.outputs // tile.y), -(-x.outputs >> tile.x_bits))
        jobs = geometry.batch * geometry.channels * prod(tiles)
        small = tile.z * tile.y << tile.x_bits <= LEAST_WINDOWS
        if shared_bytes <= SHARED_BYTES and (
            small or (shared_bytes <= WANTED_BYTES and jobs >= MANY_BLOCKS)
        ):
            break
        tile = tile.smaller()
    if tile is None or span_z * span_y * span_x > taps * tile.z * tile.y << tile.x_bits:
        return None
    wide = _reads_wide(input, maps, geometry)
    load = -(-pitch * itemsize // WIDE_BYTES) if wide else span_x
    longest = max(w.size for w in plan.windows)
    params = np.array(
        (
            *(z.packed(), y.packed(), x.packed(), maps.batch_step, maps.channel_step),
            *(divider(geometry.channels), operation(plan, longest)),
            *(number(_outside(plan), plan.dtype), jobs, *tiles),
            *(tile.z, tile.y, tile.x_bits, span_z, span_x),
            *(divider(span_y), divider(rows), divider(tile.y)),
            *(pitch, geometry.along_y, states_at, wide),
            min(5, (load - 1).bit_length()),
        ),
        POOL,
    )
    return Prepared(_variant("pool_tile", name, dtype), blocks(jobs), params, shared_bytes)


def _small(plan: PoolPlan, maps: Map, arrays: Sequence[Laid]) -> Prepared | None:
    """The windows that there is a kernel of their own for; None for others."""
    name, geometry = operation_name(plan), _geometry(maps)
    sizes = {(w.size, w.stride, w.pad[0]) for w in plan.windows if w.dilation == 1}
    if (
        len(plan.windows) != 2
        or len(sizes) > 1
        or not sizes.issubset(SMALL_WINDOWS)
        or any(w.dilation > 1 for w in plan.windows)
        or name not in ("Extreme", "Mean")
        or plan.dtype.name not in NETWORK_DTYPES
        or geometry is None
        or geometry.along_y
    ):
        return None
    z, y, x = geometry.axes
    (window,) = sizes
    pack = min(WIDE_BYTES // plan.dtype.itemsize, 8)  # twin of elements_of_thread()
    if x.length % pack or not _reads_wide(arrays[0], maps, geometry, pack * plan.dtype.itemsize):
        return None
    windows = pack // window[1]
    packs = -(-x.outputs // windows)
    work = geometry.batch * z.outputs * y.outputs * packs
    least = 4 if window[0] > window[1] else 1  # rows above and below are read twice
    rows = min(max(least, work // RESIDENT), MOST_ROWS, y.outputs)
    groups = -(-y.outputs // rows)
    threads = geometry.batch * z.outputs * groups * packs
    steps = (maps.batch_step[1] if geometry.batch > 1 else 0, z.step[1], y.step[1])
    wide_stores = (
        x.step[1] == 1 and arrays[1].aligned and all(step % windows == 0 for step in steps)
    )
    params = np.array(
        (
            *(z.packed(), y.packed(), x.packed(), maps.batch_step),
            *(operation(plan, window[0]), number(_outside(plan), plan.dtype), threads),
            *(divider(packs), divider(groups), rows, wide_stores),
        ),
        SMALL,
    )
    variant = _variant("pool_small", name, cuda_type(plan.dtype), *window)
    return Prepared(variant, blocks(-(-threads // THREADS)), params)


def _outside(plan: PoolPlan) -> Any:
    """What loses against every element, or adds nothing."""
    if plan.operation == "max":
        return lowest(plan.dtype)
    return highest(plan.dtype) if plan.operation == "min" else 0


def _reads_wide(input: Laid, maps: Map, geometry: Geometry, pack_bytes: int = WIDE_BYTES) -> bool:
    """Whether every row begins at a multiple of a pack and its elements lie side by side."""
    z, y, x = geometry.axes
    steps = [a.step[0] for a in (z, y)]
    if geometry.batch > 1:
        steps.append(maps.batch_step[0])
    if geometry.channels > 1:
        steps.append(maps.channel_step[0])
    return (
        (x.step[0] == 1 or x.length == 1)
        and all(step * input.dtype.itemsize % pack_bytes == 0 for step in steps)
        and input.aligned
    )
