"""Plans of chains: image operations one after another, in as few passes over memory as pay off.

    steps    gaussian_blur | sobel | max_pool2d | median_blur
    groups   └────────── one launch ──────────┘ └── its own ──┘

Steps of a group run tile by tile in one kernel (kernels_cu/chain.cu): a block reads a tile with the
halo of them all and sweeps over it step by step in shared memory. What that saves is memory traffic
and launches; what it costs is the halo, which is computed again in every tile. The rule that
weighs the two, and what a kernel can do at all, are here; the numbers are those of the steps' own
plans, so that a chain gives what its steps give one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, inf, prod
from typing import Any, ClassVar, Literal

from gpuconv.arrays import Spec
from gpuconv.border import Border
from gpuconv.dtypes import DType, highest, is_integer_type, lowest, magnitude
from gpuconv.plan.filters import BoxPlan, ImagePlan, LinearPlan, MorphPlan
from gpuconv.plan.pool import AdaptivePoolPlan, PoolPlan
from gpuconv.plan.remember import WithMemo
from gpuconv.quantize import Stencil
from gpuconv.window import AxisWindow

DTYPES = ("uint8", "uint16", "float16", "float32")
"""Of the images that the kernel is compiled for."""

CHANNELS = (1, 2, 3, 4)
"""Interleaved channels that it is compiled for."""

LINES = (3, 5, 7, 9)
SQUARES = (1, 3, 5)
BOXES = (1, 3, 5, 7)
"""Taps of a sweep along one axis, of a dense one both ways; pixels of dilations and erosions."""

MOST_SWEEPS = 8
MOST_WINDOW = 64
"""Elements of a pool's window: sums of so many 16-bit integers have exact quotients in float32."""

ROW = 128
"""Elements of a row that a warp takes at once."""

SHARED_BYTES = 48 * 1024
"""Of a block."""

COPY_BYTES_US = 4.3e6 * 0.85
SLOTS_US = 132 * 128 * 1.98e3 * 0.8
LAUNCH_US = 2.0
"""What an H200 does in a microsecond, less what no kernel reaches: bytes moved, and instructions
issued, counted by lane. A launch costs its ramp and its tail."""

LOAD_SLOTS, STORE_SLOTS = 9, 13
SWEEP_SLOTS = {"uint8": 7.5, "uint16": 7.5, "float16": 5.0, "float32": 4.0}
EXTREME_SLOTS = 3.0
"""Instructions of kernels_cu/chain.cu a cell: read, written, and of a sum or an extreme beside its
taps. These and the sweeps' own are counted in its machine code for sm_90 (`python -m bench.sass`).
"""

GRADIENT_SLOTS = {"uint8": 19, "uint16": 33, "float16": 23, "float32": 41}
UNSHARP_SLOTS = {"uint8": 27, "uint16": 27, "float16": 10, "float32": 8}
PAIR_SLOTS = {"uint8": 13, "uint16": 13, "float16": 20, "float32": 20}

ALONE_SLOTS: dict[str, tuple[float, float]] = {
    **{"sum": (1.0, 3.0), "unsharp": (0.0, 6.0)},
    **{"highest": (0.0, 6.0), "lowest": (0.0, 6.0)},
    **{"max": (1.0, 11.0), "min": (1.0, 11.0), "mean": (1.0, 24.0)},
}
ALONE_GRADIENT_SLOTS = {"uint8": 17, "uint16": 33, "float16": 23, "float32": 50}
"""The same of the steps' own kernels: a tap, and besides."""

Kind = Literal["sum", "gradient", "unsharp", "highest", "lowest", "max", "min", "mean"]
"""`highest` and `lowest` are of a box of integers; `max`, `min` and `mean` are pools."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is done to a tile at once: windows of `size`, `stride` apart, (y, x) each.

    The window of output 0 begins `before` cells before the image's first. `border` is set where a
    step begins: cells outside its image are answered by it.
    """

    kind: Kind
    size: tuple[int, int]
    slots: float
    before: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    border: Border | None = None
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class Region:
    """What a block holds of an image: rows × pixels from its tile's place · scale + start on."""

    rows: int
    pixels: int
    scale: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Shared memory of a block that runs `sweeps` for a tile of rows × pixels of their result.

    `regions[i]` is what sweep i reads, the last one the result; it lies in buffer `buffers[i]`,
    which begins at float `starts[i]`.
    """

    rows: int
    pixels: int
    regions: tuple[Region, ...]
    buffers: tuple[int, ...]
    starts: tuple[int, ...]
    shared_bytes: int
    slots: float
    """Instructions of a tile, counted by lane."""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps first..stop-1, in one launch if `fused`, else a single one by its own kernel."""

    first: int
    stop: int
    fused: bool
    time_us: float
    alone_us: float
    """Estimates, and of the same steps one by one."""


