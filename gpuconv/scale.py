"""Arrays larger than one machine: chains of operations on Dask's chunks.

    source  ┌────┬────┬────┐   one task a chunk of the result. It gets the chunks of the source that
            │    │▒▒▒▒│    │   it mostly reads as they are, and of others only the strips along
            ├────┼────┼────┤   their edges; where a border wraps, the strips of the other side.
            │    │▒▒▒▒│    │
            └────┴────┴────┘

Chunks are computed as `tiling` computes tiles: the result does not depend on how it is cut.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import ceil, isnan, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.arrays import Array
from gpuconv.backends import use_backend
from gpuconv.clusters import ClusterError, cluster, run_on
from gpuconv.extras import need
from gpuconv.pipeline import Pipeline
from gpuconv.plan import AdaptivePoolPlan, ConvPlan, ConvPoolPlan, ConvTransposePlan, Plan
from gpuconv.plan.filters import ImagePlan
from gpuconv.plan.parts import grains, input_map, input_size, output_size, part_of, whole
from gpuconv.tiling import Chain, trace, unwrapped
from gpuconv.window import AxisWindow

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["ClusterError", "cluster", "map", "run_on"]


def map(
    pipeline: Pipeline | str | Callable[..., Any],
    array: da.Array,
    *,
    channel_axis: int | None = None,
    chunks: Any = None,
    backend: Any = None,
) -> da.Array:
    """Run operations on a Dask array, lazily: the result is that of the array in one piece.

    Parameters
    ----------
    pipeline : a Pipeline, the text of a step, or a function that passes an array through any of
        gpuconv's filters, convolutions (2-D) and pools.
    array : (..., H, W), or (..., H, W, C) with channel_axis=-1; chunks of any sizes, which are
        NumPy or CuPy arrays. A convolution's channels, and C, become one chunk. On a cluster,
        chunks of some 16 megapixels keep Dask's own work small.
    chunks : of the result, as `rechunk` takes them; None leaves them where the array's are.
    backend : that of the workers.

    Returns
    -------
    A Dask array of the same library's arrays. A task mostly reads one chunk and the edges of its
    neighbours; a global pool reads the whole image.

    Raises
    ------
    ValueError : sizes of chunks are unknown, or as the operations' own.
    NotTileableError : the function does more than gpuconv's operations.
    MissingExtraError : Dask is not installed.
    """
    need("gpuconv.scale", "dask", "dask")
    kind: Any = import_module("dask.array").Array
    if not isinstance(array, kind):
        raise TypeError(f"array must be a Dask array, got {type(array).__name__}")
    if any(isnan(n) for sizes in array.chunks for n in sizes):
        raise ValueError(
            f"array must have chunks of known sizes, got {array.chunks}; "
            "call its compute_chunk_sizes() first"
        )
    function = pipeline if callable(pipeline) else Pipeline(pipeline)
    with use_backend(backend):  # nothing is computed yet
        batches = _Batches(function, array, channel_axis)
    sizes = _result_chunks(batches, array, chunks)
    return _mapped(batches, array, sizes, backend, (function, channel_axis))


def _mapped(
    batches: _Batches, array: Any, sizes: tuple[tuple[int, ...], ...], backend: Any, told: Any
) -> da.Array:
    """The Dask array of the result; `told` is what makes its name, with all else."""
    base, graphs = import_module("dask.base"), import_module("dask.highlevelgraph")
    source = array.rechunk({a: sizes[a] if a in batches.free else -1 for a in batches.axes})
    name = f"gpuconv-{base.tokenize(source.name, told, sizes, backend)}"
    graph = graphs.HighLevelGraph.from_collections(
        name, _graph(name, batches, source, sizes, backend), dependencies=[source]
    )
    output = batches.chain.output
    utils = import_module("dask.array.utils")
    meta = utils.meta_from_array(array._meta, ndim=len(output.shape), dtype=output.dtype)
    result: da.Array = type(array)(graph, name, sizes, meta=meta)
    return result


# Batches


class _Batches:
    """Which axes of a batch can be computed apart, and the chain for a part of it.

    chain : that of the whole array. axes : of the array, all but the spatial ones. free : those
    of them whose images are independent.
    """

    def __init__(self, function: Callable[..., Any], array: Any, channel_axis: int | None) -> None:
        self._make = partial(trace, function, dtype=array.dtype, channel_axis=channel_axis)
        self.chain: Chain = self._make(array.shape)
        self.axes = _others(array.ndim, self.chain)
        self.free = _free_axes(self.chain)
        if not self._can_be_split():
            self.free = ()

    def _can_be_split(self) -> bool:
        """Whether the function does with one image what it does with all of them."""
        try:
            one = self.block([1] * len(self.free))
        except (ValueError, TypeError):  # it insists on the shape of the whole
            return False
        return _images(one, self.free) == _images(self.chain, self.free)

    def block(self, sizes: Sequence[int]) -> Chain:
        """The chain for blocks of these sizes along the free axes."""
        shape = list(self.chain.input.shape)
        for axis, size in zip(self.free, sizes, strict=True):
            shape[axis] = size
        return self.chain if tuple(shape) == self.chain.input.shape else self._make(shape)


def _others(ndim: int, chain: Chain) -> tuple[int, ...]:
    """Axes that are not spatial, counted from the first."""
    spatial = [ndim + axis for axis in chain.axes]
    return tuple(axis for axis in range(ndim) if axis not in spatial)


def _mixes(plan: Plan) -> bool:
    """Whether channels depend on each other."""
    return isinstance(plan, ConvPlan | ConvPoolPlan | ConvTransposePlan)


def _free_axes(chain: Chain) -> tuple[int, ...]:
    """Axes along which the images of a batch are independent, and stay what they are."""
    given, made = chain.input.shape, chain.output.shape
    free = list(_others(len(given), chain))
    if free and chain.axes == (-3, -2):
        free.remove(len(given) - 1)
    elif len(free) and any(_mixes(link.plan) for link in chain.links):
        free.remove(len(given) - 3)
    if len(given) != len(made) or any(given[axis] != made[axis] for axis in free):
        return ()
    return tuple(free) if _images(chain, free) is not None else ()


def _images(chain: Chain, free: Sequence[int]) -> list[int] | None:
    """Planes that each operation takes for each image of the free axes.

    None where one takes several images as one.
    """
    count = prod(chain.input.shape[axis] for axis in free)
    found = []
    for link in chain.links:
        plan: Any = link.plan
        if isinstance(plan, ImagePlan):
            planes = prod(plan.images.shape) // max(1, prod(plan.images.size))
        else:
            shape = input_map(plan)
            planes = shape.batch * shape.channels
            if _mixes(plan) and shape.batch != count:
                return None
        if planes % max(1, count):
            return None
        found.append(planes // count if count else 0)
    return found


# Chunks


def _result_chunks(batches: _Batches, array: Any, chunks: Any) -> tuple[tuple[int, ...], ...]:
    """Chunks of the result along all its axes."""
    chain = batches.chain
    shape = chain.output.shape
    derived: list[tuple[int, ...]] = [(size,) for size in shape]
    for axis in batches.free:
        derived[axis] = array.chunks[axis]
    for number, axis in enumerate(chain.axes):
        derived[axis] = _carried(chain, number, array.chunks[axis])
    if chunks is None:
        return tuple(derived)
    if isinstance(chunks, dict):
        told = {axis % len(shape): size for axis, size in chunks.items()}
        chunks = [told.get(axis) for axis in range(len(shape))]
    if isinstance(chunks, (tuple, list)):
        filled = zip(chunks, derived, strict=False)
        chunks = tuple(old if new is None else new for new, old in filled)
    wanted = import_module("dask.array.core").normalize_chunks(
        chunks, shape, dtype=chain.output.dtype, previous_chunks=tuple(derived)
    )
    for axis in set(_others(len(shape), chain)) - set(batches.free):
        if len(wanted[axis]) > 1:
            raise ValueError(f"chunks must leave axis {axis} whole, got {wanted[axis]}")
    spatial = [axis % len(shape) for axis in chain.axes]
    return tuple(
        tuple(int(n) for n in sizes if n or axis not in spatial)
        for axis, sizes in enumerate(wanted)
    )


def _carried(chain: Chain, axis: int, chunks: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a spatial axis' chunks, carried from the source to the result.

    An output belongs to the chunk that the middle of its window lies in.
    """
    ends: list[float] = list(itertools.accumulate(chunks))
    for link in chain.links:
        ends = [_carry(link.plan, axis, end) for end in ends]
    size = chain.size[axis]
    inside = (min(max(0, ceil(end - 0.5)), size) for end in ends[:-1])
    places = sorted({0, size, *inside})
    return tuple(b - a for a, b in itertools.pairwise(places))


