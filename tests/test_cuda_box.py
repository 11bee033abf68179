"""Launches of the CUDA box blur, and what its kernels meet that the engine's tests do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import box, launch, window
from gpuconv.backends.cuda.launch import SHARED_BYTES
from gpuconv.plan.filters import plan_box
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import (
    COMMON,
    DTYPES,
    FLOATS,
    assert_equal,
    dtype_of,
    is_integer,
    random_images,
)
from tests.launchers import Memory, plan_launches

SIZES = (1, 2, 3, 8, 9, 31, (1, 60), (60, 1), 75, (3, 500), (999, 5), 2001)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_box_takes_one_launch_or_two_a_patch(size, dtype):
    memory, shape = Memory(), (1, 20_000, 9000)
    plan = plan_box(np.broadcast_to(np.zeros(1, dtype_of(dtype)), shape), size, **COMMON)
    launches = plan_launches(box, plan, memory)
    assert {one.variant for one in launches} <= set(box.variants())
    assert all(one.shared_bytes <= SHARED_BYTES for one in launches)
    assert memory.bytes <= window.WORKSPACE_BYTES
    names = [one.variant.kernel for one in launches]
    if memory.bytes:
        assert names == ["box_down", "box_across"] * (len(names) // 2)
        rows = [int(one.arguments[-1]["patch"]["rows"]) for one in launches[::2]]
        assert sum(rows) == 20_000
    else:
        assert names == ["box_mean"]
        tile = launches[0].arguments[-1]["tile"]
        words = max(4, dtype_of(dtype).itemsize)
        assert tile["staged_pitch"] * dtype_of(dtype).itemsize / words % 2 == 1
        assert tile["columns"] % window.RUN == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_tiles_are_whole_runs_of_every_channel(channels):
    images = np.broadcast_to(np.uint8(0), (3, 300, 400, channels))
    plan = plan_box(images, 3, **COMMON | {"channel_axis": -1})
    (only,) = plan_launches(box, plan, Memory())
    columns = int(only.arguments[-1]["tile"]["columns"])
    assert columns % (window.RUN * channels) == 0
    assert only.grid == (3 * math.ceil(300 / 32) * math.ceil(400 * channels / columns), 1, 1)


def test_small_images_take_small_blocks():
    plan = plan_box(np.zeros((70_000, 2, 3), np.uint8), 3, **COMMON)
    (only,) = plan_launches(box, plan, Memory())
    assert only.grid == (70_000, 1, 1)
    assert only.block == (32, 1, 1)


# ---------------------------------------------------------------- on the emulator


def check(backend, images, size, **keywords):
    """Integers bit for bit, floats within the bound of the contract."""
    result = filters.box_blur(images, size, backend=backend, **keywords)
    expected = filters.box_blur(images, size, backend="numpy", **keywords)
    if is_integer(images.dtype):
        assert_equal(result, expected, images.dtype)
        return
    wide = abs(images.astype(np.float64))
    scale = filters.box_blur(wide, size, backend="numpy", **keywords)
    off = abs(result.astype(np.float64) - expected.astype(np.float64))
    taps = math.prod(reference.per_axis(size, 2))
    assert np.all(off <= 2 * math.sqrt(taps) * reference.EPSILON[images.dtype.name] * scale)


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_boxes_are_numpys(dtype, border, emulator):
    before = emulator.launches["box_across"]
    for shape, size in (((2, 34, 41), (70, 301)), ((5, 33), (2500, 4)), ((3, 11), (1, 5000))):
        check(emulator, random_images(shape, dtype), size, border=border, value=3)
    check(emulator, random_images((7, 5, 3), dtype), (1200, 190), border=border, channel_axis=-1)
    assert emulator.launches["box_across"] - before == 4


@pytest.mark.emulator
def test_patches_of_every_size_give_the_same_bits(monkeypatch, emulator):
    images = random_images((3, 70, 45), "int16")
    whole = filters.box_blur(images, 200, backend=emulator)
    for size in (1, 45 * 8 * 5, 45 * 8 * 40, 45 * 8 * 150):
        monkeypatch.setattr(window, "WORKSPACE_BYTES", size)
        assert_equal(filters.box_blur(images, 200, backend=emulator), whole, "int16")


@pytest.mark.emulator
@pytest.mark.parametrize("size", [5, (150, 150)])
def test_blocks_take_several_jobs(size, monkeypatch, emulator):
    images = random_images((3, 70, 150), "uint8")
    whole = filters.box_blur(images, size, backend=emulator)
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    checked = EmulatorBackend(checked=True)
    assert_equal(filters.box_blur(images, size, backend=checked), whole, "uint8")


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_sums_outgrow_64_bits(dtype, emulator):
    pixels = np.array([[2**31 - 1, 2**31 - 2], [2**31 - 4, 2**31 - 1]], dtype)
    result = filters.box_blur(pixels, 2**16, border="wrap", backend=emulator)
    assert np.all(result == 2**31 - 2)


@pytest.mark.emulator
def test_halves_go_to_even_for_every_count(emulator):
    for dtype in ("uint8", "int8", "uint16", "int16"):
        info = np.iinfo(dtype)
        for size in (1, 2, 3, 4, 6, 7, 10, 64):
            pixels = np.random.default_rng(size).integers(info.min, info.max, (8, 200), dtype, True)
            check(emulator, pixels, (size, size), border="wrap")
            check(emulator, np.full((3, 90), info.max, dtype), size)
            check(emulator, np.full((3, 90), info.min, dtype), size)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [(1, 10_001), (3001, 1), (100, 100)])
def test_long_sums_of_floats_keep_the_bound(size, dtype, emulator):
    images = (np.random.default_rng(3).random((2, 60)) + 0.5).astype(dtype_of(dtype))
    result = filters.box_blur(images, size, backend=emulator).astype(np.float64)
    exact = filters.box_blur(images.astype(np.float64), size, backend="numpy")
    bound = 2 * math.sqrt(math.prod(size)) * reference.EPSILON[np.dtype(images.dtype).name] * exact
    assert np.all(abs(result - exact) <= bound)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 40, (90, 120)], ids=str)
def test_nan_and_infinity_stay_in_their_windows(size, emulator):
    images = random_images((130, 170), "float32").copy()
    images[5, 9], images[70, 100] = np.nan, np.inf
    result = filters.box_blur(images, size, border="constant", backend=emulator)
    met = filters.dilate((~np.isfinite(images)).astype(np.uint8), size, border="constant")
    np.testing.assert_array_equal(~np.isfinite(result), met > 0)


@pytest.mark.emulator
def test_rows_may_lie_gigabytes_apart(emulator):
    memory = np.zeros(2**32 + 4096, np.uint8)  # never touched, but for some pages
    images = np.lib.stride_tricks.as_strided(memory, (3, 40), (2**31 + 5, 1))
    images[...] = random_images((3, 40), "uint8")
    out = images[:, ::-1]
    expected = filters.box_blur(images.copy(), 3, backend="numpy")
    assert_equal(filters.box_blur(images, 3, backend=emulator), expected, "uint8")
    copy = images.copy()
    filters.box_blur(copy, 3, out=out, backend=emulator)
    np.testing.assert_array_equal(out, expected)
