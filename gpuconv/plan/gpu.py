"""How the CUDA backend carries out a weighted sum: its rule, in one place. `repr(plan)` tells it.

    separable   along H, then along W: a stencil's own form, for integers part of the numbers
    bands       the same of uint8, float16 and bfloat16, as products of banded matrices on tensor
                cores
    strip       dense, small and square: rows slide through registers
    general     dense, of any size
    tensor      dense, as products of banded matrices on tensor cores

The rule takes the form with the least estimated time: the larger of bytes and operations, each at
its rate. Layouts that strips or tensor cores do not take run in the general form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpuconv.dtypes import DType, is_float
from gpuconv.plan import tensor
from gpuconv.plan.tensor import Precision
from gpuconv.quantize import Stencil

Linear = Literal["separable", "bands", "strip", "general", "tensor"]

LINEAR: dict[Linear, str] = {
    "separable": "along each axis in turn",
    "bands": "along each axis in turn, as banded products on tensor cores",
    "strip": "rows sliding through registers",
    "general": "tap by tap from shared memory",
    "tensor": "banded products on tensor cores",
}

PROVEN = False
"""Whether a committed results file shows the tensor-core tests passing on a GPU.

The emulator's mma and ldmatrix are its author's reading of the PTX manual, as the kernel is: until
a GPU has agreed, "auto" leaves tensor cores alone, and `algorithm="tensor"` asks for them.
"""

COPY = 4.3e12
"""Bytes a second, read and written, of an H200; what follows are multiply-adds a second there."""

FLOATS, DOUBLES, LONGS = 33.4e12, 16.7e12, 1e12
TENSOR = 0.63 * 495e12
"""Of f16 by mma.sync; half of it of tf32."""

GENERAL = 1 / 3
"""Share of its rate that the general form reaches: it reads a weight and a pixel for four."""

SEPARABLE_LANES = {1: (5, 1.7), 2: (5, 2.0), 4: (10, 2.0), 8: (10, 2.0)}
"""Instructions of two short passes, by bytes of a pixel: for a result, and for each tap along both
axes."""

STRIPS, LARGE_STRIPS = (3, 5, 7), (9, 11, 13, 15)
"""Sides of the kernels that strips take; the large ones of one channel.

Integers are also filtered by a larger square than their kernel where that pays: see
`dense_strips` among the CUDA backend's files.
"""

STRIP_CHANNELS = 4
"""Interleaved, at most, for strips."""

FEWEST_TAPS = 7
"""Along the longer side of a kernel that is worth tensor cores."""

LARGEST_TAPS = 255
"""Along either side, that a band in shared memory has room for."""

Algorithm = Literal["auto", "direct", "tensor"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The form that a plan takes on a GPU, and why."""

    form: Linear
    why: str


def choose(
    stencils: tuple[Stencil, ...],
    combine: str,
    dtype: DType,
    bytes_each: int,
    channels: int,
    precision: Precision,
    algorithm: Algorithm,
) -> Choice:
    """The form of weighted sums over images of `dtype` that read and write `bytes_each` an element.

    `channels` lie interleaved.
    """
    first = stencils[0]
    direct, direct_time = _direct(stencils, dtype, bytes_each, channels)
    by_products: Linear = "bands" if first.separable else "tensor"
    if algorithm == "tensor":
        return Choice(by_products, "asked for")
    if algorithm == "direct":
        return Choice(direct, "asked for")
    refused = _refusal(stencils, combine, dtype, precision)
    if refused:
        return Choice(direct, f"tensor cores do not take {refused}")
    if first.separable:
        ratio = bands_time(first, dtype, channels) / direct_time
    else:
        ratio = tensor_time(first, dtype, bytes_each, channels, precision) / direct_time
    if ratio >= 1:
        return Choice(direct, f"tensor cores would take {ratio:.1f} times as long")
    if PROVEN:
        return Choice(by_products, f"{ratio:.2f} of the time of {direct}")
    return Choice(
        direct,
        f"tensor cores would take {ratio:.2f} of the time; not picked before their tests have "
        "passed on a GPU",
    )


