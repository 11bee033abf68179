"""Exact sums of integer images: in one word or two, rounded half to even, saturated."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from gpuconv.backends.numpy.tile import Region, Source, Values
from gpuconv.dtypes import DType, limits, magnitude, saturate
from gpuconv.plan.filters import AMOUNT_BITS, LinearPlan

Words = tuple[Values, Values]
"""(high, low) with sum = high · 2^half + low and 0 ≤ low < 2^half."""


class _Half:
    """The upper (signed) or lower (unsigned) half of every pixel's bits, as int64."""

    def __init__(self, source: Source, bits: int, upper: bool) -> None:
        self.source, self.bits, self.upper = source, bits, upper
        self.shape = source.shape
        self.dtype: DType = np.dtype(np.int64)

    def read(self, batch: slice, region: Region) -> Values:
        pixels = self.source.read(batch, region)
        half: Values = _half_of(pixels, self.bits, self.upper)
        return half.astype(np.int64)


def pixel_half(source: Source, value: float, upper: bool) -> tuple[Source, int]:
    """The upper or lower half of every pixel, and of the border's value."""
    bits = 4 * source.dtype.itemsize
    return _Half(source, bits, upper), _half_of(int(value), bits, upper)


def _half_of(value: Any, bits: int, upper: bool) -> Any:
    return value >> bits if upper else value & ((1 << bits) - 1)


def drop_bits(sums: Values, bits: int) -> Values:
    """sums / 2^bits rounded half to even, for exact sums in floats or int64."""
    if not bits:
        return sums
    if sums.dtype.kind == "f":
        sums *= sums.dtype.type(0.5**bits)
        return np.rint(sums, out=sums)
    rounded: Values = (sums + ((1 << (bits - 1)) - 1) + ((sums >> bits) & 1)) >> bits
    return rounded


def rounded(sums: Values | Words, plan: LinearPlan) -> Values:
    """Exact sums + delta, rounded half to even; saturation to the dtype is left to the caller."""
    shift = plan.stencils[0].shift
    if isinstance(sums, tuple):
        half = 4 * plan.images.dtype.itemsize
        if not shift:
            return _round_words(*sums, half, plan)
        # So huge a gain saturates beyond ±2^58 whatever the low word says.
        room = 1 << (58 - half)
        sums = (np.clip(sums[0], -room, room - 1) << half) + sums[1]
    if not plan.delta:
        return drop_bits(sums, shift)
    # An even number may be added after rounding: half to even stays what it was.
    even = 2 * math.floor(Fraction(plan.delta) / 2)
    whole, rest = _split(Fraction(plan.delta) - even, shift)
    rounded = drop_bits((sums.astype(np.int64) + whole) * 4 + rest, shift + 2)
    if abs(even) < 1 << 60:
        return rounded + even
    half = 4 * plan.images.dtype.itemsize
    return _add_to_words(rounded >> half, rounded & ((1 << half) - 1), even, half, plan)


def _split(delta: Fraction, shift: int) -> tuple[int, int]:
    """delta·2^shift as its floor and two more bits: 0 nothing, 1 below, 2 at, 3 above a half.

    Two bits are all that rounding needs to know of the rest.
    """
    scaled = delta * 2**shift
    whole = math.floor(scaled)
    twice = 2 * (scaled - whole)
    return whole, 2 + (twice > 1) - (twice < 1) if twice else 0


def _round_words(high: Values, low: Values, half: int, plan: LinearPlan) -> Values:
    """Two-word sums of integer weights + delta → whole numbers of the output's dtype."""
    whole, rest = _split(Fraction(plan.delta), 0)
    up = (rest == 3) | ((rest == 2) & ((low + (whole & 1)) & 1))
    return _add_to_words(high, low + up, whole, half, plan)


def _add_to_words(high: Values, low: Values, whole: int, half: int, plan: LinearPlan) -> Values:
    """high · 2^half + low + whole as the output's dtype, saturated."""
    limit = 1 << (60 + half)  # beyond every dtype, whatever the sum
    whole = max(-limit, min(limit, whole))
    low = low + (whole & ((1 << half) - 1))
    return join_words(high + (whole >> half) + (low >> half), low, half, plan.images.out_dtype)


def join_words(high: Values, low: Values, half: int, dtype: DType) -> Values:
    """high · 2^half + (the lower half of low) as `dtype`, saturated."""
    least, most = limits(dtype)
    wide = np.dtype(np.uint64 if least == 0 else np.int64)
    joined = np.clip(high, least >> half, most >> half).astype(wide) << wide.type(half)
    joined |= (low & ((1 << half) - 1)).astype(wide)
    result = saturate(joined, dtype)
    result[high < least >> half] = least
    result[high > most >> half] = most
    return result


def whole_magnitude(down: Values | Words, across: Values | Words, plan: LinearPlan) -> Values:
    """The correctly rounded square root of the exact sum of squares."""
    half = 4 * plan.images.dtype.itemsize
    if half <= 8:
        # Squares stay below 2^53: exact, and no integer's root lies close to a half.
        total, square = (np.multiply(v, v, dtype=np.float64) for v in (down, across))
        np.add(total, square, out=total)
        return np.rint(np.sqrt(total, out=total), out=total)
    most = limits(plan.images.out_dtype)[1]
    root = np.frompyfunc(lambda a, b: min(most, (math.isqrt(4 * (a * a + b * b)) + 1) // 2), 2, 1)
    result: Values = root(_python_integers(down, half), _python_integers(across, half))
    return result.astype(plan.images.out_dtype)


def _python_integers(sums: Values | Words, half: int) -> Values:
    """Exact sums of any width: squares of 32-bit gradients outgrow every dtype."""
    if isinstance(sums, tuple):
        joined: Values = sums[0].astype(object) * (1 << half) + sums[1].astype(object)
        return joined
    return sums.astype(np.int64).astype(object)


def whole_unsharp(pixels: Values, blurred: Values, plan: LinearPlan) -> Values:
    """x + amount·(x − blur) on fixed point, rounded once, half to even."""
    shift, amount = plan.stencils[0].shift, int(plan.amount)
    bits = shift + AMOUNT_BITS
    gain = 1 + 2 * abs(amount) / 2**AMOUNT_BITS
    if magnitude(plan.images.dtype) * gain * 2.0**bits < 2**53:
        sharp = np.ldexp(blurred, -shift, dtype=np.float64)
        np.subtract(pixels, sharp, out=sharp)
        sharp *= amount / 2**AMOUNT_BITS
        sharp += pixels
        return np.rint(sharp, out=sharp)
    pixels = pixels.astype(np.int64)
    missing = (pixels << shift) - blurred.astype(np.int64)
    if abs(amount) << (8 * plan.images.dtype.itemsize + shift + 1) < 1 << 62:
        product = missing * amount
        floor, rest = product >> bits, product & ((1 << bits) - 1)
    else:
        # amount · missing outgrows 64 bits: its high part, and 30 low bits.
        high = (missing >> 30) * amount
        low = (missing & ((1 << 30) - 1)) * amount
        high += low >> 30
        floor = high >> (bits - 30)
        rest = ((high & ((1 << (bits - 30)) - 1)) << 30) | (low & ((1 << 30) - 1))
    whole = pixels + floor
    middle = 1 << (bits - 1)
    rounded: Values = whole + ((rest > middle) | ((rest == middle) & (whole & 1 == 1)))
    return rounded
