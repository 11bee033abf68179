"""Launches of kernels_cu/dense.cu and separable.cu: weighted sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda import dense_strips, separable_strips, separable_tensor, toeplitz
from gpuconv.backends.cuda.images import IMAGES, TILING, Stack, stacks
from gpuconv.backends.cuda.launch import (
    ANY,
    SHARED_BYTES,
    WIDE_BYTES,
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
from gpuconv.backends.cuda.sums import (
    DOUBLE,
    FINISH,
    FLOAT,
    HOW,
    INT128,
    LANES,
    WARPS,
    Sums,
    finish_of,
    sums_of,
)
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import LinearPlan
from gpuconv.quantize import Stencil

DENSE, SEPARABLE = "dense.cu", "separable.cu"

FORMS = (
    *(("uint8", FLOAT), ("uint8", DOUBLE), ("int8", FLOAT), ("int8", DOUBLE)),
    *(("uint16", DOUBLE), ("int16", DOUBLE), ("uint32", DOUBLE), ("int32", DOUBLE)),
    *(("uint64", INT128), ("int64", INT128)),
    *(("float16", FLOAT), ("bfloat16", FLOAT), ("float", FLOAT), ("double", DOUBLE)),
)
"""(element type, sums) of every kernel."""

BLOCK_TAPS = 256
"""Longer sums of floats are made of blocks of about the square root of their length."""

NEVER = 2**31 - 1

LINEAR = struct(
    "LinearParams",
    *(("images", IMAGES), ("tiling", TILING), ("finish", FINISH)),
    *(("height", "i4"), ("entries", "i4"), ("top", "i4"), ("left", "i4")),
    *(("chunk_height", "i4"), ("chunk_entries", "i4")),
    *(("flush_height", "i4"), ("flush_entries", "i4")),
    *(("pitch", "i4"), ("middle_packs", "i4"), ("column_shift", "i4")),
    *(("row_at", "i4"), ("places_at", "i4"), ("middle_at", "i4"), ("tile_at", "i4")),
)
SMALL = struct(
    "SmallParams",
    *(("images", IMAGES), ("tiling", TILING), ("finish", FINISH)),
    *(("top", "i4"), ("pitch", "i4"), ("weights", ("f4", (49,)))),
)
SMALL_SIZES = (3, 5, 7)
SMALL_TYPES = ("uint8", "float16", "float")
SMALL_ROWS_EACH = 8
"""Output rows of a thread."""


Fast = Callable[[LinearPlan, Stack, Launcher], Launch | None]

FAST: tuple[Fast, ...] = (
    *(toeplitz.launch, separable_tensor.launch),
    *(separable_strips.launch, dense_strips.launch),
)
"""Ways to filter a stack of planes, asked in turn; None: not this plan, or not these arrays."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for and the fast ways do not list."""
    for element in SMALL_TYPES:
        for size in SMALL_SIZES:
            yield Variant(DENSE, "dense_small", (element, str(size)))
    for element, sums in FORMS:
        typed, anything = both_kinds(element, 2)
        # Integers are computed on as they are, but those that only int128 is wide enough for.
        whole = element.lstrip("u").startswith("int")
        converted = (element, ANY) if whole and sums is not INT128 else anything
        for stored in (typed, converted):
            arguments = (element, sums.type, *stored)
            yield Variant(DENSE, "dense_any", (*arguments, "1"))
            yield Variant(SEPARABLE, "separable_any", (*arguments, "1"))
            # Gradients: of small integers always in float, of 64 bits never in two passes.
            if sums is INT128:
                yield Variant(DENSE, "dense_any", (*arguments, "2"))
            elif (element, sums) not in (("uint8", DOUBLE), ("int8", DOUBLE)):
                yield Variant(SEPARABLE, "separable_any", (*arguments, "2"))