def _direct(
    stencils: tuple[Stencil, ...], dtype: DType, bytes_each: int, channels: int
) -> tuple[Linear, float]:
    """The form without tensor cores, and its seconds an element."""
    first = stencils[0]
    if first.separable:
        own, tap = SEPARABLE_LANES[dtype.itemsize]
        lanes = own + tap * max(first.height, first.width)
        return "separable", max(bytes_each / COPY, lanes / FLOATS)
    taps = sum(s.multiplications for s in stencils)
    if _by_strips(first, dtype, channels):
        rate = FLOATS if first.accumulator == "float32" else DOUBLES
        return "strip", max(bytes_each / COPY, taps / rate)
    rate = LONGS
    if first.accumulator in ("float32", "float64") and (is_float(dtype) or dtype.itemsize < 8):
        floats = first.accumulator == "float32" and (is_float(dtype) or dtype.itemsize == 1)
        rate = FLOATS if floats else DOUBLES
    return "general", max(bytes_each / COPY, taps / rate / GENERAL)


def _by_strips(stencil: Stencil, dtype: DType, channels: int) -> bool:
    """Whether strips take a square kernel."""
    if stencil.height != stencil.width or channels > STRIP_CHANNELS:
        return False
    if dtype.name == "uint16":
        exact = stencil.accumulator in ("float32", "float64")
    else:
        exact = dtype.name in ("uint8", "float16", "float32") and stencil.accumulator == "float32"
    return exact and stencil.width in (STRIPS + LARGE_STRIPS if channels == 1 else STRIPS)


