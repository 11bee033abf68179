"""Two one-dimensional passes over a tile: along H in column strips, then along W."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuconv.backends.numpy.tile import Region, Source, Values, load
from gpuconv.border import Border
from gpuconv.dtypes import DType
from gpuconv.window import AxisWindow

STRIP_ELEMENTS = 1 << 19
"""Elements of a strip: what bounds the memory of very tall windows."""

Pass = Callable[[Values], Values]


def two_passes(
    source: Source,
    batch: slice,
    region: Region,
    windows: Sequence[AxisWindow],
    border: Border,
    value: float,
    dtype: DType,
    down: Pass,
    across: Pass,
) -> Values:
    """Load what `region` needs as `dtype`, reduce it by `down`, then by `across`.

    `down` takes (b, rows, X) to (b, h, X); `across` takes (b, h, cols, C) to (b, h, w, C).
    """
    (top, bottom), (left, right) = (
        w.input_range(r.start, r.stop) for w, r in zip(windows, region, strict=True)
    )
    count, inner = batch.stop - batch.start, source.shape[-1]
    width = max(1, STRIP_ELEMENTS // (count * (bottom - top) * inner))
    strips = []
    for x in range(left, right, width):
        end = min(right, x + width)
        strip = load(source, batch, (top, x), (bottom, end), border, value, dtype)
        reduced = down(strip.reshape(count, bottom - top, (end - x) * inner))
        strips.append(reduced.reshape(count, -1, end - x, inner))
    return across(strips[0] if len(strips) == 1 else np.concatenate(strips, axis=2))