def launches(
    plan: LinearPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes."""
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        fast = (way(plan, stack, launcher) for way in FAST)
        yield next(filter(None, fast), None) or _general(plan, stack, launcher)


def _general(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch:
    """What takes every plan and all arrays."""
    recipe = _recipe(
        plan.stencils,
        plan.windows[0].pad[0],
        plan.windows[1].pad[0],
        plan.combine,
        plan.delta,
        plan.amount,
        plan.images.dtype,
        stack.channels,
    )
    return _launch(recipe, stack, launcher)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the stencils decide, and not the arrays."""

    file: str
    element: DType
    sums: Sums
    stencils: int
    finish: tuple[float, ...]
    """FINISH but for its last field."""
    how: str
    geometry: tuple[int, ...]
    """LINEAR from `height` on."""
    weights: npt.NDArray[Any]
    places: npt.NDArray[np.int32]
    shared_bytes: int
    small: SmallKernel | None


@dataclass(frozen=True, slots=True)
class SmallKernel:
    """A kernel of one of SMALL_SIZES over one channel, centred along the row."""

    size: int
    pitch: int
    shared_bytes: int
    weights: npt.NDArray[np.float32]


def _launch(recipe: Recipe, stack: Stack, launcher: Launcher) -> Launch:
    element, sums = recipe.element, recipe.sums
    if is_float(element) or sums is INT128:
        stored = stored_types(element, stack.input.dtype, stack.output.dtype)
    else:
        stored = (cuda_type(element), *stored_types(element, stack.output.dtype))
    soon = ("sum", "magnitude") if is_float(element) else ("sum", "small")
    from_registers = (
        recipe.how in soon
        and stored[1] != ANY
        and stack.stores(sums.pack * stack.output.dtype.itemsize)
    )
    finish = np.array((*recipe.finish, HOW[recipe.how], from_registers), FINISH)
    if recipe.small and from_registers and stack.input.dtype == element:
        return _launch_small(recipe, recipe.small, stack, finish)
    tiling, grid = stack.tiling(sums.rows, sums.columns)
    params = np.array((stack.packed, tiling, finish, *recipe.geometry), LINEAR)
    stage_bytes = 0 if from_registers else recipe.stencils * sums.rows * sums.columns * sums.bytes
    weights, places = launcher.constant(recipe.weights), launcher.constant(recipe.places)
    kernel = "dense_any" if recipe.file == DENSE else "separable_any"
    arguments = (cuda_type(element), sums.type, *stored, str(recipe.stencils))
    return Launch(
        Variant(recipe.file, kernel, arguments),
        grid,
        (LANES, WARPS, 1),
        (stack.input, stack.output, weights, places, params),
        max(recipe.shared_bytes, stage_bytes),
    )


def _launch_small(
    recipe: Recipe, small: SmallKernel, stack: Stack, finish: np.ndarray[Any, Any]
) -> Launch:
    tiling, grid = stack.tiling(WARPS * SMALL_ROWS_EACH, recipe.sums.columns)
    top = recipe.geometry[2]
    params = np.array((stack.packed, tiling, finish, top, small.pitch, small.weights), SMALL)
    return Launch(
        Variant(DENSE, "dense_small", (cuda_type(recipe.element), str(small.size))),
        grid,
        (LANES, WARPS, 1),
        (stack.input, stack.output, params),
        small.shared_bytes,
    )


@lru_cache(maxsize=512)
def _recipe(
    stencils: tuple[Stencil, ...],
    top: int,
    left: int,
    combine: str,
    delta: float,
    amount: float,
    dtype: DType,
    channels: int,
) -> Recipe:
    """What to do with images of `dtype` whose rows interleave so many channels."""
    sums = sums_of(stencils, dtype)
    element = dtype
    if sums is INT128:
        element = np.dtype(np.uint64 if dtype == np.uint64 else np.int64)
    height, width, file = stencils[0].height, stencils[0].width, DENSE
    if stencils[0].separable:
        file = SEPARABLE
    places, spots, left_packs = _entries(width, left * channels, channels, sums.pack)
    weights = np.concatenate([_weights(s, len(places), spots, sums) for s in stencils])
    shape = _Shape(element, sums, len(stencils), height, width, places)
    layout = shape.separable() if file == SEPARABLE else shape.dense()
    how, finish = finish_of(stencils, combine, delta, amount, dtype, sums)
    geometry = (
        *(height, len(places), top, left_packs),
        *(layout.chunk_height, layout.chunk_entries, layout.flush_height, layout.flush_entries),
        *(layout.pitch, layout.middle_packs, stencils[0].column_shift),
        *(layout.row_at, layout.places_at, layout.middle_at, layout.tile_at),
    )
    return Recipe(
        *(file, element, sums, len(stencils), finish, how),
        *(geometry, weights, places, layout.shared_bytes),
        _small(stencils[0], left, channels, element, sums),
    )


def _small(
    stencil: Stencil, left: int, channels: int, element: DType, sums: Sums
) -> SmallKernel | None:
    """The kernel of a small stencil, where there is one."""
    size = stencil.width
    if (
        stencil.dense is None
        or channels > 1
        or sums is not FLOAT
        or cuda_type(element) not in SMALL_TYPES
        or (stencil.height, left) != (size, size // 2)
        or size not in SMALL_SIZES
    ):
        return None
    shift = -left % sums.pack
    packs = LANES - 1 + (shift + size + 2 * sums.pack - 2) // sums.pack
    pitch = tile_pitch(packs * sums.pack, element)
    rows = WARPS * SMALL_ROWS_EACH + size - 1
    weights = np.zeros(49, np.float32)
    weights[: size * size] = stencil.dense.array.ravel()
    return SmallKernel(size, pitch, rows * pitch * element.itemsize, weights)


def _entries(
    width: int, left: int, channels: int, pack: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], int]:
    """The packs of a kernel row whose first tap lies `left` elements before its output.

    (places for the kernel; each tap's place among the entries' weights; packs from an output to
    the first entry's).
    """
    first = -left // pack
    taps = np.arange(width) * channels - left - first * pack
    groups, entry = np.unique(taps // pack, return_inverse=True)
    masks = np.zeros(len(groups), np.int64)
    np.add.at(masks, entry, 1 << taps % pack)
    return (groups * 16 + masks).astype(np.int32), entry * pack + taps % pack, first


def _weights(
    stencil: Stencil, entries: int, spots: npt.NDArray[np.int64], sums: Sums
) -> npt.NDArray[Any]:
    """A stencil's numbers as the kernels read them: rows of entries, after the column if any."""
    if stencil.dense is not None:
        rows = np.zeros((stencil.height, entries * sums.pack), sums.weights)
        rows[:, spots] = stencil.dense.array
        return rows.ravel()
    assert stencil.column is not None
    assert stencil.row is not None
    row = np.zeros(entries * sums.pack, sums.weights)
    row[spots] = stencil.row.array
    return np.concatenate([stencil.column.array.astype(sums.weights), row])


@dataclass(frozen=True, slots=True)
class Layout:
    """How a block's shared memory is used, and where floats begin another block of taps."""

    chunk_height: int
    chunk_entries: int
    flush_height: int
    flush_entries: int
    pitch: int
    middle_packs: int
    row_at: int
    places_at: int
    middle_at: int
    tile_at: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """A window whose chunks must fit into shared memory."""

    element: DType
    sums: Sums
    stencils: int
    height: int
    width: int
    places: npt.NDArray[np.int32]

    def dense(self) -> Layout:
        """As many kernel rows as fit, of all entries if some rows fit then."""
        sums, entries, taps = self.sums, len(self.places), self.height * self.width
        flush_height, flush_entries = 0, NEVER
        if is_float(self.element) and taps > BLOCK_TAPS:
            block = math.sqrt(taps)
            flush_height = max(1, round(block / self.width))
            if self.width > 2 * block:
                flush_entries = max(1, round(block * entries / self.width))
        for chunk_entries in _halves(entries):
            weight_row = self.stencils * chunk_entries * sums.pack * sums.weights.itemsize
            pitch, row_bytes = self._pitch(self._packs(chunk_entries))
            room = SHARED_BYTES - 2 * WIDE_BYTES - 4 * chunk_entries
            room -= (sums.rows - 1) * row_bytes
            rows = room // (row_bytes + weight_row)
            if rows >= min(self.height, 8):
                break
        chunk_height = _even(self.height, rows)
        places_at = _up(chunk_height * weight_row)
        tile_at = _up(places_at + 4 * chunk_entries)
        return Layout(
            *(chunk_height, chunk_entries, flush_height, flush_entries),
            *(pitch, 0, 0, places_at, 0, tile_at),
            tile_at + (sums.rows + chunk_height - 1) * row_bytes,
        )

    def separable(self) -> Layout:
        """As many taps of the column as fit, with the middle of all entries if some fit then."""
        sums, entries = self.sums, len(self.places)
        floats, tap_bytes = is_float(self.element), sums.weights.itemsize
        flush_entries = NEVER
        if floats and self.width > BLOCK_TAPS:
            flush_entries = max(1, round(entries / math.sqrt(self.width)))
        for chunk_entries in _halves(entries):
            packs = self._packs(chunk_entries)
            pitch, row_bytes = self._pitch(packs)
            fixed = 4 * WIDE_BYTES + chunk_entries * (4 + sums.pack * tap_bytes)
            fixed += sums.rows * packs * WIDE_BYTES + (sums.rows - 1) * row_bytes
            rows = (SHARED_BYTES - fixed) // (row_bytes + tap_bytes)
            if rows >= min(self.height, 8):
                break
        long = floats and self.height > BLOCK_TAPS
        if long:
            rows = min(rows, math.isqrt(self.height))
        chunk_height = _even(self.height, rows)
        row_at = _up(chunk_height * tap_bytes)
        places_at = _up(row_at + chunk_entries * sums.pack * tap_bytes)
        middle_at = _up(places_at + 4 * chunk_entries)
        tile_at = middle_at + sums.rows * packs * WIDE_BYTES
        return Layout(
            *(chunk_height, chunk_entries, int(long), flush_entries),
            *(pitch, packs, row_at, places_at, middle_at, tile_at),
            tile_at + (sums.rows + chunk_height - 1) * row_bytes,
        )

    def _packs(self, chunk_entries: int) -> int:
        """Packs of a tile's row under the widest chunk of so many entries."""
        packs = self.places >> 4
        first = np.arange(0, len(packs), chunk_entries)
        last = np.minimum(first + chunk_entries, len(packs)) - 1
        return LANES + int(np.max(packs[last] - packs[first])) + 1

    def _pitch(self, packs: int) -> tuple[int, int]:
        """Elements and bytes from a row of a tile to the next."""
        pitch = tile_pitch(packs * self.sums.pack, self.element)
        return pitch, pitch * self.element.itemsize


def _halves(count: int) -> Iterator[int]:
    """count, about its half, about its quarter ... 1."""
    while count > 1:
        yield count
        count = -(-count // 2)
    yield 1


def _even(length: int, limit: int) -> int:
    """The size of pieces of at most `limit` that share `length` evenly."""
    assert limit > 0
    return -(-length // -(-length // min(length, limit)))


def _up(offset: int) -> int:
    """The next multiple of 16 bytes."""
    return -(-offset // WIDE_BYTES) * WIDE_BYTES
