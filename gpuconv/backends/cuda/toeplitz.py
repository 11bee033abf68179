"""Launches of kernels_cu/toeplitz.cu: dense filters on tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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
from gpuconv.backends.cuda.strips import fits_strips
from gpuconv.backends.cuda.sums import DOUBLE, FLOAT, finish_of
from gpuconv.dtypes import DType, is_float, magnitude
from gpuconv.plan import LinearPlan, tensor
from gpuconv.quantize import Stencil

FILE = "toeplitz.cu"
LANES, WARPS = 32, 4
STAGES, TILE = 4, 128
BLOCK = 8
"""Neighbouring results of a row of the product."""

TYPES = ("uint8", "float16", "bfloat16", "float")
ROLLING_ROWS = (8, 16, 32)
"""Sums that roll at once, for kernels of fewer rows."""

STILL_ROWS = 32
"""Of results that stay while the rows of a higher kernel pass."""

MOST_SHARED_BYTES = 98 * 1024
"""Of a block: what GPUs from sm_80 on have, but for what is static."""

WARPS_AT_ONCE = 132 * 12
"""What a large GPU has registers for."""

FEWEST_ROWS = 16
"""Of a strip."""

TOEPLITZ = struct(
    "ToeplitzParams",
    *(("images", IMAGES), ("jobs", "i8"), ("down", "i4"), ("across", "i4"), ("rows", "i4")),
    *(("height", "i4"), ("width", "i4"), ("top", "i4"), ("left", "i4"), ("pad", "i4")),
    *(("slabs", "i4"), ("chunk", "i4"), ("terms", "i4"), ("pairs", "i4")),
    *(("before", "i4"), ("skip", "i4"), ("packs", "i4"), ("pitch", "i4")),
    *(("rings_at", "i4"), ("sources_at", "i4"), ("taken_at", "i4"), ("log_steps", "i4")),
    *(("parts", "i4"), ("bits", "i4"), ("whole", "i4"), ("shift", "i4")),
    *(
        ("whole_offset", "i4"),
        ("scale", "f4"),
        ("offset", "f4"),
        ("value", "f4"),
        ("wide_stores", "i4"),
    ),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for element in TYPES:
        for rows in ROLLING_ROWS:
            yield Variant(FILE, "toeplitz_roll", (element, str(rows)))
        yield Variant(FILE, "toeplitz_still", (element, str(STILL_ROWS)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a launch that the stencil decides, and not the arrays."""

    variant: Variant
    rolling: bool
    columns: int
    """Elements of a row of a strip."""
    band: tuple[int, ...]
    """TOEPLITZ from `pad` to `taken_at`."""
    ending: tuple[float, ...]
    """TOEPLITZ from `parts` to `offset`."""
    parts: int
    weights: npt.NDArray[np.uint32]
    taps: npt.NDArray[np.float32]
    """As `weights` are scaled: for results that NaN or Inf came near."""
    shared_bytes: int


