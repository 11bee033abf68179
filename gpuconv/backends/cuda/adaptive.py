"""Launches of kernels_cu/adaptive.cu: adaptive and global pools, and what every pool shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import isqrt, prod
from typing import Any

import numpy as np

from gpuconv.backends.cuda.launch import (
    CUDA_TYPES,
    WIDE_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    address,
    blocks,
    cuda_type,
    struct,
)
from gpuconv.backends.cuda.maps import map_strides, three_axes
from gpuconv.dtypes import FLOATS, INT64, DType, is_float
from gpuconv.plan import AdaptivePoolPlan, PoolPlan
from gpuconv.window import AxisWindow

FILE = "adaptive.cu"
THREADS = 256

PLACES = struct("Places", ("input", "i8"), ("output", "i8"), ("index", "i8"))
DIVIDER = struct("Divider", ("divisor", "u4"), ("magic", "u4"), ("shift", "i4"))
POOL_AXIS = struct(
    "PoolAxis",
    *(("step", PLACES), ("weight", "i8"), ("length", "i4"), ("outputs", DIVIDER)),
    *(("size", "i4"), ("stride", "i4"), ("dilation", "i4"), ("pad", "i4")),
    *(("low", "i4"), ("high", "i4")),
)
OPERATION = struct(
    "Operation",
    *(("keep", "u8"), ("flip", "u8"), ("divisor_high", "i8"), ("divisor_low", "u8")),
    *(("real_divisor", "f8"), ("power", "f8"), ("wide_indices", "i4"), ("block", "i4")),
)
WINDOWS = struct(
    "WindowsParams",
    *(("z", POOL_AXIS), ("y", POOL_AXIS), ("x", POOL_AXIS)),
    *(("batch", PLACES), ("channel", PLACES), ("outer", DIVIDER), ("inner", DIVIDER)),
    *(("operation", OPERATION), ("windows", "i8")),
    *(("slice_bits", "i4"), ("slices_first", "i4"), ("part_bits", "i4")),
    *(("row_slice_bits", "i4"), ("from_parts", "i4")),
)

UNBLOCKED = 1 << 20
"""A block of terms where their order is no matter of precision."""

FEW_TAPS = 32
"""Elements of a window that one thread takes."""

STATE_BYTES = 16
"""The largest state of an operation."""

NETWORK_DTYPES = ("uint8", "float16", "bfloat16", "float32")
"""The dtypes that kernels for common windows are compiled for; others use the general ones."""

RESIDENT = 1 << 18
"""Threads that keep a large device busy."""

PARTS = RESIDENT
"""Parts of windows whose states are kept, at most."""

PREPARED = 1024
"""Calls whose launches are remembered."""


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for name, dtype in CUDA_TYPES.items():
        for operation in ("Extreme", "Choice", "Mean", *(["Norm"] if name in FLOATS else [])):
            yield _variant("pool_windows", operation, dtype, FEW_TAPS)
            if name in NETWORK_DTYPES:
                yield _variant("pool_channels", operation, dtype, FEW_TAPS)
            if operation == "Mean" and name in FLOATS and name != "float64":
                yield _variant("pool_windows", operation, dtype, FEW_TAPS + 1)


def _variant(kernel: str, operation: str, dtype: str, taps: int) -> Variant:
    extra = {"Choice": ", int64", "Mean": f", {sum_type(dtype, taps)}"}.get(operation, "")
    return Variant(FILE, kernel, (f"{operation}<{dtype}{extra}>",))


def sum_type(dtype: str, taps: int) -> str:
    """Where sums of so many elements are kept.

    Those of integers are exact. Those of many floats, which meet in an order that depends on how
    they lie in memory, hardly show it in a double.
    """
    if dtype in ("int64", "uint64"):
        return "int128"
    if dtype in ("float16", "bfloat16", "float") and taps <= FEW_TAPS:
        return "float"
    return "int64" if "int" in dtype else "double"


Places = tuple[int, int, int]
"""Strides in the input, the output and the indices, in elements."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis. `window` is None where its cells share the input."""

    length: int
    outputs: int
    step: Places
    weight: int
    window: AxisWindow | None = None
    counts_pad: bool = False

    @property
    def taps(self) -> int:
        """The most elements that a window has."""
        if self.window is None:
            return -(-self.length // self.outputs) + (self.length % self.outputs > 0)
        return min(self.window.size, -(-self.length // self.window.dilation))

    def packed(self) -> tuple[Any, ...]:
        """A POOL_AXIS."""
        w = self.window or AxisWindow(0)
        before, after = w.pad if self.counts_pad else (0, 0)
        return (
            *(self.step, self.weight, self.length, divider(self.outputs), w.size),
            # What no window needs may be too large for an int.
            *(w.stride if self.outputs > 1 else 1, w.dilation if w.size > 1 else 1, w.pad[0]),
            *(-before, self.length + after),
        )


@dataclass(frozen=True, slots=True)
class Map:
    """A pool's arrays as the kernels see them: batch and channels, and z, y and x."""

    batch: int
    channels: int
    batch_step: Places
    channel_step: Places
    axes: tuple[Axis, Axis, Axis]

    @property
    def channels_inside(self) -> bool:
        """Whether neighbours in memory are channels, not columns."""
        steps = [abs(a.step[0]) for a in self.axes if a.length > 1]
        return self.channels > 1 and all(abs(self.channel_step[0]) < step for step in steps)


@dataclass(frozen=True, slots=True)
class Laid:
    """How an array lies in memory: all that a launch depends on, but where."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType
    aligned: bool
    """Whether it begins at a multiple of 16 bytes."""


def laid(arrays: Iterable[DeviceArray]) -> tuple[Laid, ...]:
    """How arrays lie in memory."""
    return tuple(Laid(a.shape, a.strides, a.dtype, address(a) % WIDE_BYTES == 0) for a in arrays)


def pool_map(plan: PoolPlan | AdaptivePoolPlan, arrays: Sequence[Laid]) -> Map:
    """The geometry of a pool whose input, values and perhaps indices lie so."""
    shapes = (plan.input, plan.output, plan.output)
    arrays = (arrays[0], arrays[1], arrays[-1])
    steps = list(zip(*map(map_strides, arrays, shapes), strict=True))
    lengths, counts = (three_axes(s.spatial, 1) for s in (plan.input, plan.output))
    windows: list[AxisWindow | None] = [None] * 3
    if isinstance(plan, PoolPlan):
        windows = [*[AxisWindow(1)] * (3 - len(plan.windows)), *plan.windows]
    axes = tuple(
        Axis(
            lengths[i],
            counts[i],
            steps[2 + i],
            prod(lengths[i + 1 :]),
            windows[i],
            isinstance(plan, PoolPlan) and plan.count_pad,
        )
        for i in range(3)
    )
    return Map(plan.input.batch, plan.input.channels, steps[0], steps[1], axes)  # type: ignore


@cache
def divider(divisor: int) -> tuple[int, int, int]:
    """A DIVIDER: exact for numbers below 2^31."""
    bits = (divisor - 1).bit_length()
    return divisor, -(-(1 << 31 + bits) // divisor), 31 + bits


def operation_name(plan: PoolPlan | AdaptivePoolPlan) -> str:
    """What the CUDA source calls the operation of a plan."""
    if plan.operation in ("max", "min"):
        return "Extreme" if plan.index_dtype is None else "Choice"
    if isinstance(plan, PoolPlan) and plan.operation == "lp":
        return "Extreme" if np.isinf(plan.norm) else "Norm"
    return "Mean"


def operation(plan: PoolPlan | AdaptivePoolPlan, taps: int) -> tuple[Any, ...]:
    """An OPERATION for sums of `taps` terms."""
    name, bits = operation_name(plan), plan.dtype.itemsize * 8
    keep = 2**bits - 1
    flip = 0
    if plan.operation == "min":
        flip = 1 << bits - 1 if is_float(plan.dtype) else keep
    if plan.operation == "lp":
        keep >>= 1
    divisor, norm = 0, 0.0
    if isinstance(plan, PoolPlan):
        divisor, norm = plan.divisor or 0, plan.norm
    most = 2**126  # beyond all sums: what is larger gives 0 as well
    whole = max(-most, min(most, divisor)) % 2**128
    high, low = whole >> 64, whole & 2**64 - 1
    block = _block_taps(taps) if name in ("Mean", "Norm") else UNBLOCKED
    return (
        *(keep, flip, high - 2**64 if high >= 2**63 else high, low),
        *(_real(divisor), norm, plan.index_dtype is not None and plan.index_dtype.itemsize == 8),
        block,
    )


def _real(divisor: int) -> float:
    return float(divisor) if abs(divisor) < 2**1000 else float(np.copysign(np.inf, divisor))


def _block_taps(taps: int) -> int:
    """Terms added one after another: sums of so many, added up, keep the contract's bound."""
    return 16 if taps <= 256 else isqrt(taps) + 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A launch but for its arrays."""

    variant: Variant
    grid: tuple[int, int, int]
    params: np.ndarray[Any, Any]
    shared_bytes: int = 0

    def launch(self, *arrays: DeviceArray) -> Launch:
        """The launch over `arrays`."""
        block = (THREADS, 1, 1)
        return Launch(self.variant, self.grid, block, (*arrays, self.params), self.shared_bytes)


def launches(
    plan: AdaptivePoolPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch; two where windows are few and huge."""
    return pool_launches(_prepared(plan, laid((*inputs, *outputs))), inputs[0], outputs, launcher)


@lru_cache(PREPARED)
def _prepared(plan: AdaptivePoolPlan, arrays: tuple[Laid, ...]) -> tuple[Prepared, ...]:
    return windows(plan, arrays, pool_map(plan, arrays))


def pool_launches(
    prepared: tuple[Prepared, ...],
    input: DeviceArray,
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """Launches of a pool: of pool_windows with room for the states of parts."""
    arrays = (input, outputs[0], outputs[-1])
    parts = outputs[0]
    if len(prepared) > 1:
        parts = launcher.empty((PARTS, STATE_BYTES // 8), INT64)
    for one in prepared:
        extra = (parts,) if one.variant.kernel == "pool_windows" else ()
        yield one.launch(*arrays, *extra)


def windows(
    plan: PoolPlan | AdaptivePoolPlan, arrays: Sequence[Laid], maps: Map
) -> tuple[Prepared, ...]:
    """Any pool: every window read from memory by one thread or several."""
    z, y, x = _merged(maps.axes)
    inside = maps.channels_inside
    outer, inner = (1, maps.channels) if inside else (maps.channels, 1)
    count = maps.batch * prod(a.outputs for a in (z, y, x)) * outer
    taps = prod(a.taps for a in (z, y, x))
    slices = _slices(taps, x.taps, count * inner, inside)
    name, dtype = operation_name(plan), cuda_type(plan.dtype)
    sums = operation(plan, taps >> slices.bits + slices.part_bits)
    geometry = (z.packed(), y.packed(), x.packed(), maps.batch_step, maps.channel_step)

    def prepared(kernel: str, inner: int, grid: tuple[int, int, int], *settings: int) -> Prepared:
        channels = (divider(outer), divider(inner))
        params = np.array((*geometry, *channels, sums, count * inner, *settings), WINDOWS)
        return Prepared(_variant(kernel, name, dtype, taps), grid, params)

    pack = _channels_of_thread(name, plan.dtype)
    common = plan.dtype.name in NETWORK_DTYPES
    if inside and common and taps <= FEW_TAPS and in_packs(maps, arrays, pack):
        grid = blocks(-(-count * inner // pack // THREADS))
        return (prepared("pool_channels", inner // pack, grid, 0, 0, 0, 0, 0),)
    grid = blocks(-(-count * inner // (THREADS >> slices.bits)) << slices.part_bits)
    settings = (slices.bits, not inside, slices.part_bits, slices.along_row, 0)
    whole = prepared("pool_windows", inner, grid, *settings)
    if not slices.part_bits:
        return (whole,)
    grid = blocks(-(-count * inner // (THREADS >> slices.part_bits)))
    return whole, prepared("pool_windows", inner, grid, slices.part_bits, 1, 0, 0, 1)


def _channels_of_thread(name: str, dtype: DType) -> int:
    """Twin of channels_of_thread() in kernels_cu/adaptive.cu."""
    return 4 if name == "Choice" and dtype.itemsize < 4 else WIDE_BYTES // dtype.itemsize


def in_packs(maps: Map, arrays: Sequence[Laid], pack: int) -> bool:
    """Whether channels lie side by side, rows at multiples of a pack."""
    others = [maps.batch_step, *(axis.step for axis in maps.axes)]
    return (
        all(array.aligned for array in arrays[:2])
        and maps.channels % pack == 0
        and maps.channel_step == (1, 1, 1)
        and all(step % pack == 0 for steps in others for step in steps[:2])
    )


def _merged(axes: tuple[Axis, Axis, Axis]) -> tuple[Axis, Axis, Axis]:
    """Global pools: axes that are one run in memory become one."""
    z, y, x = axes
    for _ in range(2):
        if (
            y.window is None
            and y.outputs == x.outputs == 1
            and (y.length == 1 or x.length == 1 or y.step[0] == x.step[0] * x.length)
            and y.length * x.length < 2**31
        ):
            step, weight = (y.step, y.weight) if x.length == 1 else (x.step, x.weight)
            x = replace(x, length=y.length * x.length, step=step, weight=weight)
            y, z = z, Axis(1, 1, (0, 0, 0), 0)
    return z, y, x


@dataclass(frozen=True, slots=True)
class Slices:
    """Threads that share a window: 2^bits in each of 2^part_bits blocks.

    2^along_row of them all take neighbours along x.
    """

    bits: int
    part_bits: int
    along_row: int


def _slices(taps: int, row: int, windows: int, channels_inside: bool) -> Slices:
    if taps <= FEW_TAPS:
        return Slices(0, 0, 0)
    along_row = row.bit_length() - 1
    room = RESIDENT // max(windows, 1)
    if channels_inside:  # a warp's neighbours are other windows
        wanted = min(room, taps // 4, THREADS // 32)
    else:
        wanted = min(max(min(room, taps // 8), 2 ** min(along_row, 5)), THREADS)
    bits = max(0, wanted.bit_length() - 1)
    parts = min(room >> bits, taps // FEW_TAPS >> bits, THREADS)
    part_bits = max(0, parts.bit_length() - 1)
    if part_bits < 2:  # too few to pay for a launch
        part_bits = 0
    return Slices(bits, part_bits, min(bits + part_bits, along_row))
