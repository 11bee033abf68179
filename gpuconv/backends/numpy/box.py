"""Box sums by doubling: windows of 1, 2, 4, … are added until they make up the box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.backends.numpy.images import ImageNode, run_images
from gpuconv.backends.numpy.linear import join_words, pixel_half
from gpuconv.backends.numpy.passes import two_passes
from gpuconv.backends.numpy.tile import Region, Source, Values
from gpuconv.dtypes import DType, accumulator, is_float, magnitude, saturate
from gpuconv.plan.filters import BoxPlan


def run(plan: BoxPlan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
    """Carry out a BoxPlan."""
    run_images(BoxNode, plan, inputs, outputs)


def window_sums(values: Values, size: int, axis: int) -> Values:
    """Sums of `size` neighbours along `axis`, in about 2·log2(size) additions."""
    outputs = values.shape[axis] - size + 1
    span = [slice(None)] * values.ndim

    def part(array: Values, start: int, length: int) -> Values:
        span[axis] = slice(start, start + length)
        return array[tuple(span)]

    total: Values | None = None
    done, width, doubled = 0, 1, values
    while True:
        if size & width:
            piece = part(doubled, done, outputs)
            total = piece if total is None else total + piece
            done += width
        if done == size:
            assert total is not None
            return total
        length = doubled.shape[axis] - width
        doubled = part(doubled, 0, length) + part(doubled, width, length)
        width *= 2


class BoxNode(ImageNode[BoxPlan]):
    """A BoxPlan over a source of its dtype."""

    def read(self, batch: slice, region: Region) -> Values:
        """Means of boxes."""
        plan, dtype, pad = self.plan, self.plan.images.dtype, self.plan.images.value
        if is_float(dtype):
            sums = self._sums(self.source, pad, accumulator(dtype), batch, region)
            means: Values = sums / sums.dtype.type(plan.count)
            return means.astype(self.dtype, copy=False)
        bound = plan.count * magnitude(dtype)
        if bound < 2**53:
            exact = np.dtype(np.int32 if bound < 2**31 else np.int64)
            sums = self._sums(self.source, pad, exact, batch, region)
            # A quotient of integers below 2^53 is never rounded onto a half it does not equal.
            return saturate(np.rint(sums / plan.count), self.dtype)
        return self._wide_means(batch, region)

    def _sums(
        self,
        source: Source,
        value: float,
        dtype: DType,
        batch: slice,
        region: Region,
    ) -> Values:
        plan = self.plan
        height, width = (w.size for w in plan.windows)
        return two_passes(
            source,
            batch,
            region,
            plan.windows,
            plan.images.border,
            value,
            dtype,
            lambda strip: window_sums(strip, height, 1),
            lambda middle: window_sums(middle, width, 2),
        )

    def _wide_means(self, batch: slice, region: Region) -> Values:
        """Means whose sums outgrow 53 bits: long division of two words."""
        plan, int64 = self.plan, np.dtype(np.int64)
        half = 4 * plan.images.dtype.itemsize
        high, low = (
            self._sums(*pixel_half(self.source, plan.images.value, upper), int64, batch, region)
            for upper in (True, False)
        )
        high, low = high + (low >> half), low & ((1 << half) - 1)
        quotient, rest = np.divmod(high, plan.count)
        low_quotient, rest = np.divmod((rest << half) + low, plan.count)
        low_quotient += (2 * rest > plan.count) | (
            (2 * rest == plan.count) & (low_quotient & 1 == 1)
        )
        return join_words(quotient + (low_quotient >> half), low_quotient, half, self.dtype)
