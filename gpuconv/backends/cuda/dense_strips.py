"""Launches of kernels_cu/dense.cu's `dense_strip`: small kernels over aligned rows, by strips."""

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
    cuda_type,
    struct,
)
from gpuconv.backends.cuda.strips import LANE_STRIPS, WARPS, Shape, fits_strips, halo
from gpuconv.backends.cuda.sums import DOUBLE, FLOAT, LANES, Sums, finish_of
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import LinearPlan, gpu
from gpuconv.quantize import Stencil

SIZES, LARGE = (3, 5, 7), (9, 11, 13, 15)
CHANNELS = tuple(range(1, gpu.STRIP_CHANNELS + 1))
"""Interleaved."""

FORMS = (
    *(("uint8", FLOAT), ("uint16", FLOAT), ("uint16", DOUBLE)),
    *(("float16", FLOAT), ("float", FLOAT)),
)
"""(element type, sums) of the kernels of SIZES."""

LARGE_FORMS = (("uint8", FLOAT), ("uint16", DOUBLE), ("float16", FLOAT), ("float", FLOAT))
"""The same of LARGE, which are for one channel."""

FREE = 25
"""Taps that take no longer than reading and writing does, or not much."""

WORTH = 2
"""Taps that are done here in the time that the general kernel takes for one."""

MOST_ROWS = 256
"""Of a strip."""


def _params(sums: Sums, size: int) -> np.dtype[np.void]:
    return struct(
        "StripParams",
        *(("images", IMAGES), ("strips", LANE_STRIPS), ("offset", sums.weights)),
        ("weights", (sums.weights, (size * size,))),
    )


PARAMS = {(sums, size): _params(sums, size) for sums in (FLOAT, DOUBLE) for size in SIZES + LARGE}


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for element, sums in FORMS:
        for channels in CHANNELS:
            for size in sizes(element, sums, channels):
                yield _variant(element, sums, size, channels)


def sizes(element: str, sums: Sums, channels: int) -> tuple[int, ...]:
    """Of the kernels that there are for such images."""
    if (element, sums) not in FORMS or channels not in CHANNELS:
        return ()
    return SIZES + LARGE if channels == 1 and (element, sums) in LARGE_FORMS else SIZES


def _variant(element: str, sums: Sums, size: int, channels: int) -> Variant:
    return Variant("dense.cu", "dense_strip", (element, sums.type, str(size), str(channels)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the plan decides, and not the arrays."""

    variant: Variant
    shape: Shape
    params: np.dtype[np.void]
    offset: float
    weights: npt.NDArray[Any]
    """The stencil's numbers, scaled: the sums are the results before they are rounded."""


def launch(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch | None:
    """The launch of a stack of planes; None for other kernels, dtypes and layouts."""
    if len(plan.stencils) != 1 or plan.combine != "sum" or not fits_strips(stack):
        return None
    top, left = (window.pad[0] for window in plan.windows)
    recipe = _recipe(plan.stencils[0], top, left, plan.delta, plan.images.dtype, stack.channels)
    if recipe is None:
        return None
    strips, grid = recipe.shape.lane_strips(stack)
    params = np.array((stack.packed, strips, recipe.offset, recipe.weights), recipe.params)
    block = (LANES, WARPS, 1)
    return Launch(recipe.variant, grid, block, (stack.input, stack.output, params))


@lru_cache(maxsize=512)
def _recipe(
    stencil: Stencil, top: int, left: int, delta: float, dtype: DType, channels: int
) -> Recipe | None:
    if stencil.dense is None:
        return None
    for sums in {"float32": (FLOAT, DOUBLE), "float64": (DOUBLE,)}.get(stencil.accumulator, ()):
        own = sizes(cuda_type(dtype), sums, channels)
        weights = _square(stencil.dense.array, left, dtype, own)
        if weights is not None:
            break
    else:
        return None
    how, finish = finish_of((stencil,), "sum", delta, 0.0, dtype, sums)
    if how != "sum":
        return None
    scale, offset = finish[:2]
    size = len(weights)
    lane = lane_elements(dtype, sums, size, channels)
    side = halo(size // 2 * channels, lane, dtype.itemsize)
    shape = Shape(
        *(MOST_ROWS, LANES * lane, top, size - 1 - top, side, side),
        warps=_warps(lane, sums, size),
    )
    variant = _variant(cuda_type(dtype), sums, size, channels)
    params = PARAMS[sums, size]
    own_offset = offset if is_float(dtype) else offset * scale
    scaled = (weights * scale).astype(sums.weights).ravel()
    return Recipe(variant, shape, params, own_offset, scaled)


def _square(
    weights: npt.NDArray[Any], left: int, dtype: DType, sizes: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """A kernel as one of `sizes` whose middle column is the anchor's, where that pays.

    Only integers take zeros beside their kernel: 0 times what no window holds might be NaN.
    """
    height, width = weights.shape
    wanted = max(height, 2 * max(left, width - 1 - left) + 1)
    size = next((size for size in sizes if size >= wanted), None)
    if size is None or size * size > max(FREE, WORTH * weights.size):
        return None
    if is_float(dtype) and (height, width) != (size, size):
        return None
    square = np.zeros((size, size), weights.dtype)
    first = size // 2 - left
    square[:height, first : first + width] = weights
    return square


def lane_elements(dtype: DType, sums: Sums, size: int, channels: int) -> int:
    """Neighbouring elements of a lane: twin of StripShape::N."""
    most = 8 if size > 5 or (size == 5 and channels > 1) else 16
    if size > 11 or (size > 7 and sums is DOUBLE):
        most = 4
    return min(WIDE_BYTES // dtype.itemsize, most)


def _warps(lane: int, sums: Sums, size: int) -> int:
    """That a multiprocessor has registers for, about."""
    registers = 52 + lane * size * sums.bytes // 4
    return min(48, 65536 // (LANES * registers) // WARPS * WARPS)
