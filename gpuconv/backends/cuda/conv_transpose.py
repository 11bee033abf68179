"""Launches of kernels_cu/conv.cu: transposed convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd

from gpuconv.backends.cuda.conv import Correlation, correlation, three_windows
from gpuconv.backends.cuda.launch import DeviceArray, Launch, Launcher, Variant, element_strides
from gpuconv.backends.cuda.maps import map_strides, three_axes
from gpuconv.plan import ConvTransposePlan
from gpuconv.plan.conv import choose_algorithm
from gpuconv.window import AxisWindow


def variants() -> Iterator[Variant]:
    """Those of conv.py."""
    yield from ()


def launches(
    plan: ConvTransposePlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch for each phase of the output; before them one where some outputs have no taps."""
    weight, output = inputs[1], outputs[0]
    input_channel, out, *kernel = element_strides(weight)
    ins, outs = plan.input.channels // plan.groups, weight.shape[1]
    whole = Correlation(
        plan,
        inputs[0],
        weight,
        inputs[2] if len(inputs) > 2 else None,
        output,
        map_strides(inputs[0], plan.input),
        map_strides(output, plan.output),
        (ins * input_channel, out, input_channel, *three_axes(tuple(kernel), 0)),
        (AxisWindow(0),) * 3,
        three_axes(plan.input.spatial, 1),
        three_axes(plan.output.spatial, 1),
        ins,
        outs,
        skip_outside=True,
    )
    axes = [list(_phases(w, m)) for w, m in zip(plan.windows, plan.output.spatial, strict=True)]
    covered = [sum(phase.count for phase in axis) for axis in axes]
    if covered != list(plan.output.spatial):
        yield correlation(whole, "gemm")
    algorithm, _ = choose_algorithm(ins, outs)
    for phases in product(*axes):
        taps = weight[:, :, *(phase.taps for phase in phases)]
        place = tuple(phase.outputs for phase in phases)
        lead = (slice(None),) * plan.output.batched
        target = output[
            (*lead, *place) if plan.output.channels_last else (*lead, slice(None), *place)
        ]
        strides = element_strides(taps)[2:]
        yield correlation(
            replace(
                whole,
                weight=taps,
                output=target,
                output_strides=map_strides(target, plan.output),
                weight_strides=(*whole.weight_strides[:3], *three_axes(strides, 0)),
                windows=three_windows([phase.window for phase in phases]),
                output_sizes=three_axes(tuple(phase.count for phase in phases), 1),
            ),
            algorithm,
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """Outputs along one axis of one residue modulo the stride: a plain convolution of stride 1."""

    outputs: slice
    count: int
    taps: slice
    window: AxisWindow


def _phases(window: AxisWindow, outputs: int) -> Iterator[Phase]:
    """The phases of an axis that have taps and outputs."""
    s, d, pad = window.stride, window.dilation, window.pad[0]
    step, dilation = s // gcd(s, d), d // gcd(s, d)
    for first in range(min(step, window.size)):
        residue = (first * d - pad) % s
        count = -(-(outputs - residue) // s)
        if count < 1:
            continue
        taps = range(first, window.size, step)[::-1]
        before = (len(taps) - 1) * dilation - (residue + pad - first * d) // s
        yield Phase(
            slice(residue, outputs, s),
            count,
            slice(taps.start, taps.stop if taps.stop >= 0 else None, taps.step),
            AxisWindow(len(taps), dilation=dilation, pad=(before, 0)),
        )
