"""Images larger than memory: a chain of operations, computed one rectangle of its result at a time.

    result   ┌──┬──┐   each rectangle asks the last operation's plan what it reads, that one the
             ├──┼──┤   operation before it, and so on down to the source, which is asked for just
             └──┴──┘   those pixels

Seams are where they would be without tiles: bit for bit for integers, within the bound for floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpuconv.arrays import Array, Spec
from gpuconv.backends import run, use_backend
from gpuconv.dtypes import DType
from gpuconv.errors import NotTileableError
from gpuconv.plan import Plan
from gpuconv.plan.filters import ImagePlan
from gpuconv.plan.parts import (
    channels_last,
    grains,
    input_map,
    input_size,
    output_size,
    part_of,
    whole,
)

Read = Callable[[range, range], Array]
"""(rows, columns) → these pixels of the source, with all its other axes."""

TILE_BYTES = 32 << 20
"""Of a tile and what it reads: more makes it no faster, unless its windows reach far."""

FARTHEST = 8
"""Rows of a tile for each row that its windows reach beyond it, where memory allows."""


@dataclass(frozen=True, slots=True)
class Link:
    """One operation of a chain: its plan for the whole image, and its operands but the image."""

    plan: Plan
    operands: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations one after another on images of one shape, and what a part of the result needs.

    `axes` are the two spatial ones, counted from the last.
    """

    input: Spec
    output: Spec
    axes: tuple[int, int]
    links: tuple[Link, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.output.shape[self.axes[0]], self.output.shape[self.axes[1]]

    @property
    def inner_bytes(self) -> int:
        """Results between the operations that are in memory at a time, for the whole image."""
        inner = [prod(s.shape) * s.dtype.itemsize for s in map(_input_spec, self.plans[1:])]
        return max(map(sum, zip(inner, [0, *inner], strict=False)), default=0)

    @property
    def plans(self) -> list[Plan]:
        """The plan of every operation."""
        return [link.plan for link in self.links]

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the source."""
        return self.input.shape[self.axes[0]], self.input.shape[self.axes[1]]

    def compute(self, rows: range, columns: range, read: Read, backend: Any = None) -> Array:
        """A rectangle of the result.

        Parameters
        ----------
        rows, columns : where it lies in the result; not empty.
        read : gives rectangles of the source, as NumPy or CuPy arrays.

        Returns
        -------
        Array of the result's dtype and axes, where `read` put the source.
        """
        found = self._region(len(self.links), (rows, columns), read, backend)
        return found.reshape(self._with_size(self.output.shape, found, self.axes))

    def reads(self, rows: range, columns: range) -> tuple[range, range]:
        """Rows and columns of the source that a rectangle depends on, wrapped ones apart."""
        box = (rows, columns)
        for link in reversed(self.links):
            box = _reads(link.plan, box)
        return box

    def nbytes(self, rows: int, columns: int) -> int:
        """Most memory that a rectangle of that size needs at a time, with what it reads."""
        box = tuple(
            range((n - k) // 2, (n - k) // 2 + k)
            for n, k in zip(self.size, (rows, columns), strict=True)
        )
        most, held = 0, _bytes_of(self.output, self.axes, box)
        for link in reversed(self.links):
            box = _reads(link.plan, box)
            wanted = _bytes_of(_input_spec(link.plan), self.axes, box)
            most = max(most, held + wanted)
            held = wanted
        return max(most, 2 * held)  # the source makes its pixels of others

    def tile(self, limit: int) -> tuple[int, int]:
        """(rows, columns) of tiles that need at most `limit` bytes each.

        They are as wide as the image if that leaves them high enough.

        Raises
        ------
        NotTileableError : a single output needs more.
        """
        height, width = self.size
        overlap = sum(len(r) for r in self.reads(range(1), range(width))[:1])
        wanted = min(height, max(16, FARTHEST * overlap))
        columns = width
        while True:
            rows = self._highest(columns, min(limit, max(TILE_BYTES, self.nbytes(wanted, columns))))
            if rows >= min(height, max(16, overlap)) or columns == 1 or (rows and columns <= 64):
                break
            columns = -(-columns // 2)
        if rows == 0:
            raise NotTileableError(
                f"a single pixel of the result needs {self.nbytes(1, 1)} bytes, more than {limit}"
            )
        return rows, columns

    def _highest(self, columns: int, limit: int) -> int:
        """Most rows of a tile of `columns` columns within `limit` bytes; 0 if none."""
        low, high = 0, self.size[0]
        while low < high:
            middle = (low + high + 1) // 2
            if self.nbytes(middle, columns) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _region(self, level: int, box: tuple[range, range], read: Read, backend: Any) -> Array:
        """A rectangle of what the first `level` operations give; inside of it all."""
        if level == 0:
            return read(*box)
        link = self.links[level - 1]
        return _join_all(
            [
                [
                    self._grain(link, level, (rows, columns), read, backend)
                    for columns in grains(link.plan, 1, box[1])
                ]
                for rows in grains(link.plan, 0, box[0])
            ],
            self.axes,
        )

    def _grain(
        self, link: Link, level: int, box: tuple[range, range], read: Read, backend: Any
    ) -> Array:
        plan: Any = link.plan
        found = []
        for axis, outputs in enumerate(box):
            found.append(part_of(plan, axis, outputs) or whole(plan, axis, outputs))
            plan = found[-1].plan
        pieces = [
            unwrapped(p.start, p.stop, n) for p, n in zip(found, input_size(link.plan), strict=True)
        ]
        source = _join_all(
            [
                [self._region(level - 1, (rows, columns), read, backend) for columns in pieces[1]]
                for rows in pieces[0]
            ],
            self.axes,
        )
        source = source.reshape(_input_spec(plan).shape)
        result = run(plan, source, *link.operands, backend=backend)
        keep: list[Any] = [slice(None)] * result.ndim
        for axis, p, outputs in zip(self.axes, found, box, strict=True):
            keep[axis] = slice(p.skip, p.skip + len(outputs))
        return result[tuple(keep)]

    @staticmethod
    def _with_size(shape: Sequence[int], like: Array, axes: tuple[int, int]) -> tuple[int, ...]:
        sizes = list(shape)
        for axis in axes:
            sizes[axis] = like.shape[axis]
        return tuple(sizes)


def _input_spec(plan: Any) -> Spec:
    if isinstance(plan, ImagePlan):
        return Spec(plan.images.shape, plan.images.dtype)
    dtype = getattr(plan, "dtype", None) or getattr(plan, "conv", plan).input_dtype
    return Spec(input_map(plan).shape, dtype)


def _bytes_of(spec: Spec, axes: tuple[int, int], box: Sequence[range]) -> int:
    shape = list(spec.shape)
    for axis, part in zip(axes, box, strict=True):
        shape[axis] = len(part)
    return prod(shape) * spec.dtype.itemsize


def _reads(plan: Plan, box: Sequence[range]) -> tuple[range, range]:
    """What a rectangle of a plan's results reads, cut to what there is."""
    found = []
    for axis, (outputs, length) in enumerate(zip(box, input_size(plan), strict=True)):
        ends = [g[i] for g in (grains(plan, axis, outputs),) for i in (0, -1)]
        parts = [part_of(plan, axis, end) or whole(plan, axis, end) for end in ends]
        start, stop = min(p.start for p in parts), max(p.stop for p in parts)
        most = min(length, stop - start)
        start = min(max(0, start), length - most)
        found.append(range(start, start + most))
    return found[0], found[1]


def unwrapped(start: int, stop: int, length: int) -> list[range]:
    """start..stop along an axis that begins anew after `length`, as ranges inside of it."""
    found = []
    while start < stop:
        inside = start % length
        size = min(length - inside, stop - start)
        found.append(range(inside, inside + size))
        start += size
    return found


def cut(length: int, most: int) -> Iterator[range]:
    """An axis in ranges of at most `most`."""
    for start in range(0, length, most):
        yield range(start, min(length, start + most))


def _join_all(grid: Sequence[Sequence[Array]], axes: tuple[int, int]) -> Array:
    """Rectangles side by side and below each other as one; a single one as it is.

    NumPy hands arrays of other libraries to those (NEP 18).
    """
    rows = [line[0] if len(line) == 1 else np.concatenate(line, axes[1]) for line in grid]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axes[0])


