"""Convolutions over feature maps, cut into correlations of bounded memory.

A plain convolution is one `Correlation` for some hundred output channels at a time; a transposed
one is that for every phase of its output; a pooled one is a source that the pool reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import gcd, prod

import numpy as np

from gpuconv.backends.numpy.correlation import Correlation, Ending
from gpuconv.backends.numpy.operands import Maps, Operands
from gpuconv.backends.numpy.pool import pool_tasks
from gpuconv.backends.numpy.tasks import Task, run_tasks
from gpuconv.backends.numpy.tile import Values, even
from gpuconv.border import Border
from gpuconv.dtypes import INT64, is_integer_type, saturate_value
from gpuconv.plan import ConvPlan, ConvPoolPlan, ConvTransposePlan, cpu
from gpuconv.plan.conv import choose_algorithm
from gpuconv.plan.maps import MapShape
from gpuconv.window import AxisWindow

CHANNELS = 256
"""Output channels computed at once."""

BAND_CHANNELS = 16
"""The same of products along bands, which take several images at once."""

WEIGHT_BYTES = 10 << 20
"""Weights kept converted; more are converted tile by tile."""


def run(plan: ConvPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """`conv1d`, `conv2d`, `conv3d`."""
    out = _channels_at_end(outputs[0], plan.output)
    tasks: list[Task] = []
    for part, channels in _conv(plan, inputs, plan.output.channels_last):
        tasks += _tasks(part, out[..., channels])
    run_tasks(tasks)


def run_pooled(plan: ConvPoolPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """`conv2d_pool2d`: the pool reads the convolution, which computes what is read."""
    out = _channels_at_end(outputs[0], plan.pool.output)
    tasks: list[Task] = []
    for part, channels in _conv(plan.conv, inputs, True):
        tasks += pool_tasks(plan.pool, part, [out[..., channels]])
    run_tasks(tasks)


def run_transpose(
    plan: ConvTransposePlan, inputs: Sequence[Values], outputs: Sequence[Values]
) -> None:
    """`conv_transpose1d`, `conv_transpose2d`, `conv_transpose3d`.

    Outputs of one residue modulo the stride (a phase) are a plain convolution of the input with
    every stride-th tap, flipped.
    """
    out = _channels_at_end(outputs[0], plan.output)
    maps = _maps(inputs[0], plan.input, plan.groups, Border.CONSTANT, 0)
    weight = inputs[1].reshape(plan.groups, -1, *inputs[1].shape[1:]).swapaxes(1, 2)
    ending = _ending(plan, inputs)
    whole = all(np.isfinite(w).all() for w in inputs[1])
    axes = [
        list(_phases(w, n, m, whole))
        for w, n, m in zip(plan.windows, plan.input.spatial, plan.output.spatial, strict=True)
    ]
    covered = [sum(phase.count for phase in axis) for axis in axes]
    if covered != list(plan.output.spatial):
        nothing = np.zeros((1,) * (out.ndim - 1) + (plan.output.channels,), plan.sum_dtype)
        ending.write(nothing, out)
    algorithm, _ = choose_algorithm(weight.shape[2], weight.shape[1])
    tasks: list[Task] = []
    for phases in product(*axes):
        taps = weight[:, :, :, *(phase.taps for phase in phases)]
        place = out[:, *(phase.outputs for phase in phases)]
        windows = [phase.window for phase in phases]
        terms = prod(taps.shape[2:])
        numbers = cpu.numbers(plan.input_dtype, plan.weight_dtype, plan.sum_dtype, terms)
        for groups, outs, channels in _channel_parts(taps.shape, CHANNELS):
            operands = Operands(
                maps,
                groups,
                taps[groups, outs],
                windows,
                numbers,
                plan.output.channels_last,
                weight.size * numbers.work.itemsize <= WEIGHT_BYTES,
            )
            part = Correlation(operands, place.shape[1:-1], ending.of_channels(channels), algorithm)
            tasks += _tasks(part, place[..., channels])
    run_tasks(tasks)


@dataclass(frozen=True, slots=True)
class Phase:
    """Outputs of a transposed convolution along one axis that share a plain convolution."""

    outputs: slice
    count: int
    taps: slice
    window: AxisWindow


def _phases(window: AxisWindow, length: int, outputs: int, whole: bool) -> Iterator[Phase]:
    """The phases of an axis that have taps at all.

    Where not `whole`, each is cut further so that no tap meets a place outside the input: there
    it must not be multiplied, not even by zero.
    """
    s, d, pad = window.stride, window.dilation, window.pad[0]
    step, dilation = s // gcd(s, d), d // gcd(s, d)
    for first in range(min(step, window.size)):
        residue = (first * d - pad) % s
        count = -(-(outputs - residue) // s)
        taps = range(first, window.size, step)[::-1]
        before = (len(taps) - 1) * dilation - (residue + pad - first * d) // s
        for places, used in _zones(len(taps), dilation, before, length, count, whole):
            chosen = taps[used.start : used.stop]
            start = residue + s * places.start
            yield Phase(
                slice(start, start + s * (len(places) - 1) + 1, s),
                len(places),
                slice(chosen.start, chosen.stop if chosen.stop >= 0 else None, chosen.step),
                AxisWindow(
                    len(used),
                    dilation=dilation,
                    pad=(before - places.start - used.start * dilation, 0),
                ),
            )


def _zones(
    size: int, dilation: int, before: int, length: int, outputs: int, whole: bool
) -> Iterator[tuple[range, range]]:
    """Runs of outputs with the taps they use: all, or those that meet the input."""
    if whole:
        if outputs > 0:
            yield range(outputs), range(size)
        return

    def used(place: int) -> range:
        first = max(0, -((place - before) // dilation))
        return range(first, max(first, min(size, (length - 1 + before - place) // dilation + 1)))

    for taps, run in groupby(range(outputs), used):
        places = list(run)
        if taps:
            yield range(places[0], places[-1] + 1), taps


def _conv(
    plan: ConvPlan, inputs: Sequence[Values], last: bool
) -> Iterator[tuple[Correlation, slice]]:
    """The correlations that make up a plain convolution, and their output channels."""
    numbers = plan.numbers
    value = np.array(saturate_value(plan.value, plan.input_dtype)).astype(numbers.work)
    maps = _maps(inputs[0], plan.input, plan.groups, plan.border, value)
    weight = inputs[1].reshape(plan.groups, -1, *inputs[1].shape[1:])
    ending = _ending(plan, inputs)
    limit = BAND_CHANNELS if plan.on_cpu == "bands" else CHANNELS
    for groups, outs, channels in _channel_parts(weight.shape, limit):
        operands = Operands(
            maps,
            groups,
            weight[groups, outs],
            plan.windows,
            numbers,
            last if plan.algorithm == "gemm" else maps.channels_last,
            weight.size * numbers.work.itemsize <= WEIGHT_BYTES,
        )
        part = Correlation(
            operands, plan.output.spatial, ending.of_channels(channels), plan.algorithm
        )
        yield part, channels


def _channel_parts(weight: Sequence[int], limit: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut (G, O, C, ...) into (groups, outputs of each, output channels), `limit` of them."""
    groups, outs = weight[:2]
    group_step = even(groups, limit // outs)
    out_step = even(outs, limit)
    for g in range(0, groups, group_step):
        for o in range(0, outs, out_step):
            g_end, o_end = min(groups, g + group_step), min(outs, o + out_step)
            first = g * outs + o
            size = (g_end - g) * (o_end - o)
            yield slice(g, g_end), slice(o, o_end), slice(first, first + size)


def _maps(array: Values, shape: MapShape, groups: int, border: Border, value: object) -> Maps:
    """The input with a batch axis and its channels split into groups."""
    lead = (shape.batch, *shape.spatial) if shape.channels_last else (shape.batch,)
    tail = () if shape.channels_last else shape.spatial
    split = (groups, shape.channels // groups)
    return Maps(array.reshape(*lead, *split, *tail), shape.channels_last, border, value)


def _ending(plan: ConvPlan | ConvTransposePlan, inputs: Sequence[Values]) -> Ending:
    """What follows the sums of a plan."""
    exact = is_integer_type(plan.input_dtype)
    dtype = INT64 if exact else plan.sum_dtype
    bias = inputs[2].astype(dtype) if len(inputs) > 2 else None
    return Ending(bias, plan.activation, plan.out_dtype, exact)


def _channels_at_end(array: Values, shape: MapShape) -> Values:
    """A result as (N, *spatial, O)."""
    batched = array if shape.batched else array[np.newaxis]
    return batched if shape.channels_last else np.moveaxis(batched, 1, -1)


def _tasks(part: Correlation, out: Values) -> Iterator[Task]:
    """What computes the whole of a correlation."""
    return part.tasks(out, slice(0, len(out)), tuple(slice(0, n) for n in out.shape[1:-1]))
