"""Launches of kernels_cu/morphology.cu: dilations and erosions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuconv.backends.cuda.images import Stack, stacks
from gpuconv.backends.cuda.keys import KEY_TYPES, KEYS, give_bits, key_types, pack_keys
from gpuconv.backends.cuda.launch import (
    ANY,
    DTYPES,
    SHARED_BYTES,
    WIDE_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    cuda_type,
    struct,
    tile_pitch,
)
from gpuconv.backends.cuda.morph_small import small_launch
from gpuconv.backends.cuda.sliding import PAIR, ROW_KINDS, SLIDING, plan_pair, plan_slider, rows_of
from gpuconv.backends.cuda.window import (
    FIELD,
    LONG_WARPS,
    PATCH,
    ROWS,
    TILE,
    WINDOW,
    Field,
    Packed,
    fit_tile,
    holds_images,
    in_two_steps,
    pack_window,
    patches,
    stage_bytes,
)
from gpuconv.backends.cuda.window_channels import extreme_launch
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import MorphPlan
from gpuconv.plan.filters import MorphStep

FILE = "morphology.cu"
FOOTPRINT_COLUMNS, FOOTPRINT_RUN = 64, 4

WANT = struct("Want", ("keys", KEYS), ("most", "u8"), ("wanted", "i4"))
MORPH = struct("MorphParams", ("field", FIELD), ("window", WINDOW), ("tile", TILE), ("want", WANT))
LARGE_MORPH = struct(
    "LargeMorphParams", ("field", FIELD), ("window", WINDOW), ("patch", PATCH), ("want", WANT)
)
FOOTPRINT = struct(
    "FootprintParams",
    *(("field", FIELD), ("window", WINDOW), ("want", WANT)),
    *(("offsets", "i4"), ("rows", "i4"), ("pitch", "i4")),
)

MORPH_STRIP = struct("MorphStripParams", ("sliding", SLIDING), ("want", WANT))

MORPH_PAIR = struct("MorphPairParams", ("pair", PAIR), ("first", WANT), ("second", WANT))

STRIP_BYTES = 4
"""Bytes of the largest pixels that strips take."""

COLUMN_BYTES = 16
"""Keys of a thread's pixels of one row, of one extreme."""

APART_BYTES = 4 << 20
"""Of images: below them a second launch takes longer, about 2 µs, than it saves."""

WANTED = {"dilate": 0, "erode": 1, "gradient": 2}
"""Twin of `Wanted`."""

STRIP_TYPES = (
    ("uint8", "false"),
    *((key, floats) for key in ("uint16", "uint32") for floats in ("false", "true")),
)
"""Keys of pixels, and whether these are floats, that morph_strip is compiled for."""

PAIRS = {1: "uint16", 2: "uint32", 4: "uint64", 8: "complex128"}
"""What memory for two keys is allocated as, by the bytes of one."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for kept in (*(("1", rows) for rows in ROW_KINDS), ("2", ROW_KINDS[0])):
        for stored in STRIP_TYPES:
            yield Variant(FILE, "morph_strip", (*kept, *stored))
    for rows in ROW_KINDS:
        for stored in STRIP_TYPES:
            yield Variant(FILE, "morph_pair", (rows, *stored))
    for kernel in ("morph_box", "morph_footprint"):
        for key in KEY_TYPES:
            for both in ("false", "true"):
                yield Variant(FILE, kernel, (both, key, key, key))
        for dtype in DTYPES:
            yield Variant(FILE, kernel, ("true", dtype, ANY, ANY))
    for dtype in DTYPES:
        yield Variant(FILE, "morph_down", (dtype,))
        yield Variant(FILE, "morph_across", (dtype,))


def launches(
    plan: MorphPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch a stack of planes, or one a step; boxes too large for shared memory take two."""
    first, second = plan.steps[0], plan.steps[-1]
    for stack in stacks(plan.images, inputs[0], outputs[0]):
        give_bits(stack.packed, plan.images.dtype, plan.images.value)
        strips = small_launch(plan, stack) or strip_launch(plan, stack)
        if strips is not None:
            yield strips
            continue
        if plan.gradient or len(plan.steps) == 1:
            wanted = "gradient" if plan.gradient else first.operation
            yield from _step(first, wanted, plan.images.dtype, Field.whole(stack), launcher)
            continue
        for field, then in in_two_steps(stack, second.windows, plan.images, launcher):
            yield from _step(first, first.operation, plan.images.dtype, field, launcher)
            yield from _step(second, second.operation, plan.images.dtype, then, launcher)


def strip_launch(plan: MorphPlan, stack: Stack) -> Launch | None:
    """Boxes in one launch at the speed of memory, where rows and the windows' sizes allow it."""
    first, last, dtype = plan.steps[0], plan.steps[-1], plan.images.dtype
    if plan.gradient or len(plan.steps) == 1:
        return _strips(first, "gradient" if plan.gradient else first.operation, dtype, stack)
    if dtype.itemsize > STRIP_BYTES or any(step.footprint for step in plan.steps):
        return None
    if _runs_apart(dtype, stack):
        return None
    pack, types = _pack(dtype)
    slider = plan_pair(stack, first.windows, last.windows, pack, COLUMN_BYTES)
    if slider is None:
        return None
    wants = (_want(dtype, step.operation, True) for step in plan.steps)
    params = np.array((slider.packed, *wants), MORPH_PAIR)
    variant = Variant(FILE, "morph_pair", (rows_of(stack, first.windows[1], pack), *types))
    arrays = (stack.input, stack.output, params)
    return Launch(variant, slider.grid, slider.block, arrays, slider.shared_bytes)