def launch(plan: LinearPlan, stack: Stack, launcher: Launcher) -> Launch | None:
    """The launch of a stack of planes; None where tensor cores are not to be used, or not there."""
    if plan.on_gpu.form != "tensor" or not launcher.tensor_cores:
        return None
    dtype = plan.images.dtype
    if stack.input.dtype != dtype or stack.output.dtype != dtype:
        return None
    top, left = (window.pad[0] for window in plan.windows)
    recipe = _recipe(plan.stencils[0], left, plan.delta, dtype, stack.channels, plan.precision)
    if recipe is None:
        return None
    height, width = (window.size for window in plan.windows)
    across = -(-stack.row // recipe.columns)
    rows = STILL_ROWS if not recipe.rolling else _rows(stack, across * recipe.parts, height)
    down = -(-stack.height // rows)
    jobs = stack.planes * down * across
    steps = (rows + height) // 2 + 1
    params = np.array(
        (
            *(stack.packed, jobs, down, across, rows, height, width, top, left, *recipe.band),
            *(max(0, (steps - 1).bit_length() - 5), *recipe.ending),
            *(plan.images.value, fits_strips(stack)),
        ),
        TOEPLITZ,
    )
    return Launch(
        recipe.variant,
        blocks(-(-jobs * recipe.parts // WARPS)),
        (LANES, WARPS, 1),
        (
            *(stack.input, stack.output, launcher.constant(recipe.weights)),
            *(launcher.constant(recipe.taps), params),
        ),
        recipe.shared_bytes,
    )


def _rows(stack: Stack, across: int, height: int) -> int:
    """Of a strip: each also reads `height` - 1 rows of others, and all shall end together."""
    down = np.arange(1, max(1, stack.height // FEWEST_ROWS) + 1)
    rows = -(-stack.height // down)
    turns = -(-(stack.planes * across * down) // WARPS_AT_ONCE)
    return int(rows[np.argmin(turns * (rows + height))])


@lru_cache(maxsize=256)
def _recipe(
    stencil: Stencil,
    left: int,
    delta: float,
    dtype: DType,
    channels: int,
    precision: tensor.Precision,
) -> Recipe | None:
    terms = tensor.split(stencil, dtype, precision)
    if terms is None or stencil.dense is None:
        return None
    ending = _ending(stencil, delta, dtype, terms)
    if ending is None:
        return None
    taps = np.zeros(1, np.float32)
    if is_float(dtype):
        taps = np.ldexp(stencil.dense.array, terms.scale).astype(np.float32).ravel()
    forms = [(rows, True) for rows in ROLLING_ROWS if rows > stencil.height]
    for rows, rolling in (*forms, (STILL_ROWS, False)):
        shape = _Shape(stencil, left, dtype, channels, len(terms.parts), terms.count, rows, rolling)
        room = MOST_SHARED_BYTES - shape.shared_bytes(0)
        chunk = min(shape.slabs, room // shape.slab_bytes)
        if chunk == shape.slabs:
            break
    if chunk < 1:
        return None
    kernel = "toeplitz_roll" if rolling else "toeplitz_still"
    return Recipe(
        Variant(FILE, kernel, (cuda_type(dtype), str(rows))),
        rolling,
        shape.columns,
        shape.band(chunk),
        ending,
        len(terms.parts),
        shape.weights(terms),
        taps,
        shape.shared_bytes(chunk),
    )


def _ending(
    stencil: Stencil, delta: float, dtype: DType, terms: tensor.Terms
) -> tuple[float, ...] | None:
    """TOEPLITZ from `parts` to `offset`; None where neither float nor int32 holds all sums."""
    if is_float(dtype):
        scale = 2.0**terms.scale
        return 1, 0, 0, 0, 0, 1 / scale, delta * scale
    parts = len(terms.parts)
    if parts == 1:
        how, (scale, offset, *_) = finish_of((stencil,), "sum", delta, 0.0, dtype, FLOAT)
        if how == "sum":
            return 1, 0, 0, 0, 0, scale, offset
    how, (_, offset, *_) = finish_of((stencil,), "sum", delta, 0.0, dtype, DOUBLE)
    assert stencil.dense is not None
    gain = magnitude(dtype) * sum(abs(int(w)) for w in stencil.dense.array.flat)
    if how != "sum" or gain + abs(offset) >= tensor.MOST_WHOLE:
        return None
    return parts, terms.bits, 1, stencil.shift, int(offset), 0.0, 0.0


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a stencil lies in shared memory, and the image's rows under it."""

    stencil: Stencil
    left: int
    dtype: DType
    channels: int
    parts: int
    terms: int
    """Of all parts."""
    rows: int
    """Of sums that a warp holds: H of the kernel."""
    rolling: bool

    @property
    def slab(self) -> int:
        """Elements of a slab."""
        return 4 if self.dtype.itemsize == 4 else 8

    @property
    def first(self) -> int:
        """Elements from the first of the band to its block's first result: whole slabs."""
        return -(-self.left * self.channels // self.slab) * self.slab

    @property
    def lead(self) -> int:
        """Elements from there to the first that the kernel meets."""
        return self.first - self.left * self.channels

    @property
    def slabs(self) -> int:
        """Of a kernel row's band."""
        reach = BLOCK + (self.stencil.width - 1) * self.channels + self.lead
        return -(-reach // self.slab)

    @property
    def columns(self) -> int:
        """Elements of a row of results."""
        return TILE * (2 if self.rows <= 16 else 1)

    @property
    def pairs(self) -> int:
        """Of kernel rows, zeros above and below included; rolling, all of them twice."""
        if self.rolling:
            return self.rows
        return (self.stencil.height + 2 * self.rows + 1) // 2 + 1

    @property
    def pad(self) -> int:
        """Rows of zeros before the kernel's first."""
        return self.rows - 1 - self.stencil.height if self.rolling else self.rows - 1

    @property
    def wide(self) -> int:
        """Elements of 16 bytes."""
        return WIDE_BYTES // self.dtype.itemsize

    @property
    def before(self) -> int:
        """Elements from the first in shared memory to the first result."""
        return -(-self.left * self.channels // self.wide) * self.wide

    @property
    def packs(self) -> int:
        """Of 16 bytes, in a row in shared memory."""
        elements = self.before - self.first + self.columns - BLOCK + self.slabs * self.slab
        packs = -(-elements // self.wide)
        return packs + packs % 2 if self.slab == 4 else packs

    @property
    def pitch(self) -> int:
        """Bytes of it; blocks of floats meet all banks where it is a multiple of 128."""
        packs = -(-self.packs // 8) * 8 if self.slab == 4 else self.packs
        return packs * WIDE_BYTES

    @property
    def slab_bytes(self) -> int:
        """Of the weights of a slab."""
        return self.terms * self.pairs * 2 * LANES * 4

    def _places(self, chunk: int) -> tuple[int, int, int, int]:
        """Bytes before the rings, the sources, what is taken, and in all."""
        rings = chunk * self.slab_bytes
        sources = rings + WARPS * STAGES * 2 * self.pitch
        taken = sources + WARPS * self.packs * self.wide * 4
        return rings, sources, taken, taken + min(self.parts, 2) * WARPS * 2 * self.columns * 4

    def shared_bytes(self, chunk: int) -> int:
        """Of a block that holds so many slabs' weights at once."""
        return self._places(chunk)[-1]

    def band(self, chunk: int) -> tuple[int, ...]:
        """TOEPLITZ from `pad` to `taken_at`."""
        return (
            *(self.pad, self.slabs, chunk, self.terms // self.parts, self.pairs),
            *(self.before, self.before - self.first, self.packs, self.pitch),
            *self._places(chunk)[:-1],
        )

    def weights(self, terms: tensor.Terms) -> npt.NDArray[np.uint32]:
        """By slab, part, term and two kernel rows, what each lane takes of B."""
        own = np.stack([self._registers(term) for part in terms.parts for term in part])
        rows = np.zeros((self.slabs, self.terms, 2 * self.pairs, LANES), np.uint32)
        begin = self.pad + 1
        rows[:, :, begin : begin + self.stencil.height] = own.transpose(2, 0, 1, 3)
        if self.rolling:
            rows[:, :, self.rows :] = rows[:, :, : self.rows]
        paired = rows.reshape(self.slabs, self.terms, self.pairs, 2, LANES)
        return np.ascontiguousarray(paired.swapaxes(-1, -2)).ravel()

    def _registers(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
        """(row, slab, lane): a lane holds the elements 2 * (lane % 4) and the next, or of floats
        lane % 4, of column lane / 4."""
        height, width = weights.shape
        band = np.zeros((height, self.slabs * self.slab, BLOCK), np.float32)
        column = np.arange(BLOCK)
        for tap in range(width):
            band[:, column + self.lead + tap * self.channels, column] = weights[:, tap, None]
        each = self.slab // 4
        laid = band.reshape(height, self.slabs, 4, each, BLOCK).transpose(0, 1, 4, 2, 3)
        bits = self._bits(np.ascontiguousarray(laid)).reshape(height, self.slabs, LANES, each)
        registers = bits[..., 0]
        return registers if each == 1 else registers | bits[..., 1] << np.uint32(16)

    def _bits(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
        """As tensor cores read them."""
        if self.slab == 4:
            return values.view(np.uint32)
        if self.dtype.name == "bfloat16":
            return values.view(np.uint32) >> np.uint32(16)
        return values.astype(np.float16).view(np.uint16).astype(np.uint32)
