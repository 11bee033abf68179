"""Launches of kernels_cu/box.cu: means of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import Stack, stacks
from gpuconv.backends.cuda.launch import (
    ANY,
    DTYPES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    both_kinds,
    cuda_type,
    stored_types,
    struct,
)
from gpuconv.backends.cuda.sliding import ROW_KINDS, SLIDING, plan_slider, rows_of
from gpuconv.backends.cuda.window import (
    FIELD,
    LONG_WARPS,
    PATCH,
    TILE,
    WINDOW,
    Field,
    fit_tile,
    pack_window,
    patches,
    stage_bytes,
)
from gpuconv.backends.cuda.window_channels import mean_launch
from gpuconv.dtypes import DType, accumulator, is_float
from gpuconv.plan import BoxPlan

FILE = "box.cu"

MEAN = struct("Mean", ("count", "i8"), ("reciprocal", "u4"), ("by_double", "i4"))
BOX = struct("BoxParams", ("field", FIELD), ("window", WINDOW), ("tile", TILE), ("mean", MEAN))
LARGE_BOX = struct(
    "LargeBoxParams", ("field", FIELD), ("window", WINDOW), ("patch", PATCH), ("mean", MEAN)
)
BOX_STRIP = struct(
    "BoxStripParams",
    *(("sliding", SLIDING), ("mean", MEAN)),
    *(("inverse", "f4"), ("by_inverse", "i4"), ("mask", "u4")),
)

STRIP_TYPES = {
    **{"uint8": "uint8", "int8": "uint8", "uint16": "uint16", "int16": "uint16"},
    **{"float16": "float16", "bfloat16": "bfloat16", "float32": "float"},
}
"""What box_strip takes pixels for: signed integers lose their sign by one bit."""

STRIP_PACK = {1: 8, 2: 8, 4: 4}
STRIP_SUM_BYTES = {1: 16, 2: 32, 4: 16}
"""By the bytes of a pixel: elements of a thread, bytes of their sums down columns."""

MEMORY_DTYPES: dict[str, DType] = {
    "int64": np.dtype(np.int64),
    "int128": np.dtype(np.complex128),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}
"""What memory for sums is allocated as; NumPy has no integers of 128 bits, but numbers as large."""

SUM_BYTES = {"int": 4, "int64": 8, "int128": 16, "float": 4, "double": 8}

TILE_SUMS = (
    dict.fromkeys(("uint8", "int8", "uint16", "int16"), "int")
    | dict.fromkeys(("uint32", "int32"), "int64")
    | dict.fromkeys(("uint64", "int64"), "int128")
    | {"float16": "float", "bfloat16": "float", "float": "float", "double": "double"}
)
"""What holds the sum of every box that fits into shared memory, by the pixels' type."""


def large_sums(dtype: str) -> tuple[str, ...]:
    """What larger boxes are summed in; the last where the first would overflow."""
    total = TILE_SUMS[dtype]
    return {"int": ("int64",), "int64": ("int64", "int128")}.get(total, (total,))


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for rows in ROW_KINDS:
        for dtype in dict.fromkeys(STRIP_TYPES.values()):
            yield Variant(FILE, "box_strip", (rows, dtype, "false"))
        yield Variant(FILE, "box_strip", (rows, "uint8", "true"))
    for dtype in DTYPES:
        for stored in both_kinds(dtype, 2):
            yield Variant(FILE, "box_mean", (dtype, TILE_SUMS[dtype], *stored))
        for total in large_sums(dtype):
            yield Variant(FILE, "box_down", (dtype, total))
            yield Variant(FILE, "box_across", (dtype, total))


