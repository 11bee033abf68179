"""Sums of weighted pixels, and what becomes of them: what every linear filter's launch shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda.launch import WIDE_BYTES, struct
from gpuconv.dtypes import DType, is_float, magnitude
from gpuconv.quantize import Stencil

WARPS, LANES = 8, 32
"""Of a block; threads of a warp."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What sums are kept in: twin of the constants in kernels_cu/common/linear.cuh."""

    type: str
    bytes: int
    rows_each: int
    """Output rows of a thread."""
    weights: DType
    exact_bits: int
    """Integers up to 2^bits are exact."""

    @property
    def pack(self) -> int:
        """Neighbouring elements of a thread."""
        return WIDE_BYTES // self.bytes

    @property
    def rows(self) -> int:
        """Of a tile of outputs."""
        return WARPS * self.rows_each

    @property
    def columns(self) -> int:
        """Of a tile of outputs."""
        return LANES * self.pack


FLOAT = Sums("float", 4, 4, np.dtype(np.float32), 24)
DOUBLE = Sums("double", 8, 2, np.dtype(np.float64), 53)
INT128 = Sums("int128", 16, 2, np.dtype(np.int64), 127)

HOW = {
    name: number for number, name in enumerate(("sum", "exact", "magnitude", "small", "unsharp"))
}
"""How sums become results. Twin of `How` in kernels_cu/common/linear.cuh."""

FAR = 2**100
"""Beyond every dtype, whatever the sum."""

FINISH = struct(
    "Finish",
    *(("scale", "f8"), ("offset", "f8"), ("real_amount", "f8"), ("amount", "i8")),
    *(("even_high", "i8"), ("even_low", "u8"), ("whole", "i8")),
    *(("rest", "i4"), ("shift", "i4"), ("how", "i4"), ("from_registers", "i4")),
)


def sums_of(stencils: Sequence[Stencil], dtype: DType) -> Sums:
    """Where these sums are exact, or as accurate as promised."""
    accumulators = {s.accumulator for s in stencils}
    if is_float(dtype):
        return DOUBLE if dtype == np.float64 else FLOAT
    if dtype.itemsize == 8 or not accumulators <= {"float32", "float64"}:
        return INT128
    return FLOAT if dtype.itemsize == 1 and accumulators == {"float32"} else DOUBLE


def finish_of(
    stencils: tuple[Stencil, ...],
    combine: str,
    delta: float,
    amount: float,
    dtype: DType,
    sums: Sums,
) -> tuple[str, tuple[float, ...]]:
    """(how, FINISH but for its last two fields)."""
    first = stencils[0]
    if is_float(dtype):
        with np.errstate(over="ignore"):  # beyond what sums hold, it is infinite
            held = float(np.array(float(delta), sums.weights))
        return combine, (1.0, held, float(amount), 0, 0, 0, 0, 0, 0)
    scale, shift = 0.5**first.shift, first.shift
    if combine == "magnitude":
        small = sums is FLOAT and all(_bound(s, dtype) < 2**15 for s in stencils)
        return "small" if small else "magnitude", (scale, 0.0, 0.0, 0, 0, 0, 0, 0, shift)
    if combine == "unsharp":
        return combine, (scale, 0.0, 0.0, int(amount), 0, 0, 0, 0, shift)
    exact = Fraction(delta)
    offset = exact * 2**shift
    room = 2**sums.exact_bits - _bound(first, dtype) if delta else 1
    if sums is not INT128 and offset.denominator == 1 and abs(offset) < room:
        return "sum", (scale, float(offset), 0.0, 0, 0, 0, 0, 0, shift)
    # An even number may be added after rounding: half to even stays what it was.
    even = 2 * math.floor(exact / 2)
    whole, rest = _split(exact - even, shift)
    even = max(-FAR, min(FAR, even))
    high, low = even >> 64, even & (2**64 - 1)
    return "exact", (scale, 0.0, 0.0, 0, high, low, whole, rest, shift)


def _bound(stencil: Stencil, dtype: DType) -> int:
    """What no |sum| of an integer stencil exceeds."""
    most = magnitude(dtype)
    if stencil.dense is not None:
        return most * _gain(stencil.dense.array)
    assert stencil.column is not None
    assert stencil.row is not None
    middle = (most * _gain(stencil.column.array) >> stencil.column_shift) + 1
    return middle * _gain(stencil.row.array)


def _gain(weights: npt.NDArray[Any]) -> int:
    return sum(abs(int(w)) for w in weights.flat)


def _split(delta: Fraction, shift: int) -> tuple[int, int]:
    """delta·2^shift as its floor and two more bits: 0 nothing, 1 below, 2 at, 3 above a half."""
    scaled = delta * 2**shift
    whole = math.floor(scaled)
    twice = 2 * (scaled - whole)
    return whole, 2 + (twice > 1) - (twice < 1) if twice else 0
