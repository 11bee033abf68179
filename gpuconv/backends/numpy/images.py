"""What the image families share: from the caller's arrays to tiles, on all threads, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch, pitch
from gpuconv.backends.numpy.threads import for_each
from gpuconv.backends.numpy.tile import (
    ArraySource,
    Region,
    Source,
    Values,
    converted,
    load_into,
    tiles,
)
from gpuconv.backends.planes import image_planes
from gpuconv.border import Border
from gpuconv.dtypes import DType
from gpuconv.plan.filters import ImagePlan
from gpuconv.window import AxisWindow

SPARE = 5
"""Pixels of zeros behind every row of a tile."""

P = TypeVar("P", bound=ImagePlan)
P_contra = TypeVar("P_contra", bound=ImagePlan, contravariant=True)


class Node(ABC):
    """An operation over planes that fills any region of its result, and so is a source too."""

    def __init__(self, shape: tuple[int, ...], dtype: DType) -> None:
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def fill(self, batch: slice, region: Region, out: Values) -> None:
        """Write the results of a region into `out` (b, h, w·C), of any strides."""

    def read(self, batch: slice, region: Region) -> Values:
        """The results of a region."""
        count, height, width = (s.stop - s.start for s in (batch, *region))
        out = np.empty((count, height, width, self.shape[-1]), self.dtype)
        self.fill(batch, region, lines(out))
        return out


class ImageNode(Node, Generic[P]):
    """An image plan over a source of its dtype."""

    def __init__(self, plan: P, source: Source) -> None:
        super().__init__(source.shape, plan.images.out_dtype)
        self.plan = plan
        self.source = source


class MakeNode(Protocol[P_contra]):
    """How a family makes a node of its plan."""

    def __call__(self, plan: P_contra, source: Source, /) -> Node: ...


def run_images(
    make: MakeNode[P],
    plan: P,
    inputs: Sequence[Values],
    outputs: Sequence[Values],
    elements: int | None = None,
    row: int | None = None,
) -> None:
    """Fill the outputs from a node over every stack of planes, in `tiles` of about `elements`."""
    for images, out in image_planes((inputs[0], outputs[0]), plan.images.channels_last):
        node = make(plan, converted(ArraySource(images), plan.images.dtype))
        for_each(_filler(node, out), tiles(out.shape, elements, plan.halo, row))


def _filler(node: Node, out: Values) -> Callable[[tuple[slice, Region]], None]:
    whole = out.shape[-1] == 1 or out.strides[2] == out.shape[-1] * out.strides[3]

    def fill(tile: tuple[slice, Region]) -> None:
        batch, region = tile
        target = out[(batch, *region)]
        with np.errstate(all="ignore"):
            if whole:
                node.fill(batch, region, lines(target))
            else:
                target[...] = node.read(batch, region)

    return fill


def lines(images: Values) -> Values:
    """(b, h, w·C) of (b, h, w, C), without a copy."""
    count, height, width, inner = images.shape
    if inner == 1:
        return images[..., 0]
    view = images.view()
    view.shape = (count, height, width * inner)
    return view


def stage(
    source: Source,
    batch: slice,
    start: Sequence[int],
    stop: Sequence[int],
    border: Border,
    value: float,
    dtype: DType,
    scratch: Scratch,
) -> Values:
    """Rows and columns start..stop as `dtype`: (b, rows, pitch), each row with its channels.

    Behind every row come zeros, those of SPARE pixels at least.
    """
    (top, left), (bottom, right) = start, stop
    count, inner = batch.stop - batch.start, source.shape[-1]
    width = (right - left) * inner
    tile = scratch.take((count, bottom - top, pitch(width + SPARE * inner, dtype)), dtype)
    tile[:, :, width:] = 0
    pixels = tile[:, :, :width].reshape(count, bottom - top, right - left, inner)
    load_into(pixels, source, batch, start, stop, border, value)
    return tile


def input_ranges(
    windows: Sequence[AxisWindow], region: Region
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of what the windows of a region read."""
    rows, columns = (w.input_range(r.start, r.stop) for w, r in zip(windows, region, strict=True))
    return rows, columns
