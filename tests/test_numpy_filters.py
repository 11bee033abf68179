"""The NumPy backend's image filters: threads, bands, and both sides of every rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.numpy import box, linear, morphology, rank, scratch, spectra, tile
from gpuconv.backends.numpy.network import selection_network
from gpuconv.backends.numpy.threads import get_num_threads, set_num_threads
from gpuconv.plan import cpu
from gpuconv.plan.filters import plan_filter
from gpuconv.plan.remember import forget
from tests import reference
from tests.image_cases import (
    CALLS,
    assert_equal,
    assert_same_sums,
    assert_within,
    random_images,
    spread,
    takes,
)

pytestmark = pytest.mark.usefixtures("numpy_backend")

RNG = np.random.default_rng(51)


@pytest.fixture
def threads():
    """Sets their number, and back."""
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


@pytest.fixture
def small_bands(monkeypatch):
    """Tiles of a few rows, so that small images are many."""
    for module in (linear, box, morphology):
        monkeypatch.setattr(module, "TILE_BYTES", 2000)
    monkeypatch.setattr(linear, "FEW_ELEMENTS", 1400)
    monkeypatch.setattr(linear, "GATHERED", 0)
    monkeypatch.setattr(rank, "TILE_ELEMENTS", 700)
    monkeypatch.setattr(rank, "BAND_BYTES", 900)
    monkeypatch.setattr(tile, "TILE_ROW", 48)
    monkeypatch.setattr(tile, "PICKED_ELEMENTS", 0)


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in CALLS for d in ("uint8", "uint16", "float32") if takes(n, d)],
)
def test_results_do_not_depend_on_the_number_of_threads(name, dtype, threads, small_bands):
    images = random_images((2, 61, 53, 3), dtype)
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(CALLS[name](images, channel_axis=-1))
    for result in results[1:]:
        assert_equal(result, results[0], dtype)


LINEAR = [n for n in CALLS if "blur" not in n and "rank" not in n] + ["gaussian_blur"]


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in LINEAR for d in ("uint8", "int16", "int32", "float32") if takes(n, d)],
)
def test_few_pixels_and_many_are_summed_alike(name, dtype, border, monkeypatch):
    images = random_images((2, 7, 9, 3), dtype)
    monkeypatch.setattr(linear, "GATHERED", 0)
    banded = CALLS[name](images, channel_axis=-1, border=border, value=7)
    monkeypatch.setattr(linear, "GATHERED", 10**9)
    gathered = CALLS[name](images, channel_axis=-1, border=border, value=7)
    assert_same_sums(gathered, banded, name)


def test_an_error_in_a_task_is_raised(threads, small_bands, monkeypatch):
    def fail(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(scratch.Scratch, "take", fail)
    threads(2)
    with pytest.raises(MemoryError, match="no room"):
        filters.box_blur(random_images((200, 200), "uint8"), 3)


# ---------------------------------------------------------------- products


KERNELS = {
    f"{h}x{w}": RNG.normal(size=(h, w)) / (h * w)
    for h, w in ((1, 2), (2, 1), (3, 3), (4, 5), (1, 30), (30, 1), (9, 6), (6, 9), (7, 7), (16, 3))
} | {"12x12": RNG.normal(size=(12, 12)) / 144, "19x17": RNG.normal(size=(19, 17)) / 323}


@pytest.mark.parametrize("inner", [None, 1, 3, 4, 5])
@pytest.mark.parametrize("kernel", KERNELS)
def test_products_of_windows_are_the_reference(kernel, inner, small_bands):
    """Every way that a window is cut into phases and parts, over bands with ragged ends."""
    weights = KERNELS[kernel]
    for dtype in ("uint8", "float32", "float64"):
        shape = (2, 23, 37) if inner is None else (2, 23, 37, inner)
        keywords = {} if inner is None else {"channel_axis": -1}
        images = random_images(shape, dtype)
        result = filters.filter2d(images, weights, **keywords)
        expected = reference.filter2d(images, weights, **keywords)
        if dtype == "uint8":
            assert abs(result.astype(int) - reference.correctly_rounded(expected, dtype)).max() <= 1
        else:
            assert_within(result, expected, spread(weights, images, **keywords), dtype)


@pytest.mark.parametrize(
    "taps_along",
    [2, 7, 31, 33, 81, *(pytest.param(n, marks=pytest.mark.slow) for n in (161, 300))],
)
@pytest.mark.parametrize("inner", [None, 3, 4, 5])
def test_products_of_passes_are_the_reference(taps_along, inner, small_bands, rng):
    """Passes of one part and of several, channels that are banded and channels that are not."""
    column, row = rng.normal(size=(2, taps_along))
    shape = (41, 29) if inner is None else (41, 29, inner)
    keywords = {} if inner is None else {"channel_axis": -1}
    for dtype in ("float32", "float64"):
        images = random_images(shape, dtype)
        result = filters.separable_filter2d(images, column, row, **keywords)
        weights = np.outer(column, row)
        expected = reference.filter2d(images, weights, **keywords)
        assert_within(result, expected, spread(weights, images, **keywords), dtype)


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 0.7])
def test_sums_of_equal_terms_stay_within_the_bound(constant):
    """Rounding errors of one sign add up; parts keep them small."""
    disk = (np.hypot(*np.mgrid[-7:8, -7:8]) <= 7.5).astype(float)
    images = np.full((40, 50), constant, np.float32)
    for weights in (disk, disk / disk.sum(), np.ones((1, 250)), np.ones((250, 1)) / 250):
        expected = reference.filter2d(images, weights)
        assert_within(
            filters.filter2d(images, weights), expected, spread(weights, images), "float32"
        )


@pytest.mark.parametrize(
    ("name", "run"),
    {
        "dense": lambda x: filters.filter2d(x, KERNELS["7x7"]),
        "dense in parts": lambda x: filters.filter2d(x, KERNELS["12x12"]),
        "separable": lambda x: filters.gaussian_blur(x, 2),
        "with weights of 0": lambda x: filters.separable_filter2d(x, [0, 1, 0, 2, 0], [1, 0, 0, 3]),
        "few taps": filters.sobel,
        "unsharp": lambda x: filters.unsharp_mask(x, 1),
    }.items(),
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_inf_reach_the_windows_that_hold_them(name, run, dtype, small_bands):
    images = random_images((50, 70), dtype).copy()
    clean = run(images)
    places = [(0, 0), (17, 31), (18, 60), (49, 3)]
    for place, value in zip(places, (np.nan, np.inf, -np.inf, np.nan), strict=True):
        images[place] = value
    result = run(images)
    size = {"dense": 7, "dense in parts": 12, "few taps": 3, "unsharp": 9}.get(name, 17)
    size = (5, 4) if name == "with weights of 0" else size
    size = (9, 9) if name == "unsharp" else size
    touched = reference.dilate((~np.isfinite(images)).astype(np.uint8), size) > 0
    assert not np.isfinite(result[touched]).any()
    assert np.isfinite(result[~touched]).all()
    np.testing.assert_allclose(
        result[~touched].astype(float), clean[~touched].astype(float), rtol=1e-2, atol=0.1
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_magnitudes_neither_vanish_nor_overflow(scale):
    images = (random_images((30, 40), "float64") * scale).astype(np.float32)
    images[10:20, 10:20] = 0
    result = filters.sobel(images)
    expected = reference.sobel(images.astype(np.float64))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=3e-5 * scale)


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("out_dtype", ["uint8", "int8", "int16", "int32"])
@pytest.mark.parametrize("delta", [0, 1, -7.0, 0.5, 40_000])
@pytest.mark.parametrize(
    "kernel",
    [
        [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
        [[1, 2, 3], [4, -5, 6], [-7, 8, -9]],
        [[-1, 0], [-1, 0], [-3, 0]],
        [[0, 0], [0, 0]],
        [[100, 28]],
        [[100, 29]],
        [[1] * 4, [2] * 4, [1] * 4],
    ],
)
def test_small_integer_kernels_are_exact(kernel, delta, out_dtype, dtype):
    images = random_images((2, 9, 21), dtype)
    result = filters.filter2d(images, kernel, delta=delta, out_dtype=out_dtype)
    exact = reference.filter2d(images.astype(object), np.array(kernel, object)) + delta
    assert_equal(result, reference.correctly_rounded(exact, out_dtype), out_dtype)


@pytest.mark.parametrize("run", ["sobel", "scharr", "prewitt"])
@pytest.mark.parametrize("out_dtype", ["uint8", "int16", "int32"])
def test_magnitudes_of_integers_are_correctly_rounded(run, out_dtype):
    images = random_images((70, 80), "uint8")
    for dtype in ("uint8", "int8", "uint16"):
        pixels = images.astype(dtype)
        result = getattr(filters, run)(pixels, out_dtype=out_dtype)
        down, across = (
            getattr(reference, run)(pixels.astype(np.int64), axis=a).astype(np.int64)
            for a in (0, 1)
        )
        root = np.sqrt((down**2 + across**2).astype(np.longdouble))
        assert_equal(result, reference.correctly_rounded(root, out_dtype), out_dtype)


@pytest.mark.parametrize("size", [(3, 3), (16, 16), (17, 16), (181, 181), (1, 300), (200, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_boxes_are_exact_on_both_sides_of_every_width(size, dtype):
    images = np.sort(random_images((1, 30 * 40), dtype)).reshape(30, 40)
    result = filters.box_blur(images, size, border="edge")
    assert_equal(result, reference.box_blur(images, size, border="edge"), dtype)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("size", [*itertools.product((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 7))])
def test_networks_select_every_rank(size, rng):
    height, width = size
    pixels = rng.permutation(13 * 17).reshape(13, 17)
    expected = np.sort(
        np.lib.stride_tricks.sliding_window_view(pixels, size).reshape(-1, height * width), -1
    )
    for wanted in range(height * width):
        values = {0: pixels}
        found = pixels
        for step in selection_network(height, width, wanted).steps:
            first, second = (
                np.roll(values[v], (-y, -x), (0, 1)) for v, y, x in (step.first, step.second)
            )
            found = values[step.into] = (np.maximum if step.larger else np.minimum)(first, second)
        inside = found[: 13 - height + 1, : 17 - width + 1].ravel()
        np.testing.assert_array_equal(inside, expected[:, wanted])


def test_networks_share_what_neighbouring_windows_sort():
    lengths = {size: len(selection_network(size, size, size**2 // 2).steps) for size in (3, 5, 7)}
    assert lengths == {3: 22, 5: 88, 7: 256}


# ---------------------------------------------------------------- working memory


def test_buffers_beyond_the_block_are_allocated(monkeypatch):
    images = random_images((300, 400), "uint8")
    expected = filters.gaussian_blur(images, 2)
    monkeypatch.setattr(scratch, "SCRATCH_BYTES", 100_000)
    assert_equal(filters.gaussian_blur(images, 2), expected, "uint8")


def test_buffers_do_not_overlap_and_are_given_back():
    with scratch.Scratch() as outer:
        first = outer.take((3, 50), np.dtype(np.float32))
        with scratch.Scratch() as inner:
            second = inner.take((1000,), np.dtype(np.uint8))
            assert not np.shares_memory(first, second)
        third = outer.take((1000,), np.dtype(np.uint8))
        assert np.shares_memory(second, third)
        assert not np.shares_memory(first, third)
        assert third.ctypes.data % scratch.LINE == 0


@pytest.mark.parametrize("width", [1, 15, 16, 1008, 1024, 2047, 2048, 4096])
def test_rows_of_buffers_never_lie_a_multiple_of_4_kib_apart(width):
    for name in ("uint8", "float32", "float64"):
        dtype = np.dtype(name)
        pitch = scratch.pitch(width, dtype)
        assert pitch >= width
        assert pitch * dtype.itemsize % scratch.LINE == 0
        assert pitch * dtype.itemsize % 4096


# ---------------------------------------------------------------- transforms


@pytest.mark.parametrize(
    "size", [(16, 16), (17, 15), (15, 17), (31, 20), (64, 4), (41, 41), (3, 99)]
)
@pytest.mark.parametrize("inner", [None, 3])
def test_transforms_are_the_reference_within_the_bound(size, inner, monkeypatch, rng):
    """In one square and in many, on both sides of the taps from which on they are taken."""
    weights = rng.normal(size=size)
    keywords = {} if inner is None else {"channel_axis": -1}
    for dtype in ("float16", "float32", "float64"):
        images = random_images((2, 45, 57) if inner is None else (2, 45, 57, 3), dtype)
        expected = reference.filter2d(images, weights, **keywords)
        bound = spread(weights, images, **keywords) + abs(expected) * 2**-10 * (dtype == "float16")
        for side in (spectra.SIDE, 20):
            monkeypatch.setattr(spectra, "SIDE", side)
            forget()
            result = filters.filter2d(images, weights, **keywords)
            assert_within(result, expected, bound, dtype)


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (33, 21), (70, 5), (61, 61)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_transforms_of_integers_are_exact(size, dtype, monkeypatch, rng):
    noise = random_images((60, 75), dtype)
    extremes = np.where(noise & 1, *(np.iinfo(dtype).max, np.iinfo(dtype).min)).astype(dtype)
    kernels = [rng.integers(-2, 3, size), rng.integers(-900, 900, size)]
    if dtype in ("uint8", "int8"):
        lonely = rng.random(size) * 1e-3
        lonely[3, 4] = 1
        kernels += [rng.random(size), rng.normal(size=size) / 9, lonely]
    for weights, delta, images in itertools.product(kernels, (0, 1.5), (noise, extremes)):
        monkeypatch.undo()
        forget()
        if weights.dtype.kind == "f":
            weights = weights / abs(weights).sum()
        plan = plan_filter(
            images, weights, border="reflect", value=0, channel_axis=None, out_dtype=None
        )
        assert plan.on_cpu == "transforms" or size == (15, 17)
        result = filters.filter2d(images, weights, delta=delta)
        monkeypatch.setattr(cpu, "TRANSFORM_TAPS", {4: 10**6, 8: 10**6})
        forget()
        assert_equal(filters.filter2d(images, weights, delta=delta), result, dtype)


def test_transforms_leave_nan_and_inf_where_they_are(rng):
    images = random_images((100, 120), "float32").copy()
    images[50, 60], images[51, 20] = np.nan, np.inf
    result = filters.filter2d(images, rng.normal(size=(17, 19)))
    touched = reference.dilate((~np.isfinite(images)).astype(np.uint8), (17, 19)) > 0
    np.testing.assert_array_equal(~np.isfinite(result), touched)


@pytest.mark.parametrize("size", [1, 2, 16, 33, 200, 409])
@pytest.mark.parametrize("outputs", [1, 7, 300, 5000])
def test_squares_hold_their_windows(size, outputs):
    piece, side = spectra.side(outputs, size)
    assert piece + size - 1 <= side <= cpu.TRANSFORM_SIDE
    assert side % 2 == 0
