"""Image kernels as integers: the numbers that make filtered pixels identical on every backend.

A float kernel becomes integers q and a shift s, w ≈ q / 2^s. The scale, the accumulator and the
choice between one dense and two separable passes follow from the kernel and the dtype alone, so
they are decided here, once, and every backend only carries them out:

    dense       out = round(Σ q·x / 2^shift)
    separable   mid = round(Σ column·x / 2^column_shift)   along H, kept in fixed point
                out = round(Σ row·mid / 2^shift)           along W

round() is half to even, and the result saturates to the dtype. Every partial sum fits the named
accumulator exactly, whatever the order of its terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.dtypes import DType, accumulator, is_float, limits, magnitude

Floats = npt.NDArray[np.float64]

SEPARABLE_RESIDUAL = 2.0**-20
"""Largest residual, relative to max|w|, of a kernel that counts as separable on integers."""

WORST_ERROR = 1.0
"""Levels that a scheme may be off before rounding, by its worst-case bound."""

TYPICAL_ERROR = 0.05
"""Levels that it may be off as a root mean square, over noise of black and white."""


KEPT_WEIGHTS = 1024
"""Largest kernel whose stencil is kept from call to call."""


class Frozen:
    """A read-only array that can be hashed and compared: kernels inside plans."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = np.array(array, order="C")
        self.array.setflags(write=False)
        self._hash = hash((self.array.shape, self.array.dtype.str, self.array.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Frozen)
            and self._hash == other._hash
            and self.array.dtype == other.array.dtype
            and self.array.shape == other.array.shape
            and self.array.tobytes() == other.array.tobytes()
        )

    def __reduce__(self) -> tuple[type[Frozen], tuple[npt.NDArray[Any]]]:
        return Frozen, (self.array,)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.array.shape))
        return f"<{shape} {self.array.dtype}>"


@dataclass(frozen=True, slots=True)
class Stencil:
    """One weighted sum over a window and how it is rounded.

    Exact stencils hold integers; float ones the weights themselves, with shifts of 0. `dense` is
    set for one pass, `column` and `row` for two.
    """

    height: int
    width: int
    accumulator: str
    dense: Frozen | None = None
    column: Frozen | None = None
    row: Frozen | None = None
    column_shift: int = 0
    shift: int = 0
    why: str = ""

    @property
    def separable(self) -> bool:
        """Whether two one-dimensional passes replace the window."""
        return self.dense is None

    @property
    def multiplications(self) -> int:
        """Products per output."""
        return self.height + self.width if self.separable else self.height * self.width


@dataclass(frozen=True, slots=True)
class _Scheme:
    """Σ|q| and fixed-point bits of one exact form (DESIGN section 3.3)."""

    name: str
    accumulator: str
    dense: int
    column: int
    fraction: int
    row: int


LADDER = {
    1: (
        _Scheme("narrow", "float32", 16, 15, 4, 12),
        _Scheme("wide", "float64", 23, 23, 6, 17),
        _Scheme("double", "int64", 50, 32, 18, 32),
    ),
    2: (
        _Scheme("wide", "float64", 36, 32, 8, 28),
        _Scheme("double", "int64", 42, 40, 14, 28),
    ),
}
"""Schemes by bytes of the image dtype, cheapest first; int64 sums stay below 2^58."""


def exact_accumulator(bound: int, dtype: DType) -> str:
    """The cheapest accumulator that holds every integer up to `bound`.

    "int64x2" keeps the sums of the high and the low half of every pixel in two words.
    """
    for name, bits in (("float32", 24), ("float64", 53), ("int64", 58)):
        if bound < 2**bits:
            return name
    half = 4 * dtype.itemsize
    if bound >> half < 2**58:
        return "int64x2"
    raise ValueError(
        f"kernel must keep its sums over {dtype} images within {58 + half} bits, got "
        f"{bound.bit_length()} (convert the images to float64)"
    )


