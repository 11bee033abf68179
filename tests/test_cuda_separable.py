"""Separable filters by strips: which plans take them, and what only they can get wrong."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import Pipeline, filters
from gpuconv.backends.cuda import linear, separable_strips
from gpuconv.backends.cuda.launch import cuda_type
from gpuconv.plan.filters import plan_gradient, plan_separable_filter, plan_unsharp
from tests.emulator import EmulatorBackend
from tests.image_cases import (
    COMMON,
    assert_equal,
    assert_within,
    dtype_of,
    is_integer,
    random_images,
    spread,
)
from tests.launchers import Uploads

BORDERS = ("reflect", "edge", "symmetric", "wrap", "constant")
KERNELS = {"separable_bytes", "separable_strip", "separable_odd", "gradient_strip"}


def launch_of(plan, images, out=None):
    outputs = [np.empty(images.shape, plan.images.out_dtype) if out is None else out]
    (launch,) = linear.launches(plan, [images], outputs, Uploads())
    assert launch.variant in {*linear.variants(), *separable_strips.variants()}
    return launch


def blurred(images, column, row=None, **keywords):
    row = column if row is None else row
    return launch_of(plan_separable_filter(images, column, row, **(COMMON | keywords)), images)


def bell(size):
    """Taps of a Gaussian's shape."""
    taps = np.hanning(size + 2)[1:-1]
    return taps / taps.sum()


# ---------------------------------------------------------------- launches


@pytest.mark.parametrize(
    ("dtype", "size", "name"),
    [
        ("uint8", 3, "separable_bytes<3, 1>"),
        ("uint8", 15, "separable_bytes<15, 1>"),
        ("uint16", 5, "separable_strip<uint16, double, 5, 1>"),
        ("float16", 7, "separable_strip<float16, float, 7, 1>"),
        ("float32", 15, "separable_strip<float, float, 15, 1>"),
        ("float32", 31, "separable_strip<float, float, 31, 1>"),
        ("float16", 17, "separable_odd<float16, 1>"),
    ],
)
def test_odd_square_kernels_go_by_strips(dtype, size, name):
    assert blurred(np.zeros((2, 64, 64), dtype), bell(size)).variant.name == name


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integers_of_any_size_take_a_window_with_room(dtype):
    images = np.zeros((64, 64), dtype)
    for height, width, size in ((4, 5, 5), (2, 2, 3), (3, 9, 9), (1, 5, 5), (12, 13, 15 - 2)):
        (name,) = {blurred(images, bell(height), bell(width)).variant.arguments[-2]}
        assert name == str(15 if (dtype, size) == ("uint16", 13) else size)


def test_what_strips_do_not_take_goes_the_general_way():
    images, taps = np.zeros((4, 64, 64), np.uint8), bell(5)

    def kernel(images, *taps, **keywords):
        return blurred(images, *taps, **keywords).variant.kernel

    assert kernel(images, taps) == "separable_bytes"
    assert kernel(images[..., :63], taps) == "separable_any"  # rows are copied by this or that
    assert kernel(np.zeros((4, 64, 60), np.uint8), taps) == "separable_any"
    assert kernel(images, taps, out_dtype="float32") == "separable_any"
    assert kernel(images.astype(np.float32), bell(4)) == "separable_any"
    assert kernel(images.astype(np.float32), bell(33), bell(7)) == "separable_any"
    assert kernel(images, bell(43)) == "separable_any"
    assert kernel(images.astype(np.int8), taps) == "separable_any"
    assert kernel(images.astype(np.float64), taps) == "separable_any"
    assert kernel(np.zeros((4, 64, 5), np.uint8), taps, channel_axis=-1) == "separable_any"
    assert kernel(np.zeros((8, 16, 4), np.uint8), taps, channel_axis=-1) == "separable_bytes"
    huge = np.array([1, 2**15, 1])
    assert kernel(images, huge) == "separable_any"


