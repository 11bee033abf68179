"""Sums and extremes of neighbours by doubling: windows of 2, 4, 8, … are made of two halves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Values
from gpuconv.dtypes import DType

Reduce = Callable[[Values, int, int, Values], None]
"""(values, size, step, out): over `size` neighbours that lie `step` apart along axis 1.

`out` is shorter than `values` (b, n, …) by (size − 1)·step, and its last axis may be shorter too.
"""


def window_sums(values: Values, size: int, step: int, out: Values) -> None:
    """Sums, in about 2·log2(size) additions."""
    if size == 1:
        out[...] = _part(values, 0, out)
        return
    length, width, current = values.shape[1], 1, values
    with Scratch() as scratch:
        halves = [scratch.take(values.shape, values.dtype) for _ in range(min(2, size - 1))]
        for bit in reversed(range(size.bit_length() - 1)):
            odd = size >> bit & 1
            length -= width * step
            target = halves[0][:, :length] if bit or odd else out
            np.add(_part(current, 0, target), _part(current, width * step, target), out=target)
            width *= 2
            halves.reverse()
            current = target
            if odd:
                length -= step
                target = halves[1][:, :length] if bit else out
                more = _part(values, width * step, target)
                np.add(_part(current, 0, target), more, out=target)
                width += 1
                current = target


def window_extremes(ufunc: np.ufunc) -> Reduce:
    """Maxima or minima, in about log2(size) steps: the last two windows overlap."""

    def reduce(values: Values, size: int, step: int, out: Values) -> None:
        if size == 1:
            out[...] = _part(values, 0, out)
            return
        length, width, current = values.shape[1], 1, values
        with Scratch() as scratch:
            steps = (size - 1).bit_length()
            halves = [scratch.take(values.shape, values.dtype) for _ in range(min(2, steps - 1))]
            while width < size:
                more = min(width, size - width)
                width += more
                length -= more * step
                target = halves[0][:, :length] if width < size else out
                ufunc(_part(current, 0, target), _part(current, more * step, target), out=target)
                halves.reverse()
                current = target

    return reduce


def _part(values: Values, first: int, like: Values) -> Values:
    """As many values from `first` on as an array of the same axes has."""
    part = values[:, first : first + like.shape[1]]
    return part if values.shape[2:] == like.shape[2:] else part[:, :, : like.shape[2]]


def columns(
    reduce: Reduce, middle: Values, size: int, inner: int, dtype: DType, scratch: Scratch
) -> Values:
    """Neighbours along W of a tile (b, h, pitch), as `dtype` and of the same shape.

    Rows are taken for one line: what starts in the last size − 1 pixels of a row means nothing.
    """
    line = middle.reshape(1, -1)
    if dtype != middle.dtype:
        line = scratch.take(line.shape, dtype)
        np.copyto(line, middle.reshape(1, -1), "unsafe")
    out = scratch.take(line.shape, dtype)
    reach = (size - 1) * inner
    out[:, line.shape[1] - reach :] = 0
    reduce(line, size, inner, out[:, : line.shape[1] - reach])
    return out.reshape(middle.shape)
