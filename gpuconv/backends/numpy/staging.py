"""The input of a tile of outputs, staged so that what they see through a tap is a shifted view.

Every residue modulo the stride (a phase) has planes of its own. From them, chunk by chunk of a
tile, sums are made block by block of taps; blocks are added pairwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from operator import mul
from typing import Any

import numpy as np

from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Region, Values, even
from gpuconv.backends.numpy.window_tiles import boxes, part_sizes
from gpuconv.window import AxisWindow

PART_TAPS = 512
"""Taps of each channel that are staged at once."""

TILE_ELEMENTS = 1 << 19
"""Sums of one tile."""

LOADED_ELEMENTS = 1 << 19
"""Input elements of one tile."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Taps of one axis that see one residue modulo the stride: place `first` of its plane, and
    every `step`-th from there.
    """

    residue: int
    taps: slice
    first: int
    step: int
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some channels and a box of taps, whose input is staged together."""

    channels: slice
    box: Region
    phases: Sequence[tuple[Phase, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tile of outputs (b, *region) lies in memory: flat, or output by output.

    Flat sums are one for each place of a plane, halo and all, so that what they see through a tap
    is one run; some are junk.

    pitch : lengths of the axes of a plane; steps : places from one to its neighbour along each.
    run : places from the first output to the last; places : those kept.
    """

    outputs: tuple[int, ...]
    flat: bool
    pitch: tuple[int, ...]
    steps: tuple[int, ...]
    run: int
    places: int


def layout_of(outputs: tuple[int, ...], windows: Sequence[AxisWindow], flat: bool) -> Layout:
    axes = zip(windows, outputs[1:], strict=True)
    pitch = (outputs[0], *(-(-w.input_span(n) // w.stride) for w, n in axes)) if flat else outputs
    steps = tuple(prod(pitch[axis + 1 :]) for axis in range(len(pitch)))
    run = 1 + sum((n - 1) * s for n, s in zip(outputs, steps, strict=True))
    return Layout(outputs, flat, pitch, steps, run, prod(pitch))


def phases_of(windows: Sequence[AxisWindow], box: Region) -> list[tuple[Phase, ...]]:
    """The phases that taps of a box see: one of each axis."""
    axes = []
    for w, taps in zip(windows, box, strict=True):
        size, step = taps.stop - taps.start, w.stride // gcd(w.stride, w.dilation)
        axes.append(
            [
                Phase(
                    t * w.dilation % w.stride,
                    slice(t, size, step),
                    t * w.dilation // w.stride,
                    step * w.dilation // w.stride,
                    len(range(t, size, step)),
                )
                for t in range(min(size, step))
            ]
        )
    return list(product(*axes))


@dataclass(frozen=True, slots=True)
class Tap:
    """Where the view through a tap lies: in the planes of which phase, from which place on.

    `index` picks its weights from (G, O, C, *taps).
    """

    index: tuple[Any, ...]
    residues: tuple[int, ...]
    starts: tuple[int, ...]


def taps_of(windows: Sequence[AxisWindow], box: Region) -> Iterator[Tap]:
    """The taps of a box, in row-major order."""
    for index in np.ndindex(*(t.stop - t.start for t in box)):
        at = [(t * w.dilation, w.stride) for t, w in zip(index, windows, strict=True)]
        yield Tap((..., *index), tuple(a % s for a, s in at), (0, *(a // s for a, s in at)))


class Staged:
    """The planes of one tile: of the part that was asked for last."""

    def __init__(
        self,
        operands: Operands,
        layout: Layout,
        batch: slice,
        region: Region,
        places_last: bool,
        scratch: Scratch,
    ) -> None:
        self.operands, self.layout, self.scratch = operands, layout, scratch
        self._batch, self._region, self._places_last = batch, region, places_last
        self._part: Part | None = None
        self.planes: dict[tuple[int, ...], Values] = {}

    def stage(self, part: Part) -> bool:
        """Load a part: planes (g, c, b, *span), or flat (g, c, places), of each phase.

        Tells whether it was not the last one loaded.
        """
        if part is self._part:
            return False
        self._part, operands, flat = part, self.operands, self.layout.flat
        tile = operands.load(self._batch, self._region, part.channels, part.box, self.scratch, flat)
        self.planes = {}
        for phase in part.phases:
            residues = tuple(p.residue for p in phase)
            axes = zip(residues, operands.windows, strict=True)
            where: tuple[Any, ...] = tuple(slice(r, None, w.stride) for r, w in axes)
            plane = tile[..., *where]
            if self._places_last or len(part.phases) > 1 or (flat and plane.shape[2] > 1):
                plane = self._copied(plane, operands.maps.channels_last and not self._places_last)
            self.planes[residues] = plane.reshape(*plane.shape[:2], -1) if flat else plane
        return True

    def _copied(self, plane: Values, channels_last: bool) -> Values:
        """A plane (g, c, b, *span), copied if it isn't contiguous."""
        rank = plane.ndim
        turned = plane.transpose(*range(2, rank), 0, 1) if channels_last else plane
        if turned.flags.c_contiguous:
            return plane
        memory = self.scratch.take(turned.shape, plane.dtype)
        memory[...] = turned
        return memory.transpose(rank - 2, rank - 1, *range(rank - 2)) if channels_last else memory

    def seen(self, tap: Tap, groups: slice, channels: slice, places: slice) -> Values:
        """What the outputs see through a tap: (g, c, places), or (g, c, b, *region)."""
        plane, layout = self.planes[tap.residues][groups, channels], self.layout
        if layout.flat:
            first = sum(map(mul, tap.starts, layout.steps))
            return plane[..., first + places.start : first + places.stop]
        where = (slice(a, a + n) for a, n in zip(tap.starts, layout.outputs, strict=True))
        return plane[:, :, *where]


class PlaneSums(ABC):
    """Sums of tiles, made from staged planes.

    chunk : sums made at once; outputs, inputs : bounds of a tile; junk : sums made for each
    output, at most, so that rows need not be cut out of the planes.
    """

    blocks: Sequence[Any]
    chunk: int
    places_last = False

    def __init__(
        self, operands: Operands, outputs: Sequence[int], part_taps: int, junk: float
    ) -> None:
        self.operands = operands
        groups, _, channels, *kernel = operands.weight.shape
        windows = operands.windows
        sizes = part_sizes(windows, PART_TAPS, groups)
        self.windows = [
            AxisWindow(n, w.stride, w.dilation) for n, w in zip(sizes, windows, strict=True)
        ]
        reach = prod(w.extent for w in self.windows) * groups
        step = even(channels, min(part_taps // prod(sizes), LOADED_ELEMENTS // reach))
        self.parts = [
            Part(slice(c, min(channels, c + step)), box, phases_of(windows, box))
            for c in range(0, channels, step)
            for box in boxes(kernel, sizes)
        ]
        planes = layout_of((1, *outputs), windows, True)
        self._flat = sizes == kernel and planes.places <= junk * prod(outputs)
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self.inputs = max(1, LOADED_ELEMENTS // (groups * step))

    @property
    def outputs(self) -> int:
        """Outputs of a tile. Where parts follow each other, each is staged once for a chunk."""
        if len(self.parts) > 1 or not self._flat:
            return self.chunk
        return max(self.chunk, TILE_ELEMENTS // prod(self.operands.weight.shape[:2]))

    def sums(self, batch: slice, region: Region, scratch: Scratch, into: Values | None) -> Values:
        """(O, b, *region), in `into` where that is given and its places lie in one run."""
        outputs = tuple(r.stop - r.start for r in (batch, *region))
        layout = self._layouts.get(outputs)
        if layout is None:
            layout = layout_of(outputs, self.operands.windows, self._flat)
            self._layouts[outputs] = layout
        staged = self.staged(layout, batch, region, scratch)
        all_groups, dtype = len(self.operands.weight), self.operands.numbers.total
        total = None
        if into is not None and layout.places == prod(outputs):
            total = _as_run(into, all_groups)
        written = total is not None
        if total is None:
            total = self.operands.room(all_groups, layout.places, dtype, scratch)
        rooms: list[Values] = []
        groups, step = self.steps(layout)
        blocks = range(len(self.blocks))
        for g in range(0, all_groups, groups):
            some = slice(g, min(all_groups, g + groups))
            for first in range(0, layout.run, step):
                places = slice(first, min(layout.run, first + step))
                self._total(blocks, staged, (some, places), rooms, 0, total[some, :, places])
        if into is not None and written:
            return into
        total = total.reshape(*total.shape[:2], *layout.pitch)[:, :, *map(slice, outputs)]
        return total.reshape(-1, *outputs)

    def staged(self, layout: Layout, batch: slice, region: Region, scratch: Scratch) -> Staged:
        """The planes of a tile, to be staged part by part."""
        return Staged(self.operands, layout, batch, region, self.places_last, scratch)

    def steps(self, layout: Layout) -> tuple[int, int]:
        """Groups and places of a chunk."""
        return len(self.operands.weight), even(layout.run, self.chunk)

    @abstractmethod
    def fill(self, block: Any, staged: Any, chunk: tuple[slice, slice], out: Values) -> None:
        """Write the sums of a block for some (groups, places) into `out` (g, o, places)."""

    def _total(
        self,
        blocks: range,
        staged: Staged,
        chunk: tuple[slice, slice],
        rooms: list[Values],
        depth: int,
        out: Values | None = None,
    ) -> Values:
        """The sums of some blocks, added as a balanced tree, in `out` or in room `depth`."""
        if out is None:
            groups, places = (c.stop - c.start for c in chunk)
            if depth == len(rooms):
                dtype = self.operands.numbers.total
                rooms.append(self.operands.room(groups, places, dtype, staged.scratch))
            out = rooms[depth][:groups, :, :places]
        if len(blocks) == 1:
            self.fill(self.blocks[blocks[0]], staged, chunk, out)
            return out
        half = len(blocks) // 2
        left = self._total(blocks[:half], staged, chunk, rooms, depth)
        right = self._total(blocks[half:], staged, chunk, rooms, depth + 1)
        return np.add(left, right, out=out)


def _as_run(sums: Values, groups: int) -> Values | None:
    """(O, b, *region) as (g, o, places), or None where that is no view."""
    view = sums.view()
    try:
        view.shape = (groups, len(sums) // groups, -1)
    except AttributeError:
        return None
    return view