def test_magnitudes_of_small_taps_go_by_strips():
    images = np.zeros((4, 64, 64), np.uint8)

    def kernel(images, taps):
        return launch_of(plan_gradient(images, taps, None, **COMMON), images).variant.kernel

    for taps in ((1, 2, 1), (3, 10, 3), (1, 1, 1)):
        for dtype in ("uint8", "uint16", "float16", "float32"):
            assert kernel(images.astype(dtype), taps) == "gradient_strip"
    assert kernel(images, (3, 11, 3)) == "separable_any"
    assert kernel(images, (1, 2, 3)) == "separable_any"
    assert kernel(images.astype(np.int16), (1, 2, 1)) == "separable_any"


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 64), (1, 15, 1008), (1, 2160, 3840), (64, 2160, 3840), (1, 16384, 16384)]
)
def test_strips_cover_an_image_once(shape, dtype):
    images = np.broadcast_to(np.zeros((), dtype), shape)
    images = np.lib.stride_tricks.as_strided(
        images,
        shape,
        (shape[1] * shape[2] * images.itemsize, shape[2] * images.itemsize, images.itemsize),
    )
    launch = blurred(images, bell(15))
    jobs, each, lanes, rows, beside = launch.arguments[-1]["strips"].tolist()[:5]
    assert jobs == launch.grid[0] == shape[0] * each
    rank = np.arange(launch.block[0])
    writes = rank[(rank >= beside) & (rank < rank.size - beside)]
    lane = (np.arange(each)[:, None] * writes.size + writes).ravel()
    assert lane.max() < 2**31
    band, place = lane // lanes, lane % lanes - beside
    elements = 8 if dtype == "uint8" else 4
    real = (band * rows < shape[1]) & (place >= 0) & (place * elements < shape[2])
    down, packs = -(-shape[1] // rows), -(-shape[2] // elements)
    assert np.array_equal((band * packs + place)[real], np.arange(down * packs))
    # What is read again above and below a strip: a third at most where an image is large.
    if shape[0] == 64:
        assert rows >= 100  # or 14 rows would be read again too often


def test_sums_of_bytes_begin_where_none_is_negative():
    rng = np.random.default_rng(5)
    pixels = np.array([0, 255])
    for column in (np.array([-1, 0, 1]), np.array([-30, 100, -30]), rng.integers(-999, 999, 15)):
        for shift in (0, 3):
            start, scale, up, down, even, odd = separable_strips._byte_sums(column, shift)
            worst = [sum(np.where(column > 0, a, b) * column) for a, b in (pixels, pixels[::-1])]
            for total in worst:
                bits = np.array(start + total, np.int32)
                value = np.float64(bits.view(np.float32)) * scale + up - down
                assert value == total / 2**shift
            pairs = [half.view(np.int16)[: len(column) + 1].tolist() for half in (even, odd)]
            assert pairs == [[*column, 0], [0, *column]]
    assert separable_strips._byte_sums(np.array([2**15]), 0) is None
    assert separable_strips._byte_sums(np.array([2**14, -(2**14), 2**14]), 0) is None


# ---------------------------------------------------------------- results


def assert_as_numpy(run, images, weights, **keywords):
    """By strips, and the same numbers as NumPy: floats within the bound of DESIGN 3.1."""
    backend = EmulatorBackend()
    result = run(images, **keywords, backend=backend)
    assert set(backend.launches) <= KERNELS
    if is_integer(images.dtype):
        assert_equal(result, run(images, **keywords, backend="numpy"), images.dtype)
    else:
        exact = run(images.astype(np.float64), **keywords, backend="numpy")
        dtype = images.dtype.name
        bound = spread(weights, images, **keywords) + rounding_of(exact, dtype)
        assert_within(result, exact, bound, dtype)


def rounding_of(exact, dtype):
    """Half a unit in the last place of results stored as `dtype`."""
    return abs(exact) * float(np.finfo(dtype_of(dtype)).eps) if dtype == "float16" else 0


SIZES = {
    "uint8": ((1, 16), (3, 48), (9, 1008), (21, 1024), (67, 1040)),
    "uint16": ((1, 8), (3, 48), (21, 512), (67, 520)),
    "float16": ((1, 8), (3, 48), (21, 1008), (53, 1032)),
    "float32": ((1, 4), (3, 48), (21, 496), (75, 516)),
}
"""(H, W): less than a window, about a block's columns, and more; rows of whole 16 bytes."""

QUICK = (
    ("uint8", 5, None),
    ("uint8", 7, 3),
    ("uint8", 3, 2),
    ("uint16", 3, None),
    ("float16", 3, 4),
    ("float32", 5, None),
    ("float32", 3, 2),
)
"""(dtype, taps, channels) that are compiled for every run."""

EVERY = [
    (dtype, taps, channels)
    for dtype in SIZES
    for channels in (None, *separable_strips.CHANNELS[1:])
    for taps in separable_strips.taps_of(cuda_type(dtype_of(dtype)), channels or 1)
    if (dtype, taps, channels) not in QUICK
]


@pytest.mark.parametrize("dtype", SIZES)
def test_warps_of_large_sizes_read_without_asking_the_border(dtype):
    height, width = SIZES[dtype][-1]
    for taps in separable_strips.taps_of(cuda_type(dtype_of(dtype)), 1):
        launch = blurred(np.zeros((height, width), dtype), bell(taps))
        _, each, lanes, rows, beside, above, below = launch.arguments[-1]["strips"].tolist()
        elements = {"uint8": 8, "float16": 8}.get(dtype, 4)
        trip = separable_strips.rows_at_once(launch.variant)
        lane = np.arange(each)[:, None] * (128 - 2 * beside) + np.arange(128)
        band, place = lane // lanes, lane % lanes - beside
        whole = (place >= 0) & ((place + 1) * elements <= width)
        first = np.maximum(-above - below, -below - band * rows)
        last = np.minimum(rows // trip * trip, height - below - 2 * trip - band * rows)
        trips = np.where(whole, (last - first) // trip, 0)
        assert (trips.reshape(-1, 32).min(axis=1) >= 2).any() or taps > 15


def try_every_size(dtype, taps, channels):
    signed = bell(taps) * np.resize([0.75, -1, 0.5], taps)
    for place, (height, width) in enumerate(SIZES[dtype]):
        shape = (height, width)
        if channels:
            shape = (height, width // 16 * 16 // channels // 4 * 4 or 4, channels)
            if shape[1] * channels * dtype_of(dtype).itemsize % 16:
                shape = (height, 16, channels)
        for turn, border in enumerate(BORDERS):
            column, row = (bell(taps), signed) if (place + turn) % 2 else (signed, bell(taps))
            assert_as_numpy(
                lambda x, c=column, r=row, **k: filters.separable_filter2d(x, c, r, **k),
                random_images((2, *shape) if turn == 1 else shape, dtype, seed=turn),
                np.outer(column, row),
                border=border,
                value=3,
                channel_axis=-1 if channels else None,
            )


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "taps", "channels"), QUICK)
def test_separable_filters_are_as_numpy_has_them(dtype, taps, channels):
    try_every_size(dtype, taps, channels)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "taps", "channels"), EVERY)
