"""Reductions along one axis of a tile: windows that slide, and cells of an adaptive pool.

A state is a tuple of arrays of one shape: what is known of each place. `merge` and `join` of an
operation tell what is known of two sets of places together. Sums meet pairwise, so that their
error grows with a logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from gpuconv.backends.numpy.tile import even
from gpuconv.window import AxisWindow, adaptive_window

Values = npt.NDArray[Any]
State = tuple[Values, ...]


class Merger(Protocol):
    """Puts two states of one shape together, in new arrays or in those of the first."""

    def merge(self, first: State, second: State, overwrite: bool = False) -> State:
        """Where all places of `first` lie before those of `second`."""

    def join(self, first: State, second: State, overwrite: bool = False) -> State:
        """Where they lie in any order."""


Reduce = Callable[[State, int, Merger], State]
Part = tuple[int, int, Reduce]
"""Input from, input to, and what is to be done with it."""

SLABS = 16
"""Terms that are merged one after another: as many keep the contract's bound on any data."""

OVERLAP = 4
"""How often an element may be read before sums shared by the windows are cheaper."""


def cut(state: State, axis: int, where: slice) -> State:
    """Part of a state along an axis."""
    return tuple(a[(slice(None),) * axis + (where,)] for a in state)


def slide(state: State, axis: int, merger: Merger, *, window: AxisWindow, outputs: int) -> State:
    """Reduce every window along `axis`, whose first element starts the first window."""
    size, span = window.size, window.input_span(outputs)
    if size > 1 and 2 * size.bit_length() * span < size * outputs:
        return _slide_doubling(state, axis, merger, window, outputs)
    if size > SLABS:
        return _fold(_windows(state, axis, window, outputs), axis + 1, merger)
    last = (outputs - 1) * window.stride + 1
    slabs = [
        cut(state, axis, slice(at, at + last, window.stride))
        for at in range(0, window.extent, window.dilation)
    ]
    result = slabs[0]
    for place, slab in enumerate(slabs[1:]):
        result = merger.merge(result, slab, overwrite=place > 0)
    return result


def _slide_doubling(
    state: State, axis: int, merger: Merger, window: AxisWindow, outputs: int
) -> State:
    """Share the work of windows that overlap: reductions of 1, 2, 4, … taps at every place."""
    last = (outputs - 1) * window.stride + 1
    result: State | None = None
    taps, done = 1, 0
    while True:
        if window.size & taps:
            at = done * window.dilation
            piece = cut(state, axis, slice(at, at + last, window.stride))
            result = piece if result is None else merger.merge(result, piece)
            done += taps
        if done == window.size:
            return result  # type: ignore[return-value]
        step = taps * window.dilation
        state = merger.merge(
            cut(state, axis, slice(None, -step)), cut(state, axis, slice(step, None))
        )
        taps *= 2


def _windows(state: State, axis: int, window: AxisWindow, outputs: int) -> State:
    """Replace `axis` by two: the windows, and their taps."""

    def view(a: Values) -> Values:
        step = a.strides[axis]
        return as_strided(
            a,
            (*a.shape[:axis], outputs, window.size, *a.shape[axis + 1 :]),
            (
                *a.strides[:axis],
                step * window.stride,
                step * window.dilation,
                *a.strides[axis + 1 :],
            ),
            writeable=False,
        )

    return tuple(map(view, state))


def _fold(state: State, axis: int, merger: Merger) -> State:
    """Reduce a whole axis, half onto half."""
    length = state[0].shape[axis]
    while length > 1:
        half = length // 2
        rest = cut(state, axis, slice(2 * half, None))
        state = merger.join(cut(state, axis, slice(half)), cut(state, axis, slice(half, 2 * half)))
        if length % 2:
            first = cut(state, axis, slice(1))
            merger.join(first, rest, overwrite=True)
        length = half
    return tuple(a[(slice(None),) * axis + (0,)] for a in state)


