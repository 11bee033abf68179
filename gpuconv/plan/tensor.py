"""Weights as tensor cores multiply them: without loss for integers, of enough bits for floats.

Terms        a dense kernel's: its banded products are summed in one pass
Bands        of rank 1, over uint8: a product along H and a product along W
FloatBands   the same over float16 and bfloat16
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpuconv.dtypes import DType, is_float, magnitude
from gpuconv.quantize import Stencil

Precision = Literal["ieee", "tf32"]


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """A stencil's weights as sums of numbers that tensor cores multiply.

    w · 2^scale = Σ part · 2^(bits · its number), and a part is the sum of its terms: float32
    arrays of 11 bits each (8 for bfloat16). Each part's sum of pixels has an accumulator.
    """

    parts: tuple[tuple[npt.NDArray[np.float32], ...], ...]
    scale: int = 0
    bits: int = 0

    @property
    def count(self) -> int:
        """Products for each weight."""
        return len(self.parts) * len(self.parts[0])


def split(stencil: Stencil, dtype: DType, precision: Precision) -> Terms | None:
    """A dense stencil's weights for tensor cores; None where a weight would lose too much.

    Integers are exact: each part's sums stay below 2^24, and its two terms are of equal sign, so
    that no partial sum is larger. Floats keep 22 bits (16 for bfloat16) with two terms, all bits
    where one is enough, and 11 bits with one under precision "tf32".
    """
    assert stencil.dense is not None
    return _split(stencil.dense, dtype, precision)


@lru_cache(maxsize=64)
def _split(weights: Any, dtype: DType, precision: Precision) -> Terms | None:
    if not is_float(dtype):
        return _split_integers(weights.array, magnitude(dtype))
    values = weights.array.astype(np.float64)
    largest = float(np.max(np.abs(values)))
    if dtype.name == "float32":
        arrays, scale = [_rounded(values, 11)], 0
    elif dtype.name == "bfloat16":
        arrays, scale = _float_terms(values, dtype), 0
    else:
        scale = _scale_of(largest)
        values = np.ldexp(values, scale)
        arrays = _float_terms(values, dtype)
        if precision == "tf32":
            del arrays[1]
    if not arrays[-1].any() and len(arrays) > 1:
        del arrays[1]
    if abs(scale) > MOST_SCALE or not _keeps(arrays, values):
        return None
    return Terms((tuple(arrays),), scale)


MOST_SCALE = 120
"""Beyond it float32 has no room for the weights and their sums."""


def _scale_of(largest: float) -> int:
    """That brings the largest weight into [2^14, 2^15): the smallest keeps its bits longest."""
    return 15 - math.frexp(largest)[1] if largest else 0


def _float_terms(values: npt.NDArray[np.float64], dtype: DType) -> list[npt.NDArray[np.float32]]:
    """Two of 11 bits within float16's range, or of 8 bits for bfloat16."""
    if dtype.name == "bfloat16":
        first = _rounded(values, 8)
        return [first, _rounded(values - first, 8)]
    first = values.astype(np.float16).astype(np.float32)
    return [first, (values - first).astype(np.float16).astype(np.float32)]


def _keeps(terms: Sequence[npt.NDArray[np.float32]], values: npt.NDArray[np.float64]) -> bool:
    """Whether no weight loses too much as the sum of its terms."""
    with np.errstate(invalid="ignore"):  # Inf - Inf, of weights beyond the type's range
        kept = np.sum([term.astype(np.float64) for term in terms], axis=0)
    return bool(np.all(np.abs(kept - values) <= 2.0**-11 * np.abs(values)))


MOST_SUM = 2**24
"""Floats hold all integers up to it."""

MOST_WHOLE = 2**31
"""The sum of all parts stays below."""


def _split_integers(weights: npt.NDArray[Any], pixel: int) -> Terms | None:
    """Integers as the fewest parts of 1, 2 or 4 whose sums floats hold exactly."""
    if pixel * sum(abs(int(w)) for w in weights.flat) >= MOST_WHOLE:
        return None
    for count in (1, 2, 4):
        for bits in range(12, 1, -1):
            parts, rest = [], weights.astype(np.int64)
            for _ in range(count - 1):
                above = np.rint(np.ldexp(rest.astype(np.float64), -bits)).astype(np.int64)
                parts.append(rest - (above << bits))
                rest = above
            parts.append(rest)
            if all(pixel * int(np.abs(part).sum()) < MOST_SUM for part in parts):
                split = [_two_terms(part) for part in parts]
                terms = 2 if any(second.any() for _, second in split) else 1
                return Terms(tuple(pair[:terms] for pair in split), 0, bits)
            if count == 1:
                break
    return None


def _two_terms(
    weights: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Integers below 2^17 as sums of two of 11 bits, of the same sign."""
    size = np.abs(weights)
    dropped = np.maximum(np.frexp(size.astype(np.float64))[1] - 11, 0)
    most = np.minimum(size >> dropped << dropped, 65504)  # float16's largest
    sign = np.sign(weights)
    return (sign * most).astype(np.float32), (sign * (size - most)).astype(np.float32)


def _rounded(values: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float32]:
    """To so many bits, halves to even; 0 below float32's normal numbers."""
    fraction, exponent = np.frexp(values)
    rounded = np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)
    rounded[np.abs(rounded) < 2.0**-126] = 0
    with np.errstate(over="ignore"):
        narrow: npt.NDArray[np.float32] = rounded.astype(np.float32)
    return narrow