def test_every_separable_kernel_is_as_numpy_has_it(dtype, taps, channels):
    try_every_size(dtype, taps, channels)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_strips_of_several_heights_make_one_image(dtype, monkeypatch):
    images, taps = random_images((150, 64), dtype), bell(5)
    whole = filters.separable_filter2d(images, taps, taps, backend=EmulatorBackend())
    monkeypatch.setattr(separable_strips, "MOST_ROWS", 20)
    taller = np.concatenate([images, images])
    assert blurred(taller, taps).arguments[-1]["strips"]["rows"] <= 20
    result = filters.separable_filter2d(taller, taps, taps, backend=EmulatorBackend())
    assert_equal(result[:140], whole[:140], dtype)
    assert_equal(result[160:], whole[10:], dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("column", [[1, 4, 6, 4, 1], [-1, 0, 0, 0, 1], [9, -90, 200, -90, 9]])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integer_taps_saturate(column, dtype):
    images = random_images((40, 64), dtype)
    for delta in (0, -7):
        kernel = np.outer(column, [1, -2, 3, 2, -1])
        result = filters.filter2d(images, kernel, delta=delta, backend=EmulatorBackend())
        expected = filters.filter2d(images, kernel, delta=delta, backend="numpy")
        assert_equal(result, expected, dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["separable", "magnitude"])
def test_what_is_not_finite_reaches_its_windows_alone(kind, dtype, bad):
    images = np.array(random_images((30, 64), dtype))
    taps = np.array([0.25, 0, 0.5])

    def run(x):
        if kind == "magnitude":
            return filters.sobel(x, border="edge", backend=EmulatorBackend())
        return filters.separable_filter2d(x, taps, taps, border="edge", backend=EmulatorBackend())

    before = run(images)
    places = [(0, 0), (13, 31), (29, 63), (7, 60)]
    held = np.zeros(images.shape, bool)
    for y, x in places:
        images[y, x] = bad
        held[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    result = run(images)
    assert_equal(np.isfinite(result), ~held, bool)
    assert_equal(result[~held], before[~held], dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("amount", [0.5, 1, -1, 20])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_unsharp_masks_read_their_image_once(dtype, amount):
    images = random_images((2, 45, 64), dtype)
    backend = EmulatorBackend()
    result = filters.unsharp_mask(images, 0.6, amount, border="wrap", backend=backend)
    expected = filters.unsharp_mask(images, 0.6, amount, border="wrap", backend="numpy")
    if is_integer(images.dtype):
        assert_equal(result, expected, dtype)
    else:
        rough = 4e-3 if dtype == "float16" else 1e-5
        atol = rough * float(abs(images).max()) * (1 + abs(amount))
        np.testing.assert_allclose(result.astype(float), expected.astype(float), 0, atol)
    # Large amounts ask more of bytes than the narrow fixed point holds.
    fast = amount != 20 or dtype != "uint8"
    assert sum(backend.launches[kernel] for kernel in KERNELS) == fast


# Wide enough for warps that meet no end of a row, of windows with and without room for questions.
ASKED = [
    *(("uint8", 1.0, "separable_bytes"), ("float16", 1.0, "separable_strip")),
    *(("float32", 1.0, "separable_strip"), ("float16", 1.75, "separable_odd")),
    ("float32", 3.0, "separable_odd"),
]


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "sigma", "kernel"), ASKED)
def test_what_is_asked_of_sums_is_done_inside_rows_too(dtype, sigma, kernel, emulator):
    images = random_images((90, 536 if dtype == "float32" else 1072), dtype)
    column = bell(2 * int(4 * sigma + 0.5) + 1)
    calls = [lambda backend: filters.unsharp_mask(images, sigma, 1.5, backend=backend)]
    if not is_integer(images.dtype):
        both = np.outer(column, column)
        calls.append(lambda backend: filters.filter2d(images, both, delta=77.5, backend=backend))
    for call in calls:
        emulator.launches.clear()
        result, expected = call(emulator), call("numpy")
        assert set(emulator.launches) == {kernel}
        if is_integer(images.dtype):
            assert_equal(result, expected, dtype)
        else:
            rough = 4e-3 if dtype == "float16" else 1e-5
            atol = rough * (float(abs(images).max()) + 77.5)
            np.testing.assert_allclose(result.astype(float), expected.astype(float), 0, atol)


def test_an_amount_without_room_goes_the_general_way():
    images = np.zeros((8, 64), np.uint8)
    for amount, kernel in ((1.0, "separable_bytes"), (15.0, "separable_any")):
        plan = plan_unsharp(images, bell(5), bell(5), amount, **COMMON)
        assert launch_of(plan, images).variant.kernel == kernel


# ---------------------------------------------------------------- gradients


GRADIENTS = ("sobel", "scharr", "prewitt")


SLOW = pytest.mark.slow


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *(("uint8", None), ("uint8", 3), ("uint16", None), ("float16", 4), ("float32", None)),
        *(("uint8", 2), ("float32", 2)),
        *(
            pytest.param(dtype, channels, marks=SLOW)
            for dtype in ("uint8", "uint16", "float16", "float32")
            for channels in separable_strips.CHANNELS
        ),
    ],
)
def test_magnitudes_are_as_numpy_has_them(dtype, channels):
    for place, (height, width) in enumerate(SIZES[dtype]):
        shape = (height, width) if channels is None else (height, 16 * (place + 1), channels)
        for turn, border in enumerate(BORDERS):
            name = GRADIENTS[(place + turn) % 3]
            images = random_images(shape, dtype, seed=turn)
            keywords = {"border": border, "value": 9, "channel_axis": -1 if channels else None}
            backend = EmulatorBackend()
            result = getattr(filters, name)(images, **keywords, backend=backend)
            assert backend.launches == {"gradient_strip": 1}
            if is_integer(images.dtype):
                expected = getattr(filters, name)(images, **keywords, backend="numpy")
                assert_equal(result, expected, dtype)
            else:
                wide = getattr(filters, name)(
                    images.astype(np.float64), **keywords, backend="numpy"
                )
                rough = 2e-3 if dtype == "float16" else 2e-6
                atol = rough * 16 * float(abs(images).max())
                np.testing.assert_allclose(result.astype(float), wide, rough, atol)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("steps", [("sobel",), ("sobel", "filter2d:kernel=[1;]")])
