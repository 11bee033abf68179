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

SIZES, CHANNELS = (3, 5), (1, 3, 4)
"""Sides of a box and interleaved channels that there are kernels for."""

TYPES = {
    **{f"{sign}int{bits}": f"uint{bits}" for bits in (8, 16, 32) for sign in ("", "u")},
    **{"float16": "float16", "bfloat16": "bfloat16", "float32": "float"},
}
"""What the kernel for a dtype compares."""

BLOCK_SIZES = (7, 9, 15)
"""Sides of a box that there are kernels for over blocks of four, of one channel."""

BLOCK, BLOCK_WARPS, BLOCK_RESIDENT = 4, 2, 8
"""Rows that are made at a time; warps of a block; those that a multiprocessor has registers for."""

STRIP_ROWS = 256

RESIDENT = {3: 16, 5: 12}
"""Warps that a multiprocessor has registers for, by the side of a box."""

MORPH_SMALL = struct(
    "MorphSmallParams",
    *(("images", IMAGES), ("strips", STRIPS), ("mask", "u4"), ("most", "u4")),
    *(("outside", "u4"), ("has_outside", "i4")),
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

    for boxes in ("Boxes::Twice", "Boxes::Range"):
        for size in BLOCK_SIZES:
            for kind in dict.fromkeys(TYPES.values()):
                yield Variant(BLOCKS_FILE, "morph_blocks", (boxes, str(size), kind))


def _is_made(size: int, channels: int, kind: str) -> bool:
    """Whether registers suffice on every GPU: before sm_80 nothing compares 16-bit floats."""
    most = {"float16": 1, "bfloat16": 1, "uint32": 3, "float": 3}
    return size == 3 or channels <= most.get(kind, 4)


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
    reach = (size // 2) * (1 if plan.gradient else 2)
    shared_bytes = 0
    if size in SIZES and channels in CHANNELS and _is_made(size, channels, kind):
        variant = Variant(FILE, "morph_small", (boxes, str(size), str(channels), kind))
        side, warps = halo(reach * channels, lane, dtype.itemsize), WARPS
        shape = Shape(STRIP_ROWS, LANES * lane, reach, reach, side, side, RESIDENT[size])
    elif size in BLOCK_SIZES and channels == 1:
        variant = Variant(BLOCKS_FILE, "morph_blocks", (boxes, str(size), kind))
        lanes, warps = -(-reach // lane), BLOCK_WARPS
        side, above = lanes * lane, _whole_blocks(size) * (1 if plan.gradient else 2)
        columns = (LANES - 2 * lanes) * lane
        shape = Shape(STRIP_ROWS, columns, above, reach, side, side, BLOCK_RESIDENT)
        shared_bytes = warps * _waiting_bytes(size, dtype)
    else:
        return None
    strips, _ = shape.strips(stack)
    grid = blocks(-(-int(strips["jobs"]) // warps))
    turned = plan.steps[0].operation == "erode"
    words = (_in_word(bits, dtype) for bits in _bits(plan, turned))
    has_outside = plan.images.border in (Border.CONSTANT, Border.EDGE)
    params = np.array((stack.packed, strips, *words, has_outside), MORPH_SMALL)
    arrays = (stack.input, stack.output, params)
    return Launch(variant, grid, (LANES, warps, 1), arrays, shared_bytes)


def _whole_blocks(size: int) -> int:
    """Rows from a block of results back to the first block that their windows meet."""
    return ((size // 2 - BLOCK + 1) // BLOCK + 1) * BLOCK


def _waiting_bytes(size: int, dtype: DType) -> int:
    """Shared memory of a warp: what two steps keep of the blocks that windows begin in."""
    kept = BLOCK - (size // 2 % BLOCK == BLOCK - 1)
    blocks_each = 2 * _whole_blocks(size) // BLOCK
    pairs = 2 if dtype.itemsize == 1 else 1
    return 2 * blocks_each * kept * pairs * WIDE_BYTES * LANES


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
