"""Means of boxes: exact sums by doubling, one division."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.backends.numpy.exact import join_words, pixel_half
from gpuconv.backends.numpy.images import ImageNode, run_images
from gpuconv.backends.numpy.neighbours import columns, window_sums
from gpuconv.backends.numpy.passes import two_passes
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Region, Source, Values
from gpuconv.dtypes import (
    FLOAT32,
    FLOAT64,
    DType,
    accumulator,
    is_float,
    limits,
    magnitude,
    saturate,
)
from gpuconv.plan.filters import BoxPlan

TILE_BYTES = 3 << 18
"""Sums of a tile: more would leave a core's second cache, less is soon all overhead."""


def run(plan: BoxPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a BoxPlan."""
    run_images(BoxNode, plan, inputs, outputs, TILE_BYTES // sum_dtype(plan, plan.count).itemsize)


def sum_dtype(plan: BoxPlan, count: int) -> DType:
    """The narrowest that holds sums of `count` pixels: exactly, for integers."""
    dtype = plan.images.dtype
    if is_float(dtype):
        return accumulator(dtype)
    low, high = limits(dtype)
    if count * magnitude(dtype) >= 2**53:
        return np.dtype(np.int64)  # of halved pixels
    for kind in (np.uint16, np.int16, np.int32):
        least, most = limits(np.dtype(kind))
        if least <= count * low and count * high <= most:
            return np.dtype(kind)
    return np.dtype(np.int64)


class BoxNode(ImageNode[BoxPlan]):
    """A BoxPlan over a source of its dtype."""

    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """Means of boxes."""
        plan, dtype, pad = self.plan, self.plan.images.dtype, self.plan.images.value
        bound = 0 if is_float(dtype) else plan.count * magnitude(dtype)
        if bound >= 2**53:
            out[...] = self._wide_means(batch, region, out.shape[2])
            return
        with Scratch() as scratch:
            sums = self._sums(self.source, pad, batch, region, scratch)
            # A quotient of integers below 2^53 (2^23 in float32) is never rounded onto a half
            # that it does not equal.
            exact = FLOAT32 if bound < 2**23 and sums.dtype != FLOAT64 else FLOAT64
            means = sums if sums.dtype == exact else scratch.take(sums.shape, exact)
            if means is not sums:
                np.copyto(means, sums)
            np.divide(means, plan.count, out=means)
            if bound:
                np.rint(means, out=means)
                if limits(dtype) != limits(self.dtype):
                    means = saturate(means, self.dtype)
            np.copyto(out, means[:, :, : out.shape[2]], "unsafe")

    def _sums(
        self, source: Source, value: float, batch: slice, region: Region, scratch: Scratch
    ) -> Values:
        """(b, h, pitch ≥ w·C)."""
        plan = self.plan
        height, width = (w.size for w in plan.windows)
        middle, _ = two_passes(
            source,
            batch,
            region,
            plan.windows,
            plan.images.border,
            value,
            sum_dtype(plan, height),
            lambda tile, out: window_sums(tile, height, 1, out),
            scratch,
        )
        return columns(
            window_sums, middle, width, self.shape[-1], sum_dtype(plan, plan.count), scratch
        )

    def _wide_means(self, batch: slice, region: Region, width: int) -> Values:
        """Means whose sums outgrow 53 bits: long division of two words."""
        plan = self.plan
        half = 4 * plan.images.dtype.itemsize
        words = []
        for upper in (True, False):
            with Scratch() as scratch:
                source, value = pixel_half(self.source, plan.images.value, upper)
                sums = self._sums(source, value, batch, region, scratch)
                words.append(sums[:, :, :width].copy())
        high, low = words
        high, low = high + (low >> half), low & ((1 << half) - 1)
        quotient, rest = np.divmod(high, plan.count)
        low_quotient, rest = np.divmod((rest << half) + low, plan.count)
        low_quotient += (2 * rest > plan.count) | (
            (2 * rest == plan.count) & (low_quotient & 1 == 1)
        )
        return join_words(quotient + (low_quotient >> half), low_quotient, half, self.dtype)
