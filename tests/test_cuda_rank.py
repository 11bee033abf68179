"""Launches of the CUDA ranks, and what its kernels meet that the engine's tests do not."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import launch, rank
from gpuconv.backends.cuda.launch import SHARED_BYTES
from gpuconv.plan.filters import plan_rank
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import DTYPES, FLOATS, assert_equal, dtype_of, random_images
from tests.test_cuda_box import COMMON, Memory, plan_launches


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "wanted", "kernel"),
    [
        *[(n, None, "median") for n in (3, 5, 7)],
        *[(n, None, "rank_any") for n in (1, 2, 4, 9, (3, 5), 99)],
        (3, 4, "median"),
        (3, 5, "rank_any"),
    ],
    ids=str,
)
def test_medians_of_small_squares_are_networks(size, wanted, kernel, dtype):
    images = np.broadcast_to(np.zeros(1, dtype_of(dtype)), (2, 500, 700))
    plan = plan_rank(images, wanted, size, **COMMON)
    (only,) = plan_launches(rank, plan, Memory())
    assert only.variant.kernel == kernel
    assert only.variant in set(rank.variants())
    assert only.shared_bytes <= SHARED_BYTES
    assert (only.shared_bytes == 0) == (size == 99 and dtype_of(dtype).itemsize > 2)


def test_medians_that_convert_are_ranks():
    images = np.broadcast_to(np.uint8(0), (50, 70))
    plan = plan_rank(images, None, 3, **COMMON | {"out_dtype": "f4"})
    (only,) = plan_launches(rank, plan, Memory(), np.uint8)
    assert only.variant.name == "rank_any<float, Any, Any>"


# ---------------------------------------------------------------- on the emulator


@pytest.fixture(scope="module")
def emulator():
    return EmulatorBackend()


def check(backend, images, size, **keywords):
    """The very numbers of the NumPy backend."""
    result = filters.median_blur(images, size, backend=backend, **keywords)
    expected = filters.median_blur(images, size, backend="numpy", **keywords)
    assert_equal(result, expected, images.dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_networks_are_numpys_on_many_tiles(dtype, size, emulator):
    before = emulator.launches["median"]
    for border in reference.BORDERS:
        check(emulator, random_images((2, 37, 150), dtype), size, border=border, value=3)
    check(emulator, random_images((41, 33, 3), dtype), size, channel_axis=-1)
    check(emulator, random_images((41, 33), dtype)[::-2, ::-1], size)
    assert emulator.launches["median"] - before == 7


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 5, 7])
def test_every_order_of_zeros_and_ones(size, emulator):
    # What sorts these sorts everything (Knuth's zero-one principle).
    density = np.linspace(0.2, 0.8, 300)
    images = (np.random.default_rng(size).random((300, 300)) < density).astype(np.uint8)
    check(emulator, images, size)
    check(emulator, images.astype(np.uint32), size)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_reaches_its_windows(dtype, size, emulator):
    images = random_images((40, 100), dtype).copy()
    images[3, 5], images[31, 63], images[39, 99] = np.nan, np.nan, -np.array(np.nan, images.dtype)
    images[20, 20], images[20, 22] = np.inf, -np.inf
    check(emulator, images, size)
    check(emulator, images[10:20], size, border="constant", value=np.nan)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [5, (4, 3)], ids=str)
def test_blocks_take_several_jobs(size, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    check(EmulatorBackend(checked=True), random_images((3, 70, 150), "uint8"), size)
    check(EmulatorBackend(checked=True), random_images((3, 40, 90), "float32"), size)


@pytest.mark.emulator
def test_windows_larger_than_shared_memory(emulator):
    check(emulator, random_images((3, 4), "float64"), (90, 70), border="wrap")
    check(emulator, random_images((2, 3, 3), "uint16"), (150, 150), channel_axis=-1)
