"""Pools: every window of every plane reduced, one axis after another, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np

from gpuconv.backends.numpy.reduce import (
    Axis,
    Merger,
    State,
    Values,
    Windows,
    adaptive_axis,
    counts,
)
from gpuconv.backends.numpy.sums import Pairwise
from gpuconv.backends.numpy.tasks import Task, run_tasks
from gpuconv.backends.numpy.tile import ArraySource, Region, Source, load
from gpuconv.backends.numpy.window_tiles import ROW, span_limit, tiles
from gpuconv.backends.planes import map_planes
from gpuconv.border import Border
from gpuconv.dtypes import (
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    DType,
    accumulator,
    highest,
    is_float,
    is_integer_type,
    limits,
    lowest,
    magnitude,
    saturate,
)
from gpuconv.plan import AdaptivePoolPlan, PoolPlan, UnpoolPlan
from gpuconv.window import AxisWindow

SPAN_ELEMENTS = 1 << 19
"""Input elements of one tile, with all channels read together."""

CHANNELS = 1 << 12
"""Interleaved channels taken at once."""

UNPOOLED = 1 << 16
"""Values scattered at once."""

OUTSIDE = 1 << 61
"""Index along an axis of what lies outside: above any other, and three of them fit an int64."""


def run(
    plan: PoolPlan | AdaptivePoolPlan, inputs: Sequence[Values], outputs: Sequence[Values]
) -> None:
    """Windowed, adaptive and global pools."""
    rank, channels_last = len(plan.input.spatial), plan.input.channels_last
    tasks: list[Task] = []
    for array, *targets in map_planes([inputs[0], *outputs], rank, channels_last):
        for first in range(0, array.shape[-1], CHANNELS):
            part = slice(first, first + CHANNELS)
            source = ArraySource(array[..., part])
            tasks += pool_tasks(plan, source, [t[..., part] for t in targets])
    run_tasks(tasks)


def pool_tasks(
    plan: PoolPlan | AdaptivePoolPlan, source: Source, targets: Sequence[Values]
) -> Iterator[Task]:
    """What together fills `targets`, planes of the values and perhaps of their indices."""
    axes = _axes(plan)
    batch, *lengths, inner = targets[0].shape
    limit = span_limit(len(axes), inner)
    cells = tiles(
        slice(0, batch),
        tuple(slice(0, n) for n in lengths),
        [_bounded(axis.as_window(), limit) for axis in axes],
        outputs=max(1, SPAN_ELEMENTS // 2 // inner),
        inputs=max(1, SPAN_ELEMENTS // inner),
        row=max(1, ROW // inner),
    )
    for planes, region in cells:
        yield partial(_pool_tile, plan, axes, limit, source, targets, planes, region)


def _pool_tile(
    plan: PoolPlan | AdaptivePoolPlan,
    axes: Sequence[Axis],
    limit: int,
    source: Source,
    targets: Sequence[Values],
    planes: slice,
    region: Region,
) -> None:
    """Fill one tile of `targets`."""
    operation = _operation(plan, axes)
    whole = Pairwise[State](operation.join)
    pairs = zip(axes, region, strict=True)
    for parts in product(*(list(axis.parts(outputs, limit)) for axis, outputs in pairs)):
        start, stop = [p[0] for p in parts], [p[1] for p in parts]
        tile = load(source, planes, start, stop, Border.CONSTANT, operation.fill, operation.dtype)
        state = operation.prepare(tile, start)
        for axis in operation.order(len(axes)):
            state = parts[axis][2](state, axis + 1, operation)
        whole.add(state)
    operation.finish(whole.total(), region, [t[(planes, *region)] for t in targets])


def _axes(plan: PoolPlan | AdaptivePoolPlan) -> list[Axis]:
    """The windows of each spatial axis."""
    lengths = plan.input.spatial
    if isinstance(plan, PoolPlan):
        return [Windows(n, w, plan.count_pad) for n, w in zip(lengths, plan.windows, strict=True)]
    return [adaptive_axis(n, m) for n, m in zip(lengths, plan.output.spatial, strict=True)]


def _bounded(window: AxisWindow, limit: int) -> AxisWindow:
    """The window, or as many of its taps as are read at once."""
    size = min(window.size, 1 + (limit - 1) // window.dilation)
    return AxisWindow(size, window.stride, window.dilation)


class Operation(Merger, Protocol):
    """What a pool does to the elements of a window: prepare, merge, finish."""

    dtype: DType
    fill: Any

    def order(self, rank: int) -> Sequence[int]:
        """The spatial axes in the order of their reduction: where it may, rows lie whole."""
        return range(rank)

    def prepare(self, tile: Values, start: Sequence[int]) -> State:
        """What is known of each element of a tile whose first element stands at `start`."""

    def finish(self, state: State, region: Region, targets: Sequence[Values]) -> None:
        """Fill the targets, values and perhaps indices, with those of a region."""
        for target, values in zip(targets, state, strict=True):
            target[...] = values


def _operation(plan: PoolPlan | AdaptivePoolPlan, axes: Sequence[Axis]) -> Operation:
    """The operation of a plan, in the dtype that keeps its promises."""
    if plan.operation in ("max", "min"):
        if plan.index_dtype is not None:
            return Choice(plan.operation, plan.dtype, plan.input.spatial)
        return Extreme(plan.operation, plan.dtype)
    if isinstance(plan, PoolPlan) and plan.operation == "lp":
        return Extreme("max", FLOAT64, absolute=True) if np.isinf(plan.norm) else Norm(plan.norm)
    divisor = plan.divisor if isinstance(plan, PoolPlan) else None
    return Mean(plan.dtype, axes, divisor)


class Extreme(Operation):
    """The largest or smallest element, or |element|. NaN wins; what lies outside never does."""

    def __init__(self, operation: str, dtype: DType, absolute: bool = False) -> None:
        self.dtype = _comparable(dtype)
        self.fill = 0 if absolute else _identity(operation, dtype)
        self._absolute = absolute
        self._best, _ = _ufuncs(operation)

    def prepare(self, tile: Values, start: Sequence[int]) -> State:
        """The elements themselves."""
        return (np.abs(tile) if self._absolute else tile,)

    def merge(self, first: State, second: State, overwrite: bool = False) -> State:
        """The better of two."""
        return (self._best(first[0], second[0], out=first[0] if overwrite else None),)

    join = merge


class Choice(Operation):
    """The largest or smallest element and its flat index in the plane.

    As PyTorch has it: of equal elements the first is taken; NaN wins, of several the last.
    """

    def __init__(self, operation: str, dtype: DType, plane: Sequence[int]) -> None:
        self.dtype = _comparable(dtype)
        self.fill = _identity(operation, dtype)
        self._plane = tuple(plane)
        self._best, self._beats = _ufuncs(operation)
        self._is_float = is_float(dtype)
        self._has_nan = self._ties_outside = False

    def order(self, rank: int) -> Sequence[int]:
        """The last axis first, so that places are merged in the order of their indices."""
        return range(rank)[::-1]

    def prepare(self, tile: Values, start: Sequence[int]) -> State:
        """Elements and their indices; those outside have one that loses every tie."""
        rank, inside = len(self._plane), []
        index: Any = 0
        for axis, (first, length) in enumerate(zip(start, self._plane, strict=True)):
            at = np.arange(first, first + tile.shape[axis + 1])
            flat = np.where((at >= 0) & (at < length), at * prod(self._plane[axis + 1 :]), OUTSIDE)
            index = index + flat.reshape([-1 if i == axis else 1 for i in range(rank)])
            inside.append(slice(max(0, -first), max(0, length - first)))
        within = tile[:, *inside]
        self._has_nan = self._is_float and bool(np.isnan(within).any())
        self._ties_outside = within.size < tile.size and bool((within == self.fill).any())
        return tile, np.broadcast_to(index[np.newaxis, ..., np.newaxis], tile.shape)

    def merge(self, first: State, second: State, overwrite: bool = False) -> State:
        """The better of two; of equals the first, if it is not outside."""
        if self._ties_outside:
            return self.join(first, second, overwrite)
        better = self._beats(second[0], first[0])
        if self._has_nan:
            better |= np.isnan(second[0])
        return self._pick(better, first, second, overwrite)

    def join(self, first: State, second: State, overwrite: bool = False) -> State:
        """The better of two; of equals the one with the smaller index."""
        earlier = second[1] < first[1]
        better = self._beats(second[0], first[0])
        better |= (second[0] == first[0]) & earlier
        if self._is_float:
            better |= np.isnan(second[0]) & ~(np.isnan(first[0]) & earlier)
        return self._pick(better, first, second, overwrite)

    def _pick(self, better: Values, first: State, second: State, overwrite: bool) -> State:
        """The better value, and the second index where that is better, else the first."""
        value = self._best(first[0], second[0], out=first[0] if overwrite else None)
        step = second[1] - first[1]
        step *= better  # several times as fast as np.where and a random mask
        return value, np.add(first[1], step, out=first[1] if overwrite else step)


class Mean(Operation):
    """The sum over the count, or over `divisor`; integers exactly, rounded half to even."""

    fill = 0

    def __init__(self, dtype: DType, axes: Sequence[Axis], divisor: int | None) -> None:
        self._axes, self._divisor, self._result = axes, divisor, dtype
        self._split = is_integer_type(dtype) and dtype.itemsize == 8
        self.dtype = dtype if self._split else _sum_dtype(dtype, axes)

    def prepare(self, tile: Values, start: Sequence[int]) -> State:
        """The elements; 64-bit integers as two halves, whose sums fit an int64."""
        if not self._split:
            return (tile,)
        return (tile >> 32).astype(np.int64), (tile & 0xFFFFFFFF).astype(np.int64)

    def merge(self, first: State, second: State, overwrite: bool = False) -> State:
        """The sum of two."""
        pairs = zip(first, second, strict=True)
        return tuple(np.add(a, b, out=a if overwrite else None) for a, b in pairs)

    join = merge

    def finish(self, state: State, region: Region, targets: Sequence[Values]) -> None:
        """Divide."""
        count = counts(self._axes, region) if self._divisor is None else self._divisor
        if is_float(self._result):
            divisor = float(count) if isinstance(count, int) else count.astype(self.dtype)
            np.divide(state[0], divisor, out=targets[0], casting="unsafe")
            return
        total = _join(*state) if self._split else state[0].astype(np.int64)
        targets[0][...] = _saturated(_divide_half_even(total, count), self._result)


class Norm(Operation):
    """(Σ|x|^p)^(1/p), in float64 so that powers of smaller floats do not overflow."""

    fill = 0
    dtype = FLOAT64

    def __init__(self, power: float) -> None:
        self._power = power

    def prepare(self, tile: Values, start: Sequence[int]) -> State:
        """|x|^p."""
        return (np.square(tile) if self._power == 2 else np.abs(tile) ** self._power,)

    merge = Mean.merge
    join = Mean.merge

    def finish(self, state: State, region: Region, targets: Sequence[Values]) -> None:
        """The root."""
        root = np.sqrt(state[0]) if self._power == 2 else state[0] ** (1 / self._power)
        targets[0][...] = root


def _comparable(dtype: DType) -> DType:
    """Where values of `dtype` are compared: half floats faster, and no less exactly, as float32."""
    return FLOAT32 if is_float(dtype) and dtype.itemsize == 2 else dtype


def _ufuncs(operation: str) -> tuple[np.ufunc, np.ufunc]:
    """What picks the better of two, and what tells whether the first is better."""
    return (np.maximum, np.greater) if operation == "max" else (np.minimum, np.less)


def _identity(operation: str, dtype: DType) -> Any:
    return lowest(dtype) if operation == "max" else highest(dtype)


def _sum_dtype(dtype: DType, axes: Sequence[Axis]) -> DType:
    """Where sums of one window are kept; those of integers exactly."""
    if is_float(dtype):
        return accumulator(dtype)
    taps = prod(axis.as_window().size for axis in axes)
    return INT32 if taps * magnitude(dtype) < 2**31 else INT64


def _join(high: Values, low: Values) -> Values:
    """high * 2^32 + low: int64, or Python's integers where that is too narrow."""
    high, low = high + (low >> 32), low & 0xFFFFFFFF
    if np.all(abs(high) < 2**31):
        return (high << 32) + low
    result: Values = high.astype(object) * 2**32 + low.astype(object)
    return result


