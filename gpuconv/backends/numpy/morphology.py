"""Dilation and erosion: boxes by doubling, other footprints offset by offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.backends.numpy.images import Node, input_ranges, run_images, stage
from gpuconv.backends.numpy.neighbours import columns, window_extremes
from gpuconv.backends.numpy.passes import STRIP_BYTES, two_passes
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Region, Source, Values
from gpuconv.dtypes import FLOAT32, DType, is_float, limits, saturate
from gpuconv.plan.filters import Images, MorphPlan, MorphStep

TILE_BYTES = 3 << 18
"""Pixels of a tile: more would leave a core's second cache, less is soon all overhead."""


def run(plan: MorphPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a MorphPlan."""
    elements = TILE_BYTES // (len(plan.steps) * compared_as(plan.images.dtype).itemsize)
    run_images(morphology_node, plan, inputs, outputs, elements)


def compared_as(dtype: DType) -> DType:
    """NumPy compares short floats slowly."""
    return FLOAT32 if is_float(dtype) and dtype.itemsize == 2 else dtype


def morphology_node(plan: MorphPlan, source: Source) -> Node:
    """The plan's steps as nodes: one on the other, or two side by side for a gradient."""
    images = plan.images
    if plan.gradient:
        first, second = (MorphNode(step, images, source, images.dtype) for step in plan.steps)
        return _Difference(first, second, images.out_dtype)
    node: Node | None = None
    for step in plan.steps:
        dtype = images.out_dtype if step is plan.steps[-1] else images.dtype
        node = MorphNode(step, images, source, dtype)
        source = node
    assert node is not None
    return node


class MorphNode(Node):
    """One dilation or erosion over a source; integers saturate to the output's dtype."""

    def __init__(self, step: MorphStep, images: Images, source: Source, dtype: DType) -> None:
        super().__init__(source.shape, dtype)
        self.step = step
        self.images = images
        self.source = source
        self.ufunc = np.maximum if step.operation == "dilate" else np.minimum

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """Extremes over the footprint."""
        with Scratch() as scratch:
            over = self._over_box if self.step.footprint is None else self._over_footprint
            found = over(batch, region, scratch)[:, :, : out.shape[2]]
            if not is_float(self.dtype) and limits(self.dtype) != limits(self.source.dtype):
                found = saturate(found, self.dtype)
            np.copyto(out, found, "unsafe")

    def _over_box(self, batch: slice, region: Region, scratch: Scratch) -> Values:
        height, width = (w.size for w in self.step.windows)
        reduce, dtype = window_extremes(self.ufunc), compared_as(self.source.dtype)
        middle, _ = two_passes(
            self.source,
            batch,
            region,
            self.step.windows,
            self.images.border,
            self.images.value,
            dtype,
            lambda tile, out: reduce(tile, height, 1, out),
            scratch,
        )
        return columns(reduce, middle, width, self.shape[-1], dtype, scratch)

    def _over_footprint(self, batch: slice, region: Region, scratch: Scratch) -> Values:
        """Place by place, the rows of a tile taken for one line. Tall footprints come in parts."""
        step, images, inner = self.step, self.images, self.shape[-1]
        assert step.footprint is not None
        footprint, dtype = step.footprint.array, compared_as(self.source.dtype)
        (top, _), (left, right) = input_ranges(step.windows, region)
        count, height = batch.stop - batch.start, region[0].stop - region[0].start
        row_bytes = count * (right - left) * inner * dtype.itemsize
        group = max(1, STRIP_BYTES // row_bytes - height + 1)
        reach = (footprint.shape[1] - 1) * inner
        line: Values | None = None
        for first in range(0, len(footprint), group):
            part = footprint[first : first + group]
            with Scratch() as inside:
                rows = top + first, top + first + len(part) - 1 + height
                start, stop = (rows[0], left), (rows[1], right)
                border, value = images.border, images.value
                tile = stage(self.source, batch, start, stop, border, value, dtype, inside)
                pitch = tile.shape[2]
                pixels = tile.reshape(count, -1)
                if line is None:
                    line = np.empty((count, height * pitch), dtype)
                    line[:, height * pitch - reach :] = 0
                    found = None
                inside_row = line[:, : height * pitch - reach]
                for i, j in np.argwhere(part).tolist():
                    place = i * pitch + j * inner
                    view = pixels[:, place : place + inside_row.shape[1]]
                    if found is None:
                        np.copyto(inside_row, view)
                        found = inside_row
                    else:
                        self.ufunc(found, view, out=found)
        assert line is not None
        return line.reshape(count, height, -1)


class _Difference(Node):
    """First minus second, where the first is never smaller; integers saturate."""

    def __init__(self, first: Node, second: Node, dtype: DType) -> None:
        super().__init__(first.shape, dtype)
        self.first, self.second = first, second

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """The difference of a region."""
        with Scratch() as scratch:
            upper, lower = (scratch.take(out.shape, n.dtype) for n in (self.first, self.second))
            self.first.fill(batch, region, upper)
            self.second.fill(batch, region, lower)
            if is_float(self.dtype):
                np.copyto(out, np.subtract(upper, lower, out=upper), "unsafe")
                return
            unsigned = np.dtype(f"u{upper.dtype.itemsize}")
            np.subtract(upper.view(unsigned), lower.view(unsigned), out=upper.view(unsigned))
            np.copyto(out, saturate(upper.view(unsigned), self.dtype))
