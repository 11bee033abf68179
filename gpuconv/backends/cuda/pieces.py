"""Host arrays cut into pieces that pass through a device one after another.

A piece is a smaller call with a plan of its own, so that the kernels know nothing of it. Calls
are cut along the batch first, then, where the planes are independent, along the channels, at last
into bands of rows that overlap by what the windows reach:

    outputs of a band           4 5 6 7
    rows that it reads      2 3 4 5 6 7 8 9      windows of 5 rows

At the true edges of an image the band ends there, and the kernel answers for what lies outside. At
the others the rows that are missing spoil some results, which are thrown away. A wrapping border
is gathered on the host instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.border import Border
from gpuconv.plan import (
    AdaptivePoolPlan,
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
from gpuconv.window import AxisWindow

Values = npt.NDArray[Any]
Place = tuple[slice, ...]
MapPlan = ConvPlan | ConvPoolPlan | ConvTransposePlan | PoolPlan | AdaptivePoolPlan | UnpoolPlan

PIECE_BYTES = 256 << 20
"""Input and output of a piece, in about."""

FOLDING = (Border.REFLECT, Border.SYMMETRIC)
"""Borders that read rows from inside as far as the window reaches outside."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a call: a plan of its own, over views of the host arrays.

    `outputs` take what the plan's results hold at `keep`; `index_offset` is still to be added to
    the indices of a pool. Operands that every piece needs whole are those of the call.
    """

    plan: Plan
    inputs: Sequence[Any]
    outputs: Sequence[Values]
    keep: Place = ()
    index_offset: int = 0

    @property
    def nbytes(self) -> int:
        """Input and results; what every piece needs whole does not count."""
        cut = self.inputs[: cut_operands(self.plan)]
        results = sum(prod(r.shape) * r.dtype.itemsize for r in self.plan.outputs)
        return sum(int(a.nbytes) for a in cut) + results

    def finish(self) -> None:
        """Make the outputs true of the whole call, once they hold the results."""
        if self.index_offset:
            indices = self.outputs[1]
            indices += np.array(self.index_offset).astype(indices.dtype)


Way = Callable[[Piece, int], Iterator[Piece]]
"""Cuts a piece along one axis into pieces of about so many bytes, if it can."""


def cut_operands(plan: Plan) -> int:
    """How many of the first operands are cut; the others every piece needs whole."""
    return 2 if isinstance(plan, UnpoolPlan) else 1


def pieces(
    plan: Plan, inputs: Sequence[Any], outputs: Sequence[Values], limit: int
) -> Iterator[Piece]:
    """Cut a call into pieces of about `limit` bytes.

    A piece is larger where nothing cuts it further: bands have about as many rows of their own as
    they share with their neighbours, or more.
    """
    return _cut(Piece(plan, inputs, outputs), limit, list(_ways(plan)))


def _cut(piece: Piece, limit: int, ways: Sequence[Way]) -> Iterator[Piece]:
    if not ways or piece.nbytes <= limit:
        yield piece
        return
    for part in ways[0](piece, limit):
        yield from _cut(part, limit, ways[1:])


def _ways(plan: Plan) -> Iterator[Way]:
    """The ways to cut a call, in the order in which they are tried."""
    if isinstance(plan, ImagePlan):
        lead = len(plan.images.shape) - (3 if plan.images.channels_last else 2)
        yield from (partial(_slices, axis=axis) for axis in range(lead))
        yield _bands
        return
    shape = _input_map(plan)
    batch = int(shape.batched)
    channels = partial(_slices, axis=len(shape.shape) - 1 if shape.channels_last else batch)
    rows = partial(_rows, axis=batch if shape.channels_last else batch + 1)
    if batch:
        yield partial(_slices, axis=0)
    if isinstance(plan, (ConvPlan, ConvPoolPlan, ConvTransposePlan)):
        yield rows
    elif isinstance(plan, PoolPlan):
        yield from (rows, channels) if shape.channels_last else (channels, rows)
    else:
        yield channels


def _input_map(plan: MapPlan) -> MapShape:
    return plan.conv.input if isinstance(plan, ConvPoolPlan) else plan.input


def _parts(length: int, most: int) -> Iterator[range]:
    """Cut an axis evenly into as few parts of at most `most` (at least 1) as it takes."""
    count = -(-length // max(1, most))
    for part in range(count):
        yield range(part * length // count, (part + 1) * length // count)


def _at(axis: int, start: int, stop: int) -> Place:
    """The index that picks a part of an axis."""
    return (slice(None),) * axis + (slice(start, stop),)


# Axes whose elements are independent: batch, channels of pools


def _slices(piece: Piece, limit: int, axis: int) -> Iterator[Piece]:
    """Cut along an axis that all arrays share."""
    cut = cut_operands(piece.plan)
    length = piece.inputs[0].shape[axis]
    for part in _parts(length, limit * length // piece.nbytes):
        where = _at(axis, part.start, part.stop)
        yield replace(
            piece,
            plan=_resized(piece.plan, axis, len(part)),
            inputs=[*(a[where] for a in piece.inputs[:cut]), *piece.inputs[cut:]],
            outputs=[a[where] for a in piece.outputs],
        )


def _resized(plan: Plan, axis: int, length: int) -> Plan:
    """`plan` with another batch, or another number of channels."""
    if isinstance(plan, ImagePlan):
        shape = plan.images.shape
        return _with_shape(plan, (*shape[:axis], length, *shape[axis + 1 :]))
    if isinstance(plan, ConvPoolPlan):
        conv, pool = _resized(plan.conv, axis, length), _resized(plan.pool, axis, length)
        return replace(plan, conv=conv, pool=pool)  # type: ignore[arg-type]
    of_batch = axis == 0 and plan.input.batched
    change: dict[str, Any] = {"batch" if of_batch else "channels": length}
    return replace(plan, input=replace(plan.input, **change), output=replace(plan.output, **change))


def _with_shape(plan: Any, shape: Sequence[int]) -> Plan:
    """An image plan for images of another shape."""
    result: Plan = replace(plan, images=replace(plan.images, shape=tuple(shape)))
    return result


# Bands of images


def _bands(piece: Piece, limit: int) -> Iterator[Piece]:
    """Cut one image into bands of rows."""
    plan: Any = piece.plan
    images, (above, below) = plan.images, _reach(plan)
    height, overlap = images.size[0], above + below
    if height <= overlap:
        yield piece
        return
    axis = len(images.shape) - (3 if images.channels_last else 2)
    most = max(limit * height // piece.nbytes - overlap, overlap)
    for part in _parts(height, most):
        start, stop = part.start - above, part.stop + below
        if images.border is not Border.WRAP:
            start, stop = _inside(start, stop, height, overlap + 1)
        source = _gathered(piece.inputs[0], axis, start, stop)
        yield Piece(
            _with_shape(plan, source.shape),
            [source],
            [a[_at(axis, part.start, part.stop)] for a in piece.outputs],
            _at(axis, part.start - start, part.stop - start),
        )


def _reach(plan: ImagePlan) -> tuple[int, int]:
    """Rows above and below an output that it depends on."""
    if not isinstance(plan, MorphPlan):
        above, below = plan.windows[0].pad  # type: ignore[attr-defined]
        return above, below
    pads = [step.windows[0].pad for step in plan.steps]
    combined = max if plan.gradient else sum
    return combined(above for above, _ in pads), combined(below for _, below in pads)


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


def _gathered(array: Values, axis: int, start: int, stop: int) -> Values:
    """Rows start..stop of an array that repeats itself beyond its edges."""
    length = array.shape[axis]
    if start >= 0 and stop <= length:
        return array[_at(axis, start, stop)]
    rows: Any = np.arange(start, stop) % length
    return array[(slice(None),) * axis + (rows,)]


# Rows of feature maps


@dataclass(frozen=True, slots=True)
class _Band:
    """What a piece reads along an axis: rows start..stop of the input, under a window's own pads.

    Its first `skip` results are not wanted.
    """

    start: int
    stop: int
    window: AxisWindow
    skip: int = 0


def _rows(piece: Piece, limit: int, axis: int) -> Iterator[Piece]:
    """Cut along the first spatial axis."""
    plan: Any = piece.plan
    shape, target = _input_map(plan), plan.outputs[0].shape
    stride, extent = _scale(plan)
    row = piece.inputs[0].nbytes / shape.spatial[0]
    out_row = (piece.nbytes - piece.inputs[0].nbytes) / target[axis]
    shared = (extent - stride) * row
    most = max((limit - shared) / (stride * row + out_row), (extent - stride) / stride)
    parts = list(_parts(target[axis], int(most)))
    cuts = [_cut_rows(plan, part) for part in parts]
    if len(parts) == 1 or None in cuts:
        yield piece
        return
    indices = isinstance(plan, PoolPlan) and plan.index_dtype is not None
    for part, (smaller, band) in zip(parts, cuts, strict=True):  # type: ignore[misc]
        yield Piece(
            smaller,
            [_gathered(piece.inputs[0], axis, band.start, band.stop), *piece.inputs[1:]],
            [a[_at(axis, part.start, part.stop)] for a in piece.outputs],
            _at(axis, band.skip, band.skip + len(part)),
            band.start * prod(shape.spatial[1:]) if indices else 0,
        )


def _scale(plan: Any) -> tuple[float, float]:
    """Inputs from one output to the next along the first axis, and inputs of a single output."""
    if isinstance(plan, ConvPoolPlan):
        conv, pool = plan.conv.windows[0], plan.pool.windows[0]
        return conv.stride * pool.stride, conv.input_span(pool.extent)
    window = plan.windows[0]
    if isinstance(plan, ConvTransposePlan):
        return 1 / window.stride, window.extent / window.stride + 1
    return window.stride, window.extent


def _cut_rows(plan: Any, outputs: range) -> tuple[Plan, _Band] | None:
    """The plan for some outputs, or None where it would not be exact."""
    length = _input_map(plan).spatial[0]
    if isinstance(plan, ConvPoolPlan):
        return _cut_pooled_rows(plan, outputs)
    if isinstance(plan, ConvTransposePlan):
        band: _Band | None = _transposed_band(plan.windows[0], length, outputs)
    else:
        border = plan.border if isinstance(plan, ConvPlan) else Border.CONSTANT
        band = _band(plan.windows[0], length, outputs, border)
    return None if band is None else (_with_rows(plan, band, outputs), band)


def _cut_pooled_rows(plan: ConvPoolPlan, outputs: range) -> tuple[Plan, _Band] | None:
    """The convolution computes just what the pool reads: no result of it may be unwanted."""
    conv, pool = plan.conv, plan.pool
    for first in range(outputs.start, -1, -1):
        wanted = range(first, outputs.stop)
        pooled = _band(pool.windows[0], pool.input.spatial[0], wanted)
        assert pooled is not None
        between = range(pooled.start, pooled.stop)
        band = _band(conv.windows[0], conv.input.spatial[0], between, conv.border)
        if band is None:
            return None
        if not band.skip:
            smaller = ConvPoolPlan(
                _with_rows(conv, band, between), _with_rows(pool, pooled, wanted)
            )
            return smaller, replace(band, skip=pooled.skip + outputs.start - first)
    raise AssertionError("the first outputs read the first rows")


def _with_rows(plan: Any, band: _Band, outputs: range) -> Any:
    """A plan that reads a band and fills some rows."""
    rows = band.stop - band.start
    return replace(
        plan,
        input=replace(plan.input, spatial=(rows, *plan.input.spatial[1:])),
        output=replace(plan.output, spatial=(len(outputs) + band.skip, *plan.output.spatial[1:])),
        windows=(band.window, *plan.windows[1:]),
    )


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
    stride, reach = window.stride, window.extent - 1
    first, last = outputs.start + window.pad[0], outputs.stop - 1 + window.pad[0]
    start = min(max(0, -((reach - first) // stride)), first // stride, length - 1)
    stop = min(length, last // stride + 1)
    before = first - start * stride
    after = window.input_span(stop - start) - before - len(outputs)
    return _Band(start, stop, replace(window, pad=(before, max(0, after))))
