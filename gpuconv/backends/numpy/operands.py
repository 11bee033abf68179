"""What a convolution over feature maps multiplies: number types, input, weights, windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import ArraySource, Region, Values, load_into
from gpuconv.border import Border
from gpuconv.dtypes import DType, is_integer_type
from gpuconv.plan.cpu import Numbers
from gpuconv.window import AxisWindow


@dataclass(frozen=True, slots=True)
class Maps:
    """An input feature map, its channels split into groups, and what surrounds it.

    `array` is (N, G, C, *spatial), or (N, *spatial, G, C) with `channels_last`.
    """

    array: Values
    channels_last: bool
    border: Border = Border.CONSTANT
    value: Any = 0


@dataclass(frozen=True, slots=True)
class Operands:
    """Input and weights of some output channels.

    weight : (G, O, C, *kernel) of the groups `groups` of `maps`.
    windows : their stride, dilation and first pad, one a spatial axis.
    last : whether results lie in memory with channels last.
    keep : whether converted weights may be kept, as the weights of all channels are few.
    """

    maps: Maps
    groups: slice
    weight: Values
    windows: Sequence[AxisWindow]
    numbers: Numbers
    last: bool
    keep: bool

    @property
    def exact(self) -> bool:
        """Whether these are integers, whose sums are exact."""
        return is_integer_type(self.maps.array.dtype)

    def load(
        self,
        batch: slice,
        region: Region,
        channels: slice,
        box: Region,
        scratch: Scratch,
        whole_steps: bool = False,
    ) -> Values:
        """What outputs read through some taps: (g, c, b, *span).

        A view of the input where nothing has to be answered by the border or converted, else laid
        out as the input is. With `whole_steps` spans are lengthened to multiples of the stride.
        """
        maps, start, stop = self.maps, [], []
        for w, outputs, taps in zip(self.windows, region, box, strict=True):
            first = outputs.start * w.stride - w.pad[0] + taps.start * w.dilation
            reach = (taps.stop - taps.start - 1) * w.dilation + 1
            span = (outputs.stop - outputs.start - 1) * w.stride + reach
            start.append(first)
            stop.append(first + (-(-span // w.stride) * w.stride if whole_steps else span))
        low, high = (self.groups.start, channels.start), (self.groups.stop, channels.stop)
        if maps.channels_last:
            start, stop = [*start, *low], [*stop, *high]
        else:
            start, stop = [*low, *start], [*high, *stop]
        inside = all(
            a >= 0 and b <= n for a, b, n in zip(start, stop, maps.array.shape[1:], strict=True)
        )
        if inside and maps.array.dtype == self.numbers.work:
            tile = maps.array[batch, *map(slice, start, stop)]
        else:
            count = batch.stop - batch.start
            spans = [b - a for a, b in zip(start, stop, strict=True)]
            tile = scratch.take((count, *spans), self.numbers.work)
            source = ArraySource(maps.array[..., np.newaxis])
            load_into(tile[..., np.newaxis], source, batch, start, stop, maps.border, maps.value)
        places = range(1, tile.ndim - 2) if maps.channels_last else range(3, tile.ndim)
        inner = (-2, -1) if maps.channels_last else (1, 2)
        return tile.transpose(*inner, 0, *places)

    def weights(self, channels: slice, box: Region) -> Values:
        """Some of the weights, converted: (G, O, c, *taps)."""
        part = self.weight[:, :, channels, *box]
        return part.astype(self.numbers.work, copy=False)

    def room(self, groups: int, places: int, dtype: DType, scratch: Scratch) -> Values:
        """Memory for sums (g, o, places)."""
        outs = self.weight.shape[1]
        if not self.last:
            return scratch.take((groups, outs, places), dtype)
        return scratch.take((places, groups, outs), dtype).transpose(1, 2, 0)
