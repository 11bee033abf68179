"""Two passes on tensor cores: bands of weights, sums of bytes and floats, tiles of every size."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import linear, separable_tensor
from gpuconv.plan import gpu, tensor
from gpuconv.plan.filters import plan_separable_filter
from gpuconv.quantize import plan_separable
from tests.emulator import EmulatorBackend
from tests.image_cases import (
    COMMON,
    assert_equal,
    assert_within,
    dtype_of,
    random_images,
    refuse,
    spread,
)
from tests.matrix import pairwise

BYTE = np.dtype(np.uint8)


def taps(count, seed=0, signed=False):
    """Fractions of Σ|w| = 1."""
    weights = np.random.default_rng([seed, count]).random(count) + 0.05
    weights[::3] *= -1 if signed else 1
    return weights / np.abs(weights).sum()


def bell(count):
    """A Gaussian's of Σw = 1."""
    weights = np.exp(-((np.arange(count) - count // 2) ** 2) / (0.04 * count**2 + 0.5))
    return weights / weights.sum()


class Launcher:
    """Keeps constants."""

    def __init__(self, tensor_cores=True):
        self.tensor_cores = tensor_cores

    def constant(self, array):
        return array


def launched(plan, images, output=None, tensor_cores=True):
    output = np.empty_like(images) if output is None else output
    (launch,) = linear.launches(plan, [images], [output], Launcher(tensor_cores))
    return launch


def planned(images, height, width, **keywords):
    given = COMMON | {"algorithm": "tensor"} | keywords
    return plan_separable_filter(images, bell(height), bell(width), **given)


# ---------------------------------------------------------------- plans and launches


def test_auto_waits_for_a_gpu_to_prove_them(monkeypatch):
    images = np.zeros((64, 320), np.uint8)
    plan = planned(images, 15, 15, algorithm="auto")
    assert plan.on_gpu.form == "separable"
    assert "of the time; not picked before their tests have passed on a GPU" in repr(plan)
    monkeypatch.setattr(gpu, "PROVEN", True)
    assert plan.on_gpu.form == "bands"
    assert "as banded products on tensor cores (0." in repr(plan)
    assert launched(plan, images).variant.kernel == "separable_tensor"
    assert planned(images, 15, 15, algorithm="direct").on_gpu.form == "separable"


@pytest.mark.parametrize(
    ("dtype", "height", "width", "form"),
    [
        ("uint8", 3, 3, "separable"),
        ("uint8", 5, 5, "separable"),
        ("uint8", 9, 9, "bands"),
        ("uint8", 33, 1, "general"),
        ("uint8", 33, 33, "bands"),
        ("uint8", 35, 35, "separable"),
        ("uint16", 9, 9, "separable"),
        ("float16", 7, 7, "separable"),
        ("float16", 15, 15, "bands"),
        ("float16", 31, 31, "bands"),
        ("bfloat16", 31, 31, "bands"),
        ("float32", 31, 31, "separable"),
    ],
)
def test_the_form_with_the_least_time_is_chosen(dtype, height, width, form, monkeypatch):
    monkeypatch.setattr(gpu, "PROVEN", True)
    plan = planned(np.zeros((64, 64), dtype_of(dtype)), height, width, algorithm="auto")
    assert plan.on_gpu.form == form


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize(
    ("shape", "height", "width", "tiles"),
    [
        ((40, 64), 3, 3, "2, 2"),
        ((40, 64), 17, 17, "2, 2"),
        ((40, 64), 18, 17, "3, 2"),
        ((40, 64), 33, 33, "3, 3"),
        ((40, 64, 3), 15, 5, "2, 2"),
        ((40, 64, 3), 15, 11, "2, 3"),
        ((40, 64, 3), 25, 17, "3, 4"),
        ((40, 64, 2), 17, 17, "2, 3"),
        ((40, 64, 4), 13, 13, "2, 4"),
        ((40, 64, 4), 17, 17, "2, 5"),
        ((40, 64, 3), 25, 25, "3, 7"),
        ((40, 64, 4), 25, 25, "3, 7"),
    ],
)
def test_windows_take_the_fewest_tiles_that_they_fit_in(shape, height, width, tiles, dtype):
    images = np.zeros(shape, dtype)
    plan = planned(images, height, width, channel_axis=-1 if len(shape) == 3 else None)
    launch = launched(plan, images)
    assert launch.variant.name == f"separable_tensor<{dtype}, {tiles}>"
    assert launch.variant in set(separable_tensor.variants())


@pytest.mark.parametrize(("dtype", "across"), [("uint8", 3), ("float16", 5)])
@pytest.mark.parametrize("tall", [1, 15, 16, 17, 1000, 5000])
def test_strips_share_the_rows_of_an_image(tall, dtype, across):
    images = np.zeros((3, tall, 1040), dtype)
    params = launched(planned(images, 9, 9), images).arguments[-1]["strips"]
    assert params["across"] == across
    assert params["rows"] % 16 == 0
    assert (params["down"] - 1) * params["rows"] < tall <= params["down"] * params["rows"]
    assert params["jobs"] == 3 * across * params["down"]


def test_other_layouts_are_left_to_the_kernels_without_tensor_cores():
    images = np.zeros((40, 100), np.uint8)
    plan = planned(images, 9, 9)
    assert launched(plan, images).variant.kernel == "separable_any"  # rows of 100 bytes
    wide = np.zeros((40, 96), np.uint8)
    plan = planned(wide, 9, 9)
    assert launched(plan, wide).variant.kernel == "separable_tensor"
    assert launched(plan, wide, tensor_cores=False).variant.kernel == "separable_bytes"
    shifted = np.zeros((40, 112), np.uint8)[:, 1:97]
    assert launched(plan, wide, shifted).variant.kernel == "separable_any"
    colour = np.zeros((40, 96, 4), np.uint8)
    plan = planned(colour, 27, 27, channel_axis=-1)  # 52 elements to either side
    assert launched(plan, colour).variant.kernel == "separable_bytes"
    halves = np.zeros((40, 100), np.float16)
    plan = planned(halves, 9, 9)
    assert launched(plan, halves).variant.kernel == "separable_any"  # rows of 200 bytes
    wide = np.zeros((40, 104), np.float16)
    plan = planned(wide, 9, 9)
    assert launched(plan, wide).variant.kernel == "separable_tensor"
    assert launched(plan, wide, tensor_cores=False).variant.kernel == "separable_strip"


@pytest.mark.parametrize(
    ("dtype", "column", "row"),
    [
        ("float32", bell(9), bell(9)),
        ("uint16", bell(9), bell(9)),
        ("float16", bell(35), bell(9)),
        ("float16", 20 * bell(9), 20 * bell(9)),  # results would tell of the middle's last bits
        ("float16", [1, 1e-9, 1], bell(9)),  # weights too far apart
        ("float16", bell(9), 1e-40 * bell(9)),
        ("float16", [1e308, 1e308], [1e308, 1e308]),
        ("bfloat16", bell(9), [1, 1e-39, 1]),
        ("bfloat16", bell(9), [1, 1e39, 1]),
        ("uint8", bell(35), bell(9)),
        ("uint8", bell(9), bell(34)),
        ("uint8", 40 * bell(9), bell(9)),  # two wide passes
        ("uint8", np.arange(1, 10), [1, 900, 1]),  # a middle of more than 12 bits
        ("uint8", [1, 2, 1], [300, 1, 2]),  # weights that f16 has no room for
    ],
)
def test_tensor_cores_refuse_what_they_cannot_compute(dtype, column, row):
    images = np.zeros((9, 16), dtype_of(dtype))
    call = lambda: filters.separable_filter2d(images, column, row, algorithm="tensor")  # noqa: E731
    refuse(ValueError, "algorithm", call)


def test_numpy_computes_the_same_whatever_the_algorithm():
    images = random_images((20, 48), "uint8")
    expected = filters.gaussian_blur(images, 2, backend="numpy")
    result = filters.gaussian_blur(images, 2, algorithm="tensor", backend="numpy")
    assert_equal(result, expected, "uint8")


# ---------------------------------------------------------------- weights


FACTORS = {
    "a bell": (bell(15), bell(15)),
    "signed": (taps(11, 1, signed=True), taps(9, 2, signed=True)),
    "a difference": (bell(7), np.array([-0.5, 0, 0.5])),
    "one large": (np.array([0.05, 0.9, 0.05]), np.array([0.3, 0.45, 0.25])),
    "whole": (np.array([1.0, 2, 1]), np.array([-1.0, 0, 1])),
    "half the range": (taps(33, 3) / 2, taps(33, 4, signed=True)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_bands_are_exact(name):
    stencil = plan_separable(*FACTORS[name], BYTE)
    bands = tensor.bands(stencil)
    assert bands is not None
    high, low = (term.astype(np.int64) for term in bands.column)
    np.testing.assert_array_equal(256 * high + low, stencil.column.array)
    scale = 2.0 ** (stencil.shift - tensor.MIDDLE_LOW)
    np.testing.assert_array_equal(bands.row.astype(np.float64) * scale, stencil.row.array)
    # The middle of the least and the greatest sums, and what sums along W pass through.
    column, row = (w.array.astype(np.int64) for w in (stencil.column, stencil.row))
    ends = [255 * column[column < 0].sum(), 255 * column[column > 0].sum()]
    middle = np.rint(np.array(ends) / 2**stencil.column_shift) + bands.bias
    assert bands.bias % 2 == 0
    assert 0 <= middle[0] <= middle[1] <= tensor.MOST_MIDDLE
    assert ends[0] + (bands.bias << stencil.column_shift) >= 0
    assert ends[1] + (bands.bias << stencil.column_shift) < 2**23
    products = row * (int(middle[1]) + tensor.MIDDLE_START)
    least, most = products[products < 0].sum(), products[products > 0].sum()
    assert bands.start + least + bands.room[0] >= -(2**24)
    assert bands.start + most + bands.room[1] <= 2**24
    assert bands.start == -row.sum() * (bands.bias + tensor.MIDDLE_START)


@pytest.mark.parametrize("scale", [1, 1e-12, 1e-30])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_bands_are_sums_of_terms(dtype, scale):
    column, row = taps(17, 1, signed=True) * scale, bell(33) * 200 / scale
    stencil = plan_separable(column, row, dtype_of(dtype))
    bands = tensor.float_bands(stencil, dtype_of(dtype))
    bits = 22 if dtype == "float16" else 16
    low = tensor.LOW_BITS if dtype == "float16" else 0
    middle = np.sum(bands.column, axis=0, dtype=np.float64) * 2.0**-low
    across = np.sum(bands.row[:2], axis=0, dtype=np.float64)
    kept = np.outer(middle, across) * 2.0**-bands.scale
    expected = np.outer(column, row)
    least = 2.0**-bits * abs(expected) + 2.0**-34 * abs(expected).max()
    assert np.all(abs(kept - expected) <= 2.01 * least)
    for term in (*bands.column, *bands.row):
        np.testing.assert_array_equal(term.astype(dtype_of(dtype)), term)
    if dtype == "float16":
        assert abs(middle).sum() <= 1  # so that no middle is larger than a pixel
        np.testing.assert_array_equal(bands.row[2] * 2.0**low, bands.row[0])


# ---------------------------------------------------------------- on the emulator


def check(images, column, row, **keywords):
    """A call on the emulator against NumPy: bytes bit by bit, floats within the contract."""
    backend, dtype = EmulatorBackend(), images.dtype.name
    result = filters.separable_filter2d(
        images, column, row, algorithm="tensor", **keywords, backend=backend
    )
    assert set(backend.launches) == {"separable_tensor"}
    if dtype == "uint8":
        expected = filters.separable_filter2d(images, column, row, **keywords, backend="numpy")
        assert_equal(result, expected, dtype)
    else:
        wide = images.astype(np.float64)
        expected = filters.separable_filter2d(wide, column, row, **keywords, backend="numpy")
        assert_near(result, expected, spread(np.outer(column, row), images, **keywords))


def assert_near(result, expected, bound):
    """Within the contract; and off by little but the result's own rounding."""
    bits, smallest = (11, 2.0**-25) if result.dtype == np.float16 else (8, 0)  # half a step
    assert_within(result, expected, bound + 2 * smallest, result.dtype.name)
    near = np.abs(expected) * 2.0**-bits + bound * 2.0 ** (2 - bits) + 1.25 * smallest
    assert np.all(np.abs(result.astype(np.float64) - expected) <= near)


AXES = {
    "size": [(3, 3), (7, 5), (2, 9), (15, 15), (17, 17), (16, 2), (33, 33), (25, 7), (7, 31)],
    "shape": [(1, 1), (1, 9), (17, 3), (16, 32), (40, 33), (37, 131), (50, 520), (5, 1030)],
    "channels": [None, 1, 2, 3, 4],
    "border": ["reflect", "wrap", "constant", "edge", "symmetric"],
}


@pytest.mark.emulator
@pytest.mark.parametrize(
    "case", pairwise(AXES, seed=6), ids=lambda c: "-".join(map(str, c.values()))
)
def test_tensor_cores_compute_what_numpy_does(case):
    height, width = case["size"]
    channels, (tall, wide) = case["channels"], case["shape"]
    width = min(width, 96 // (channels or 1))  # of two reaches of up to 48 elements
    wide = -(-wide // 16) * 16  # rows are whole packs
    images = random_images((2, tall, wide) if channels is None else (tall, wide, channels), "uint8")
    keywords = {"border": case["border"], "value": 37}
    check(
        *(images, taps(height, 7, signed=True), bell(width)),
        **keywords | ({} if channels is None else {"channel_axis": -1}),
    )


FLOAT_AXES = AXES | {
    "dtype": ["float16", "bfloat16"],
    "shape": [(1, 1), (17, 3), (16, 32), (37, 131), (50, 266)],
}


@pytest.mark.emulator
@pytest.mark.parametrize(
    "case", pairwise(FLOAT_AXES, seed=7), ids=lambda c: "-".join(map(str, c.values()))
)
def test_floats_are_near_what_numpy_computes(case):
    height, width = case["size"]
    channels, (tall, wide) = case["channels"], case["shape"]
    width = min(width, 96 // (channels or 1))
    wide = -(-wide // 8) * 8  # rows are whole packs
    shape = (2, tall, wide) if channels is None else (tall, wide, channels)
    keywords = {"border": case["border"], "value": 37.5}
    check(
        *(random_images(shape, case["dtype"]), taps(height, 7, signed=True), bell(width)),
        **keywords | ({} if channels is None else {"channel_axis": -1}),
    )


@pytest.mark.emulator
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-24, 2000])
@pytest.mark.parametrize("gain", [1e-9, 1, 255])
def test_middles_of_float16_have_room(scale, gain):
    images = random_images((20, 40), "float16").astype(np.float64) / 100 * scale
    images[:5] = 65504 if scale > 1 else 2.0**-24
    images = images.astype(np.float16)
    column, row = bell(15) * gain / 2, taps(15, 3, signed=True) * 2
    expected = filters.separable_filter2d(images.astype(np.float64), column, row, backend="numpy")
    backend = EmulatorBackend()
    result = filters.separable_filter2d(images, column, row, algorithm="tensor", backend=backend)
    assert set(backend.launches) == {"separable_tensor"}
    small = np.abs(expected) < 65504
    assert small.all() == (gain * scale < 1e5)
    bound = spread(np.outer(column, row), images)
    assert_near(result[small], expected[small], bound[small])
    large = np.abs(expected) > 65536
    np.testing.assert_array_equal(result[large], np.sign(expected[large]) * np.inf)


STRANGE = [(np.nan, 5, 60), (np.inf, 0, 0), (-np.inf, 39, 135), (np.inf, 20, 64)]


@pytest.mark.emulator
@pytest.mark.parametrize("size", [(9, 15), (17, 5), (30, 33)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nan_and_inf_reach_the_windows_that_hold_them(dtype, size):
    column, row = taps(size[0], signed=True), taps(size[1], 1, signed=True)
    column[2] = row[3] = 0
    images = random_images((40, 136), dtype).copy()
    for value, y, x in STRANGE:
        images[y, x] = value
    keywords, backend = {"border": "constant", "value": 1.0}, EmulatorBackend()
    result = filters.separable_filter2d(
        images, column, row, algorithm="tensor", **keywords, backend=backend
    )
    assert set(backend.launches) == {"separable_tensor"}
    wide = images.astype(np.float64)
    expected = filters.separable_filter2d(wide, column, row, **keywords, backend="numpy")
    for told in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(told(result.astype(np.float64)), told(expected))
    whole = np.isfinite(expected)
    assert 0 < whole.sum() < whole.size
    tame = np.where(np.isfinite(wide), wide, 0).astype(images.dtype)
    bound = spread(np.outer(column, row), tame, **keywords)
    assert_near(result[whole], expected[whole], bound[whole])


@pytest.mark.emulator
def test_sums_of_bfloat16_that_leave_float32_reach_no_other_window():
    images = np.zeros((20, 40), dtype_of("bfloat16"))
    images[8:10, 10] = 3e38
    column, row = np.ones(9), np.array([0.5, 1, 0.25])
    result = filters.separable_filter2d(
        images, column, row, algorithm="tensor", backend=EmulatorBackend()
    ).astype(np.float64)
    # Along H two of them leave float32; one alone does not.
    np.testing.assert_array_equal(result[5:13, 9:12], np.full((8, 3), np.inf))
    np.testing.assert_allclose(result[[4, 13], 9:12], [[7.5e37, 3e38, 1.5e38]] * 2, rtol=2**-7)
    result[4:14, 9:12] = 0
    assert not result.any()


@pytest.mark.emulator
def test_a_border_of_infinity_reaches_the_edges_alone():
    images = random_images((30, 40), "float16")
    keywords = {"border": "constant", "value": np.inf, "algorithm": "tensor"}
    result = filters.separable_filter2d(
        images, bell(9), bell(9), **keywords, backend=EmulatorBackend()
    )
    inside = np.zeros((30, 40), bool)
    inside[4:-4, 4:-4] = True
    np.testing.assert_array_equal(np.isfinite(result), inside)


@pytest.mark.emulator
@pytest.mark.parametrize("name", FACTORS)
def test_sums_are_exact_at_their_ends(name):
    column, row = FACTORS[name]
    check(random_images((20, 48), "uint8"), column, row)
    # Windows that the signs of the weights agree with, and their opposites.
    window = np.outer(column, row) > 0
    for image in (window, ~window):
        tile = np.where(image, 255, 0).astype(np.uint8)
        whole = np.tile(tile, (-(-40 // len(column)), -(-96 // len(row))))[:40, :96]
        check(np.ascontiguousarray(whole), column, row, border="wrap")
    check(np.full((9, 16), 255, np.uint8), column, row, border="edge")


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("anchor", [(0, 0), (8, 12), (3, 1), (14, 14)])
def test_a_window_begins_anywhere(anchor, dtype):
    images, backend = random_images((30, 48), dtype).copy(), EmulatorBackend()
    if dtype == "float16":
        images[10, 20] = np.inf  # a tile of which is summed again
    kernel = np.outer(taps(15, 1), taps(15, 2))
    result = filters.filter2d(images, kernel, anchor=anchor, algorithm="tensor", backend=backend)
    assert set(backend.launches) == {"separable_tensor"}
    expected = filters.filter2d(images, kernel, anchor=anchor, backend="numpy")
    if dtype == "uint8":
        assert_equal(result, expected, dtype)
    else:
        np.testing.assert_allclose(result, expected, rtol=2**-10, atol=2**-10)


@pytest.mark.emulator
@pytest.mark.parametrize("delta", [0, 0.25, -0.25, 3, 0.3])
def test_a_delta_is_added_at_scale_or_left_to_another_kernel(delta):
    images, backend = random_images((20, 32), "uint8"), EmulatorBackend()
    kernel = np.outer(taps(9, 1), taps(9, 2) / 2)
    result = filters.filter2d(images, kernel, delta=delta, algorithm="tensor", backend=backend)
    exact = abs(delta) <= 0.25  # the others leave the 24 bits of a float, before or behind
    assert set(backend.launches) == {"separable_tensor" if exact else "separable_any"}
    expected = filters.filter2d(images, kernel, delta=delta, backend="numpy")
    assert_equal(result, expected, "uint8")


@pytest.mark.emulator
def test_a_delta_is_added_to_floats_before_they_are_rounded():
    images = random_images((20, 32), "float16").copy()
    images[3, 5] = np.nan
    kernel, given = np.outer(taps(9, 1), taps(9, 2)), {"delta": 1000.25}
    result = filters.filter2d(
        images, kernel, **given, algorithm="tensor", backend=EmulatorBackend()
    )
    expected = filters.filter2d(images.astype(np.float64), kernel, **given, backend="numpy")
    np.testing.assert_allclose(result, expected, rtol=2.0**-11 * 1.001)
    given = {"delta": -1e300, "algorithm": "tensor"}
    assert np.isneginf(
        filters.filter2d(images[8:], kernel, **given, backend=EmulatorBackend())
    ).all()


@pytest.mark.emulator
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 47, 48, 49, 96, 97])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_strips_of_any_height(rows, dtype, monkeypatch):
    monkeypatch.setattr(separable_tensor, "strips_down", lambda *_: 1)
    images = random_images((rows, 48), dtype).copy()
    for size in (10, 32):
        plan = planned(images, size, 8)
        assert launched(plan, images).arguments[-1]["strips"]["rows"] == -(-rows // 16) * 16
        check(images, bell(size), bell(8), border="reflect")


@pytest.mark.emulator
@pytest.mark.parametrize("size", [12, 31])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_slabs_of_a_strip_take_turns(size, dtype, monkeypatch):
    monkeypatch.setattr(separable_tensor, "strips_down", lambda *_: 1)
    images, backend = random_images((106, 80), dtype).copy(), EmulatorBackend(checked=True)
    if dtype == "float16":
        images[[7, 30, 63, 90], [5, 40, 70, 20]] = np.inf
    column, row = bell(size), bell(6)
    given = {"algorithm": "tensor", "backend": backend}
    result = filters.separable_filter2d(images, column, row, **given)
    assert set(backend.launches) == {"separable_tensor"}
    expected = filters.separable_filter2d(images, column, row, backend="numpy")
    if dtype == "uint8":
        assert_equal(result, expected, dtype)
    else:
        np.testing.assert_allclose(result, expected, rtol=2**-9, atol=2**-9)


@pytest.mark.emulator
@pytest.mark.parametrize("sigma", [0.5, 1, (2, 0.8), 2.1, 4])
def test_gaussians(sigma):
    images, backend = random_images((3, 40, 560), "uint8"), EmulatorBackend()
    result = filters.gaussian_blur(images, sigma, algorithm="tensor", backend=backend)
    assert set(backend.launches) == {"separable_tensor"}
    assert_equal(result, filters.gaussian_blur(images, sigma, backend="numpy"), "uint8")


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "wide"), [("uint8", 1568), ("float16", 784)])
def test_requests_are_near_their_ideal(dtype, wide):
    backend = EmulatorBackend(counted=True)
    images = random_images((160, wide), dtype)
    filters.gaussian_blur(images, 2, algorithm="tensor", backend=backend)
    ((_, emulated),) = backend.kernels.items()
    assert {count.space for count in emulated.counts} == {"shared", "global"}
    wide = [count for count in emulated.counts if count.bytes >= 4]
    for count in wide:
        limit = 1.2 if count.space == "shared" else 1.0
        if (count.space, count.access) != ("global", "read"):
            assert count.excess <= limit, f"{count} is {count.excess:.2f} times its ideal"
    # Rows of a strip begin 8 bytes before a sector, and end with 16 more.
    reads = [count for count in wide if (count.space, count.access) == ("global", "read")]
    assert sum(c.transactions for c in reads) <= 1.5 * sum(c.ideal for c in reads)
