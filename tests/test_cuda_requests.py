"""How the kernels' requests fit the memory: bank conflicts and sectors, counted on the emulator."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from tests.emulator import EmulatorBackend
from tests.image_cases import random_images
from tests.map_cases import random_values

pytestmark = pytest.mark.emulator

CROSS = np.arange(9.0).reshape(3, 3) - 4
LARGE = np.arange(272.0).reshape(17, 16) % 7
BAND = np.arange(225.0).reshape(15, 15) % 8


def cut(images):
    """Rows that are no whole packs: for the general kernels."""
    return images[:, :-6]


def shifted(images):
    """Memory for results whose rows begin beside multiples of 16 bytes: likewise."""
    height, width = images.shape
    return np.empty((height, width + 16), images.dtype)[:, 1 : width + 1]


FILTERS = {
    "dense_strip": lambda x: filters.filter2d(x, CROSS),
    "dense_any": lambda x: filters.filter2d(x, LARGE),
    "toeplitz_roll": lambda x: filters.filter2d(
        x, BAND, precision="tf32", algorithm="tensor", border="wrap"
    ),
    "separable_strip": lambda x: filters.gaussian_blur(x, 1),
    "gradient_strip": lambda x: filters.sobel(x),
    "separable_any": lambda x: filters.gaussian_blur(x, 2, out=shifted(x)),
    "separable_any, magnitude": lambda x: filters.sobel(x, out=shifted(x)),
    "mean_lanes": lambda x: filters.box_blur(x, 5),
    "box_strip": lambda x: filters.box_blur(x, 3),
    "box_strip, 13": lambda x: filters.box_blur(x, 13),
    "box_mean": lambda x: filters.box_blur(cut(x), 5, out=cut(np.empty_like(x))),
    "extreme_lanes": lambda x: filters.dilate(x, 9),
    "morph_small": lambda x: filters.morph_open(x, 5),
    "morph_blocks": lambda x: filters.morph_gradient(x, 15),
    "morph_strip": lambda x: filters.dilate(x, 11),
    "morph_strip, 31": lambda x: filters.morph_gradient(x, 31),
    "morph_box": lambda x: filters.dilate(cut(x), 7, out=cut(np.empty_like(x))),
    "morph_footprint": lambda x: filters.dilate(x, footprint=np.eye(5)),
    "median_strip": lambda x: filters.median_blur(x, 3),
    "median": lambda x: filters.median_blur(x, 5),
    "rank_any": lambda x: filters.rank_filter(x, 3, (2, 2)),
    "chain": gpuconv.Pipeline("gaussian_blur:sigma=1", "sobel", "max_pool2d:kernel_size=2"),
}
MAPS = {
    "conv_gemm": ((1, 16, 34, 66), lambda x: gpuconv.conv2d(x, weights(x, 16))),
    "conv_direct": ((1, 16, 34, 66), lambda x: gpuconv.conv2d(x, weights(x, 1), groups=16)),
    "conv_pool": ((1, 16, 34, 66), lambda x: gpuconv.conv2d_pool2d(x, weights(x, 16))),
    "pool_small": ((1, 2, 128, 256), lambda x: gpuconv.max_pool2d(x, 2)),
    "pool_tile": ((1, 2, 128, 256), lambda x: gpuconv.max_pool2d(x, 5, 1)),
    "extreme_channels": ((1, 64, 64, 64), lambda x: gpuconv.max_pool2d(x, 5, 1, 2, layout="NHWC")),
    "mean_channels": ((1, 64, 64, 64), lambda x: gpuconv.avg_pool2d(x, 9, 1, 4, layout="NHWC")),
    "pool_windows": ((1, 2, 128, 256), lambda x: gpuconv.global_avg_pool(x)),
    "pool_columns": ((1, 64, 64, 64), lambda x: gpuconv.max_pool2d(x, 3, 2, layout="NHWC")),
    "pool_channels": ((1, 64, 64, 64), lambda x: gpuconv.max_pool2d(x, (3, 2), 2, layout="NHWC")),
}

OF_BYTES = {"separable_strip": "separable_bytes"}
"""Kernels that bytes have of their own."""

SECTORS = 1.5
"""Excess of 16-byte reads: a tile begins at a multiple of 16 bytes, a sector at one of 32."""

UNALIGNED = {1: 2.0, 4: 1.2, 8: 1.2}
"""Excess of elements that lanes write side by side, by their bytes: rows begin anywhere."""

OTHER_WRITES = {("chain", 4): 1.25, ("separable_any", 4): 1.25}
"""The same of tiles that a pool has made too narrow for whole sectors, and of `shifted` results,
where 32 lanes write five sectors for four."""

CONFLICTS = {"separable_any": 1.8, "chain": 1.4, "conv_pool": 2.0, "median": 4.0}
"""Wavefronts above the ideal: a warp that ends one row of packs and begins the next, and sums that
are handed to other threads; lanes of `median` take every fourth element of a row, from one bank in
four where they are words, in half the time that comparing them takes. 1.2 elsewhere: rows of packs
that are no multiple of eight."""


def weights(x, channels):
    return random_values((16, channels, 3, 3), x.dtype.name)


CALLS = [
    *((name, (96, 512), run, random_images) for name, run in FILTERS.items()),
    *((name, shape, run, random_values) for name, (shape, run) in MAPS.items()),
]


@pytest.mark.parametrize("dtype", ["uint8", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "shape", "run", "make"), CALLS, ids=[c[0] for c in CALLS])
def test_requests_are_near_their_ideal(name, shape, run, make, dtype):
    backend = EmulatorBackend(counted=True)
    with gpuconv.use_backend(backend):
        run(make(shape, dtype))
    kernel = name.partition(",")[0]
    kernel = OF_BYTES.get(kernel, kernel) if dtype == "uint8" else kernel
    ((variant, emulated),) = backend.kernels.items()
    assert variant.kernel == kernel
    assert emulated.counts
    for count in emulated.counts:
        if count.bytes < 16 and "image.cuh" in f"{count.line}":
            continue  # packs of a tile that reach outside come element by element
        if count.space == "shared":
            limit = CONFLICTS.get(kernel, 1.2)
        elif count.access == "write":
            limit = UNALIGNED.get(count.bytes, SECTORS)
            limit = OTHER_WRITES.get((kernel, count.bytes), limit)
        elif count.bytes == 16:
            limit = SECTORS
        else:
            continue  # at edges, and in gathers, elements come one by one
        assert count.excess <= limit, f"{count} is {count.excess:.2f} times its ideal"


@pytest.mark.parametrize("name", FILTERS)
def test_blocks_inside_read_16_bytes_at_a_time(name):
    backend = EmulatorBackend(counted=True)
    with gpuconv.use_backend(backend):
        FILTERS[name](random_images((160, 1024), "float32"))
    ((_, emulated),) = backend.kernels.items()
    reads = {}
    for count in emulated.counts:
        if (count.space, count.access) == ("global", "read"):
            reads[count.bytes] = reads.get(count.bytes, 0) + count.bytes * count.requests
    assert reads[16] > reads.get(4, 0)