def _carry(plan: Any, axis: int, place: float) -> float:
    """Where a place between two inputs comes to lie among the outputs."""
    if isinstance(plan, ImagePlan):
        return place
    if isinstance(plan, ConvPoolPlan):
        return _carry(plan.pool, axis, _carry(plan.conv, axis, place))
    if isinstance(plan, AdaptivePoolPlan):
        return place * output_size(plan)[axis] / input_size(plan)[axis]
    window: AxisWindow = plan.windows[axis]
    shift = window.extent / 2 - window.pad[0]
    if isinstance(plan, ConvTransposePlan):
        return (place - 0.5) * window.stride + shift
    return (place - shift) / window.stride + 0.5


def _reads(chain: Chain, axis: int, outputs: range) -> list[range]:
    """What some outputs along a spatial axis read of the source, in the pieces they read it in."""
    wanted = [outputs]
    for link in reversed(chain.links):
        plan = link.plan
        length = input_size(plan)[axis]
        found: dict[range, None] = {}
        for outer in wanted:
            for grain in grains(plan, axis, outer):
                part = part_of(plan, axis, grain) or whole(plan, axis, grain)
                found.update(dict.fromkeys(unwrapped(part.start, part.stop, length)))
        wanted = list(found)
    return wanted


# The graph


@dataclass(frozen=True, slots=True)
class _Work:
    """What the tasks of all blocks share."""

    chain: Chain
    backend: Any