def launches(
    plan: BoxPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes; two a patch where boxes are too large for shared memory."""
    dtype: DType = plan.images.dtype
    total = TILE_SUMS[cuda_type(dtype)]
    window = pack_window(plan.windows, blocked=is_float(dtype))
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        strips = strip_launch(plan, stack)
        if strips is not None:
            yield strips
            continue
        field = Field.whole(stack)
        stored = stored_types(dtype, stack.input.dtype, stack.output.dtype)
        rounded = stored == (ANY, ANY) and is_float(dtype)
        staged_bytes = accumulator(dtype).itemsize if rounded else dtype.itemsize
        tile = fit_tile(field, plan.windows, dtype, SUM_BYTES[total], staged_bytes)
        if tile is None:
            yield from _large(plan, field, window, launcher)
            continue
        packed, grid = field.pack(plan.windows, tile.size)
        params = np.array((packed, window, tile.packed, _mean(plan)), BOX)
        yield Launch(
            Variant(FILE, "box_mean", (cuda_type(dtype), total, *stored)),
            grid,
            tile.block,
            (stack.input, stack.output, params),
            tile.shared_bytes,
        )


def strip_launch(plan: BoxPlan, stack: Stack) -> Launch | None:
    """One launch at the speed of memory, where rows, the box's size and the sums' bits allow it."""
    dtype: DType = plan.images.dtype
    found = mean_launch(stack, plan.windows, dtype)
    if found is not None:
        return found
    height, count, bits = plan.windows[0].size, plan.count, 8 * dtype.itemsize
    name = STRIP_TYPES.get(dtype.name)
    if name is None or (not is_float(dtype) and count >> 32 - bits):
        return None
    if bits == 8 and height * 255 >> 16:
        return None
    slider = plan_slider(
        stack, plan.windows, STRIP_PACK[dtype.itemsize], STRIP_SUM_BYTES[dtype.itemsize]
    )
    if slider is None:
        return None
    # The inverse is off by 2^-24 of it at most, a quotient by 2^-16: no quotient by an odd count
    # lies so near a half, and a power of two's inverse is exact.
    odd_or_power = count % 2 == 1 or count & (count - 1) == 0
    by_inverse = bits == 8 and odd_or_power and count * 255 < 2**23
    mask = 0x01010101 << 7 if bits == 8 else 0x00010001 << 15
    is_small = by_inverse and count * 255 < 2**16
    inverse = round(2**24 / count) / 2**24 if is_small else 1 / count
    mask = mask if dtype.kind == "i" else 0
    params = np.array((slider.packed, _mean(plan), inverse, by_inverse, mask), BOX_STRIP)
    arrays = (stack.input, stack.output, params)
    small = "true" if is_small else "false"
    rows = rows_of(stack, plan.windows[1], STRIP_PACK[dtype.itemsize])
    variant = Variant(FILE, "box_strip", (rows, name, small))
    return Launch(variant, slider.grid, slider.block, arrays, slider.shared_bytes)


def _large(
    plan: BoxPlan, field: Field, window: np.ndarray[Any, Any], launcher: Launcher
) -> Iterator[Launch]:
    """Columns summed into a patch of memory, then its rows."""
    dtype: DType = plan.images.dtype
    name = cuda_type(dtype)
    fits = is_float(dtype) or plan.count << 8 * dtype.itemsize < 2**63
    total = large_sums(name)[0 if fits else -1]
    packed, _ = field.pack(plan.windows, (1, 1))
    block = (32, LONG_WARPS, 1)
    for patch in patches(field, MEMORY_DTYPES[total], launcher):
        for kernel, arrays, shape, grid in (
            ("box_down", (field.input, patch.memory), *patch.down),
            ("box_across", (patch.memory, field.output), *patch.across),
        ):
            params = np.array((packed, window, shape, _mean(plan)), LARGE_BOX)
            variant = Variant(FILE, kernel, (name, total))
            yield Launch(variant, grid, block, (*arrays, params), stage_bytes(SUM_BYTES[total]))


def _mean(plan: BoxPlan) -> tuple[int, int, bool]:
    """A MEAN."""
    dtype, count = plan.images.dtype, plan.count
    by_double = not is_float(dtype) and count << 8 * dtype.itemsize < 2**53
    return count, min(2**32 // count, 2**32 - 1), by_double