def tensor_time(
    stencil: Stencil, dtype: DType, bytes_each: int, channels: int, precision: Precision
) -> float:
    """Seconds an element on tensor cores, for a stencil that they take."""
    terms = tensor.split(stencil, dtype, precision)
    assert terms is not None
    slab = 4 if dtype.itemsize == 4 else 8
    slabs = -(-(8 + (stencil.width - 1) * channels + slab // 2) // slab)
    products = (stencil.height + 1) / 2 * slabs * terms.count * 16
    return max(bytes_each / COPY, products / TENSOR)


def refusal(
    stencils: tuple[Stencil, ...],
    combine: str,
    dtype: DType,
    out_dtype: DType,
    precision: Precision,
) -> str:
    """Why tensor cores cannot compute these sums; nothing where they can."""
    if dtype != out_dtype:
        return f"results of {out_dtype} from images of {dtype}"
    return _refusal(stencils, combine, dtype, precision)


def _refusal(
    stencils: tuple[Stencil, ...], combine: str, dtype: DType, precision: Precision
) -> str:
    first = stencils[0]
    if dtype.name not in ("uint8", "float16", "bfloat16", "float32"):
        return f"{dtype} images"
    if dtype.name == "float32" and precision == "ieee":
        return "float32 images at precision='ieee'"
    if len(stencils) > 1 or combine != "sum":
        return "more than one plain sum"
    if first.separable and dtype.name == "float32":
        return f"a kernel of rank 1 on {dtype} images, which takes two short passes"
    if first.separable:
        fits = max(first.height, first.width) <= tensor.BAND_TAPS and _has_bands(first, dtype)
        return "" if fits else "a kernel of rank 1 with these weights, or so many"
    if max(first.height, first.width) < FEWEST_TAPS:
        return f"a kernel of fewer than {FEWEST_TAPS} taps along either side"
    if max(first.height, first.width) > LARGEST_TAPS:
        return f"a kernel of more than {LARGEST_TAPS} taps along one side"
    if tensor.split(first, dtype, precision) is None:
        return f"weights too large, or too far apart, for sums of {dtype} images"
    return ""


def _has_bands(stencil: Stencil, dtype: DType) -> bool:
    if dtype.name == "uint8":
        return tensor.bands(stencil) is not None
    return tensor.float_bands(stencil, dtype) is not None


def bands_time(stencil: Stencil, dtype: DType, channels: int) -> float:
    """Seconds an element of two passes on tensor cores."""
    slabs, tiles = (
        2 + max(0, -(-(taps - tensor.TILE - 1) // tensor.TILE))
        for taps in (stencil.height, (stencil.width - 1) * channels + 1)
    )
    count: float
    if dtype.name == "uint8":
        count = 4 * (9 / 8 * -(-slabs // 2) + tiles)
    else:
        count = slabs * (tiles + 3) + 6 * tiles  # four tiles of results take so many of the middle
    products = count * 2048 / tensor.TILE**2
    return max(2 * dtype.itemsize / COPY, products / TENSOR)


# ---------------------------------------------------------------- ranks

Rank = Literal["network", "counts", "sorted", "any"]

SLIDING = "the ends and the whole blocks of windows in one launch, whatever their size"
OFFSETS = "offset by offset"
"""Boxes and other footprints. Which sizes and layouts the one launch takes is told by arrays:
`plan_slider` among the CUDA backend's files."""

RANK: dict[Rank, str] = {
    "network": "networks of minima and maxima that neighbours share",
    "counts": "a table of levels in each lane, moved down row by row",
    "sorted": "tiles sorted once, a table of places in each lane, moved down row by row",
    "any": "selection bit by bit",
}

NETWORKS = (3, 5, 7)
"""Sides of the squares whose medians networks find."""

NETWORK_CHANNELS = 4
"""Interleaved, at most, for networks."""

FEW = {1: 4, 2: 15, 4: 7, 8: 5}
"""Largest windows whose ranks are sooner found bit by bit than in a table, by bytes of a pixel.

Bit by bit takes about 5 instructions a bit and pixel of the window (9 with NaN to watch); sorting
takes about 1,300, 2,500 and 4,000 for each result, whatever the window.
"""

TABLE_BYTES = 48 * 1024
"""Shared memory of a warp that moves down, at most."""

LANES = 32
COUNTERS = (4, 2, 1)
"""Counters in a word, the most that can hold a whole window."""


def rank(
    sizes: tuple[int, int], wanted: int, dtype: DType, out_dtype: DType, channels: int
) -> Rank:
    """The algorithm for the `wanted`-th of a window.

    Networks and counts are for pixels stored as they come.
    """
    height, width = sizes
    typed = dtype == out_dtype
    median = height == width and wanted == height * width // 2
    if typed and median and height in NETWORKS and channels <= NETWORK_CHANNELS:
        return "network"
    if typed and height * width > FEW[1] and dtype.itemsize == 1:
        span = LANES + (width - 1) * channels
        if table_bytes(256 // counters(height * width), span) <= TABLE_BYTES:
            return "counts"
    return rank_converted(sizes, dtype)


def rank_converted(sizes: tuple[int, int], dtype: DType) -> Rank:
    """The algorithm where images of another type become `dtype`, or results become another."""
    height, width = sizes
    few = height * width <= FEW[dtype.itemsize]
    return "any" if few or most_places(width) // (LANES - 1 + width) < height else "sorted"


def counters(count: int) -> int:
    """Counters in a word where windows have `count` pixels."""
    return next(n for n in COUNTERS if count < 2 ** (32 // n))


def table_bytes(words: int, span: int) -> int:
    """Shared memory of a warp's tables of so many words and one more, and of a row of `span`."""
    return 4 * LANES * (words + 1) + 4 * span


def most_places(width: int) -> int:
    """Pixels that the windows of a sorted tile may meet, for windows so wide: a bit each."""
    return LANES * ((TABLE_BYTES - table_bytes(0, LANES - 1 + width)) // (4 * LANES))
