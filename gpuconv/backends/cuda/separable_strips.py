"""Launches of kernels_cu/separable_strip.cu and gradient_strip.cu: one read and one write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda import strips
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
from gpuconv.backends.cuda.strips import LANE_STRIPS, fits_strips, strips_down
from gpuconv.backends.cuda.sums import DOUBLE, FLOAT, HOW, Sums, finish_of, sums_of
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import LinearPlan
from gpuconv.quantize import Stencil

FILE, GRADIENTS = "separable_strip.cu", "gradient_strip.cu"

ODD = tuple(range(3, 32, 2))
TAPS = {
    "uint8": (3, 5, 7, 9, 11, 13, 15, 21, 31, 41),
    "uint16": (3, 5, 7, 9, 11, 15, 31),
    "float16": ODD[:7],
    "float": ODD,
}
COLOUR_TAPS = {
    "uint8": (3, 5, 7, 9, 15, 31),
    "uint16": (3, 5, 9, 15, 31),
    "float16": (3, 5, 7, 9),
    "float": (3, 5, 7, 9),
}
"""Sizes of the kernels' windows by element type, of one channel and of several.

Integers take any that has room for their taps, floats their own or `separable_odd`.
"""

MOST_TAPS, MOST_BYTE_TAPS, MOST_ODD = 32, 42, 31
CHANNELS = (1, 2, 3, 4)
"""Interleaved."""

FORMS = (("float16", FLOAT), ("float", FLOAT), ("uint16", DOUBLE))
"""(element type, sums) of `separable_strip`; bytes have a kernel of their own."""

GRADIENT_TYPES = ("uint8", "uint16", "float16", "float")
MOST_SMOOTHING = 16
"""Sum of the taps across a derivative: what the kernels' integers have room for."""

WARPS, LANES = 4, 32
"""Of a block; threads of a warp. Twins of the constants in the CUDA source."""

ROWS = 4
"""That a trip takes, of fixed numbers of taps."""


BLOCK_STRIPS = struct(
    "BlockStrips",
    *(("jobs", "i8"), ("each", "i4"), ("lanes", "i4"), ("rows", "i4"), ("beside", "i4")),
    *(("above", "i4"), ("below", "i4")),
)


def _params(sums: Sums) -> np.dtype[np.void]:
    return struct(
        "SeparableStripParams",
        *(("images", IMAGES), ("strips", BLOCK_STRIPS), ("finish", FINISH[sums])),
        *(("scale", sums.weights), ("magic", sums.weights)),
        *(("column", (sums.weights, (MOST_TAPS,))), ("row", (sums.weights, (MOST_TAPS,)))),
    )


