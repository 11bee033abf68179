"""Sliding windows over images: twin of kernels_cu/common/window.cuh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, TILING, Stack
from gpuconv.backends.cuda.launch import (
    SHARED_BYTES,
    WIDE_BYTES,
    DeviceArray,
    Launcher,
    address,
    blocks,
    kind,
    struct,
    tile_pitch,
)
from gpuconv.border import Border, map_index
from gpuconv.dtypes import DType
from gpuconv.plan.filters import Images
from gpuconv.window import AxisWindow

RUN, LONG_RUN = 8, 32
ROWS, COLUMNS = 32, 128
"""Outputs of the largest tiles: a row a lane, COLUMNS elements or less."""

MOST_WARPS = 8
LONG_WARPS = 2
"""Warps of a block: over tiles in shared memory, over patches."""

WORKSPACE_BYTES = 24 << 20
"""Memory for what lies between two launches; two such pieces may be alive at once."""

WINDOW = struct(
    "Window",
    *(("height", "i4"), ("width", "i4"), ("height_block", "i4"), ("width_block", "i4")),
)
FIELD = struct(
    "Field",
    *(("images", IMAGES), ("tiling", TILING), ("shift", "i8"), ("rows", "i4"), ("row", "i4")),
    *(("from_y", "i4"), ("from_x", "i4"), ("wide_stores", "i4")),
)
TILE = struct(
    "WindowTile",
    *(("rows", "i4"), ("columns", "i4"), ("pitch", "i4"), ("middle_pitch", "i4")),
    *(("staged_pitch", "i4"), ("middle_offset", "i4")),
)
PATCH = struct(
    "Patch",
    *(("first_plane", "i8"), ("jobs", "i8"), ("first_row", "i4"), ("rows", "i4")),
    *(("columns", "i4"), ("pitch", "i4"), ("down", "i4"), ("across", "i4")),
)
Packed = np.ndarray[Any, Any]
Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """Outputs of some planes, and the input that they read.

    `first_row` is the row of the images that output row 0 lies on, `input_row` the one that row
    0 of `input` is. `packed` is an IMAGES: its strides are those of `input` and `output`.
    """

    input: DeviceArray
    output: DeviceArray
    packed: Packed
    planes: int
    rows: int
    row: int
    channels: int
    first_row: int = 0
    input_row: int = 0

    @classmethod
    def whole(cls, stack: Stack) -> Field:
        """A stack as it is."""
        arrays = (stack.input, stack.output, stack.packed)
        return cls(*arrays, stack.planes, stack.height, stack.row, stack.channels)

    def stack(self) -> Stack | None:
        """The planes, where the outputs are whole ones."""
        if self.first_row or self.input_row or self.rows != int(self.packed["height"]):
            return None
        arrays = (self.input, self.output, self.planes)
        return Stack(*arrays, self.rows, self.row, self.channels, self.packed)

    def pack(
        self, windows: tuple[AxisWindow, AxisWindow], tile: tuple[int, int]
    ) -> tuple[Packed, Grid]:
        """(a FIELD, the grid) for tiles of `tile` outputs, a job each."""
        down, across = -(-self.rows // tile[0]), -(-self.row // tile[1])
        jobs = self.planes * down * across
        shift = self.input_row * int(self.packed["input"]["row"]) * self.input.dtype.itemsize
        begin = (self.first_row - windows[0].pad[0], -windows[1].pad[0] * self.channels)
        sizes = (shift, self.rows, self.row)
        packed = np.array(
            (self.packed, (jobs, down, across), *sizes, *begin, self._stores_wide()), FIELD
        )
        return packed, blocks(jobs)

    def _stores_wide(self) -> bool:
        """Whether every row begins at a multiple of 4 bytes and its elements lie side by side."""
        strides, itemsize = self.packed["output"], self.output.dtype.itemsize
        return (
            int(strides["step"]) == 1
            and all(int(strides[s]) * itemsize % 4 == 0 for s in STRIDE_NAMES)
            and address(self.output) % 4 == 0
        )


STRIDE_NAMES = ("outer_stride", "inner_stride", "row")


def pack_window(windows: tuple[AxisWindow, AxisWindow], blocked: bool) -> Packed:
    """A WINDOW; `blocked` where sums are rounded: blocks of about sqrt(size) terms."""
    sizes = [w.size for w in windows]
    lengths = [max(isqrt(n), 8) if blocked else n for n in sizes]
    return np.array((*sizes, *lengths), WINDOW)


@dataclass(frozen=True, slots=True)
class Tile:
    """Shared memory of a block, and its threads."""

    packed: Packed
    size: tuple[int, int]
    block: tuple[int, int, int]
    shared_bytes: int


def fit_tile(
    field: Field,
    windows: tuple[AxisWindow, AxisWindow],
    dtype: DType,
    middle_bytes: int,
    staged_bytes: int,
) -> Tile | None:
    """The largest tile that fits into shared memory; None where windows are too large for any.

    `middle_bytes` and `staged_bytes` are those of an element of the reduced columns, a result.
    """
    channels = field.channels
    rows = min(ROWS, _up(field.rows, RUN))
    runs = min(max(COLUMNS // (RUN * channels), 1), -(-field.row // (RUN * channels)))
    halo = windows[1].size - 1
    while runs:
        columns = runs * RUN * channels
        span = columns + halo * channels
        pitch = tile_pitch(span, dtype)
        middle, staged = odd_pitch(span, middle_bytes), odd_pitch(columns, staged_bytes)
        input_bytes = (rows + windows[0].size - 1) * pitch * dtype.itemsize
        offset = _up(max(input_bytes, rows * staged * staged_bytes), 16)
        shared_bytes = offset + rows * middle * middle_bytes
        if shared_bytes <= SHARED_BYTES:
            packed = np.array((rows, columns, pitch, middle, staged, offset), TILE)
            warps = min(MOST_WARPS, runs * channels)
            return Tile(packed, (rows, columns), (32, warps, 1), shared_bytes)
        runs //= 2
    return None


def odd_pitch(columns: int, itemsize: int) -> int:
    """Elements from row to row, an odd number of words: 32 rows begin in as many banks."""
    unit = max(1, 4 // itemsize)
    return (-(-columns // unit) | 1) * unit


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of the planes whose reduced columns lie in `memory`.

    `down` and `across` are a PATCH and the grid of the launch that fills it, that reads it.
    """

    memory: DeviceArray
    down: tuple[Packed, Grid]
    across: tuple[Packed, Grid]