def test_magnitudes_where_nan_meets_infinity_are_as_numpy_has_them(steps, dtype):
    rng, images = np.random.default_rng(2), random_images((2, 40, 64), dtype).copy()
    odd = rng.random(images.shape) < 0.2
    images[odd] = rng.choice([np.nan, np.inf, -np.inf], odd.sum())
    backend = EmulatorBackend()
    result = Pipeline(*steps)(images, backend=backend)
    assert backend.launches == {"gradient_strip" if len(steps) == 1 else "chain": 1}
    expected = Pipeline(*steps)(images, backend="numpy")
    for kind in (np.isnan, np.isinf):
        np.testing.assert_array_equal(kind(result), kind(expected))


@pytest.mark.emulator
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_magnitudes_near_halves_round_right(name, dtype):
    # Few levels make every small sum of squares; steps of one make the roots of large ones.
    most = np.iinfo(dtype).max
    rng = np.random.default_rng(8)
    for images in (
        rng.integers(0, 12, (60, 256)),
        rng.integers(0, 64, (60, 256)),
        rng.integers(0, 2, (60, 256)) * most,
        rng.integers(0, most // 12, (60, 256)),
        np.add.outer(np.arange(60) * 3, np.arange(256) * 5) % (most // 5),
    ):
        images = images.astype(dtype)
        result = getattr(filters, name)(images, backend=EmulatorBackend())
        assert_equal(result, getattr(filters, name)(images, backend="numpy"), dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "size", [(2, 2), (1, 3), *(pytest.param(s, marks=SLOW) for s in ((2, 5), (4, 3), (5, 1)))]
)
def test_windows_of_integers_are_filled_with_nothing(size, dtype):
    rng = np.random.default_rng(size)
    images = random_images((41, 64), dtype)
    height, width = size
    for anchor in ((0, 0), (height - 1, width - 1), (height // 2, width // 2)):
        kernel = np.outer(rng.integers(-3, 9, height), rng.integers(1, 9, width)) / 32
        result = filters.filter2d(images, kernel, anchor=anchor, backend=EmulatorBackend())
        expected = filters.filter2d(images, kernel, anchor=anchor, backend="numpy")
        assert_equal(result, expected, dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("channels", [1, 2, 3, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=SLOW)])
def test_floats_take_odd_numbers_of_taps(dtype, channels):
    rng = np.random.default_rng(channels)
    images = random_images((2, 47, 16, channels), dtype)
    sizes = [(1, 5), (5, 1), (1, 1), (3, 5), (29, 31), (31, 3), (17, 19 + 2 * channels)]
    for height, width in sizes:
        column, row = rng.normal(size=height), rng.normal(size=width)
        backend = EmulatorBackend()
        keywords = {"border": BORDERS[height % 5], "channel_axis": -1}
        assert_as_numpy(
            lambda x, c=column, r=row, **k: filters.separable_filter2d(x, c, r, **k),
            images,
            np.outer(column, row),
            **keywords,
        )
    images = np.array(images)
    images[:, 23, 7] = np.inf
    result = filters.separable_filter2d(
        images, np.ones(3), np.ones(5), channel_axis=-1, backend=backend
    )
    held = np.zeros(images.shape, bool)
    held[:, 22:25, 5:10] = True
    assert_equal(np.isfinite(result), ~held, bool)
    assert backend.launches == {"separable_odd": 1}


@pytest.mark.emulator
def test_large_gradients_of_halves_do_not_overflow():
    images = np.zeros((6, 16), np.float16)
    images[:, 8:] = 15000
    result = filters.sobel(images, backend=EmulatorBackend())
    assert result[3, 8] == 60000


# ---------------------------------------------------------------- under the checker


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("float32", 4), ("float16", 2)])
def test_the_check_build_finds_nothing_at_edges(dtype, channels):
    images = random_images((19, 1040 // channels // 16 * 16, channels), dtype)
    keywords = {"channel_axis": -1, "border": "reflect"}
    for run in (
        lambda x, **k: filters.separable_filter2d(x, bell(3), bell(3), **k),
        lambda x, **k: filters.scharr(x, **k),
    ):
        checked = run(images, **keywords, backend=EmulatorBackend(checked=True))
        assert_equal(checked, run(images, **keywords, backend=EmulatorBackend()), dtype)