def plan_stencil(kernel: Floats, dtype: DType, gain: float = 1.0) -> Stencil:
    """The form in which a dense `kernel` (KH, KW) is summed over images of `dtype`.

    `gain` is what the sums are multiplied by before they are rounded.
    """
    if kernel.size > KEPT_WEIGHTS:
        return _plan_stencil(kernel, dtype, gain)
    return _kept_stencil(Frozen(kernel), dtype, gain)


@lru_cache(maxsize=64)
def _kept_stencil(kernel: Frozen, dtype: DType, gain: float) -> Stencil:
    return _plan_stencil(kernel.array, dtype, gain)


def _plan_stencil(kernel: Floats, dtype: DType, gain: float) -> Stencil:
    column, row, residual = factor(kernel)
    if is_float(dtype):
        slack = 2 * float(np.finfo(accumulator(dtype)).eps)
        if min(kernel.shape) > 1 and np.all(np.abs(residual) <= slack * np.abs(kernel)):
            return _float_stencil(dtype, column=column, row=row)
        return _float_stencil(dtype, dense=kernel)
    if is_whole(kernel):
        return _whole_stencil(kernel, dtype)
    _fractions_need_small_integers(dtype)
    peak = float(np.max(np.abs(kernel)))
    if min(kernel.shape) > 1 and np.max(np.abs(residual)) <= SEPARABLE_RESIDUAL * peak:
        stencil = _separable_stencil(column, row, float(np.sum(np.abs(residual))), dtype, gain)
        if stencil is not None:
            return stencil
    return _dense_stencil(kernel, dtype, gain)


def plan_separable(column: Floats, row: Floats, dtype: DType, gain: float = 1.0) -> Stencil:
    """The form in which outer(column, row) is summed over images of `dtype`; `gain` as above."""
    if max(column.size, row.size) > KEPT_WEIGHTS:
        return _plan_separable(column, row, dtype, gain)
    return _kept_separable(Frozen(column), Frozen(row), dtype, gain)


@lru_cache(maxsize=64)
def _kept_separable(column: Frozen, row: Frozen, dtype: DType, gain: float) -> Stencil:
    return _plan_separable(column.array, row.array, dtype, gain)


def _plan_separable(column: Floats, row: Floats, dtype: DType, gain: float) -> Stencil:
    if min(column.size, row.size) == 1:
        return plan_stencil(np.outer(column, row), dtype, gain)
    if is_float(dtype):
        return _float_stencil(dtype, column=column, row=row)
    if not (column.any() and row.any()):
        column, row = np.zeros_like(column), np.zeros_like(row)
    if is_whole(column) and is_whole(row):
        return _whole_factors_stencil(column, row, dtype)
    if column.size * row.size <= 2**14 and is_whole(np.outer(column, row)):
        return _whole_stencil(np.outer(column, row), dtype)
    _fractions_need_small_integers(dtype)
    pivot = row[int(np.argmax(np.abs(row)))]
    column, row = column * pivot, row / pivot
    stencil = _separable_stencil(column, row, 0.0, dtype, gain)
    if stencil is None and gain > 1:
        # The worst case is far from any image: the finest two passes do, and one would be slow.
        stencil = _separable_stencil(column, row, 0.0, dtype, 1.0, LADDER[dtype.itemsize][-1:])
    return stencil or _dense_stencil(np.outer(column, row), dtype, gain)


def _fractions_need_small_integers(dtype: DType) -> None:
    if dtype.itemsize > 2:
        raise TypeError(
            f"kernel must have integer weights for {dtype} images, got fractions "
            "(convert the images to float64)"
        )


def factor(kernel: Floats) -> tuple[Floats, Floats, Floats]:
    """(column, row, residual) with kernel = outer(column, row) + residual.

    The column and the row run through the first largest |w|.
    """
    y, x = np.unravel_index(int(np.argmax(np.abs(kernel))), kernel.shape)
    pivot = kernel[y, x]
    column = kernel[:, x].copy()
    row = kernel[y, :] / pivot if pivot else np.zeros(kernel.shape[1])
    return column, row, kernel - np.outer(column, row)


def is_whole(values: Floats) -> bool:
    """Whether every value is an integer."""
    return bool(np.all(values == np.rint(values)))