def patches(field: Field, value_dtype: DType, launcher: Launcher) -> Iterator[Patch]:
    """Cut a field into patches of a bounded workspace."""
    columns, channels = field.row, field.channels
    column_bytes = columns * value_dtype.itemsize
    most_rows = max(1, WORKSPACE_BYTES // column_bytes)
    if most_rows > LONG_RUN:
        most_rows -= most_rows % LONG_RUN
    rows = min(field.rows, most_rows)
    planes = max(1, min(field.planes, WORKSPACE_BYTES // (column_bytes * rows)))
    memory = launcher.empty((planes, columns, rows), value_dtype)
    runs = -(-columns // (LONG_RUN * channels)) * channels
    for plane in range(0, field.planes, planes):
        for row in range(0, field.rows, rows):
            have = (min(planes, field.planes - plane), min(rows, field.rows - row))
            down = -(-have[1] // LONG_RUN)
            passes = []
            for across in (-(-columns // LONG_RUN), runs):
                jobs = have[0] * down * across
                shape = (plane, jobs, row, have[1], columns, rows, down, across)
                passes.append((np.array(shape, PATCH), blocks(-(-jobs // LONG_WARPS))))
            yield Patch(memory, *passes)


def stage_bytes(itemsize: int) -> int:
    """Shared memory of a block over a patch, by the size of what is staged."""
    return LONG_WARPS * LONG_RUN * odd_pitch(LONG_RUN, itemsize) * itemsize


def _middle_bytes(stack: Stack, dtype: DType) -> int:
    """Memory for what lies between two steps over one image."""
    pitch = _up(stack.row, max(1, WIDE_BYTES // dtype.itemsize))
    return stack.height * int(stack.packed["inner"]) * pitch * dtype.itemsize


def holds_images(stack: Stack, dtype: DType) -> bool:
    """Whether `in_two_steps` yields whole images."""
    return _middle_bytes(stack, dtype) <= WORKSPACE_BYTES


def in_two_steps(
    stack: Stack,
    windows: tuple[AxisWindow, AxisWindow],
    images: Images,
    launcher: Launcher,
) -> Iterator[tuple[Field, Field]]:
    """Fields of a first step and of a second one with `windows`, which reads the first's results.

    The memory between them holds some whole images, or some rows of one: those that the second
    step's windows meet, directly or through the border. Where the border wraps these would be
    rows of both ends: then the memory holds the rows beyond the ends as well.
    """
    dtype, height = images.dtype, stack.height
    pitch = _up(stack.row, max(1, 16 // dtype.itemsize))
    inner, halo = int(stack.packed["inner"]), windows[0].size - 1
    count = stack.planes // inner
    plane_bytes = inner * pitch * dtype.itemsize
    rows = held = height
    if not holds_images(stack, dtype):
        rows = min(height, max(1, WORKSPACE_BYTES // plane_bytes - halo))
        held = rows + halo
    beyond = rows < height and images.border is Border.WRAP
    held = held if beyond else min(height, held)
    step = max(1, min(count, WORKSPACE_BYTES // (held * plane_bytes)))
    memory = launcher.empty((step, inner, held, pitch), dtype)
    laid = (inner * held * pitch, held * pitch, pitch, 1)
    wide = address(memory) % WIDE_BYTES == 0
    for start in range(0, count, step):
        planes = (min(start + step, count) - start) * inner
        for row in range(0, height, rows):
            stop = min(row + rows, height)
            begin, end = windows[0].input_range(row, stop)
            if not beyond:
                met = map_index(np.arange(begin, end), height, images.border)
                begin, end = int(met[met >= 0].min()), int(met.max()) + 1
            first = stack.packed.copy()
            first["output"], first["output_kind"] = laid, kind(dtype)
            second = stack.packed.copy()
            second["input"], second["input_kind"], second["wide_loads"] = laid, kind(dtype), wide
            if beyond:
                second["height"] = end - begin
            source, target = stack.input[start:], stack.output[start : start + step, row:stop]
            across = (stack.row, stack.channels)
            yield (
                Field(source, memory, first, planes, end - begin, *across, begin),
                Field(
                    *(memory, target, second, planes, stop - row, *across),
                    *((windows[0].pad[0], 0) if beyond else (row, begin)),
                ),
            )