FINISH = {
    sums: struct(
        "StripFinish",
        *(("how", "i4"), ("amount", "i4"), ("shift", "i4")),
        *(("offset", sums.weights), ("real_amount", sums.weights)),
    )
    for sums in (FLOAT, DOUBLE)
}
STRIP_PARAMS = {sums: _params(sums) for sums in (FLOAT, DOUBLE)}
BYTES_PARAMS = struct(
    "SeparableBytesParams",
    *(("images", IMAGES), ("strips", BLOCK_STRIPS), ("finish", FINISH[FLOAT])),
    *(("start", "i4"), ("scale", "f4"), ("up", "f4"), ("down", "f4")),
    *(("even", ("u4", (MOST_BYTE_TAPS // 2,))), ("odd", ("u4", (MOST_BYTE_TAPS // 2,)))),
    ("row", ("f4", (MOST_BYTE_TAPS,))),
)
ODD_PARAMS = struct(
    "SeparableOddParams",
    *(("images", IMAGES), ("strips", BLOCK_STRIPS), ("finish", FINISH[FLOAT])),
    *(("height", "i4"), ("width", "i4")),
    *(("last", "f4"), ("column", ("f4", (MOST_ODD - 1,)))),
    *(("centre", "f4"), ("before", ("f4", (MOST_ODD // 2 + 1,)))),
    ("behind", ("f4", (MOST_ODD // 2 + 1,))),
)
GRADIENT_PARAMS = struct(
    "GradientStripParams",
    *(("images", IMAGES), ("strips", LANE_STRIPS), ("outer", "i4"), ("inner", "i4")),
)

ROUNDING = {FLOAT: 1.5 * 2**23, DOUBLE: 1.5 * 2**52}
"""Added to a number, leaves no room for a fraction: rounds half to even."""

MOST_ROWS = 1024
"""Of a strip."""

MOST_WORDS = 96
"""That sums under way take, where there are registers for what may be asked of them."""

GRADIENT_WARPS = 20
"""Of gradients, that a multiprocessor has registers for."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for channels in CHANNELS:
        for size in taps_of("uint8", channels):
            yield _variant("separable_bytes", size, channels)
        for element, sums in FORMS:
            for size in taps_of(element, channels):
                yield _variant("separable_strip", element, sums.type, size, channels)
            if sums is FLOAT:
                yield _variant("separable_odd", element, channels)
        for element in GRADIENT_TYPES:
            yield Variant(GRADIENTS, "gradient_strip", (element, str(channels)))


def taps_of(element: str, channels: int) -> tuple[int, ...]:
    """The sizes of windows that there are kernels for."""
    return (TAPS if channels == 1 else COLOUR_TAPS)[element]


def rows_at_once(variant: Variant) -> int:
    """That a kernel takes: twin of ROWS in the CUDA source."""
    return 2 if variant.kernel == "separable_odd" else ROWS


def _variant(kernel: str, *arguments: str | int) -> Variant:
    return Variant(FILE, kernel, tuple(map(str, arguments)))


def launch(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch | None:
    """The launch of a stack of planes, or None: not this plan, or not these arrays."""
    if not fits_strips(stack):
        return None
    if plan.combine == "magnitude":
        return _launch_gradient(plan, stack)
    recipe = _recipe(
        *(plan.stencils, plan.windows[0].pad, plan.windows[1].pad),
        *(plan.combine, plan.delta, plan.amount, plan.images.dtype, stack.channels),
    )
    if recipe is None:
        return None
    packed, grid = recipe.shape.strips(stack)
    params = np.array((stack.packed, packed, *recipe.fields), recipe.params)
    return Launch(recipe.variant, grid, (LANES * WARPS, 1, 1), (stack.input, stack.output, params))


def _launch_gradient(plan: LinearPlan, stack: Stack) -> Launch | None:
    element, channels = cuda_type(plan.images.dtype), stack.channels
    smooth = _smoothing(plan.stencils)
    if element not in GRADIENT_TYPES or channels not in CHANNELS or smooth is None:
        return None
    itemsize = plan.images.dtype.itemsize
    each = WIDE_BYTES // itemsize
    side = strips.halo(channels, each, itemsize)
    shape = strips.Shape(MOST_ROWS, LANES * each, 1, 1, side, side, GRADIENT_WARPS)
    packed, grid = shape.lane_strips(stack)
    params = np.array((stack.packed, packed, *smooth), GRADIENT_PARAMS)
    variant = Variant(GRADIENTS, "gradient_strip", (element, str(channels)))
    return Launch(variant, grid, (LANES, strips.WARPS, 1), (stack.input, stack.output, params))


@lru_cache(maxsize=64)
def _smoothing(stencils: tuple[Stencil, ...]) -> tuple[int, int] | None:
    """The outer and the inner tap across two derivatives of three taps, along H and along W."""
    taps = []
    for stencil in stencils:
        if stencil.column is None or stencil.row is None:
            return None
        taps.append((stencil.column.array.tolist(), stencil.row.array.tolist()))
    (down, smooth), across = taps
    if down != [-1, 0, 1] or across != (smooth, down) or len(smooth) != 3:
        return None
    outer, inner, last = smooth
    small = min(outer, inner) > 0 and outer + inner + last <= MOST_SMOOTHING
    if outer != last or not small or outer % 1 or inner % 1:
        return None
    return int(outer), int(inner)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a thread makes of a row, and what is read besides."""

    elements: int
    beside: int
    """Threads at either end of a row, and of a block, that neighbours alone need."""
    above: int
    below: int
    multiple: int
    """Of the rows of a strip, but for the last ones."""
    blocks: int
    """That a multiprocessor has registers for."""

    def strips(self, stack: Stack) -> tuple[np.ndarray[Any, Any], tuple[int, int, int]]:
        """(a BLOCK_STRIPS, the grid): strips that keep a GPU busy."""
        lanes = -(-stack.row // self.elements) + 2 * self.beside
        own, again = WARPS * LANES - 2 * self.beside, self.above + self.below
        down = strips_down(stack.planes, lanes, own, stack.height, MOST_ROWS, again, self.blocks)
        rows = -(-stack.height // down)
        rows = -(-rows // self.multiple) * self.multiple
        down = -(-stack.height // rows)
        each = -(-(down * lanes - 2 * self.beside) // own)
        jobs = stack.planes * each
        fields = (jobs, each, lanes, rows, self.beside, self.above, self.below)
        return np.array(fields, BLOCK_STRIPS), blocks(jobs)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the stencils decide, and not the arrays."""

    variant: Variant
    params: np.dtype[np.void]
    shape: Shape
    fields: tuple[Any, ...]
    """Of `params`, from `finish` on."""


@lru_cache(maxsize=512)
def _recipe(
    stencils: tuple[Stencil, ...],
    height_pad: tuple[int, int],
    width_pad: tuple[int, int],
    combine: str,
    delta: float,
    amount: float,
    dtype: DType,
    channels: int,
) -> Recipe | None:
    """How to filter images of `dtype` whose rows interleave so many channels, if it can be."""
    first, element, sums = stencils[0], cuda_type(dtype), sums_of(stencils, dtype)
    factors = _factors(first)
    if (
        factors is None
        or len(stencils) > 1
        or channels not in CHANNELS
        or (element, sums) not in (*FORMS, ("uint8", FLOAT))
    ):
        return None
    how, exact = finish_of(stencils, combine, delta, amount, dtype, sums)
    scale, offset = exact[:2]
    if how not in ("sum", "unsharp"):
        return None
    finish: tuple[float, ...] = (HOW[how], 0, 0, offset * scale, float(amount))
    if how == "unsharp" and not is_float(dtype):
        if not _soon_sharp(first, dtype, int(amount)):
            return None
        # Sums are needed as they are.
        scale, finish = 1.0, (HOW[how], int(amount), first.shift, 0.0, 0.0)
    size = _window(taps_of(element, channels), height_pad, width_pad, is_float(dtype))
    asked = how == "unsharp" or offset != 0
    if size is None or (is_float(dtype) and asked and not room_to_ask(size, dtype)):
        return _odd(element, factors, height_pad, width_pad, finish, channels)
    # What is read besides makes whole trips.
    rows = -(-(size - 1) // ROWS) * ROWS - size // 2, size // 2, ROWS
    column, row = (
        _padded(taps, size, pad[0])
        for taps, pad in zip(factors, (height_pad, width_pad), strict=True)
    )
    if element == "uint8":
        middle = _byte_sums(column, first.column_shift)
        if middle is None:
            return None
        return Recipe(
            _variant("separable_bytes", size, channels),
            BYTES_PARAMS,
            _shape(8, size // 2 * channels, rows, 4 if size < 16 else 3),
            (finish, *middle, _filled(row * scale, MOST_BYTE_TAPS)),
        )
    rounding = 0.5**first.column_shift, ROUNDING[sums] if first.column_shift else 0.0
    each = WIDE_BYTES // dtype.itemsize if sums is FLOAT else 4 if size <= 15 else 2
    variant = _variant("separable_strip", element, sums.type, size, channels)
    return Recipe(
        variant,
        STRIP_PARAMS[sums],
        _shape(each, size // 2 * channels, rows, _blocks(size, each, sums)),
        (finish, *rounding, _filled(column, MOST_TAPS), _filled(row * scale, MOST_TAPS)),
    )


def _odd(
    element: str,
    factors: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    height_pad: tuple[int, int],
    width_pad: tuple[int, int],
    finish: tuple[float, ...],
    channels: int,
) -> Recipe | None:
    """Floats of odd numbers of taps, centred on their output."""
    column, row = factors
    centred = height_pad[0] == height_pad[1] and width_pad[0] == width_pad[1]
    if (element, FLOAT) not in FORMS or not centred or max(len(column), len(row)) > MOST_ODD:
        return None
    half = len(row) // 2
    sides = (_filled(side, MOST_ODD // 2 + 1) for side in (row[half::-1], row[half:]))
    return Recipe(
        _variant("separable_odd", element, channels),
        ODD_PARAMS,
        _shape(4, len(row) // 2 * channels, (len(column) // 2, len(column) // 2, 2), 3),
        (
            *(finish, len(column), len(row)),
            *(column[-1], _filled(column[-2::-1], MOST_ODD - 1)),
            *(row[half], *sides),
        ),
    )


def _factors(stencil: Stencil) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Column and row of a stencil; a single row or column of weights has another of one."""
    if stencil.column is not None and stencil.row is not None:
        return stencil.column.array, stencil.row.array
    if stencil.dense is None or min(stencil.height, stencil.width) > 1:
        return None
    line = stencil.dense.array.ravel()
    one = np.ones(1, line.dtype)
    return (one, line) if stencil.height == 1 else (line, one)


def _window(
    sizes: tuple[int, ...], height_pad: tuple[int, int], width_pad: tuple[int, int], exact: bool
) -> int | None:
    """The size of the square window, centred on its output, that has room for all taps.

    `exact`: without any other element in it, which floats must not meet even with a weight of 0.
    """
    pads = (*height_pad, *width_pad)
    reach = max(pads)
    if exact and min(pads) < reach:
        return None
    size = next((size for size in sizes if size // 2 >= reach), None)
    return None if exact and size != 2 * reach + 1 else size


def room_to_ask(size: int, dtype: DType) -> bool:
    """Whether `separable_strip` of floats does more to sums than to round them."""
    return (size - 1) * (WIDE_BYTES // dtype.itemsize) < MOST_WORDS


def _shape(each: int, reach: int, rows: tuple[int, int, int], blocks: int) -> Shape:
    """Of a kernel whose threads own `each` elements, and need `reach` on either side."""
    return Shape(each, -(-reach // each), *rows, blocks)


def _blocks(size: int, each: int, sums: Sums) -> int:
    """That a multiprocessor has registers for: twin of BLOCKS in the CUDA source."""
    words = (size - 1) * each * sums.bytes // 4
    three = 104 if sums is DOUBLE else 128
    return 5 if words < 24 else 4 if words <= 56 else 3 if words <= three else 2


def _soon_sharp(stencil: Stencil, dtype: DType, amount: int) -> bool:
    """Whether the kernel's `unsharp` has room for every result."""
    bits = stencil.shift + 12
    missing = (255 << stencil.shift) + 2**24
    return dtype == np.uint8 and bits <= 30 and abs(amount) * missing >> bits < 2**22


def _byte_sums(taps: npt.NDArray[Any], shift: int) -> tuple[Any, ...] | None:
    """Fields of BYTES_PARAMS for sums of bytes along H that drop `shift` bits, if they fit."""
    column = [int(tap) for tap in taps]
    below = 255 * -sum(tap for tap in column if tap < 0)
    above = 255 * sum(tap for tap in column if tap > 0)
    # A multiple of 2^shift, so that it can be taken away after rounding.
    below = -(-below >> shift) << shift
    if max(map(abs, column)) >= 2**15 or above + below >= 2**23:
        return None
    none = 2**23 + below
    magic = ROUNDING[FLOAT]
    up, down = (magic - (none >> shift), magic) if shift else (0.0, none)
    start = 0x4B000000 + below
    return (start, 0.5**shift, up, down, _pairs([*column, 0]), _pairs([0, *column]))


def _pairs(taps: list[int]) -> npt.NDArray[np.uint32]:
    """Two taps of 16 bits in a word."""
    halves = np.zeros(MOST_BYTE_TAPS, np.int16)
    halves[: len(taps)] = taps
    return halves.view(np.uint32)


def _padded(taps: npt.NDArray[Any], size: int, before: int) -> npt.NDArray[Any]:
    """Taps with the output's own `before` taps from the first on, in the middle of a window."""
    window = np.zeros(size, taps.dtype)
    first = size // 2 - before
    window[first : first + len(taps)] = taps
    return window


def _filled(values: npt.NDArray[Any], length: int) -> npt.NDArray[np.float64]:
    filled = np.zeros(length)
    filled[: len(values)] = values
    return filled
