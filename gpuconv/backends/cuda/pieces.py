"""Host arrays cut into pieces that pass through a device one after another.

A piece is a smaller call with a plan of its own, so that the kernels know nothing of it. Calls
are cut along the batch first, then, where the planes are independent, along the channels, at last
into bands of rows that overlap by what the windows reach. A wrapping border is gathered on the
host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.plan import (
    ChainPlan,
    ConvPlan,
    ConvPoolPlan,
    ConvTransposePlan,
    Plan,
    PoolPlan,
    UnpoolPlan,
)
from gpuconv.plan.filters import ImagePlan
from gpuconv.plan.parts import input_map, input_size, part_of, reach

Values = npt.NDArray[Any]
Place = tuple[slice, ...]

PIECE_BYTES = 256 << 20
"""Input and output of a piece, in about."""


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
    if isinstance(plan, ChainPlan):
        lead = len(plan.images.shape) - (3 if plan.channels_last else 2)
        yield from (partial(_slices, axis=axis) for axis in range(lead))
        yield partial(_rows, axis=lead)
        return
    shape = input_map(plan)
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
    if isinstance(plan, ChainPlan):
        before = plan.images.shape
        images = replace(plan.images, shape=(*before[:axis], length, *before[axis + 1 :]))
        steps: list[Plan] = []
        for step in plan.steps:
            if isinstance(step, ImagePlan):
                shape = step.images.shape
                steps.append(_with_shape(step, (*shape[:axis], length, *shape[axis + 1 :])))
            else:  # pools fold the axes of the batch
                steps.append(_resized(step, 0, step.input.batch // before[axis] * length))
        return replace(plan, images=images, steps=tuple(steps))
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
    height, overlap = plan.images.size[0], sum(reach(plan, 0))
    if height <= overlap:
        yield piece
        return
    axis = len(plan.images.shape) - (3 if plan.images.channels_last else 2)
    most = max(limit * height // piece.nbytes - overlap, overlap)
    yield from _parted(piece, list(_parts(height, most)), axis)


# Rows of feature maps, and of chains


def _rows(piece: Piece, limit: int, axis: int) -> Iterator[Piece]:
    """Cut along the first spatial axis."""
    plan: Any = piece.plan
    target = plan.outputs[0].shape
    stride, extent = _scale(plan)
    row = piece.inputs[0].nbytes / input_size(plan)[0]
    out_row = (piece.nbytes - piece.inputs[0].nbytes) / target[axis]
    shared = (extent - stride) * row
    most = max((limit - shared) / (stride * row + out_row), (extent - stride) / stride)
    yield from _parted(piece, list(_parts(target[axis], int(most))), axis)


def _parted(piece: Piece, wanted: Sequence[range], axis: int) -> Iterator[Piece]:
    """A piece for each range of output rows; the piece as it is where no smaller one is exact."""
    found = [part_of(piece.plan, 0, outputs) for outputs in wanted]
    if len(wanted) == 1 or None in found:
        yield piece
        return
    indices = isinstance(piece.plan, PoolPlan) and piece.plan.index_dtype is not None
    row = prod(input_size(piece.plan)[1:]) if indices else 0
    for outputs, smaller in zip(wanted, found, strict=True):
        assert smaller is not None
        yield Piece(
            smaller.plan,
            [_gathered(piece.inputs[0], axis, smaller.start, smaller.stop), *piece.inputs[1:]],
            [a[_at(axis, outputs.start, outputs.stop)] for a in piece.outputs],
            _at(axis, smaller.skip, smaller.skip + len(outputs)),
            smaller.start * row,
        )


def _gathered(array: Values, axis: int, start: int, stop: int) -> Values:
    """Rows start..stop of an array that repeats itself beyond its edges."""
    length = array.shape[axis]
    if start >= 0 and stop <= length:
        return array[_at(axis, start, stop)]
    rows: Any = np.arange(start, stop) % length
    return array[(slice(None),) * axis + (rows,)]


def _scale(plan: Any) -> tuple[float, float]:
    """Inputs from one output to the next along the first axis, and inputs of a single output."""
    if isinstance(plan, ConvPoolPlan):
        conv, pool = plan.conv.windows[0], plan.pool.windows[0]
        return conv.stride * pool.stride, conv.input_span(pool.extent)
    if isinstance(plan, ChainPlan):
        stride, extent = 1, 1
        for step in reversed(plan.steps):
            if isinstance(step, ImagePlan):
                extent += sum(reach(step, 0))
            elif isinstance(step, PoolPlan):
                stride *= step.windows[0].stride
                extent = step.windows[0].input_span(extent)
        return stride, extent
    window = plan.windows[0]
    if isinstance(plan, ConvTransposePlan):
        return 1 / window.stride, window.extent / window.stride + 1
    return window.stride, window.extent
