"""Feature maps for the tests of convolutions and pools: every rank, dtype, layout and size."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from gpuconv.backends.numpy import (
    conv,
    depthwise,
    pool,
    products,
    slabs,
    staging,
    window_tiles,
)
from gpuconv.plan import cpu
from gpuconv.plan.remember import forget
from tests import reference
from tests.image_cases import dtype_of, is_integer

LAYOUTS = ("NCHW", "NHWC", "CHW", "HWC")
"""With a batch of two, or without a batch; channels last or not."""

LENGTHS = {"exact": (1, 0), "one more": (1, 1), "longer": (2, 3)}
"""Elements of an axis: so many times the reach of a window, and so many more."""

FOLDED = {"mixed": (3, 1, 2), "long": (1, 2, 6)}
"""Values that differ from axis to axis."""


def per_axis(value: object, rank: int) -> tuple[int, ...]:
    """A setting of the matrix for `rank` axes."""
    if isinstance(value, str):
        return FOLDED[value][-rank:]
    return (value,) * rank  # type: ignore[return-value]


def spatial(length: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the axes for windows of a kernel."""
    times, more = LENGTHS[length]
    reach = (reference.extent(k, d) for k, d in zip(kernel, dilation, strict=True))
    return tuple(times * r + more + axis % 2 * (times - 1) for axis, r in enumerate(reach))


def random_values(shape: Sequence[int], dtype: str, seed: object = 0) -> np.ndarray:
    """Read-only noise: integers over their whole range, floats around 0, some of them equal."""
    rng = np.random.default_rng([len(shape), *shape, *map(ord, f"{dtype}{seed}")])
    kind = dtype_of(dtype)
    if is_integer(kind):
        info = np.iinfo(kind)
        values = rng.integers(info.min, info.max, shape, kind, endpoint=True)
        values[rng.random(shape) < 0.1] = info.max
        values[rng.random(shape) < 0.1] = info.min
    else:
        values = rng.normal(size=shape).astype(kind)
        values[rng.random(shape) < 0.1] = 1
    values.setflags(write=False)
    return values


def random_maps(layout: str, channels: int, sizes: Sequence[int], dtype: str) -> np.ndarray:
    """A feature map of a layout of `LAYOUTS`."""
    inner = (*sizes, channels) if layout.endswith("C") else (channels, *sizes)
    return random_values((2, *inner) if layout.startswith("N") else inner, dtype)


def public_layout(layout: str) -> str:
    """The `layout` argument for a layout of `LAYOUTS`."""
    return "NHWC" if layout.endswith("C") else "NCHW"


def grain(dtype: str) -> float:
    """Half of what separates the smallest numbers of a float dtype: their rounding error."""
    return float(ml_dtypes.finfo(dtype_of(dtype)).smallest_subnormal) / 2


def shrink_tiles(monkeypatch: pytest.MonkeyPatch, rank: int = 2) -> None:
    """Make tiles so small that small maps are cut along every axis, windows and channels too."""
    forget()
    times = 6 if rank == 3 else 1
    for module, name, value in (
        (window_tiles, "SPAN_ELEMENTS", 60 * times),
        (window_tiles, "ROW", 4),
        (pool, "SPAN_ELEMENTS", 60 * times),
        (pool, "ROW", 4),
        (pool, "CHANNELS", 3),
        (pool, "UNPOOLED", 5),
        (conv, "CHANNELS", 2),
        (conv, "BAND_CHANNELS", 2),
        (conv, "WEIGHT_BYTES", 32),
        (cpu, "MOST_TERMS", 4),
        (cpu, "MOST_EXACT_TERMS", 4),
        (cpu, "WORTH_TERMS", 4),
        (cpu, "PLANES", 2),
        (products, "GATHERED_TAPS", 6 * times),
        (products, "COLUMN_ELEMENTS", 150 * times),
        (products, "SUM_ELEMENTS", 20 * times),
        (depthwise, "COLUMN_ELEMENTS", 60),
        (depthwise, "TILE_ELEMENTS", 60),
        (depthwise, "LOADED_ELEMENTS", 200),
        (slabs, "BLOCK_TAPS", 2),
        (slabs, "SUM_ELEMENTS", 20 * times),
        (staging, "PART_TAPS", 6 * times),
        (staging, "TILE_ELEMENTS", 60 * times),
        (staging, "LOADED_ELEMENTS", 200 * times),
    ):
        monkeypatch.setattr(module, name, value)
