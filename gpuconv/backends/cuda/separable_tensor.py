"""Launches of kernels_cu/separable_tensor.cu: two passes on tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.launch import (
    WIDE_BYTES,
    Launch,
    Launcher,
    Variant,
    blocks,
    cuda_type,
    struct,
)
from gpuconv.backends.cuda.strips import LANES, STRIPS, WARPS, fits_strips, strips_down
from gpuconv.backends.cuda.sums import FLOAT, finish_of
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import LinearPlan, tensor
from gpuconv.quantize import Stencil

FILE = "separable_tensor.cu"
TILE, ROW_BYTES = tensor.TILE, WARPS * 128
"""Results along either axis of a tile; bytes of a row of a strip."""

TYPES = ("uint8", "float16", "bfloat16")

SLABS, TILES = (2, 3), (2, 3, 4, 5, 7)
"""S and B of the kernel: tiles of rows, and of elements, that the windows of a tile meet."""

MOST_ROWS = 1024
"""Of a strip."""

TENSOR_PARAMS = struct(
    "SeparableTensorParams",
    *(("images", IMAGES), ("strips", STRIPS), ("scale", "f4"), ("up", "f4")),
    *(("height", "i4"), ("width", "i4"), ("top", "i4"), ("left", "i4")),
)

MOST_DELTA = float(np.finfo(np.float32).max)
"""Added to a sum, leaves nothing but an infinity of 16 bits; and float32 holds no more."""

MAGIC = 1.5 * 2**23
"""Added to a number, leaves no room for a fraction, and its lowest bits are the number."""

ONE, UPPER = 0x4B000000, 0x4464
"""The bits of 2^23; bytes that make f16 of another byte below them: see the CUDA source."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for element in TYPES:
        for slabs in SLABS:
            for tiles in TILES:
                yield Variant(FILE, "separable_tensor", (element, str(slabs), str(tiles)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the stencil decides, and not the arrays."""

    slabs: int
    tiles: int
    numbers: tuple[float, ...]
    """TENSOR_PARAMS from `scale` on."""
    registers: npt.NDArray[np.uint32]
    """Weights of the CUDA source, each register of all lanes; then, of floats, the taps."""


def launch(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch | None:
    """The launch of a stack of planes; None where tensor cores are not to be used, or not there."""
    if plan.on_gpu.form != "bands" or not launcher.tensor_cores or not fits_strips(stack):
        return None
    dtype = plan.images.dtype
    pads = (window.pad for window in plan.windows)
    recipe = _recipe(plan.stencils[0], *pads, plan.delta, dtype, stack.channels)
    if recipe is None:
        return None
    columns = ROW_BYTES // dtype.itemsize
    above, before = (8 * (count - 1) for count in (recipe.slabs, recipe.tiles))
    across = -(-stack.row // columns)
    down = strips_down(
        *(stack.planes, across, 1, stack.height, MOST_ROWS),
        *(TILE * (recipe.slabs - 1), blocks_of(dtype, recipe.slabs, recipe.tiles)),
    )
    rows = -(-stack.height // (down * TILE)) * TILE
    down = -(-stack.height // rows)
    jobs = stack.planes * down * across
    strips = (jobs, down, across, rows, columns, above, above, before, before)
    params = np.array((stack.packed, strips, *recipe.numbers), TENSOR_PARAMS)
    arguments = (cuda_type(dtype), str(recipe.slabs), str(recipe.tiles))
    return Launch(
        Variant(FILE, "separable_tensor", arguments),
        blocks(jobs),
        (LANES, WARPS, 1),
        (stack.input, stack.output, launcher.constant(recipe.registers), params),
        shared_bytes(dtype, recipe.slabs, recipe.tiles),
    )


def shared_bytes(dtype: DType, slabs: int, tiles: int) -> int:
    """Of a block: rows of pixels, results, middles, and where a row's elements come from."""
    itemsize = dtype.itemsize
    width, wide = ROW_BYTES // itemsize + TILE * (tiles - 1), WIDE_BYTES // itemsize
    pitch = width if width // wide % 2 else width + wide
    made = WARPS * TILE * (128 + 16 * itemsize)
    middles = 4 * WARPS * (2 * TILE * tiles if is_float(dtype) else 1)
    return (slabs + 1) * TILE * pitch * itemsize + made + middles + 4 * width


def blocks_of(dtype: DType, slabs: int, tiles: int) -> int:
    """That a multiprocessor has registers for."""
    room = ((4, 4), (6, 3)) if is_float(dtype) else ((4, 5), (6, 4), (7, 3))
    return next((count for most, count in room if slabs + tiles <= most), 2)


@lru_cache(maxsize=256)
def _recipe(
    stencil: Stencil,
    height_pad: tuple[int, int],
    width_pad: tuple[int, int],
    delta: float,
    dtype: DType,
    channels: int,
) -> Recipe | None:
    """How to filter rows that interleave so many channels, if it can be."""
    slabs = next((s for s in SLABS if max(height_pad) <= 8 * (s - 1)), None)
    tiles = next((t for t in TILES if max(width_pad) * channels <= 8 * (t - 1)), None)
    if slabs is None or tiles is None:
        return None
    before = (height_pad[0], 1, slabs), (width_pad[0], channels, tiles)
    made = (_of_floats if is_float(dtype) else _of_bytes)(stencil, delta, dtype, *before)
    if made is None:
        return None
    ending, registers = made
    window = (stencil.height, stencil.width, height_pad[0], width_pad[0])
    return Recipe(slabs, tiles, (*ending, *window), registers)


Along = tuple[int, int, int]
"""Of a pass: taps before a result's own place, how far apart they are, tiles."""

Made = tuple[tuple[float, float], npt.NDArray[np.uint32]]
"""`scale` and `up` of TENSOR_PARAMS; registers."""


def _of_bytes(
    stencil: Stencil, delta: float, dtype: DType, along_h: Along, along_w: Along
) -> Made | None:
    bands = tensor.bands(stencil)
    how, (_, offset, *_) = finish_of((stencil,), "sum", delta, 0.0, dtype, FLOAT)
    if bands is None or how != "sum" or not bands.room[0] < offset < bands.room[1]:
        return None
    shift = stencil.column_shift
    first = np.int32(ONE + (bands.bias << shift)).view(np.uint32)
    start = np.float32((bands.start + offset) * 0.5**stencil.shift).view(np.uint32)
    down = np.stack([_band(term, *along_h) for term in bands.column], axis=1)
    across = _band(bands.row, *along_w)
    constants = np.repeat(np.array([*[first] * 4, *[start] * 4, UPPER], np.uint32), LANES)
    registers = np.concatenate((_left_bytes(down), _right_of_bytes(across), constants))
    return (0.5**shift, MAGIC - 2.0 ** (23 - shift)), registers


def _of_floats(
    stencil: Stencil, delta: float, dtype: DType, along_h: Along, along_w: Along
) -> Made | None:
    bands = tensor.float_bands(stencil, dtype)
    if bands is None:
        return None
    assert stencil.column is not None
    assert stencil.row is not None
    down = np.stack([_band(term, *along_h) for term in bands.column], axis=1)
    across = np.stack([_band(term, *along_w) for term in bands.row], axis=1)
    taps = np.concatenate((stencil.column.array, stencil.row.array)).astype(np.float32)
    registers = (_left_floats(down, dtype), _right_floats(across, dtype), taps.view(np.uint32))
    added = max(-MOST_DELTA, min(MOST_DELTA, delta))
    return (2.0**-bands.scale, added), np.concatenate(registers)


def _band(taps: npt.NDArray[Any], before: int, apart: int, count: int) -> npt.NDArray[Any]:
    """(tile, result, place): the weight of each place of `count` tiles for a tile of results.

    The results lie in the middle of the tiles; taps are so far `apart`, `before` of them ahead of
    the result's own place.
    """
    result, place = np.ogrid[:TILE, : count * TILE]
    away = place - TILE * (count - 1) // 2 - result
    tap = away // apart + before
    meets = (away % apart == 0) & (tap >= 0) & (tap < len(taps))
    band: npt.NDArray[Any] = np.where(meets, taps[np.clip(tap, 0, len(taps) - 1)], 0)
    return band.astype(taps.dtype).reshape(TILE, count, TILE).swapaxes(0, 1)


def _left_bytes(bands: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
    """Registers of each lane, of (tile, term, result, place): rows are results.

    Columns are places of two tiles; a register holds places 2 * member, the next, and those 8
    further on, as the kernel takes them from two registers of pixels.
    """
    tiles = len(bands)
    even = np.zeros((tiles + tiles % 2, *bands.shape[1:]), np.int8)
    even[:tiles] = bands
    # (pair, tile of it, term, second, group, further, member, which)
    split = even.reshape(-1, 2, 2, 2, 8, 2, 4, 2)
    return _words(split.transpose(0, 2, 1, 3, 4, 6, 5, 7))


def _right_of_bytes(bands: npt.NDArray[np.float16]) -> npt.NDArray[np.uint32]:
    """Registers of each lane, of (tile, result, place): columns are results.

    Rows 0-7 are even places, rows 8-15 odd ones. A lane has four neighbouring results, two of each
    of two factors.
    """
    # (tile, group / 2, half of four results, group % 2, member, which, odd)
    split = bands.reshape(-1, 4, 2, 2, 4, 2, 2)
    return _words(split.transpose(0, 2, 6, 1, 3, 4, 5))


def _left_floats(bands: npt.NDArray[np.float32], dtype: DType) -> npt.NDArray[np.uint32]:
    """Registers of each lane, of (tile, term, result, place): rows are results, columns places."""
    # (tile, term, second, group, further, member, which)
    split = bands.reshape(-1, bands.shape[1], 2, 8, 2, 4, 2)
    return _words(_halves(split.transpose(0, 1, 4, 2, 3, 5, 6), dtype))


def _right_floats(bands: npt.NDArray[np.float32], dtype: DType) -> npt.NDArray[np.uint32]:
    """Registers of each lane, of (tile, term, result, place): rows are places, columns results.

    A lane has four neighbouring results, as above.
    """
    # (tile, term, group / 2, half of four results, group % 2, further, member, which)
    split = bands.reshape(-1, bands.shape[1], 4, 2, 2, 2, 4, 2)
    return _words(_halves(split.transpose(0, 3, 1, 5, 2, 4, 6, 7), dtype))


def _halves(values: npt.NDArray[np.float32], dtype: DType) -> npt.NDArray[np.uint16]:
    """As tensor cores read them; nothing is lost."""
    if dtype.name == "float16":
        return values.astype(np.float16).view(np.uint16)
    high: npt.NDArray[np.uint32] = np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)
    return high.astype(np.uint16)


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return values.ravel().view(np.uint32)
