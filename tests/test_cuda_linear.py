"""What only the CUDA kernels of weighted sums can get wrong: chunks, packs, blocks, launches."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters, kernels
from gpuconv.backends.cuda import linear
from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.launch import SHARED_BYTES
from gpuconv.plan.filters import plan_filter, plan_gradient, plan_separable_filter, plan_unsharp
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, assert_equal, assert_within, is_integer, random_images, spread
from tests.launchers import Uploads


def launches_of(plan, images, out=None):
    outputs = [np.empty(images.shape, plan.images.out_dtype) if out is None else out]
    return list(linear.launches(plan, [images], outputs, Uploads()))


def filtered(images, kernel, **keywords):
    plan = plan_filter(images, kernel, **(COMMON | keywords))
    (launch,) = launches_of(plan, images)
    return launch


# ---------------------------------------------------------------- launches


@pytest.mark.parametrize(
    ("dtype", "kernel", "name"),
    [
        ("uint8", kernels.edge, "dense_strip<uint8, float, 3, 1>"),
        ("float16", np.tri(5), "dense_strip<float16, float, 5, 1>"),
        ("float32", np.tri(7), "dense_strip<float, float, 7, 1>"),
        ("uint8", np.tri(16), "dense_any<uint8, float, uint8, uint8, 1>"),
        ("uint8", np.tri(3) * 2**17, "dense_any<uint8, double, uint8, uint8, 1>"),
        ("uint8", np.tri(3) * 2**46, "dense_any<int64, int128, Any, Any, 1>"),
        ("uint16", np.tri(3), "dense_strip<uint16, float, 3, 1>"),
        ("uint16", np.tri(3) / 7, "dense_strip<uint16, double, 3, 1>"),
        ("uint16", np.tri(16), "dense_any<uint16, double, uint16, uint16, 1>"),
        ("int32", np.tri(3), "dense_any<int32, double, int32, int32, 1>"),
        ("int64", np.tri(3), "dense_any<int64, int128, int64, int64, 1>"),
        ("uint64", np.tri(3), "dense_any<uint64, int128, uint64, uint64, 1>"),
        ("float64", np.tri(3), "dense_any<double, double, double, double, 1>"),
    ],
)
def test_a_kernel_is_summed_where_its_sums_are_exact(dtype, kernel, name):
    launch = filtered(np.zeros((2, 64, 64), dtype), kernel)
    assert launch.variant.name == name
    assert launch.variant in set(variants())
    assert launch.block == (32, 4 if launch.variant.kernel == "dense_strip" else 8, 1)


def test_small_kernels_are_for_one_channel_and_rows_of_packs():
    images = np.zeros((4, 64, 68), np.uint8)
    assert filtered(images, kernels.edge).variant.kernel == "dense_small"
    assert filtered(images, kernels.edge, anchor=(0, 1)).variant.kernel == "dense_small"
    assert filtered(images, kernels.edge, anchor=(1, 0)).variant.kernel == "dense_any"
    assert filtered(images, kernels.edge, channel_axis=-1).variant.kernel == "dense_any"
    assert filtered(images, kernels.edge, out_dtype="int16").variant.kernel == "dense_any"
    assert filtered(images[..., :63], kernels.edge).variant.kernel == "dense_any"
    assert filtered(images, kernels.edge, delta=0.3).variant.kernel == "dense_any"
    floats = np.zeros((4, 64, 80), np.float32)
    assert filtered(floats[..., 1:65], kernels.edge).variant.kernel == "dense_small"


def test_a_tile_a_block():
    images = np.zeros((3, 65, 130), np.uint8)
    assert filtered(images[..., :128], kernels.edge).grid == (3 * 2, 1, 1)
    assert filtered(images, np.tri(4)).grid == (3 * 3 * 2, 1, 1)
    images = np.zeros((2**33, 1, 1), np.uint8)[:1]
    planes = np.broadcast_to(images, (2**33, 1, 1))
    plan = plan_filter(planes, np.tri(4), **COMMON)
    (launch,) = launches_of(plan, planes, planes)
    assert launch.grid == (2**31 - 1, 1, 1)
    assert launch.arguments[-1]["tiling"]["jobs"] == 2**33


def test_offsets_are_of_64_bits():
    row = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2, 3, 5), (2**40, 2**35, 1))
    (launch,) = launches_of(plan_filter(row, np.tri(4), **COMMON), row)
    assert launch.arguments[-1]["images"]["input"]["outer_stride"] == 2**40
    assert launch.arguments[-1]["images"]["input"]["row"] == 2**35


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 100, 3000])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (31, 31), (1, 2000), (2000, 1), (400, 300)])
def test_every_window_fits_into_shared_memory(size, dtype, channels):
    images = np.broadcast_to(np.zeros((), dtype), (1, 8, 8, channels))
    common = COMMON | {"channel_axis": -1}
    column, row = (np.arange(n) % 5 + 1.0 for n in size)
    plans = [plan_filter(images, np.add.outer(column, row**2), **common)]
    plans.append(plan_separable_filter(images, column, row, **common))
    for plan in plans:
        for launch in launches_of(plan, images):
            params = launch.arguments[-1]
            assert launch.shared_bytes <= SHARED_BYTES
            assert launch.variant in set(variants())
            if launch.variant.kernel.endswith("_any"):
                assert params["chunk_height"] > 0
                assert params["chunk_entries"] > 0


def test_entries_hold_every_tap_once():
    for width, left, channels, pack in [(1, 0, 1, 4), (7, 3, 1, 4), (5, 4, 3, 4), (3, 1, 9, 2)]:
        places, spots, first = linear._entries(width, left * channels, channels, pack)
        where = (places[spots // pack] >> 4) * pack + spots % pack + first * pack
        assert where.tolist() == [(j - left) * channels for j in range(width)]
        masks = np.zeros(len(places), int)
        for spot in spots:
            masks[spot // pack] |= 1 << spot % pack
        assert masks.tolist() == (places & 15).tolist()


def test_launches_are_remembered():
    images = random_images((2, 9, 10), "uint8")
    linear._recipe.cache_clear()
    for _ in range(3):
        filtered(images, kernels.emboss)
    assert linear._recipe.cache_info().misses == 1


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("run", "dtype", "kernel"),
    [
        (lambda x, **k: filters.filter2d(x, kernels.edge, **k), "uint8", "dense_small"),
        (lambda x, **k: filters.filter2d(x, np.tri(4), delta=0.3, **k), "int16", "dense_any"),
        (lambda x, **k: filters.gaussian_blur(x, 9, **k), "uint8", "separable_any"),
        (lambda x, **k: filters.sobel(x, **k), "int16", "separable_any"),
        (lambda x, **k: filters.sobel(x, **k), "uint64", "dense_any"),
        (lambda x, **k: filters.unsharp_mask(x, 2, 0.3, **k), "uint16", "separable_any"),
        (lambda x, **k: filters.laplacian(x, **k), "float32", "dense_strip"),
        (lambda x, **k: filters.filter2d(x, [[1, 2, 3]], **k), "float32", "separable_odd"),
    ],
)
def test_a_call_is_one_launch(run, dtype, kernel):
    backend = EmulatorBackend()
    images = random_images((2, 3, 20, 24), dtype)
    result = run(images, backend=backend)
    assert backend.launches == {kernel: 1}
    expected = run(images, backend="numpy")
    if is_integer(images.dtype):
        assert_equal(result, expected, dtype)
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------- windows beyond one chunk


HUGE = {
    "tall": ((300, 1), ("uint8", "int16", "float32")),
    "wide": ((1, 700), ("uint8", "int16", "float32")),
    "both": ((90, 110), ("uint8", "float32")),
    "rows of two": ((2, 600), ("float64",)),
    "two columns": ((600, 2), ("float32", "int64")),
}


@pytest.mark.emulator
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("separable", [False, True], ids=["dense", "separable"])
@pytest.mark.parametrize(
    ("size", "dtype"), [(size, dtype) for size, dtypes in HUGE.values() for dtype in dtypes]
)
def test_windows_larger_than_shared_memory_are_summed_in_chunks(size, dtype, separable, channels):
    rng = np.random.default_rng(size)
    images = random_images((5, 37, channels), dtype)
    column, row = (rng.integers(-3, 4, n) for n in size)
    if separable:
        run, taps = filters.separable_filter2d, (column, row)
        weights = np.outer(column, row)
    else:
        weights = rng.integers(-3, 4, size)
        run, taps = filters.filter2d, (weights,)
    keywords = {"channel_axis": -1, "border": "wrap"}
    result = run(images, *taps, **keywords, backend=EmulatorBackend())
    expected = run(images.astype(result.dtype), *taps, **keywords, backend="numpy")
    if is_integer(images.dtype):
        assert_equal(result, expected, dtype)
    else:
        wide = run(images.astype(np.float64), *taps, **keywords, backend="numpy")
        assert_within(result, wide, spread(weights, images, **keywords), dtype)


@pytest.mark.emulator
def test_a_kernel_far_apart_between_many_channels():
    images = random_images((6, 5, 200), "int16")
    kernel = np.arange(-7, 8).reshape(3, 5)
    result = filters.filter2d(images, kernel, channel_axis=-1, backend=EmulatorBackend())
    expected = reference.filter2d(images, kernel, channel_axis=-1)
    assert_equal(result, expected, "int16")


@pytest.mark.emulator
@pytest.mark.parametrize("size", [(9000, 1), (1, 9000), (95, 95)])
def test_long_float_sums_are_blocked(size):
    # One by one, a large sum would swallow what each later tap adds.
    images = np.full((2, 3), 0.1, np.float32)
    taps = np.ones(size)
    result = filters.filter2d(images, taps, border="edge", backend=EmulatorBackend())
    exact = float(np.float32(0.1)) * taps.size
    block = np.sqrt(taps.size)
    assert abs(result - exact).max() <= 2 * block * 2.0**-24 * exact


# ---------------------------------------------------------------- packs and tails


@pytest.mark.emulator
@pytest.mark.parametrize("left", range(5))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_windows_begin_anywhere_in_a_pack(dtype, channels, left):
    images = random_images((4, 45, channels), dtype)
    kernel = np.array([[1, 2, -3, 4, 5], [0, 1, 0, 0, -1]])
    keywords = {"anchor": (0, left), "channel_axis": -1, "border": "reflect"}
    result = filters.filter2d(images, kernel, **keywords, backend=EmulatorBackend())
    expected = filters.filter2d(images, kernel, **keywords, backend="numpy")
    if is_integer(images.dtype):
        assert_equal(result, expected, dtype)
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_small_kernels_add_in_the_order_of_the_others(size, dtype):
    kernel = np.random.default_rng(size).normal(size=(size, size)).round(2)
    if dtype == "uint8":
        kernel = np.rint(kernel * 4)
    images = random_images((2, 70, 149), dtype)[..., 1:141]
    aligned = np.zeros((2, 70, 144), dtype)[..., :140]
    aligned[...] = images
    small, other, strips = EmulatorBackend(), EmulatorBackend(), EmulatorBackend()
    result = filters.filter2d(images, kernel, border="symmetric", backend=small)
    out = np.empty((2, 70, 141), dtype)[..., 1:]
    filters.filter2d(images, kernel, border="symmetric", out=out, backend=other)
    striped = np.empty((2, 70, 144), dtype)[..., :140]
    filters.filter2d(aligned, kernel, border="symmetric", out=striped, backend=strips)
    launches = [backend.launches for backend in (small, strips, other)]
    assert launches == [{"dense_small": 1}, {"dense_strip": 1}, {"dense_any": 1}]
    assert_equal(result, out, dtype)
    assert_equal(striped, out, dtype)


@pytest.mark.emulator
def test_small_kernels_write_a_row_that_ends_inside_a_pack():
    out = np.full((70, 136), 7, np.uint8)
    images = random_images((70, 131), "uint8")
    backend = EmulatorBackend(checked=True)
    filters.filter2d(images, kernels.edge, out=out[:, :131], backend=backend)
    assert backend.launches == {"dense_small": 1}
    assert_equal(out[:, :131], filters.filter2d(images, kernels.edge, backend="numpy"), "uint8")
    assert np.all(out[:, 131:] == 7)


# ---------------------------------------------------------------- what becomes of sums


@pytest.mark.emulator
@pytest.mark.parametrize("delta", [1000, -0.5, 0.3, 2.0**62, -(2.0**80), 1e-30])
@pytest.mark.parametrize("kernel", [[[1]], [[0.5, 0.25]], [[3, -1], [2, 2]]])
@pytest.mark.parametrize("out_dtype", ["uint8", "int64"])
def test_every_delta_is_added_exactly(kernel, delta, out_dtype):
    images = random_images((3, 9), "uint8")
    arguments = {"delta": delta, "out_dtype": out_dtype}
    result = filters.filter2d(images, kernel, **arguments, backend=EmulatorBackend())
    assert_equal(result, filters.filter2d(images, kernel, **arguments, backend="numpy"), out_dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("out_dtype", [None, "int16", "uint64"])
@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64"])
def test_magnitudes_of_extremes_are_exact(name, dtype, out_dtype):
    info = np.iinfo(dtype)
    images = np.array([[info.min, info.max, info.max], [info.max, info.min, 0], [1, 2, 99]], dtype)
    images = np.tile(images, (3, 3))
    run = getattr(filters, name)
    result = run(images, out_dtype=out_dtype, backend=EmulatorBackend())
    assert_equal(result, run(images, out_dtype=out_dtype, backend="numpy"), out_dtype or dtype)


def test_a_small_magnitude_is_a_float_of_small_sums():
    for dtype, how in (("uint8", "small"), ("int16", "magnitude"), ("float32", "magnitude")):
        images = np.zeros((4, 9), dtype)
        (launch,) = launches_of(plan_gradient(images, (1, 2, 1), None, **COMMON), images)
        assert launch.arguments[-1]["finish"]["how"] == linear.HOW[how]


def test_unsharp_takes_its_amount_in_fixed_point():
    images = np.zeros((4, 8), np.uint8)
    plan = plan_unsharp(images, np.full(3, 1 / 3), np.full(3, 1 / 3), 0.5, **COMMON)
    (launch,) = launches_of(plan, images)
    assert launch.arguments[-1]["finish"]["amount"] == 2048