TILE = 16
"""Results along either axis that bands make at once."""

BAND_TAPS = 33
"""Most taps of a band; with several channels, fewer lie within its reach along W."""

MOST_MIDDLE, MIDDLE_START, MIDDLE_LOW = 2**12 - 1, 2**10, 8
"""Of the middle; what its low bits come with; how many those are."""


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """The weights of two passes over bytes, as tensor cores multiply them without loss.

    The middle, with `bias` added, is without sign and at most MOST_MIDDLE. `column` is 256 times
    the first of two terms of 8 bits, and the second; `row` has 11 bits, and is what a middle of
    2^MIDDLE_LOW adds to a result.
    """

    column: tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]
    row: npt.NDArray[np.float16]
    bias: int
    start: int
    """That sums along W begin with, in their units, and the bias is gone."""
    room: tuple[int, int]
    """The least and the most that may be added to them besides."""


def bands(stencil: Stencil) -> Bands | None:
    """A separable stencil's weights for tensor cores; None where a sum would not be exact."""
    assert stencil.column is not None
    assert stencil.row is not None
    return _bands(stencil.column, stencil.row, stencil.column_shift, stencil.shift)


@lru_cache(maxsize=64)
def _bands(column: Any, row: Any, column_shift: int, shift: int) -> Bands | None:
    down, across = (w.array.astype(np.float64) for w in (column, row))
    below, above = (math.ceil(255 * part / 2**column_shift) for part in _signed_sums(down))
    bias = below + below % 2  # halves go to the same even numbers with it as without
    most = above + bias
    high = np.floor((down + 128) / 256)
    if np.abs(high).max() > 127 or most > MOST_MIDDLE or most << column_shift >= 2**23:
        return None
    scaled = np.ldexp(across, MIDDLE_LOW - shift)
    with np.errstate(over="ignore"):
        halves = scaled.astype(np.float16)
    smallest = np.abs(scaled[scaled != 0]).min(initial=1.0)
    if not np.array_equal(halves, scaled) or smallest < np.finfo(np.float16).tiny:
        return None
    # Sums come from the start by whatever products are added first.
    negative, positive = _signed_sums(across)
    start = -(MIDDLE_START + bias) * (positive - negative)
    least, greatest = (start + (most + MIDDLE_START) * part for part in (-negative, positive))
    room = int(-MOST_SUM - least), int(MOST_SUM - greatest)
    if not room[0] < 0 < room[1]:
        return None
    column_terms = high.astype(np.int8), (down - 256 * high).astype(np.int8)
    return Bands(column_terms, halves, bias, int(start), room)


LOW_BITS = 11
"""The low term of a float16 middle is held times 2^LOW_BITS."""

MOST_GAIN = 2**8
"""Of float16's weights, Σ|w|. A middle that is scaled to stay below 2^16 is off by no more than
2^-36 or 22 bits: results, by no more than a quarter of half float16's smallest step besides."""


@dataclass(frozen=True, slots=True, eq=False)
class FloatBands:
    """The weights of two passes over float16 or bfloat16, as sums of terms.

    Of float16, `column` makes 2^LOW_BITS times the middle, which is no larger than pixels are, and
    `row` has a third term, which the middle's low one is multiplied by. Results are sums along W
    times 2^-scale.
    """

    column: tuple[npt.NDArray[np.float32], ...]
    row: tuple[npt.NDArray[np.float32], ...]
    scale: int = 0


def float_bands(stencil: Stencil, dtype: DType) -> FloatBands | None:
    """A separable stencil's weights for tensor cores; None where one would lose too much."""
    assert stencil.column is not None
    assert stencil.row is not None
    return _float_bands(stencil.column, stencil.row, dtype)


@lru_cache(maxsize=64)
def _float_bands(column: Any, row: Any, dtype: DType) -> FloatBands | None:
    down, across = (w.array.astype(np.float64) for w in (column, row))
    if dtype.name == "bfloat16":
        columns, rows = (_float_terms(values, dtype) for values in (down, across))
        kept = _keeps(columns, down) and _keeps(rows, across)
        return FloatBands(tuple(columns), tuple(rows)) if kept else None
    with np.errstate(over="ignore"):
        total, others = (float(np.abs(weights).sum()) for weights in (down, across))
    if not total * others <= MOST_GAIN:
        return None
    scales = -math.frexp(total)[1], _scale_of(float(np.abs(across).max()))
    if max(map(abs, scales)) > MOST_SCALE or abs(sum(scales)) > MOST_SCALE:
        return None
    down, across = np.ldexp(down, scales[0] + LOW_BITS), np.ldexp(across, scales[1])
    columns, rows = (_float_terms(values, dtype) for values in (down, across))
    if not (_keeps(columns, down) and _keeps(rows, across)):
        return None
    return FloatBands(tuple(columns), (*rows, np.ldexp(rows[0], -LOW_BITS)), sum(scales))


def _signed_sums(weights: Any) -> tuple[float, float]:
    """Of all that are negative, without their sign, and of all that are positive."""
    return float(-weights[weights < 0].sum()), float(weights[weights > 0].sum())
