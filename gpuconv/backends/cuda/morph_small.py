"""Launches of kernels_cu/morph_small.cu and morph_blocks.cu: two steps with boxes of some sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.backends.cuda.images import IMAGES, Stack
from gpuconv.backends.cuda.keys import INFINITIES, pack_keys
from gpuconv.backends.cuda.launch import WIDE_BYTES, Launch, Variant, blocks, struct
from gpuconv.backends.cuda.strips import LANES, STRIPS, WARPS, Shape, fits_strips, halo
from gpuconv.border import Border
from gpuconv.dtypes import DType, is_float
from gpuconv.plan import MorphPlan

FILE, BLOCKS_FILE = "morph_small.cu", "morph_blocks.cu"

SIZES, CHANNELS = (3, 5), (1, 2, 3, 4)
"""Sides of a box and interleaved channels that there are kernels for."""

TYPES = {
    **{f"{sign}int{bits}": f"uint{bits}" for bits in (8, 16, 32) for sign in ("", "u")},
    **{"float16": "float16", "bfloat16": "bfloat16", "float32": "float"},
}
"""What the kernel for a dtype compares."""

BLOCK_SIZES = (7, 9, 11, 13, 15, 17)
"""Sides of a box that there are kernels for over blocks of four rows."""

BLOCK_CHANNELS = {
    **{"uint8": (1, 2, 3, 4), "uint16": (1, 3), "float16": (1, 3), "bfloat16": (1,)},
    **{"uint32": (1,), "float": (1, 3)},
}
"""Interleaved channels of these, by what is compared."""

BLOCK, BLOCK_WARPS, BLOCK_RESIDENT = 4, 2, 8
"""Rows that are made at a time; warps of a block; those that a multiprocessor has registers for."""

KIND_BYTES = {"uint8": 1, "uint16": 2, "float16": 2, "bfloat16": 2, "uint32": 4, "float": 4}
"""Of what is compared."""

STRIP_ROWS, BLOCK_STRIP_ROWS = 256, 1024
"""Of a strip, at most: over blocks of four many rows go by before the first result."""

RESIDENT = {3: 16, 5: 12}
"""Warps that a multiprocessor has registers for, by the side of a box."""

MORPH_SMALL = struct(
    "MorphSmallParams",
    *(("images", IMAGES), ("strips", STRIPS), ("mask", "u4"), ("most", "u4")),
    *(("outside", "u4"), ("has_outside", "i4"), ("factor", "i4")),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for boxes in ("Boxes::Twice", "Boxes::Range"):
        for size in SIZES:
            for channels in CHANNELS:
                for kind in dict.fromkeys(TYPES.values()):
                    if _is_made(size, channels, kind):
                        names = (boxes, str(size), str(channels), kind)
                        yield Variant(FILE, "morph_small", names)

    for boxes, steps in (("Boxes::Twice", 2), ("Boxes::Range", 1)):
        for size in BLOCK_SIZES:
            for kind, several in BLOCK_CHANNELS.items():
                for channels in several:
                    if _is_block_made(size, channels, steps, kind):
                        names = (boxes, str(size), str(channels), kind)
                        yield Variant(BLOCKS_FILE, "morph_blocks", names)


def _is_made(size: int, channels: int, kind: str) -> bool:
    """Whether registers suffice on every GPU: before sm_80 nothing compares 16-bit floats."""
    most = {"float16": 1, "bfloat16": 1, "uint32": 3, "float": 3}
    return size == 3 or channels <= most.get(kind, 4)


def _is_block_made(size: int, channels: int, steps: int, kind: str) -> bool:
    """Whether half of the lanes have results, registers suffice, and no other kernel is faster."""
    if size not in BLOCK_SIZES or channels not in BLOCK_CHANNELS[kind]:
        return False
    if (size, channels, steps, kind) == (17, 4, 2, "uint8"):
        return False  # from sm_100 on the compiler keeps more numbers
    most = 2 if (channels, steps, kind) == (3, 1, "uint16") else LANES // 4
    return _lanes_beside(size, channels, steps, kind) <= most


def small_launch(plan: MorphPlan, stack: Stack) -> Launch | None:
    """One launch for two steps, where there is a kernel for the box and rows are whole packs."""
    dtype, (height, width) = plan.images.dtype, plan.steps[0].windows
    size, channels = width.size, stack.channels
    if len(plan.steps) != 2 or height.size != size or any(step.footprint for step in plan.steps):
        return None
    lane = WIDE_BYTES // dtype.itemsize
    if dtype.name not in TYPES or not fits_strips(stack) or stack.row % lane:
        return None
    kind, boxes = TYPES[dtype.name], "Boxes::Range" if plan.gradient else "Boxes::Twice"
    steps = 1 if plan.gradient else 2
    reach = size // 2 * steps
    shared_bytes = 0
    if size in SIZES and channels in CHANNELS and _is_made(size, channels, kind):
        variant = Variant(FILE, "morph_small", (boxes, str(size), str(channels), kind))
        side, warps = halo(reach * channels, lane, dtype.itemsize), WARPS
        shape = Shape(STRIP_ROWS, LANES * lane, reach, reach, side, side, RESIDENT[size])
    elif _is_block_made(size, channels, steps, kind):
        variant = Variant(BLOCKS_FILE, "morph_blocks", (boxes, str(size), str(channels), kind))
        lanes, warps = _lanes_beside(size, channels, steps, kind), BLOCK_WARPS
        side, above = lanes * lane, _rows_above(size, steps)
        columns = (LANES - 2 * lanes) * lane
        shape = Shape(BLOCK_STRIP_ROWS, columns, above, reach, side, side, BLOCK_RESIDENT)
        shared_bytes = warps * _waiting_bytes(size, dtype)
    else:
        return None
    strips, _ = shape.strips(stack)
    grid = blocks(-(-int(strips["jobs"]) // warps))
    turned = plan.steps[0].operation == "erode" and not plan.gradient
    mask, most, outside = (_in_word(bits, dtype) for bits in _bits(plan, turned))
    has_outside = plan.images.border in (Border.CONSTANT, Border.EDGE)
    factor = 1
    if turned and dtype.itemsize == 1 and variant.file == BLOCKS_FILE:
        mask, factor = mask ^ 0xFFFFFFFF, -1
    words = (mask, most, outside, has_outside, factor)
    params = np.array((stack.packed, strips, *words), MORPH_SMALL)
    arrays = (stack.input, stack.output, params)
    return Launch(variant, grid, (LANES, warps, 1), arrays, shared_bytes)


def block_lag(size: int) -> int:
    """Rows from the middle of a window to the last that it waits for: twin of Blocks::LAG."""
    return size // 2 + (size // 2 % BLOCK == BLOCK - 1)


def _rows_above(size: int, steps: int) -> int:
    """Rows above a strip that are read: whole blocks come before the first result."""
    lag = block_lag(size)
    return -(-steps * (lag + size // 2) // BLOCK) * BLOCK - steps * lag


def _lanes_beside(size: int, channels: int, steps: int, kind: str) -> int:
    """Lanes on either side of those that have results: twin of March::LANES."""
    itemsize, reach = KIND_BYTES[kind], size // 2 * channels
    each = 2 if itemsize < 4 else 1
    block = WIDE_BYTES // itemsize // each
    met = -(-reach // block)
    moved = steps == 1 and met % each == 0 and reach + channels < 2 * block
    return -(-steps * met // each) + (moved and each == 2)


def _waiting_bytes(size: int, dtype: DType) -> int:
    """Shared memory of a warp: what two steps keep of the blocks that windows begin in."""
    blocks_each = -(-(block_lag(size) + size // 2) // BLOCK)
    pairs = 2 if dtype.itemsize == 1 else 1
    return 2 * blocks_each * (BLOCK - 1) * pairs * WIDE_BYTES * LANES


def _bits(plan: MorphPlan, turned: bool) -> tuple[int, int, int]:
    """Bits of an element: those to toggle, the highest difference, and what answers outside.

    Windows over an edge that is repeated meet nothing new there: the second step picks the lowest,
    for which the highest number stands.
    """
    dtype, bits = plan.images.dtype, 8 * int(plan.images.dtype.itemsize)
    most = (1 << bits - (dtype.kind == "i")) - 1
    if is_float(dtype):
        mask, outside = (1 << bits - 1) * turned, INFINITIES[dtype.name]
    else:
        (mask, _), outside = pack_keys(dtype, turned), (1 << bits) - 1
    if plan.images.border is Border.CONSTANT:
        outside = int(np.array(plan.images.value).astype(dtype).view(f"u{bits // 8}")) ^ mask
    return mask, most, outside


def _in_word(bits: int, dtype: DType) -> int:
    """The same in every part of a word of 32 bits."""
    return sum(bits << place for place in range(0, 32, 8 * int(dtype.itemsize)))
