"""Cross-correlation of feature maps, tile by tile, by the algorithm that the rule picks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from gpuconv.backends.numpy.activation import activate, activate_integers
from gpuconv.backends.numpy.depthwise import Bands
from gpuconv.backends.numpy.operands import Operands
from gpuconv.backends.numpy.products import Products
from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.slabs import Slabs
from gpuconv.backends.numpy.tasks import Task, run_tasks
from gpuconv.backends.numpy.tile import Region, Values
from gpuconv.backends.numpy.window_tiles import tiles
from gpuconv.dtypes import DType, is_integer_type, saturate
from gpuconv.plan import cpu
from gpuconv.plan.conv import Activation

SHARES = 8
"""Tiles that outputs are cut into, if they are many, so that there is work for several threads."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What happens to sums (..., O): the bias, the activation, the dtype of the result."""

    bias: Values | None
    activation: Activation
    dtype: DType
    exact: bool

    def plain(self, sums: DType) -> bool:
        """Whether sums of a dtype are the results."""
        return (
            not self.exact and self.bias is None and self.activation is None and self.dtype == sums
        )

    def of_channels(self, part: slice) -> Ending:
        """The ending of some output channels."""
        bias = None if self.bias is None else self.bias[part]
        return Ending(bias, self.activation, self.dtype, self.exact)

    def write(self, sums: Values, out: Values) -> None:
        """Fill `out` with results. May overwrite the sums."""
        if self.exact and (self.bias is not None or self.activation is not None):
            sums = sums.astype(np.int64)
        if self.bias is not None:
            if not self.exact and self.activation is None and out.dtype == sums.dtype:
                np.add(sums, self.bias, out=out)
                return
            sums += self.bias
        if not self.exact:
            out[...] = activate(sums, self.activation)
            return
        sums = activate_integers(sums, self.activation)
        out[...] = saturate(sums, self.dtype) if is_integer_type(self.dtype) else sums


METHODS: dict[cpu.Conv, type[Products | Bands | Slabs]] = {
    "columns": Products,
    "planes": Products,
    "bands": Bands,
    "slabs": Slabs,
}


class Correlation:
    """Some output channels of a convolution: a source of planes (N, *spatial, O)."""

    def __init__(
        self, operands: Operands, outputs: Sequence[int], ending: Ending, algorithm: str
    ) -> None:
        self.dtype = ending.dtype
        self.shape = (len(operands.maps.array), *outputs, prod(operands.weight.shape[:2]))
        self._ending = ending
        chosen = cpu.conv(
            algorithm,
            operands.weight.shape[2],
            operands.windows,
            operands.numbers,
            operands.maps.channels_last,
        )
        self._method = METHODS[chosen](operands, outputs)

    def read(self, batch: slice, region: Region) -> Values:
        """Results (b, *region, O)."""
        spans = (r.stop - r.start for r in (batch, *region))
        result = np.empty((*spans, self.shape[-1]), self.dtype)
        run_tasks(list(self.tasks(result, batch, region)))
        return result

    def tasks(self, out: Values, batch: slice, region: Region) -> Iterator[Task]:
        """What together fills `out` (b, *region, O) with the results of a region, tile by tile."""
        method, origin = self._method, [r.start for r in (batch, *region)]
        share = prod(r.stop - r.start for r in (batch, *region)) // SHARES
        outputs = min(method.outputs, max(method.chunk, share))
        cells = tiles(batch, region, method.windows, outputs=outputs, inputs=method.inputs)
        for images, tile in cells:
            place = tuple(
                slice(r.start - o, r.stop - o) for r, o in zip((images, *tile), origin, strict=True)
            )
            yield partial(self._fill, out[place], images, tile)

    def _fill(self, out: Values, batch: slice, region: Region) -> None:
        last = out.ndim - 1
        with Scratch() as scratch:
            into = None
            if self._ending.plain(self._method.operands.numbers.total) and out.flags.aligned:
                into = out.transpose(last, *range(last))
            sums = self._method.sums(batch, region, scratch, into)
            if sums is not into:
                self._ending.write(sums.transpose(*range(1, sums.ndim), 0), out)
