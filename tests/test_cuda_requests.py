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
LARGE = np.arange(81.0).reshape(9, 9) % 7

FILTERS = {
    "dense_small": lambda x: filters.filter2d(x, CROSS),
    "dense_any": lambda x: filters.filter2d(x, LARGE),
    "separable_any": lambda x: filters.gaussian_blur(x, 2),
    "separable_any, magnitude": lambda x: filters.sobel(x),
    "box_mean": lambda x: filters.box_blur(x, 5),
    "morph_box": lambda x: filters.dilate(x, 7),
    "morph_footprint": lambda x: filters.dilate(x, footprint=np.eye(5)),
    "median": lambda x: filters.median_blur(x, 3),
    "rank_any": lambda x: filters.rank_filter(x, 3, (2, 5)),
}
MAPS = {
    "conv_gemm": ((1, 16, 34, 66), lambda x: gpuconv.conv2d(x, weights(x, 16))),
    "conv_direct": ((1, 16, 34, 66), lambda x: gpuconv.conv2d(x, weights(x, 1), groups=16)),
    "conv_pool": ((1, 16, 34, 66), lambda x: gpuconv.conv2d_pool2d(x, weights(x, 16))),
    "pool_small": ((1, 2, 128, 256), lambda x: gpuconv.max_pool2d(x, 2)),
    "pool_tile": ((1, 2, 128, 256), lambda x: gpuconv.max_pool2d(x, 5, 1)),
    "pool_windows": ((1, 2, 128, 256), lambda x: gpuconv.global_avg_pool(x)),
    "pool_channels": ((1, 64, 64, 64), lambda x: gpuconv.max_pool2d(x, 3, 2, layout="NHWC")),
}

SECTORS = 1.5
"""Excess of 16-byte reads: a tile begins at a multiple of 16 bytes, a sector at one of 32."""

UNALIGNED = {1: 2.0, 4: 1.2, 8: 1.2}
"""Excess of elements that lanes write side by side, by their bytes: rows begin anywhere."""

CONFLICTS = {"separable_any": 1.8, "conv_pool": 2.0}
"""Wavefronts above the ideal: a warp that ends one row of packs and begins the next, and sums that
are handed to other threads. 1.2 elsewhere: rows of packs that are no multiple of eight."""


def weights(x, channels):
    return random_values((16, channels, 3, 3), x.dtype.name)


CALLS = [
    *((name, (96, 512), run, random_images) for name, run in FILTERS.items()),
    *((name, shape, run, random_values) for name, (shape, run) in MAPS.items()),
]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("name", "shape", "run", "make"), CALLS, ids=[c[0] for c in CALLS])
def test_requests_are_near_their_ideal(name, shape, run, make, dtype):
    backend = EmulatorBackend(counted=True)
    with gpuconv.use_backend(backend):
        run(make(shape, dtype))
    kernel = name.partition(",")[0]
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