def _runs_apart(dtype: DType, stack: Stack) -> bool:
    """Whether two launches of morph_strip take less time than one of morph_pair.

    Instructions limit both, but for integers of 16 bits. Those of morph_pair are more than those of
    both others, as its strips overlap by both windows.
    """
    if dtype.kind in "iu" and dtype.itemsize == 2:
        return False
    total = stack.planes * stack.height * stack.row * dtype.itemsize
    return total >= APART_BYTES and holds_images(stack, dtype)


def _pack(dtype: DType) -> tuple[int, tuple[str, str]]:
    """(elements of a thread of morph_strip, its template arguments for a dtype)."""
    types = (f"uint{8 * dtype.itemsize}", "true" if is_float(dtype) else "false")
    return WIDE_BYTES // max(dtype.itemsize, 2), types


def _strips(step: MorphStep, wanted: str, dtype: DType, stack: Stack) -> Launch | None:
    """One step, or (`gradient`) the difference of both, by strips of planes."""
    if dtype.itemsize > STRIP_BYTES or step.footprint is not None:
        return None
    both = wanted == "gradient"
    if not both:
        found = extreme_launch(stack, step.windows, dtype, wanted == "erode")
        if found is not None:
            return found
    pack, types = _pack(dtype)
    parts = 2 if both else 1
    slider = plan_slider(stack, step.windows, pack, COLUMN_BYTES * parts)
    if slider is None:
        return None
    params = np.array((slider.packed, _want(dtype, wanted, True)), MORPH_STRIP)
    rows = ROW_KINDS[0] if both else rows_of(stack, step.windows[1], pack)
    variant = Variant(FILE, "morph_strip", (str(parts), rows, *types))
    arrays = (stack.input, stack.output, params)
    return Launch(variant, slider.grid, slider.block, arrays, slider.shared_bytes)


def _step(
    step: MorphStep, wanted: str, dtype: DType, field: Field, launcher: Launcher
) -> Iterator[Launch]:
    """One dilation or erosion, or (`gradient`) the difference of both."""
    stack = field.stack()
    strips = None if stack is None else _strips(step, wanted, dtype, stack)
    if strips is not None:
        yield strips
        return
    types = key_types(dtype, field.input.dtype, field.output.dtype)
    typed = types[-1] != ANY
    both = wanted == "gradient" or not typed
    arguments = ("true" if both else "false", *types)
    want = _want(dtype, wanted, typed)
    if step.footprint is not None:
        yield _footprint(step, dtype, field, want, arguments, launcher)
        return
    window = pack_window(step.windows, blocked=False)
    key_bytes = dtype.itemsize
    tile = fit_tile(field, step.windows, dtype, key_bytes * (2 if both else 1), key_bytes)
    if tile is None:
        yield from _large(step, dtype, field, _want(dtype, wanted, False), window, launcher)
        return
    packed, grid = field.pack(step.windows, tile.size)
    params = np.array((packed, window, tile.packed, want), MORPH)
    arrays = (field.input, field.output, params)
    variant = Variant(FILE, "morph_box", arguments)
    yield Launch(variant, grid, tile.block, arrays, tile.shared_bytes)


def _large(
    step: MorphStep, dtype: DType, field: Field, want: Want, window: Packed, launcher: Launcher
) -> Iterator[Launch]:
    """Extremes of columns into a patch of memory, then of its rows."""
    packed, _ = field.pack(step.windows, (1, 1))
    block = (32, LONG_WARPS, 1)
    for patch in patches(field, np.dtype(PAIRS[dtype.itemsize]), launcher):
        for kernel, arrays, shape, grid in (
            ("morph_down", (field.input, patch.memory), *patch.down),
            ("morph_across", (patch.memory, field.output), *patch.across),
        ):
            params = np.array((packed, window, shape, want), LARGE_MORPH)
            variant = Variant(FILE, kernel, (cuda_type(dtype),))
            yield Launch(variant, grid, block, (*arrays, params), stage_bytes(2 * dtype.itemsize))


def _footprint(
    step: MorphStep,
    dtype: DType,
    field: Field,
    want: Want,
    arguments: tuple[str, ...],
    launcher: Launcher,
) -> Launch:
    """Any footprint, offset by offset."""
    assert step.footprint is not None
    height, width = (w.size for w in step.windows)
    offsets = np.ascontiguousarray(np.argwhere(step.footprint.array), np.int32)
    rows = min(ROWS, -(-field.rows // FOOTPRINT_RUN) * FOOTPRINT_RUN)
    pitch = tile_pitch(FOOTPRINT_COLUMNS + (width - 1) * field.channels, dtype)
    shared_bytes = (rows + height - 1) * pitch * dtype.itemsize
    if shared_bytes > SHARED_BYTES:
        pitch = shared_bytes = 0
    packed, grid = field.pack(step.windows, (rows, FOOTPRINT_COLUMNS))
    window = pack_window(step.windows, blocked=False)
    params = np.array((packed, window, want, len(offsets), rows, pitch), FOOTPRINT)
    return Launch(
        Variant(FILE, "morph_footprint", arguments),
        grid,
        (32, rows // FOOTPRINT_RUN, 1),
        (field.input, field.output, launcher.constant(offsets), params),
        shared_bytes,
    )


Want = tuple[tuple[int, int], int, int]
"""A WANT."""


def _want(dtype: DType, wanted: str, typed: bool) -> Want:
    """How pixels become keys, and what becomes of these.

    Kernels that store keys' own bits know one extreme: they turn the keys over for an erosion,
    and saturate differences to signed pixels.
    """
    signed = typed and dtype.kind == "i"
    most = 2 ** (8 * dtype.itemsize - signed) - 1
    return pack_keys(dtype, typed and wanted == "erode"), most, WANTED[wanted]
