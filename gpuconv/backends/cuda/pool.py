"""Launches of kernels_cu/pool.cu and pool_small.cu: windowed pools.

Large windows 1 apart, as many as elements, are dilations, erosions and boxes of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gpuconv.backends.cuda import box, morphology
from gpuconv.backends.cuda.adaptive import (
    DIVIDER,
    FEW_TAPS,
    OPERATION,
    PLACES,
    POOL_AXIS,
    PREPARED,
    THREADS,
    Axis,
    Laid,
    Map,
    Prepared,
    divider,
    in_packs,
    laid,
    operation,
    operation_name,
    pool_launches,
    pool_map,
    sum_type,
    windows,
)
from gpuconv.backends.cuda.images import NUMBER, stacks
from gpuconv.backends.cuda.keys import give_bits
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
from gpuconv.border import Border
from gpuconv.dtypes import FLOATS, highest, lowest, magnitude
from gpuconv.plan import BoxPlan, MorphPlan, PoolPlan
from gpuconv.plan.filters import Images, MorphStep
from gpuconv.window import AxisWindow

FILE = "pool.cu"
SMALL_FILE = "pool_small.cu"

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

COUNT = struct("Count", ("count", "f4"), ("inverse", "f4"))
SMALL = struct(
    "SmallParams",
    *(("z", POOL_AXIS), ("y", POOL_AXIS), ("x", POOL_AXIS), ("batch", PLACES)),
    *(("operation", OPERATION), ("outside", NUMBER), ("threads", "i8")),
    *(("packs", DIVIDER), ("groups_x", DIVIDER), ("groups_y", DIVIDER)),
    *(("rows", "i4"), ("wide_stores", "i4"), ("counts", (COUNT, 10))),
)

SMALL_WINDOWS = ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1))
"""Size, stride and padding that pool_small.cu is compiled for, the same along both axes."""

SMALL_TYPES = {
    **{"uint8": "uint8", "uint16": "uint16", "float16": "float16"},
    **{"bfloat16": "bfloat16", "float32": "float"},
}
"""What it takes elements for."""

UNSIGNED = {"int8": "uint8", "int16": "uint16"}
"""Signed integers are compared as unsigned ones, once their highest bit is toggled."""

COLUMNS = {1: 2, 2: 4}
"""Columns that a thread of pool_columns reads for its two windows, by their stride."""

LEAST_ROWS = {0: 2, 1: 2, 2: 4}
"""Rows of windows of a thread, at least, by the input rows that it reads besides its own."""

MOST_ROWS = 16
"""Rows of windows of a thread, if there is work enough for all."""

BUSY = 1 << 17
"""Threads of pool_small.cu that keep a large device busy: 31 warps of a multiprocessor."""

MOST_DIVISOR = 2**24
"""Of averages by way of float32: all integers up to it are such numbers."""

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
            if wanted in ("Extreme", "Mean") and name in SMALL_TYPES:
                for window in SMALL_WINDOWS:
                    yield _variant("pool_small", wanted, dtype, *window)
                    yield _variant("pool_columns", wanted, dtype, *window)


def _variant(kernel: str, operation: str, dtype: str, *numbers: int) -> Variant:
    extra = {"Choice": ", int32", "Mean": f", {_sum_type(dtype)}"}.get(operation, "")
    file = SMALL_FILE if numbers else FILE
    return Variant(file, kernel, (f"{operation}<{dtype}{extra}>", *map(str, numbers)))


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
    slid = _slid(plan, inputs[0], outputs[0])
    if slid is not None:
        return iter((slid,))
    return pool_launches(_prepared(plan, laid((*inputs, *outputs))), inputs[0], outputs, launcher)


def _slid(plan: PoolPlan, input: DeviceArray, output: DeviceArray) -> Launch | None:
    """Windows 1 apart as a filter of images, whose border is what no window counts."""
    height, width = plan.windows if len(plan.windows) == 2 else (AxisWindow(1),) * 2
    small = height == width and (height.size, 1, height.pad[0]) in SMALL_WINDOWS
    if (
        small
        or max(height.size, width.size) == 1
        or plan.index_dtype is not None
        or plan.output.spatial != plan.input.spatial
        or any(w.stride > 1 or w.dilation > 1 for w in plan.windows)
    ):
        return None
    images = Images(
        *(plan.input.shape, plan.dtype, plan.dtype, plan.input.channels_last),
        *(Border.CONSTANT, _outside(plan)),
    )
    found = list(stacks(images, input, output))
    if len(found) != 1:
        return None
    windows = (height, width)
    if plan.operation == "avg" and plan.count_pad and plan.divisor is None:
        return box.strip_launch(BoxPlan(images, windows), found[0])
    if plan.operation in ("max", "min"):
        give_bits(found[0].packed, plan.dtype, images.value)
        step = MorphStep("dilate" if plan.operation == "max" else "erode", windows, None)
        return morphology.strip_launch(MorphPlan(images, (step,)), found[0])
    return None


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
    """The windows that there are kernels of their own for; None for others."""
    name, dtype = operation_name(plan), plan.dtype.name
    stored = UNSIGNED.get(dtype, dtype) if name == "Extreme" else dtype
    sizes = {(w.size, w.stride, w.pad[0]) for w in plan.windows}
    if (
        len(plan.windows) != 2
        or len(sizes) > 1
        or not sizes.issubset(SMALL_WINDOWS)
        or any(w.dilation > 1 for w in plan.windows)
        or name not in ("Extreme", "Mean")
        or stored not in SMALL_TYPES
        or abs(plan.divisor or 0) > MOST_DIVISOR
    ):
        return None
    (window,) = sizes
    size, stride, _ = window
    found = (_columns if maps.channels_inside else _rows)(plan, maps, arrays, stride)
    if found is None:
        return None
    threads = found.batch * found.z.outputs * found.y.outputs * found.packs * found.groups
    least = LEAST_ROWS[size - stride]
    rows = min(max(least, threads // BUSY), MOST_ROWS, found.y.outputs)
    down = -(-found.y.outputs // rows)
    threads = threads // found.y.outputs * down
    keep, flip, *others = operation(plan, size)
    if dtype in UNSIGNED and name == "Extreme":
        flip ^= 1 << 8 * plan.dtype.itemsize - 1
    params = np.array(
        (
            *(found.z.packed(), found.y.packed(), found.x.packed(), maps.batch_step),
            *((keep, flip, *others), number(_outside(plan), plan.dtype), threads),
            *(divider(found.packs), divider(found.groups), divider(down), rows, found.wide_stores),
            [_count(plan.divisor or max(elements, 1)) for elements in range(10)],
        ),
        SMALL,
    )
    variant = _variant(found.kernel, name, SMALL_TYPES[stored], *window)
    return Prepared(variant, blocks(-(-threads // THREADS)), params)


def _count(count: int) -> tuple[float, np.float32]:
    """A COUNT; its inverse is the nearest float32."""
    return float(count), np.float32(1) / np.float32(count)


@dataclass(frozen=True, slots=True)
class _Small:
    """What threads of pool_small.cu share out: packs of channels, groups of windows of a row."""

    kernel: str
    batch: int
    z: Axis
    y: Axis
    x: Axis
    packs: int
    groups: int
    wide_stores: bool


def _rows(plan: PoolPlan, maps: Map, arrays: Sequence[Laid], stride: int) -> _Small | None:
    """Channels first: rows of whole packs."""
    geometry = _geometry(maps)
    if geometry is None or geometry.along_y:
        return None
    z, y, x = geometry.axes
    pack = min(WIDE_BYTES // plan.dtype.itemsize, 8)  # twin of NEIGHBOURS
    if x.length % pack or not _reads_wide(arrays[0], maps, geometry, pack * plan.dtype.itemsize):
        return None
    windows = pack // stride
    steps = (maps.batch_step[1] if geometry.batch > 1 else 0, z.step[1], y.step[1])
    wide_stores = (
        x.step[1] == 1 and arrays[1].aligned and all(step % windows == 0 for step in steps)
    )
    groups = -(-x.outputs // windows)
    return _Small("pool_small", geometry.batch, z, y, x, 1, groups, wide_stores)


def _columns(plan: PoolPlan, maps: Map, arrays: Sequence[Laid], stride: int) -> _Small | None:
    """Channels last: whole packs of them."""
    pack = WIDE_BYTES // plan.dtype.itemsize
    if not in_packs(maps, arrays, pack):
        return None
    z, y, x = maps.axes
    groups = -(-x.outputs // (COLUMNS[stride] // stride))
    return _Small("pool_columns", maps.batch, z, y, x, maps.channels // pack, groups, True)


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