def whole_factors(kernel: Floats) -> tuple[Floats, Floats] | None:
    """Integer column and row whose outer product is exactly an integer `kernel`, if there are."""
    y, x = np.unravel_index(int(np.argmax(np.abs(kernel))), kernel.shape)
    if not kernel[y, x]:
        return None
    line = [int(v) for v in kernel[y]]
    divisor = math.gcd(*line)
    row = np.array([v // divisor for v in line], dtype=np.float64)
    column = kernel[:, x] / row[x]
    if is_whole(column) and np.array_equal(np.outer(column, row), kernel):
        return column, row
    return None


def _float_stencil(
    dtype: DType,
    *,
    dense: Floats | None = None,
    column: Floats | None = None,
    row: Floats | None = None,
) -> Stencil:
    """Weights as they are, summed in the accumulator of a float dtype."""
    acc = accumulator(dtype).name
    if dense is not None:
        height, width = dense.shape
        return Stencil(height, width, acc, dense=Frozen(dense), why="not separable")
    assert column is not None
    assert row is not None
    return Stencil(column.size, row.size, acc, column=Frozen(column), row=Frozen(row), why="rank 1")


def _whole_stencil(kernel: Floats, dtype: DType) -> Stencil:
    """Integer weights are exact as they are."""
    height, width = kernel.shape
    acc = exact_accumulator(_whole_gain(kernel) * magnitude(dtype), dtype)
    factors = whole_factors(kernel) if min(height, width) > 1 and acc != "int64x2" else None
    if factors is not None:
        return _whole_factors_stencil(*factors, dtype)
    whole = Frozen(kernel.astype(np.int64))
    return Stencil(height, width, acc, dense=whole, why="integer weights")


def _whole_factors_stencil(column: Floats, row: Floats, dtype: DType) -> Stencil:
    """Integer weights given by their factors."""
    # A row of zeros forgives no overflow in the pass along the column.
    total = _whole_gain(column) * max(1, _whole_gain(row))
    acc = exact_accumulator(total * magnitude(dtype), dtype)
    height, width = column.size, row.size
    if acc == "int64x2":
        whole = Frozen(np.outer(column, row).astype(np.int64))
        return Stencil(height, width, acc, dense=whole, why="integer weights")
    down, across = (Frozen(f.astype(np.int64)) for f in (column, row))
    return Stencil(height, width, acc, column=down, row=across, why="integer weights, rank 1")


def _whole_gain(weights: Floats) -> int:
    """Σ|w| of integer weights, exactly."""
    return sum(abs(int(w)) for w in weights.flat)


def _dense_stencil(kernel: Floats, dtype: DType, gain: float) -> Stencil:
    """The first scheme of the ladder, one pass, whose error is within the contract."""
    height, width = kernel.shape
    rungs = [(s.name, s.accumulator, s.dense) for s in LADDER[dtype.itemsize]]
    rungs.append(("halved pixels", "int64x2", 58 - 4 * dtype.itemsize))
    for name, acc, bits in rungs:
        quantised, shift = quantise(kernel, bits)
        missed = kernel - np.ldexp(quantised.astype(np.float64), -shift)
        worst = magnitude(dtype) * float(np.sum(np.abs(missed)))
        typical = _contrast(dtype) * float(np.linalg.norm(missed))
        if shift >= 0 and gain * worst < WORST_ERROR and gain * typical <= TYPICAL_ERROR:
            why = f"{name} fixed point, not separable"
            return Stencil(height, width, acc, dense=Frozen(quantised), shift=shift, why=why)
    raise ValueError(
        f"kernel must have a smaller gain for {dtype} images, got Σ|w| = "
        f"{np.sum(np.abs(kernel)):.3g} (convert the images to float64)"
    )


def _contrast(dtype: DType) -> float:
    """Half the distance of the darkest and the brightest level: the spread of black and white."""
    low, high = limits(dtype)
    return (high - low) / 2


def _separable_stencil(
    column: Floats,
    row: Floats,
    residual: float,
    dtype: DType,
    gain: float,
    ladder: tuple[_Scheme, ...] | None = None,
) -> Stencil | None:
    """The first scheme of the ladder, two passes, whose error is within the contract."""
    scale = float(np.sum(np.abs(column)))
    column, row = column / scale, row * scale
    for scheme in ladder or LADDER[dtype.itemsize]:
        column_q, column_bits = quantise(column, scheme.column)
        row_q, row_bits = quantise(row, scheme.row)
        if row_bits < 0:
            continue
        column_missed = column - np.ldexp(column_q.astype(np.float64), -column_bits)
        row_missed = row - np.ldexp(row_q.astype(np.float64), -row_bits)
        row_gain = float(np.sum(np.abs(row_q))) * 0.5**row_bits
        weights_missed = (
            float(np.sum(np.abs(row_missed)))
            + float(np.sum(np.abs(column_missed))) * row_gain
            + residual
        )
        rounding = row_gain * 0.5 ** (scheme.fraction + 1)
        worst = magnitude(dtype) * weights_missed + rounding
        norm = np.linalg.norm
        typical = math.hypot(
            _contrast(dtype) * float(norm(column_missed) * norm(row)),
            _contrast(dtype) * float(norm(column) * norm(row_missed)),
            float(norm(row)) * 0.5**scheme.fraction / math.sqrt(12),
        )
        if gain * worst < WORST_ERROR and gain * typical <= TYPICAL_ERROR:
            return Stencil(
                column.size,
                row.size,
                scheme.accumulator,
                column=Frozen(column_q),
                row=Frozen(row_q),
                column_shift=column_bits - scheme.fraction,
                shift=row_bits + scheme.fraction,
                why=f"{scheme.name} fixed point, rank 1",
            )
    return None


def quantise(weights: Floats, bits: int) -> tuple[npt.NDArray[np.int64], int]:
    """Integers q and a shift s with weights ≈ q / 2^s and Σ|q| ≤ 2^bits.

    The rounded sum is kept, and weights that mirror each other stay equal (or opposite).
    """
    total = float(np.sum(np.abs(weights)))
    shift = bits - math.ceil(math.log2(total) - 1e-9) if total else 0
    shift = min(shift, max(bits, 40))  # weights this small never reach half a level
    while True:
        quantised = _round_keeping_sum(weights, shift)
        if sum(abs(int(q)) for q in quantised.flat) <= 2**bits:
            return quantised, shift
        shift -= 1


def _round_keeping_sum(weights: Floats, shift: int) -> npt.NDArray[np.int64]:
    """Largest-remainder rounding of weights · 2^shift, one symmetry orbit at a time."""
    scaled = np.ldexp(weights, shift)
    quantised = np.rint(scaled).astype(np.int64)
    owed = round(math.fsum(scaled.flat)) - int(quantised.sum())
    if not owed:
        return quantised
    step = 1 if owed > 0 else -1
    remainder = (scaled - quantised) * step
    orbits = symmetry_orbits(weights)
    orbits.sort(key=lambda orbit: (-remainder.flat[orbit[0]], orbit[0]))
    settled = False
    while not settled:
        settled = True
        for orbit in orbits:
            if len(orbit) <= abs(owed):
                quantised.flat[orbit] += step
                owed -= step * len(orbit)
                settled = False
    return quantised


def symmetry_orbits(weights: Floats) -> list[list[int]]:
    """Flat positions grouped by the mirrors (and transpose) that leave `weights` unchanged."""
    positions = np.arange(weights.size).reshape(weights.shape)
    views = [np.flip(positions, axis) for axis in range(weights.ndim)]
    views.append(np.flip(positions))
    if weights.ndim == 2 and weights.shape[0] == weights.shape[1]:
        views += [positions.T, np.flip(positions).T]
    kept = [v.ravel() for v in views if np.array_equal(weights.ravel()[v], weights)]
    orbit_of = np.arange(weights.size)
    while True:
        lowest = orbit_of
        for image in kept:
            lowest = np.minimum(lowest, lowest[image])
        if np.array_equal(lowest, orbit_of):
            break
        orbit_of = lowest
    orbits: dict[int, list[int]] = {}
    for position, leader in enumerate(orbit_of.tolist()):
        orbits.setdefault(leader, []).append(position)
    return list(orbits.values())