@dataclass(frozen=True, slots=True, repr=False)
class ChainPlan(WithMemo):
    """Operations on images one after another: the plan of each for what the one before gives.

    The images are (..., H, W), or (..., H, W, C) if `channels_last`; pools fold the leading axes.
    """

    operands: ClassVar = ("images",)
    images: Spec
    channels_last: bool
    steps: tuple[Any, ...]

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shape and dtype of the result."""
        return (self.after(len(self.steps)),)

    def after(self, steps: int) -> Spec:
        """What the first `steps` steps give."""
        if steps == 0:
            return self.images
        (spec,) = self.steps[steps - 1].outputs
        if self.channels_last:
            return Spec((*self.images.shape[:-3], *spec.shape[-3:]), spec.dtype)
        return Spec((*self.images.shape[:-2], *spec.shape[-2:]), spec.dtype)

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: the images read once, the result written once."""
        return sum(prod(s.shape) * s.dtype.itemsize for s in (self.images, *self.outputs))

    @property
    def flops(self) -> int:
        """Of all steps."""
        return sum(step.flops for step in self.steps)

    @property
    def channels(self) -> int:
        """Interleaved ones."""
        return self.images.shape[-1] if self.channels_last else 1

    @property
    def wrapped(self) -> bool:
        """Whether all its images begin anew beyond their edges."""
        return all(map(_wraps, self.steps))

    @property
    def has_bands(self) -> bool:
        """Whether rows of the result depend on some rows of the images alone."""
        return self.wrapped or not any(
            isinstance(step, AdaptivePoolPlan) or _wraps(step) for step in self.steps
        )

    def fits_pieces(self, limit: int) -> bool:
        """Whether pieces of about `limit` bytes are smaller chains: whole images, or bands."""
        lead = self.images.shape[: -3 if self.channels_last else -2]
        return self.has_bands or self.min_bytes // prod(lead) <= limit

    @property
    def groups(self) -> tuple[Group, ...]:
        """Which steps share a launch."""
        return _groups(self)

    def __repr__(self) -> str:
        passes = "; ".join(self._told(group) for group in self.groups)
        return f"ChainPlan({self.images.dtype} {self.images.shape}; on CUDA {passes})"

    def _told(self, group: Group) -> str:
        names = " | ".join(step_name(s) for s in self.steps[group.first : group.stop])
        if not group.fused:
            return f"{names} by its own kernel"
        return (
            f"{names} in one launch (about {group.time_us:.0f} us on an H200, one by one "
            f"{group.alone_us:.0f})"
        )


def _wraps(step: Any) -> bool:
    return isinstance(step, ImagePlan) and step.images.border is Border.WRAP


def step_name(plan: Any) -> str:
    """A step in a few words."""
    if isinstance(plan, PoolPlan):
        return f"{plan.operation} pool {'x'.join(str(w.size) for w in plan.windows)}"
    if isinstance(plan, MorphPlan):
        return plan.story
    name = type(plan).__name__.removesuffix("Plan").lower()
    windows = getattr(plan, "windows", ())
    return f"{name} {'x'.join(str(w.size) for w in windows)}".strip()


# Which steps share a launch


@lru_cache(maxsize=64)
def _groups(plan: ChainPlan) -> tuple[Group, ...]:
    """The cheapest way to cut a chain into launches, by what each is expected to take."""
    count = len(plan.steps)
    best: list[tuple[float, tuple[Group, ...]]] = [(0.0, ())]
    for stop in range(1, count + 1):
        ways = []
        for first in range(stop):
            group = _group(plan, first, stop)
            if group is not None:
                time, before = best[first]
                ways.append((time + group.time_us, (*before, group)))
        best.append(min(ways, key=lambda way: (way[0], len(way[1]))))
    return best[count][1]