@dataclass(frozen=True, slots=True)
class _Cut:
    """A task: start..stop of a chunk along an axis, in memory of its own."""

    axis: int
    start: int
    stop: int

    def __call__(self, chunk: Array) -> Array:
        place: list[Any] = [slice(None)] * chunk.ndim
        place[self.axis] = slice(self.start, self.stop)
        return chunk[tuple(place)].copy()


@dataclass(frozen=True, slots=True)
class _Block:
    """A task: a rectangle of the result, from pieces of the source.

    places : (row, column) of the source where each piece begins.
    """

    rows: range
    columns: range
    places: tuple[tuple[int, int], ...]

    def __call__(self, work: _Work, *pieces: Array) -> Array:
        axes = work.chain.axes

        def read(rows: range, columns: range) -> Array:
            return _put_together(pieces, self.places, (rows, columns), axes)

        return work.chain.compute(self.rows, self.columns, read, work.backend)


@dataclass(frozen=True, slots=True)
class _Touched:
    """The part of a chunk that is read along an axis: start..stop of the `size` from `first` on."""

    chunk: int
    first: int
    size: int
    start: int
    stop: int

    @property
    def share(self) -> float:
        """How much of the chunk that is."""
        return (self.stop - self.start) / self.size


def _put_together(
    pieces: Sequence[Array],
    places: Sequence[tuple[int, int]],
    box: tuple[range, range],
    axes: tuple[int, int],
) -> Array:
    """A rectangle of the source; a view where one piece holds it all."""
    result: Any = None
    for piece, firsts in zip(pieces, places, strict=True):
        source: list[Any] = [slice(None)] * piece.ndim
        target = list(source)
        covered = True
        for axis, first, wanted in zip(axes, firsts, box, strict=True):
            start = max(first, wanted.start)
            stop = min(first + piece.shape[axis], wanted.stop)
            if start >= stop:
                break
            covered = covered and stop - start == len(wanted)
            source[axis] = slice(start - first, stop - first)
            target[axis] = slice(start - wanted.start, stop - wanted.start)
        else:
            if covered:
                return piece[tuple(source)]
            if result is None:
                shape = list(piece.shape)
                for axis, wanted in zip(axes, box, strict=True):
                    shape[axis] = len(wanted)
                result = np.empty_like(piece, shape=tuple(shape))  # CuPy makes its own (NEP 18)
            result[tuple(target)] = piece[tuple(source)]
    return result


