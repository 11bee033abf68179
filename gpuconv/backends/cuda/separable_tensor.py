"""Launches of kernels_cu/separable_tensor.cu: two passes over bytes on tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.launch import Launch, Launcher, Variant, blocks, struct
from gpuconv.backends.cuda.strips import LANES, STRIPS, WARPS, fits_strips, strips_down
from gpuconv.backends.cuda.sums import FLOAT, finish_of
from gpuconv.plan import LinearPlan, tensor
from gpuconv.quantize import Stencil

FILE = "separable_tensor.cu"
TILE, COLUMNS = tensor.TILE, WARPS * 8 * tensor.TILE
"""Results along either axis of a tile; elements of a row of a strip."""

SLABS, TILES = (2, 3), (2, 3, 4, 5, 7)
"""S and B of the kernel: tiles of rows, and of elements, that the windows of a tile meet."""

MOST_ROWS = 1024
"""Of a strip."""

TENSOR_PARAMS = struct(
    "SeparableTensorParams",
    *(("images", IMAGES), ("strips", STRIPS), ("scale", "f4"), ("up", "f4")),
)

OUT_PITCH = 144
"""Bytes from a row of a warp's results to the next."""

MAGIC = 1.5 * 2**23
"""Added to a number, leaves no room for a fraction, and its lowest bits are the number."""

ONE, UPPER = 0x4B000000, 0x4464
"""The bits of 2^23; bytes that make f16 of another byte below them: see the CUDA source."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for slabs in SLABS:
        for tiles in TILES:
            yield Variant(FILE, "separable_tensor", (str(slabs), str(tiles)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the stencil decides, and not the arrays."""

    slabs: int
    tiles: int
    middle: tuple[float, float]
    """TENSOR_PARAMS from `scale` on."""
    registers: npt.NDArray[np.uint32]
    """`Weights` of the CUDA source, each register of all lanes."""


def launch(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch | None:
    """The launch of a stack of planes; None where tensor cores are not to be used, or not there."""
    if plan.on_gpu.form != "bands" or not launcher.tensor_cores or not fits_strips(stack):
        return None
    if stack.input.dtype != np.uint8:
        return None
    pads = (window.pad for window in plan.windows)
    recipe = _recipe(plan.stencils[0], *pads, plan.delta, stack.channels)
    if recipe is None:
        return None
    above, before = (8 * (count - 1) for count in (recipe.slabs, recipe.tiles))
    across = -(-stack.row // COLUMNS)
    down = strips_down(
        *(stack.planes, across, 1, stack.height, MOST_ROWS),
        *(TILE * (recipe.slabs - 1), blocks_of(recipe.slabs, recipe.tiles)),
    )
    rows = -(-stack.height // (down * TILE)) * TILE
    down = -(-stack.height // rows)
    jobs = stack.planes * down * across
    strips = (jobs, down, across, rows, COLUMNS, above, above, before, before)
    params = np.array((stack.packed, strips, *recipe.middle), TENSOR_PARAMS)
    return Launch(
        Variant(FILE, "separable_tensor", (str(recipe.slabs), str(recipe.tiles))),
        blocks(jobs),
        (LANES, WARPS, 1),
        (stack.input, stack.output, launcher.constant(recipe.registers), params),
        shared_bytes(recipe.slabs, recipe.tiles),
    )


def shared_bytes(slabs: int, tiles: int) -> int:
    """Of a block: rows of pixels, of results, and where a row's elements come from."""
    width = COLUMNS + TILE * (tiles - 1)
    pitch = width if width // TILE % 2 else width + TILE
    return (slabs + 1) * TILE * pitch + WARPS * TILE * OUT_PITCH + 4 * width


def blocks_of(slabs: int, tiles: int) -> int:
    """That a multiprocessor has registers for."""
    return next((count for most, count in ((4, 5), (6, 4), (7, 3)) if slabs + tiles <= most), 2)


@lru_cache(maxsize=256)
def _recipe(
    stencil: Stencil,
    height_pad: tuple[int, int],
    width_pad: tuple[int, int],
    delta: float,
    channels: int,
) -> Recipe | None:
    """How to filter rows that interleave so many channels, if it can be."""
    bands = tensor.bands(stencil)
    how, (_, offset, *_) = finish_of((stencil,), "sum", delta, 0.0, np.dtype(np.uint8), FLOAT)
    slabs = next((s for s in SLABS if max(height_pad) <= 8 * (s - 1)), None)
    tiles = next((t for t in TILES if max(width_pad) * channels <= 8 * (t - 1)), None)
    if bands is None or slabs is None or tiles is None or how != "sum":
        return None
    if not bands.room[0] < offset < bands.room[1]:
        return None
    shift = stencil.column_shift
    first = np.int32(ONE + (bands.bias << shift)).view(np.uint32)
    start = np.float32((bands.start + offset) * 0.5**stencil.shift).view(np.uint32)
    down = np.stack([_band(term, height_pad[0], 1, slabs) for term in bands.column], axis=1)
    across = _band(bands.row, width_pad[0], channels, tiles)
    constants = np.repeat(np.array([*[first] * 4, *[start] * 4, UPPER], np.uint32), LANES)
    registers = np.concatenate((_left_factors(down), _right_factors(across), constants))
    return Recipe(slabs, tiles, (0.5**shift, MAGIC - 2.0 ** (23 - shift)), registers)


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


def _left_factors(bands: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
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


def _right_factors(bands: npt.NDArray[np.float16]) -> npt.NDArray[np.uint32]:
    """Registers of each lane, of (tile, result, place): columns are results.

    Rows 0-7 are even places, rows 8-15 odd ones. A lane has four neighbouring results, two of each
    of two factors.
    """
    # (tile, group / 2, half of four results, group % 2, member, which, odd)
    split = bands.reshape(-1, 4, 2, 2, 4, 2, 2)
    return _words(split.transpose(0, 2, 6, 1, 3, 4, 5))


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return values.ravel().view(np.uint32)