def _group(plan: ChainPlan, first: int, stop: int) -> Group | None:
    """Steps first..stop-1 in one launch; None where they can't be."""
    alone = sum(_alone_us(plan, i) for i in range(first, stop))
    if stop - first == 1:
        return Group(first, stop, False, alone, alone)
    sweeps = fused_sweeps(plan.steps[first:stop])
    target = plan.after(stop)
    if sweeps is None or plan.channels not in CHANNELS or 0 in target.shape:
        return None
    size = target.shape[-3:-1] if plan.channels_last else target.shape[-2:]
    tile = fit_tile(sweeps, plan.channels, (size[0], size[1]))
    if tile is None:
        return None
    planes = prod(target.shape) // (prod(size) * plan.channels)
    tiles = planes * -(-size[0] // tile.rows) * -(-size[1] // tile.pixels)
    moved = sum(prod(s.shape) * s.dtype.itemsize for s in (plan.after(first), target))
    time = max(moved / COPY_BYTES_US, tiles * tile.slots / SLOTS_US) + LAUNCH_US
    return Group(first, stop, True, time, alone)


def _alone_us(plan: ChainPlan, place: int) -> float:
    """A step by its own kernel: memory or instructions, whichever takes longer."""
    source, target = plan.after(place), plan.after(place + 1)
    moved = sum(prod(s.shape) * s.dtype.itemsize for s in (source, target))
    sweeps = step_sweeps(plan.steps[place])
    slots = 0.0
    for sweep in sweeps or ():
        gradient = (0.0, ALONE_GRADIENT_SLOTS[source.dtype.name])
        a_tap, besides = ALONE_SLOTS.get(sweep.kind, gradient)
        slots += a_tap * prod(sweep.size) + besides
    issued = slots * prod(target.shape)
    return max(moved / COPY_BYTES_US, issued / SLOTS_US) + LAUNCH_US


@lru_cache(maxsize=256)
def fused_sweeps(steps: tuple[Any, ...]) -> tuple[Sweep, ...] | None:
    """The sweeps of steps that one launch can do; None where it can't."""
    sweeps: list[Sweep] = []
    wrapped = True
    dtypes = {_dtype_of(step) for step in steps}
    if len(dtypes) > 1:
        return None
    for place, step in enumerate(steps):
        own = step_sweeps(step)
        if own is None:
            return None
        if place and _wraps(step) and not wrapped:
            return None  # what lies on the other side of the image is not in the tile
        wrapped = wrapped and _wraps(step)
        sweeps += own
    return tuple(sweeps) if len(sweeps) <= MOST_SWEEPS else None


def _dtype_of(step: Any) -> DType:
    dtype: DType = step.images.dtype if isinstance(step, ImagePlan) else step.dtype
    return dtype


# What the kernel can do


def step_sweeps(plan: Any) -> tuple[Sweep, ...] | None:
    """A step as sweeps over a tile; None where the kernel has none for it."""
    if isinstance(plan, PoolPlan):
        return _pool_sweeps(plan)
    if not isinstance(plan, (LinearPlan, BoxPlan, MorphPlan)):
        return None
    images = plan.images
    if images.dtype.name not in DTYPES or images.dtype != images.out_dtype:
        return None
    if isinstance(plan, MorphPlan):
        return _morph_sweeps(plan)
    # What answers for cells behind the image lies no farther from its end than a tile begins.
    if any(w.pad[1] > w.pad[0] for w in plan.windows):
        return None
    if isinstance(plan, BoxPlan):
        return _box_sweeps(plan)
    return _linear_sweeps(plan)


def _linear_sweeps(plan: LinearPlan) -> tuple[Sweep, ...] | None:
    stencils, first = plan.stencils, plan.stencils[0]
    height, width = first.height, first.width
    if is_integer_type(plan.images.dtype) and not _fits(plan):
        return None
    begin: dict[str, Any] = {"border": plan.images.border, "outside": float(plan.images.value)}
    before, dtype = (plan.windows[0].pad[0], plan.windows[1].pad[0]), plan.images.dtype.name
    if plan.combine == "magnitude":
        if any(not s.separable or (s.height, s.width) != (3, 3) for s in stencils):
            return None  # of the sums of `plan_gradient`, which the kernel relies on
        return (Sweep("gradient", (3, 3), GRADIENT_SLOTS[dtype], before, **begin),)
    if first.separable:
        if height not in LINES or width not in LINES:
            return None
        sweeps = _two("sum", (height, width), before, 1, SWEEP_SLOTS[dtype], **begin)
        if plan.combine == "unsharp":
            sweeps += (Sweep("unsharp", (1, 1), UNSHARP_SLOTS[dtype]),)
        return sweeps
    square = height == width and height in SQUARES
    line = height == 1 and width in LINES  # sums along H alone are only the middle of two sweeps
    if plan.combine != "sum" or not (square or line):
        return None
    slots = height * width + SWEEP_SLOTS[dtype]
    return (Sweep("sum", (height, width), slots, before, **begin),)


def _fits(plan: LinearPlan) -> bool:
    """Whether every number of integers is exact in float32, where the kernel has them all."""
    dtype, first = plan.images.dtype, plan.stencils[0]
    if any(s.accumulator != "float32" for s in plan.stencils):
        return False
    if plan.combine == "magnitude":
        return all(s.shift == s.column_shift == 0 for s in plan.stencils)
    offset = plan.delta * 2.0**first.shift
    if offset != round(offset) or abs(offset) + _bound(first, dtype) >= 2**24:
        return False
    # What is rounded beside its own sum lies below 2^22.
    return first.column is None or _middle(first, dtype) < 2**22


def _bound(stencil: Stencil, dtype: DType) -> int:
    """What no |sum| exceeds."""
    if stencil.row is None:
        assert stencil.dense is not None
        return magnitude(dtype) * _gain(stencil.dense.array)
    return _middle(stencil, dtype) * _gain(stencil.row.array)


def _middle(stencil: Stencil, dtype: DType) -> int:
    """What no |sum| of a column exceeds, in fixed point."""
    assert stencil.column is not None
    return (magnitude(dtype) * _gain(stencil.column.array) >> stencil.column_shift) + 1


def _gain(weights: Any) -> int:
    return sum(abs(int(w)) for w in weights.flat)


def _box_sweeps(plan: BoxPlan) -> tuple[Sweep, ...] | None:
    """Of odd boxes, where no quotient lies at a half; floats are blocked by their own kernel."""
    height, width = (w.size for w in plan.windows)
    if not is_integer_type(plan.images.dtype) or not {height, width} <= {1, *LINES}:
        return None
    before = (plan.windows[0].pad[0], plan.windows[1].pad[0])
    border, outside = plan.images.border, float(plan.images.value)
    besides = SWEEP_SLOTS[plan.images.dtype.name]
    return _two("sum", (height, width), before, 1, besides, border=border, outside=outside)


def _morph_sweeps(plan: MorphPlan) -> tuple[Sweep, ...] | None:
    """Dilations and erosions of integers by odd boxes, also in a row."""
    if not is_integer_type(plan.images.dtype) or plan.gradient:
        return None
    sweeps: tuple[Sweep, ...] = ()
    for step in plan.steps:
        height, width = (w.size for w in step.windows)
        if step.footprint is not None or not {height, width} <= {*BOXES}:
            return None
        before = (step.windows[0].pad[0], step.windows[1].pad[0])
        border, outside = plan.images.border, float(plan.images.value)
        kind: Kind = "highest" if step.operation == "dilate" else "lowest"
        begin: dict[str, Any] = {"border": border, "outside": outside}
        sweeps += _two(kind, (height, width), before, 1.4, EXTREME_SLOTS, **begin)
    return sweeps


def _two(
    kind: Kind,
    size: tuple[int, int],
    before: tuple[int, int],
    a_tap: float,
    besides: float,
    **begin: Any,
) -> tuple[Sweep, ...]:
    """One sweep along H and one along W, but for axes along which there is nothing to do."""
    (height, width), sweeps = size, []
    if height > 1:
        slots = a_tap * height + besides
        sweeps.append(Sweep(kind, (height, 1), slots, (before[0], 0), **begin))
        begin = {}
    if width > 1:
        slots = a_tap * width + besides
        sweeps.append(Sweep(kind, (1, width), slots, (0, before[1]), **begin))
    if not sweeps:
        sweeps.append(Sweep("sum", (1, 1), 1 + besides, **begin))
    return tuple(sweeps)


def _pool_sweeps(plan: PoolPlan) -> tuple[Sweep, ...] | None:
    sizes = [w.size for w in plan.windows]
    if (
        len(sizes) != 2
        or plan.dtype.name not in DTYPES
        or plan.operation not in ("max", "min", "avg")
        or plan.index_dtype is not None
        or plan.divisor is not None
        or any(w.dilation > 1 for w in plan.windows)
        or prod(sizes) > MOST_WINDOW
    ):
        return None
    height, width = plan.windows
    kinds: dict[str, tuple[Kind, Any]] = {
        "max": ("max", lowest(plan.dtype)),
        "min": ("min", highest(plan.dtype)),
        "avg": ("mean", 0),
    }
    kind, outside = kinds[plan.operation]
    pairs = kind != "mean" and all((w.size, w.stride) == (2, 2) for w in plan.windows)
    return (
        Sweep(
            kind,
            (height.size, width.size),
            PAIR_SLOTS[plan.dtype.name] if pairs else 12 * prod(sizes) + 40,
            (height.pad[0], width.pad[0]),
            (height.stride, width.stride),
            Border.CONSTANT,
            float(outside),
        ),
    )


# Tiles


@lru_cache(maxsize=256)
def fit_tile(sweeps: tuple[Sweep, ...], channels: int, size: tuple[int, int]) -> TilePlan | None:
    """The tile of which an image of `size` takes the fewest instructions; None if none fits."""
    step, best, least = pixel_step(channels), None, inf
    for row_elements in (ROW, 2 * ROW):
        pixels = _most_pixels(sweeps, row_elements // channels)
        pixels = min(pixels, -(-size[1] // step) * step) // step * step
        for rows in range(4, min(64, -(-size[0] // 4) * 4) + 1, 4):
            tile = _tile(sweeps, channels, rows, pixels) if pixels else None
            if tile is None:
                continue
            slots = -(-size[0] // rows) * -(-size[1] // pixels) * tile.slots
            if slots < least:
                best, least = tile, slots
    return best


def _most_pixels(sweeps: Sequence[Sweep], pixels: int) -> int:
    """Results along a row that so many pixels suffice for; 0 if there are none."""
    for sweep in sweeps:
        pixels = (pixels - sweep.size[1]) // sweep.stride[1] + 1
    return max(0, pixels)


def pixel_step(channels: int) -> int:
    """Pixels that are whole packs of four elements."""
    return 4 // gcd(4, channels)


def _tile(sweeps: Sequence[Sweep], channels: int, rows: int, pixels: int) -> TilePlan | None:
    step = pixel_step(channels)
    regions = [Region(rows, pixels)]
    for sweep in reversed(sweeps):
        last = regions[0]
        (height, width), (down, across) = sweep.size, sweep.stride
        span = (last.pixels - 1) * across + width
        regions.insert(
            0,
            Region(
                (last.rows - 1) * down + height,
                -(-span // step) * step,
                (last.scale[0] * down, last.scale[1] * across),
                tuple(
                    s * d - b
                    for s, d, b in zip(last.start, sweep.stride, sweep.before, strict=True)
                ),  # type: ignore[arg-type]
            ),
        )
    for sweep, region in zip(sweeps, regions, strict=False):
        # What a border folds back must lie in the first tile.
        ends = region.start[0] + region.rows, region.start[1] + region.pixels
        if sweep.border is not None and any(
            end <= before for end, before in zip(ends, sweep.before, strict=True)
        ):
            return None
    buffers = tuple(_buffers(sweeps))
    sizes = [0] * (max(buffers) + 1)
    for region, buffer in zip(regions, buffers, strict=True):
        sizes[buffer] = max(sizes[buffer], region.rows * region.pixels * channels)
    starts = tuple(sum(sizes[:buffer]) for buffer in buffers)
    shared_bytes = 4 * sum(sizes)
    if shared_bytes > SHARED_BYTES:
        return None
    # A warp takes whole rows of packs: lanes beyond a region's end are idle.
    cells = [r.rows * -(-r.pixels * channels // ROW) * ROW for r in regions]
    slots: float = cells[0] * LOAD_SLOTS + cells[-1] * STORE_SLOTS
    slots += sum(s.slots * c for s, c in zip(sweeps, cells[1:], strict=True))
    return TilePlan(rows, pixels, tuple(regions), buffers, starts, shared_bytes, slots)


def _buffers(sweeps: Sequence[Sweep]) -> Iterator[int]:
    """Where each region lies: never where it is read from, nor where pixels are still wanted."""
    here, own = 0, 0
    yield here
    for place, sweep in enumerate(sweeps):
        if sweep.border is not None:
            own = here
        if sweep.kind != "unsharp":
            until = place + 1
            while until < len(sweeps) and sweeps[until].border is None:
                until += 1
            keeps = any(s.kind == "unsharp" for s in sweeps[place:until])
            here = min({0, 1, 2} - {here} - ({own} if keeps else set()))
        yield here


def own_region(sweeps: Sequence[Sweep], place: int) -> int:
    """The region with the pixels that sweep `place` adds to: where its step began."""
    return max(i for i in range(place + 1) if sweeps[i].border is not None)


def window_of(plan: PoolPlan, axis: int) -> tuple[AxisWindow, int, int]:
    """(window, the positions low..high-1 that an average counts along an axis)."""
    window, length = plan.windows[axis], plan.input.spatial[axis]
    before, after = window.pad if plan.count_pad else (0, 0)
    return window, -before, length + after