def _graph(
    name: str,
    batches: _Batches,
    source: Any,
    sizes: tuple[tuple[int, ...], ...],
    backend: Any,
) -> dict[Any, Any]:
    """A task for every block of the result, one for every strip, and what all of them share."""
    chain = batches.chain
    blocks = _blocks(chain, source, sizes)
    graph: dict[Any, Any] = {}
    given, made = batches.axes, _others(len(sizes), chain)
    free = [given.index(axis) for axis in batches.free]
    known: dict[tuple[int, ...], Any] = {}
    for batch in itertools.product(*(range(source.numblocks[axis]) for axis in given)):
        block_sizes = tuple(sizes[given[place]][batch[place]] for place in free)
        if block_sizes not in known:
            known[block_sizes] = key = (f"{name}-chain", *block_sizes)
            graph[key] = _Work(batches.block(block_sizes), backend)
        work = known[block_sizes]
        outer = batch if free else (0,) * len(made)
        for place, (block, pieces) in blocks.items():
            keys = []
            for chunk, cut in pieces:
                index = _index(chain, batch, chunk)
                key = (source.name, *index)
                if cut is not None:
                    strip = (f"{name}-strip", cut.axis, cut.start, cut.stop, *index)
                    if strip not in graph:
                        graph[strip] = (cut, key)
                    key = strip
                keys.append(key)
            graph[(name, *_index(chain, outer, place))] = (block, work, *keys)
    return graph


def _index(chain: Chain, batch: tuple[int, ...], place: tuple[int, int]) -> tuple[int, ...]:
    """The number of a block along every axis."""
    if chain.axes == (-2, -1):
        return (*batch, *place)
    return (*batch[:-1], *place, batch[-1])


_Piece = tuple[tuple[int, int], _Cut | None]
"""A chunk's number along both spatial axes, and what to cut of it unless it is read as it is."""


def _blocks(
    chain: Chain, source: Any, sizes: tuple[tuple[int, ...], ...]
) -> dict[tuple[int, int], tuple[_Block, list[_Piece]]]:
    """For each block of an image, by number along both axes: its task, and what that reads."""
    lines: list[list[tuple[range, list[_Touched]]]] = []
    for number, axis in enumerate(chain.axes):
        ends = [0, *itertools.accumulate(sizes[axis])]
        lines.append([])
        for outputs in itertools.starmap(range, itertools.pairwise(ends)):
            touched = _touched(_reads(chain, number, outputs), source.chunks[axis])
            lines[-1].append((outputs, touched))
    found = {}
    for y, (rows, above) in enumerate(lines[0]):
        for x, (columns, beside) in enumerate(lines[1]):
            pieces: list[_Piece] = []
            places = []
            for row, column in itertools.product(above, beside):
                cut, place = None, [row.first, column.first]
                axis = int(column.share < row.share)
                thin = (row, column)[axis]
                if thin.share <= 0.5:
                    cut = _Cut(chain.axes[axis], thin.start, thin.stop)
                    place[axis] += thin.start
                pieces.append(((row.chunk, column.chunk), cut))
                places.append((place[0], place[1]))
            found[y, x] = _Block(rows, columns, tuple(places)), pieces
    return found


def _touched(wanted: Sequence[range], chunks: Sequence[int]) -> list[_Touched]:
    """Of every chunk of an axis that is read, what is, from the first element to the last."""
    ends = list(itertools.accumulate(chunks))
    found: dict[int, _Touched] = {}
    for part in wanted:
        chunk = bisect_right(ends, part.start)
        while chunk < len(ends) and ends[chunk] - chunks[chunk] < part.stop:
            first = ends[chunk] - chunks[chunk]
            start, stop = max(0, part.start - first), min(chunks[chunk], part.stop - first)
            if chunk in found:
                start, stop = min(start, found[chunk].start), max(stop, found[chunk].stop)
            if start < stop:
                found[chunk] = _Touched(chunk, first, chunks[chunk], start, stop)
            chunk += 1
    return [found[chunk] for chunk in sorted(found)]