def _divide_half_even(total: Values, count: Values | int) -> Values:
    """total / count, rounded half to even."""
    if total.dtype == object or (isinstance(count, int) and abs(count) >= 2**62):
        total = total.astype(object)
        count = count if isinstance(count, int) else count.astype(object)
    if isinstance(count, int) and count < 0:
        total, count = -total, -count
    quotient: Values = total // count
    rest = total - quotient * count
    up = (rest > count - rest) | ((rest == count - rest) & (quotient % 2 == 1))
    quotient += up
    return quotient


def _saturated(values: Values, dtype: DType) -> Values:
    if values.dtype != object:
        return saturate(values, dtype)
    return np.clip(values, *limits(dtype)).astype(dtype)


def run_unpool(plan: UnpoolPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Scatter every value to its flat index; of equal indices the last in the plane wins."""
    rank = len(plan.output.spatial)
    outputs[0][...] = 0
    arrays = [*inputs, outputs[0]]
    for values, indices, target in map_planes(arrays, rank, plan.input.channels_last):
        batch, *lengths, inner = values.shape
        cells = tiles(
            slice(0, batch),
            tuple(slice(0, n) for n in lengths),
            [AxisWindow(1)] * rank,
            outputs=max(1, UNPOOLED // inner),
            inputs=UNPOOLED,
            row=UNPOOLED,
        )
        for planes, region in cells:
            flat = indices[(planes, *region)]
            plan.check_indices(flat)
            place = _unravel(flat.astype(np.int64), plan.output.spatial)
            number = np.arange(planes.start, planes.stop).reshape(-1, *[1] * (rank + 1))
            target[(number, *place, np.arange(inner))] = values[(planes, *region)]


def _unravel(flat: Values, plane: Sequence[int]) -> list[Values]:
    """Coordinates of flat indices (`np.unravel_index` of NumPy 2.4 errs on more than 8192)."""
    coordinates = []
    for length in reversed(plane[1:]):
        flat, last = np.divmod(flat, length)
        coordinates.append(last)
    return [flat, *reversed(coordinates)]
