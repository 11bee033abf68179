"""A part of a call as a smaller call: what some outputs read, and the plan that computes just them.

    outputs of a part           4 5 6 7
    rows that it reads      2 3 4 5 6 7 8 9      windows of 5 rows

At the true edges of an image the part ends there, and the backend answers for what lies outside. At
the others the rows that are missing spoil some results, which do not count. Under a wrapping
border a part reads beyond the edges, where the image begins anew.

Parts of tiles, of pieces that pass through a device and of chunks on a cluster all come from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

from gpuconv.border import Border
from gpuconv.plan import (
    AdaptivePoolPlan,
    ChainPlan,
    ConvPlan,
    ConvPoolPlan,
    ConvTransposePlan,
    MorphPlan,
    Plan,
    PoolPlan,
    UnpoolPlan,
)
from gpuconv.plan.filters import ImagePlan
from gpuconv.plan.maps import MapShape
from gpuconv.window import AxisWindow, adaptive_window

FOLDING = (Border.REFLECT, Border.SYMMETRIC)
"""Borders that read rows from inside as far as the window reaches outside."""


@dataclass(frozen=True, slots=True)
class Part:
    """A smaller call along one axis.

    It reads start..stop of the input, which lies outside only where the border wraps. Its first
    `skip` results are not wanted, nor what comes after those asked for.
    """

    plan: Any
    start: int
    stop: int
    skip: int = 0


def input_size(plan: Plan) -> tuple[int, ...]:
    """Spatial extents of what a plan reads."""
    if isinstance(plan, ImagePlan):
        return plan.images.size
    if isinstance(plan, ChainPlan):
        return input_size(plan.steps[0])
    return input_map(plan).spatial


def output_size(plan: Plan) -> tuple[int, ...]:
    """Spatial extents of what a plan gives."""
    if isinstance(plan, ImagePlan):
        return plan.images.size
    if isinstance(plan, ChainPlan):
        return output_size(plan.steps[-1])
    return (plan.pool if isinstance(plan, ConvPoolPlan) else plan).output.spatial


def channels_last(plan: Plan) -> bool:
    """Whether an axis of channels follows the spatial ones."""
    if isinstance(plan, ImagePlan):
        return plan.images.channels_last
    if isinstance(plan, ChainPlan):
        return plan.channels_last
    return input_map(plan).channels_last


def input_map(plan: Any) -> MapShape:
    """The feature map that a plan reads."""
    shape: MapShape = plan.conv.input if isinstance(plan, ConvPoolPlan) else plan.input
    return shape


def grains(plan: Plan, axis: int, outputs: range) -> list[range]:
    """`outputs` along a spatial axis, cut into ranges that are parts each.

    Only the windows of an adaptive pool differ from output to output: after `period` of them they
    repeat.
    """
    if not isinstance(plan, AdaptivePoolPlan):
        return [outputs]
    count = plan.output.spatial[axis]
    period = count // gcd(count, plan.input.spatial[axis])
    first, last = -(-outputs.start // period) * period, outputs.stop // period * period
    if first >= last:
        return [range(i, i + 1) for i in outputs]
    return [
        *(range(i, i + 1) for i in range(outputs.start, first)),
        range(first, last),
        *(range(i, i + 1) for i in range(last, outputs.stop)),
    ]


def part_of(plan: Plan, axis: int, outputs: range) -> Part | None:
    """The smaller call for some outputs along a spatial axis; None where none would be exact.

    `outputs` is one of `grains`. Parts can be cut again along the other axis.
    """
    if isinstance(plan, UnpoolPlan):
        return None
    if len(outputs) == output_size(plan)[axis]:
        return whole(plan, axis, outputs)
    if isinstance(plan, ImagePlan):
        return _image_part(plan, axis, outputs)
    if isinstance(plan, ChainPlan):
        return _chain_part(plan, axis, outputs)
    if isinstance(plan, ConvPoolPlan):
        return _pooled_part(plan, axis, outputs)
    if isinstance(plan, AdaptivePoolPlan):
        return _adaptive_part(plan, axis, outputs)
    length = plan.input.spatial[axis]
    if isinstance(plan, ConvTransposePlan):
        band: _Band | None = _transposed_band(plan.windows[axis], length, outputs)
    else:
        border = plan.border if isinstance(plan, ConvPlan) else Border.CONSTANT
        band = _band(plan.windows[axis], length, outputs, border)
    return None if band is None else _map_part(plan, axis, band, outputs)


def whole(plan: Plan, axis: int, outputs: range) -> Part:
    """The call as it is along an axis, with the results that are not wanted."""
    return Part(plan, 0, input_size(plan)[axis], outputs.start)


# Images


def _image_part(plan: Any, axis: int, outputs: range) -> Part:
    length = plan.images.size[axis]
    before, after = reach(plan, axis)
    if length <= before + after:
        return whole(plan, axis, outputs)
    start, stop = outputs.start - before, outputs.stop + after
    if plan.images.border is not Border.WRAP:
        start, stop = _inside(start, stop, length, before + after + 1)
    shape = list(plan.images.shape)
    shape[axis - (3 if plan.images.channels_last else 2)] = stop - start
    smaller = replace(plan, images=replace(plan.images, shape=tuple(shape)))
    return Part(smaller, start, stop, outputs.start - start)


def reach(plan: Any, axis: int) -> tuple[int, int]:
    """Pixels before and after an output that it depends on."""
    if not isinstance(plan, MorphPlan):
        before, after = plan.windows[axis].pad
        return before, after
    pads = [step.windows[axis].pad for step in plan.steps]
    combined = max if plan.gradient else sum
    return combined(before for before, _ in pads), combined(after for _, after in pads)


def _inside(start: int, stop: int, length: int, least: int) -> tuple[int, int]:
    """A band clipped to an axis.

    It has `least` rows, so that what a border folds back into it, once a step, stays correct.
    """
    start, stop = max(0, start), min(length, stop)
    if start == 0:
        stop = max(stop, least)
    elif stop == length:
        start = min(start, length - least)
    return start, stop


# Chains


def _chain_part(plan: ChainPlan, axis: int, outputs: range) -> Part | None:
    """All steps over a band of the images.

    Results that depend on what the band lacks lie before those that are wanted, or behind.
    """
    if not plan.has_bands:
        return None
    start, stop = outputs.start, outputs.stop
    for step in reversed(plan.steps):
        start, stop = _needed(step, axis, start, stop)
    if not plan.wrapped:
        while _first_result(plan.steps, axis, start) is None:
            start -= 1
    elif stop - start >= input_size(plan)[axis]:
        return whole(plan, axis, outputs)
    steps, begin, end = [], start, stop
    for step in plan.steps:
        smaller, begin, end = _banded(step, axis, begin, end)
        steps.append(smaller)
    shape = list(plan.images.shape)
    shape[axis - (3 if plan.channels_last else 2)] = stop - start
    images = replace(plan.images, shape=tuple(shape))
    smaller_plan = replace(plan, images=images, steps=tuple(steps))
    return Part(smaller_plan, start, stop, outputs.start - begin)


def _needed(step: Any, axis: int, start: int, stop: int) -> tuple[int, int]:
    """The inputs that outputs start..stop-1 depend on, those that a border folds back included."""
    length = input_size(step)[axis]
    if not isinstance(step, ImagePlan):
        start, stop = step.windows[axis].input_range(start, stop)
        return max(0, start), min(length, stop)
    before, after = reach(step, axis)
    start, stop = start - before, stop + after
    if step.images.border is Border.WRAP:
        return start, stop
    if start < 0:
        stop = max(stop, before + after + 1)
    if stop > length:
        start = min(start, length - before - after - 1)
    return max(0, start), min(length, stop)


def _first_result(steps: tuple[Any, ...], axis: int, start: int) -> int | None:
    """The first result of a chain over a band from `start` on; None where windows would shift."""
    for step in steps:
        if isinstance(step, PoolPlan) and start:
            window = step.windows[axis]
            if (start + window.pad[0]) % window.stride:
                return None
            start = (start + window.pad[0]) // window.stride
    return start


def _banded(step: Any, axis: int, begin: int, end: int) -> tuple[Any, int, int]:
    """A step over rows begin..end-1 of what it reads, and the rows of the result that it gives."""
    if isinstance(step, ImagePlan):
        shape = list(step.images.shape)
        shape[axis - (3 if step.images.channels_last else 2)] = end - begin
        return replace(step, images=replace(step.images, shape=tuple(shape))), begin, end
    window, length = step.windows[axis], step.input.spatial[axis]
    before, after = window.pad
    first = (begin + before) // window.stride if begin else 0
    if end < length:
        after = 0
    pad = (0 if begin else before, after)
    count = step.output.spatial[axis] - first
    if end < length:
        count = (end - begin + pad[0] - window.extent) // window.stride + 1
    band = _Band(0, end - begin, replace(window, pad=pad))
    return _with_band(step, axis, band, count), first, first + count


# Feature maps


@dataclass(frozen=True, slots=True)
class _Band:
    """What a part reads along an axis: start..stop of the input, under a window's own pads.

    Its first `skip` results are not wanted.
    """

    start: int
    stop: int
    window: AxisWindow
    skip: int = 0


def _map_part(plan: Any, axis: int, band: _Band, outputs: range) -> Part:
    smaller = _with_band(plan, axis, band, len(outputs))
    return Part(smaller, band.start, band.stop, band.skip)


def _with_band(plan: Any, axis: int, band: _Band, outputs: int) -> Any:
    """A plan that reads a band and gives so many outputs after those it skips."""
    windows = list(plan.windows)
    windows[axis] = band.window
    smaller = _with_sizes(plan, axis, band.stop - band.start, outputs + band.skip)
    return replace(smaller, windows=tuple(windows))


def _with_sizes(plan: Any, axis: int, inputs: int, outputs: int) -> Any:
    """A plan over another extent of one axis."""
    sizes = list(plan.input.spatial), list(plan.output.spatial)
    sizes[0][axis], sizes[1][axis] = inputs, outputs
    return replace(
        plan,
        input=replace(plan.input, spatial=tuple(sizes[0])),
        output=replace(plan.output, spatial=tuple(sizes[1])),
    )


def _pooled_part(plan: ConvPoolPlan, axis: int, outputs: range) -> Part | None:
    """The convolution computes just what the pool reads: no result of it may be unwanted."""
    conv, pool = plan.conv, plan.pool
    length = conv.input.spatial[axis]
    for first in range(outputs.start, -1, -1):
        wanted = range(first, outputs.stop)
        pooled = _band(pool.windows[axis], pool.input.spatial[axis], wanted)
        assert pooled is not None
        between = range(pooled.start, pooled.stop)
        band = _band(conv.windows[axis], length, between, conv.border)
        if band is None:
            return None
        if not band.skip:
            smaller = ConvPoolPlan(
                _with_band(conv, axis, band, len(between)),
                _with_band(pool, axis, pooled, len(wanted)),
            )
            return Part(smaller, band.start, band.stop, pooled.skip + outputs.start - first)
    raise AssertionError("the first outputs read the first inputs")


def _adaptive_part(plan: AdaptivePoolPlan, axis: int, outputs: range) -> Part | None:
    """Whole periods, or one window."""
    if plan.index_dtype is not None:
        return None
    length, count = plan.input.spatial[axis], plan.output.spatial[axis]
    start, _ = adaptive_window(outputs.start, length, count)
    _, stop = adaptive_window(outputs.stop - 1, length, count)
    return Part(_with_sizes(plan, axis, stop - start, len(outputs)), start, stop)


def _band(
    window: AxisWindow, length: int, outputs: range, border: Border = Border.CONSTANT
) -> _Band | None:
    """What some outputs of a window read of an axis."""
    start, stop = window.input_range(outputs.start, outputs.stop)
    if border is Border.WRAP:
        return _Band(start, stop, replace(window, pad=(0, 0)))
    before, after = max(0, -start), max(0, stop - length)
    latest = length - 1
    if border in FOLDING:
        if max(before, after) >= length:
            return None
        latest -= after
    # The band begins early enough to hold what the border folds to, and an element at least.
    first = min(outputs.start, (latest + window.pad[0]) // window.stride)
    start, _ = window.input_range(first, outputs.stop)
    before = max(0, -start)
    stop = min(length, max(stop, before + 1))
    pad = (before, min(after, window.pad[1]))
    return _Band(max(0, start), stop, replace(window, pad=pad), outputs.start - first)


def _transposed_band(window: AxisWindow, length: int, outputs: range) -> _Band:
    """The inputs of a transposed convolution whose taps fall on some outputs."""
    stride, extent = window.stride, window.extent - 1
    first, last = outputs.start + window.pad[0], outputs.stop - 1 + window.pad[0]
    start = min(max(0, -((extent - first) // stride)), first // stride, length - 1)
    stop = min(length, last // stride + 1)
    before = first - start * stride
    after = window.input_span(stop - start) - before - len(outputs)
    return _Band(start, stop, replace(window, pad=(before, max(0, after))))
