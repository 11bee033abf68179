"""Batches of images as the kernels see them: twin of kernels_cu/common/image.cuh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.cuda.launch import (
    WIDE_BYTES,
    DeviceArray,
    address,
    blocks,
    element_strides,
    kind,
    number,
    struct,
)
from gpuconv.backends.planes import image_planes
from gpuconv.border import Border
from gpuconv.dtypes import DType
from gpuconv.plan.filters import Images

STRIDES = struct(
    "PlaneStrides",
    *(("outer_stride", "i8"), ("inner_stride", "i8"), ("row", "i8"), ("step", "i8")),
)
NUMBER = struct("Number", ("whole", "i8"), ("real", "f8"))
IMAGES = struct(
    "Images",
    *(("planes", "i8"), ("input", STRIDES), ("output", STRIDES), ("value", NUMBER)),
    *(("inner", "i4"), ("height", "i4"), ("width", "i4"), ("channels", "i4")),
    *(("border", "i4"), ("input_kind", "i4"), ("output_kind", "i4"), ("wide_loads", "i4")),
)
TILING = struct("Tiling", ("jobs", "i8"), ("down", "i4"), ("across", "i4"))

BORDERS = {border: number for number, border in enumerate(Border)}
"""The number of a border. Twin of `Border` in kernels_cu/common/border.cuh."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Some planes of a call: the arrays they lie in, and their geometry.

    `row` counts elements of a row: pixels times interleaved channels.
    """

    input: DeviceArray
    output: DeviceArray
    planes: int
    height: int
    row: int
    channels: int
    packed: np.ndarray[Any, Any]
    """An IMAGES of one element."""

    def tiling(self, rows: int, columns: int) -> tuple[np.ndarray[Any, Any], tuple[int, int, int]]:
        """(a TILING, the grid) for tiles of `rows` × `columns` elements, a job each."""
        down, across = -(-self.height // rows), -(-self.row // columns)
        jobs = self.planes * down * across
        return np.array((jobs, down, across), TILING), blocks(jobs)

    def stores(self, unit_bytes: int) -> bool:
        """Whether the output's rows begin at multiples of so many bytes, their elements in a line.

        Rows as the kernels see them: of one channel where those do not lie side by side.
        """
        outer, inner, row, step = self.packed["output"].item()
        itemsize = self.output.dtype.itemsize
        starts = (address(self.output), outer * itemsize, inner * itemsize, row * itemsize)
        return step in (0, 1) and all(start % unit_bytes == 0 for start in starts)


def stacks(images: Images, input: DeviceArray, output: DeviceArray) -> Iterator[Stack]:
    """The planes of a call, in as few stacks as the strides allow; usually one.

    The arrays' dtypes may differ from `images.dtype`, which is the one that is computed in.
    """
    for source, target in image_planes((input, output), images.channels_last):
        yield _stack(images, source, target)


def _stack(images: Images, source: DeviceArray, target: DeviceArray) -> Stack:
    count, height, width, channels = source.shape
    laid = [element_strides(array) for array in (source, target)]
    interleaved = channels == 1 or all(
        width == 1 or pixel == channel * channels for _, _, pixel, channel in laid
    )
    # Channels that do not lie side by side are planes of their own.
    inner, side_by_side = (1, channels) if interleaved else (channels, 1)
    strides = []
    for plane, row, pixel, channel in laid:
        step = channel if interleaved and channels > 1 else pixel
        strides.append((plane, 0 if interleaved else channel, row, step))
    packed = np.array(
        (
            *(count * inner, strides[0], strides[1], number(images.value, images.dtype)),
            *(inner, height, width, side_by_side),
            *(BORDERS[images.border], kind(source.dtype), kind(target.dtype)),
            _reads_wide(source, strides[0], images.dtype),
        ),
        IMAGES,
    )
    row = width * side_by_side
    return Stack(source, target, count * inner, height, row, side_by_side, packed)


def _reads_wide(array: DeviceArray, strides: tuple[int, ...], dtype: DType) -> bool:
    """Whether every row begins at a multiple of 16 bytes and its elements lie side by side."""
    plane, inner, row, step = strides
    return (
        array.dtype == dtype
        and step == 1
        and all(s * dtype.itemsize % WIDE_BYTES == 0 for s in (plane, inner, row))
        and address(array) % WIDE_BYTES == 0
    )
