"""Tiles of sliding windows: how many outputs at once, and which part of each window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from gpuconv.backends.numpy.tile import Region, even
from gpuconv.window import AxisWindow

SPAN_ELEMENTS = 1 << 18
"""Input elements that one part of a window reaches over, with all channels read together."""

ROW = 1024
"""Outputs along the last of several spatial axes: with more, a tile is flat and its halo dear."""


def span_limit(rank: int, channels: int) -> int:
    """Elements along one of `rank` axes that a part of a window of `channels` may reach over."""
    return max(1, int((SPAN_ELEMENTS / channels) ** (1 / rank)))


def part_sizes(windows: Sequence[AxisWindow], taps: int, channels: int) -> list[int]:
    """Sizes of the boxes of at most `taps` taps, of bounded span, that windows are read in."""
    limit = span_limit(len(windows), channels)
    sizes: list[int] = []
    for w in reversed(windows):
        room = min(taps // max(1, prod(sizes)), 1 + (limit - 1) // w.dilation)
        sizes.append(even(w.size, room))
    return sizes[::-1]


def boxes(lengths: Sequence[int], sizes: Sequence[int]) -> Iterator[Region]:
    """Cut a box of `lengths` into boxes of `sizes`, in row-major order."""
    for corner in product(*(range(0, n, s) for n, s in zip(lengths, sizes, strict=True))):
        yield tuple(slice(c, min(n, c + s)) for c, s, n in zip(corner, sizes, lengths, strict=True))


def tiles(
    batch: slice,
    region: Region,
    windows: Sequence[AxisWindow],
    *,
    outputs: int,
    inputs: int,
    row: int | None = None,
) -> Iterator[tuple[slice, Region]]:
    """Cut (batch, region) into tiles of about `outputs` windows over about `inputs` elements.

    The last axis grows first (to `row` outputs), the batch last.
    """
    lengths = [r.stop - r.start for r in region]
    sizes = [1] * len(lengths)
    limits = [*lengths[:-1], ROW if row is None else row] if len(lengths) > 1 else lengths
    for axis in reversed(range(len(lengths))):
        w = windows[axis]
        others = prod(
            o.input_span(n)
            for i, (o, n) in enumerate(zip(windows, sizes, strict=True))
            if i != axis
        )
        windows_that_fit = (inputs // others - w.extent) // w.stride + 1
        room = min(limits[axis], outputs // prod(sizes), windows_that_fit)
        sizes[axis] = even(lengths[axis], room)
    span = prod(w.input_span(n) for w, n in zip(windows, sizes, strict=True))
    count = max(1, min(outputs // prod(sizes), inputs // span))
    for first in range(batch.start, batch.stop, count):
        for box in boxes(lengths, sizes):
            yield (
                slice(first, min(batch.stop, first + count)),
                tuple(
                    slice(r.start + b.start, r.start + b.stop)
                    for r, b in zip(region, box, strict=True)
                ),
            )
