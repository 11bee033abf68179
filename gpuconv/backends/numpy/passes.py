"""Two one-dimensional passes over a tile: along H in column strips, then along W."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpuconv.backends.numpy.images import input_ranges, stage
from gpuconv.backends.numpy.scratch import Scratch, pitch
from gpuconv.backends.numpy.tile import Region, Source, Values
from gpuconv.border import Border
from gpuconv.dtypes import DType
from gpuconv.window import AxisWindow

STRIP_BYTES = 1 << 20
"""Of a strip: what bounds the memory of very tall windows."""

Pass = Callable[[Values, Values], None]


def two_passes(
    source: Source,
    batch: slice,
    region: Region,
    windows: Sequence[AxisWindow],
    border: Border,
    value: float,
    dtype: DType,
    down: Pass,
    scratch: Scratch,
) -> tuple[Values, int]:
    """What `region` needs as `dtype`, reduced along H: (b, h, pitch), and the width in use.

    `down` fills (b, h, X) from (b, rows, pitch ≥ X).
    """
    (top, bottom), (left, right) = input_ranges(windows, region)
    count, inner = batch.stop - batch.start, source.shape[-1]
    height, width = region[0].stop - region[0].start, (right - left) * inner
    middle = scratch.take((count, height, pitch(width, dtype)), dtype)
    step = max(1, STRIP_BYTES // (count * (bottom - top) * inner * dtype.itemsize))
    for x in range(left, right, step):
        end = min(right, x + step)
        with Scratch() as inside:
            tile = stage(source, batch, (top, x), (bottom, end), border, value, dtype, inside)
            down(tile, middle[:, :, (x - left) * inner : (end - left) * inner])
    return middle, width