# Tracing


class Traced:
    """Stands for an image that is not there: shape and dtype, and which operation gave it."""

    def __init__(self, shape: Sequence[int], dtype: DType, link: int) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.link = link

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def reshape(self, *shape: Any) -> Traced:
        """The same image, its batch folded otherwise."""
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return Traced(sizes, self.dtype, self.link)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("there are no pixels to look at yet")


class _Tracer:
    """A backend that writes down what it is asked for, and computes nothing."""

    name = "tracer"

    def __init__(self) -> None:
        self.links: list[Link] = []

    def scope(self, array: Array) -> Any:
        """Nowhere."""
        return nullcontext()

    def lane(self, device: int | None = None) -> Any:
        """Nowhere."""
        return nullcontext()

    def adopt(self, argument: str, array: Array) -> Any:
        """As it is."""
        return array

    def empty(self, spec: Spec, like: Any) -> Traced:
        """What the next operation gives."""
        return Traced(spec.shape, spec.dtype, len(self.links))

    def run(self, plan: Plan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Write the plan down."""
        first, *others = inputs
        place = len(self.links) - 1
        if not isinstance(first, Traced) or first.link != place or len(outputs) != 1:
            raise NotTileableError("its operations are no chain from one image to one image")
        if any(isinstance(other, Traced) for other in others):
            raise NotTileableError("an operation takes the image as two of its operands")
        missing = len(plan.operands) - 1 - len(others)  # a bias, which comes last
        self.links.append(Link(plan, (*others, *[None] * missing)))


def trace(
    function: Callable[..., Any],
    shape: Sequence[int],
    dtype: DType,
    *,
    channel_axis: int | None = None,
) -> Chain:
    """The chain of gpuconv's operations that `function` runs on images of that shape and dtype.

    Parameters
    ----------
    function : a Pipeline, or a function that passes an array (..., H, W), or (..., H, W, C) if
        `channel_axis` is -1, through any of gpuconv's filters, convolutions (2-D) and pools.

    Raises
    ------
    NotTileableError : it does something else with the array.
    ValueError, TypeError : as the operations' own.
    """
    tracer = _Tracer()
    source = Traced(shape, np.dtype(dtype), -1)
    keywords = {} if channel_axis is None else {"channel_axis": channel_axis}
    with use_backend(tracer):
        try:
            result = function(source, **keywords)
        except (AttributeError, TypeError) as error:
            if "Traced" in str(error) or "no pixels" in str(error):
                raise NotTileableError(f"it does more than gpuconv's operations: {error}") from None
            raise
    if not isinstance(result, Traced) or result.link != len(tracer.links) - 1:
        raise NotTileableError("it does not give back what its last operation gave")
    last = [channels_last(link.plan) for link in tracer.links] or [channel_axis is not None]
    if len(set(last)) > 1:
        raise NotTileableError("its operations disagree on where the channels are")
    if any(len(output_size(link.plan)) != 2 for link in tracer.links):
        raise NotTileableError("only operations on two spatial axes can be cut into tiles")
    axes = (-3, -2) if last[0] else (-2, -1)
    return Chain(
        Spec(source.shape, source.dtype),
        Spec(result.shape, result.dtype),
        axes,
        tuple(tracer.links),
    )
