"""Dilation and erosion: boxes by doubling, other footprints offset by offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.backends.numpy.images import run_images
from gpuconv.backends.numpy.linear import shifted_columns
from gpuconv.backends.numpy.passes import two_passes
from gpuconv.backends.numpy.tile import Region, Source, Values, load
from gpuconv.dtypes import FLOAT32, DType, is_float, saturate
from gpuconv.plan.filters import Images, MorphPlan, MorphStep


def run(plan: MorphPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a MorphPlan."""
    run_images(morphology_node, plan, inputs, outputs)


def morphology_node(plan: MorphPlan, source: Source) -> Source:
    """The plan's steps as nodes: one on the other, or two side by side for a gradient."""
    images = plan.images
    if plan.gradient:
        first, second = (MorphNode(step, images, source) for step in plan.steps)
        return _Difference(first, second, images.out_dtype)
    for step in plan.steps:
        source = MorphNode(step, images, source)
    return _Saturated(source, images.out_dtype)


def window_extremes(values: Values, size: int, axis: int, ufunc: np.ufunc) -> Values:
    """Maxima (or minima) of `size` neighbours along `axis`, in about log2(size) steps."""
    outputs = values.shape[axis] - size + 1
    span = [slice(None)] * values.ndim

    def part(array: Values, start: int, length: int) -> Values:
        span[axis] = slice(start, start + length)
        return array[tuple(span)]

    width = 1
    while 2 * width <= size:
        length = values.shape[axis] - width
        values = ufunc(part(values, 0, length), part(values, width, length))
        width *= 2
    if width == size:
        return values
    # Two overlapping windows of the largest power of two cover the rest.
    result: Values = ufunc(part(values, 0, outputs), part(values, size - width, outputs))
    return result


class MorphNode:
    """One dilation or erosion over a source."""

    def __init__(self, step: MorphStep, images: Images, source: Source) -> None:
        self.step = step
        self.images = images
        self.source = source
        self.shape = source.shape
        self.dtype: DType = source.dtype

    def read(self, batch: slice, region: Region) -> Values:
        """Extremes over the footprint."""
        step, images = self.step, self.images
        ufunc = np.maximum if step.operation == "dilate" else np.minimum
        dtype = FLOAT32 if is_float(self.dtype) and self.dtype.itemsize == 2 else self.dtype
        if step.footprint is None:
            height, width = (w.size for w in step.windows)
            found = two_passes(
                self.source,
                batch,
                region,
                step.windows,
                images.border,
                images.value,
                dtype,
                lambda strip: window_extremes(strip, height, 1, ufunc),
                lambda middle: window_extremes(middle, width, 2, ufunc),
            )
        else:
            found = self._over_footprint(step.footprint.array, ufunc, dtype, batch, region)
        return found.astype(self.dtype, copy=False)

    def _over_footprint(
        self, footprint: Values, ufunc: np.ufunc, dtype: DType, batch: slice, region: Region
    ) -> Values:
        """One row of the footprint at a time."""
        images = self.images
        (top, _), (left, right) = (
            w.input_range(r.start, r.stop) for w, r in zip(self.step.windows, region, strict=True)
        )
        height, inner = region[0].stop - region[0].start, self.shape[-1]
        found: Any = None
        for i, row in enumerate(footprint):
            if not row.any():
                continue
            start, stop = (top + i, left), (top + i + height, right)
            tile = load(self.source, batch, start, stop, images.border, images.value, dtype)
            views = shifted_columns(tile, row.size)
            for j in np.flatnonzero(row):
                found = views[j].copy() if found is None else ufunc(found, views[j], out=found)
        result: Values = found.reshape(batch.stop - batch.start, height, -1, inner)
        return result


class _Saturated:
    """A source's integers saturated to another dtype, or its floats converted."""

    def __init__(self, source: Source, dtype: DType) -> None:
        self.source, self.dtype, self.shape = source, dtype, source.shape

    def read(self, batch: slice, region: Region) -> Values:
        values = self.source.read(batch, region)
        return (
            values.astype(self.dtype, copy=False)
            if is_float(self.dtype)
            else saturate(values, self.dtype)
        )


class _Difference:
    """First minus second, where the first is never smaller; integers saturate."""

    def __init__(self, first: Source, second: Source, dtype: DType) -> None:
        self.first, self.second, self.dtype, self.shape = first, second, dtype, first.shape

    def read(self, batch: slice, region: Region) -> Values:
        upper, lower = self.first.read(batch, region), self.second.read(batch, region)
        if is_float(self.dtype):
            return (upper - lower).astype(self.dtype, copy=False)
        unsigned = np.dtype(f"u{upper.dtype.itemsize}")
        return saturate(upper.view(unsigned) - lower.view(unsigned), self.dtype)
