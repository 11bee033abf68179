"""How the NumPy backend carries out a plan: its rule, in one place. `repr(plan)` tells the outcome.

Facts in, a name out: dtypes, taps, rank, sizes, channels, never the image's size or the number of
threads, so that results depend on neither. Sizes of blocks are the families' own, fitted to a
core's caches and, for products of matrices, to the width of its vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod, sqrt
from typing import Literal

import numpy as np

from gpuconv.dtypes import FLOAT32, FLOAT64, INT64, DType, is_float, limits, magnitude
from gpuconv.quantize import Stencil
from gpuconv.window import AxisWindow

Linear = Literal["words", "integers", "few", "transforms", "window", "passes"]

LINEAR: dict[Linear, str] = {
    "words": "sums of two words, tap by tap",
    "integers": "int64, tap by tap",
    "few": "int16, tap by tap",
    "transforms": "fast Fourier transforms",
    "window": "banded products over the window",
    "passes": "banded products along each axis",
}

FEW_TAPS = 9
"""Taps other than 0. With more, products of matrices are quicker."""

ONE_PASS_TAPS = 9
"""Largest window that is summed in one pass although two would do."""

TRANSFORM_TAPS = {4: 256, 8: 128}
"""Windows from which on transforms beat products of matrices, by bytes of the accumulator."""

TRANSFORM_SIDE = 512
"""Of a square that is transformed, at most."""


def linear(
    stencils: Sequence[Stencil], dtype: DType, out_dtype: DType, combine: str, delta: float
) -> Linear:
    """The algorithm for weighted sums over images of `dtype`."""
    first = stencils[0]
    if first.accumulator == "int64x2":
        return "words"
    if _few(stencils, dtype, out_dtype, combine, delta):
        return "few"
    accumulator = np.dtype(first.accumulator)
    if accumulator.kind == "i":
        return "integers"
    if not in_one_pass(stencils):
        return "passes"
    window = first.height, first.width
    if (
        len(stencils) == 1
        and prod(window) >= TRANSFORM_TAPS[accumulator.itemsize]
        and max(window) <= TRANSFORM_SIDE * 4 // 5
        and (is_float(dtype) or _rounds_to_exact(first, dtype))
    ):
        return "transforms"
    return "window"


def _rounds_to_exact(stencil: Stencil, dtype: DType) -> bool:
    """Whether transforms of integer images err by so little that rounding makes sums exact.

    In float64 by less than eps · 10 · log2(N) · ‖x‖ · ‖w‖ over squares of N = side² pixels.
    """
    assert stencil.dense is not None
    weights = float(np.linalg.norm(stencil.dense.array.astype(np.float64)))
    pixels = magnitude(dtype) * TRANSFORM_SIDE
    return 2.0**-52 * 10 * 2 * log2(TRANSFORM_SIDE) * pixels * weights < 0.25


def in_one_pass(stencils: Sequence[Stencil]) -> bool:
    """Whether windows are summed whole, not first along H and then along W."""
    return all(
        s.dense is not None or (not s.column_shift and s.height * s.width <= ONE_PASS_TAPS)
        for s in stencils
    )


def _few(
    stencils: Sequence[Stencil], dtype: DType, out_dtype: DType, combine: str, delta: float
) -> bool:
    """Whether int16 holds every sum of 8-bit images, of so few taps that they are soon added."""
    if is_float(dtype) or dtype.itemsize > 1 or combine == "unsharp":
        return False
    most = 0
    for s in stencils:
        taps = [f.array for f in (s.dense, s.column, s.row) if f is not None]
        if s.shift or s.column_shift or sum(map(np.count_nonzero, taps)) > FEW_TAPS:
            return False
        most = max(most, prod(int(np.abs(t).sum()) for t in taps) * magnitude(dtype))
    if combine == "magnitude":
        # Of a root below 2^11 float32 tells on which side of a half it lies.
        return most < 2**15 and limits(out_dtype)[1] < 2**11
    return delta == int(delta) and most + abs(delta) < 2**15


Rank = Literal["network", "levels", "selection"]

RANK: dict[Rank, str] = {
    "network": "a network of minima and maxima",
    "levels": "counts level by level",
    "selection": "windows gathered and partly sorted",
}

NETWORK_TAPS = 225
"""Largest window sorted by a network."""


def rank(count: int, dtype: DType) -> Rank:
    """The algorithm for a rank of windows of `count` pixels."""
    if count <= NETWORK_TAPS:
        return "network"
    return "levels" if dtype.itemsize == 1 else "selection"


MOST_TERMS = 256
"""Terms that one product adds one after another, at most."""

MOST_EXACT_TERMS = 512
"""The same where no sum is rounded."""

WORTH_TERMS = 128
"""Terms of a product for which a narrower type is worth its exact sums' being short."""


def chain_of(taps: int, passes: int = 1) -> int:
    """How many terms of a float sum over `taps` each pass may add one after another.

    n of them err by (n − 1)/2 eps at most, whatever they are; the contract allows 2·√taps eps.
    """
    return min(MOST_TERMS, 1 + int(4 * sqrt(taps) / passes))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Number types of a convolution: of operands and block sums, and of sums of blocks."""

    work: DType
    total: DType
    block: int


def numbers(input: DType, weight: DType, sums: DType, taps: int) -> Numbers:
    """Float sums are blocked; integer ones use the fastest type that holds a block exactly."""
    if is_float(input):
        return Numbers(sums, sums, chain_of(taps))
    largest = magnitude(input) * magnitude(weight)
    for work, exact in ((FLOAT32, 2**24), (FLOAT64, 2**53)):
        block = min(exact // largest, MOST_EXACT_TERMS)
        if block >= min(taps, WORTH_TERMS):
            fits = [t for t, n in ((work, exact), (FLOAT64, 2**53)) if taps * largest <= n]
            return Numbers(work, fits[0] if fits else INT64, block)
    return Numbers(INT64, INT64, MOST_EXACT_TERMS)


Conv = Literal["columns", "planes", "bands", "slabs"]

CONV: dict[Conv, str] = {
    "columns": "products with gathered windows",
    "planes": "products with planes, tap by tap",
    "bands": "banded products",
    "slabs": "shifted slabs, tap by tap",
}

PLANES = 32
"""Channels of a group that are worth a product for each tap."""

BAND_REACH = 16
"""Rows that a window may span, times its stride, for products along bands."""


def conv(
    algorithm: str,
    channels: int,
    windows: Sequence[AxisWindow],
    types: Numbers,
    channels_last: bool,
) -> Conv:
    """The algorithm for sums over windows of `channels` a group."""
    if algorithm == "gemm":
        return "columns" if channels < PLANES else "planes"
    banded = (
        len(windows) == 2
        and channels == 1
        and not channels_last
        and types.work == types.total
        and types.work.kind == "f"
        and all(w.extent * w.stride <= BAND_REACH for w in windows)
    )
    return "bands" if banded else "slabs"