def gather(state: State, axis: int, merger: Merger, *, starts: Values, sizes: Values) -> State:
    """Reduce cells of different places and sizes along `axis`."""
    results: list[Values] = []
    for size in np.unique(sizes):
        cells = np.flatnonzero(sizes == size)
        index = starts[cells, np.newaxis] + np.arange(size)
        part = _fold(tuple(a.take(index, axis) for a in state), axis + 1, merger)
        if not results:
            shape = (*part[0].shape[:axis], len(sizes), *part[0].shape[axis + 1 :])
            results = [np.empty(shape, a.dtype) for a in part]
        for result, values in zip(results, part, strict=True):
            result[(slice(None),) * axis + (cells,)] = values
    return tuple(results)


class Cells:
    """The windows of an adaptive pool along one axis: `outputs` cells share `length` elements."""

    def __init__(self, length: int, outputs: int) -> None:
        self.length = length
        self.starts, self.stops = adaptive_window(np.arange(outputs), length, outputs)
        self.sizes = self.stops - self.starts

    def as_window(self) -> AxisWindow:
        """A regular window at least as large and as far from its neighbour."""
        return AxisWindow(int(self.sizes.max()), -(-self.length // len(self.starts)))

    def parts(self, outputs: slice, limit: int) -> Iterator[Part]:
        """The input of some cells. A single one is read in parts of at most `limit`."""
        first, last = int(self.starts[outputs.start]), int(self.stops[outputs.stop - 1])
        if outputs.stop - outputs.start > 1:
            reduce = partial(gather, starts=self.starts[outputs] - first, sizes=self.sizes[outputs])
            yield first, last, reduce
            return
        step = even(last - first, limit)
        for at in range(first, last, step):
            end = min(last, at + step)
            yield at, end, partial(slide, window=AxisWindow(end - at), outputs=1)

    def counts(self, outputs: slice) -> Values | int:
        """Elements of each cell."""
        return self.sizes[outputs]


class Windows:
    """The windows of a pool along one axis of `length` elements; padding counts on demand."""

    def __init__(self, length: int, window: AxisWindow, count_pad: bool) -> None:
        self.window = window
        before, after = window.pad if count_pad else (0, 0)
        self._bounds = -before, length + after

    def as_window(self) -> AxisWindow:
        """The window."""
        return self.window

    def parts(self, outputs: slice, limit: int) -> Iterator[Part]:
        """The input of some windows, in parts whose taps reach over at most `limit` elements."""
        w, count = self.window, outputs.stop - outputs.start
        step = even(w.size, 1 + (limit - 1) // w.dilation)
        for tap in range(0, w.size, step):
            part = AxisWindow(min(step, w.size - tap), w.stride, w.dilation)
            start = outputs.start * w.stride - w.pad[0] + tap * w.dilation
            reduce = partial(slide, window=part, outputs=count)
            yield start, start + part.input_span(count), reduce

    def counts(self, outputs: slice) -> Values | int:
        """Elements of each window that an average counts; one number if all are whole."""
        w = self.window
        start, stop = w.input_range(outputs.start, outputs.stop)
        if self._bounds[0] <= start and stop <= self._bounds[1]:
            return w.size
        first = np.arange(outputs.start, outputs.stop) * w.stride - w.pad[0]
        low, high = (np.clip(-((first - b) // w.dilation), 0, w.size) for b in self._bounds)
        count: Values = high - low
        return count


Axis = Cells | Windows


def adaptive_axis(length: int, outputs: int) -> Axis:
    """Cells, or regular windows where all cells are alike."""
    if length % outputs:
        return Cells(length, outputs)
    size = length // outputs
    return Windows(length, AxisWindow(size, size), False)


def counts(axes: Sequence[Axis], region: Sequence[slice]) -> Values | int:
    """Elements counted for each place of a region, (1, *region, 1), or one number for all."""
    total: Any = 1
    for place, (axis, outputs) in enumerate(zip(axes, region, strict=True)):
        count = axis.counts(outputs)
        if isinstance(count, int):
            total = total * count
        elif np.all(count == count[0]):
            total = total * int(count[0])
        else:
            total = total * count.reshape(*[-1 if i == place else 1 for i in range(len(axes))])
    return total if isinstance(total, int) else total[np.newaxis, ..., np.newaxis]
