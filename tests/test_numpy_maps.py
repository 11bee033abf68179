"""How the NumPy backend computes feature maps: its rule, its threads, what it mixes."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.numpy import depthwise, products, threads
from gpuconv.plan import cpu
from gpuconv.window import AxisWindow
from tests import reference
from tests.map_cases import random_values, shrink_tiles

pytestmark = pytest.mark.usefixtures("numpy_backend")


def method_for(x, w, algorithm="gemm", groups=1, dilation=1, last=False):
    """The rule's choice for a convolution of x with w."""
    windows = [AxisWindow(n, dilation=dilation) for n in w.shape[2:]]
    channels = (x.shape[-1] if last else x.shape[1]) // groups
    types = cpu.numbers(x.dtype, w.dtype, x.dtype, int(np.prod(w.shape[1:])))
    return cpu.conv(algorithm, channels, windows, types, last)


# ---------------------------------------------------------------- the rule


def test_rule_takes_bands_for_single_channels_of_float_rows():
    x, w = np.zeros((1, 4, 9, 9), np.float32), np.zeros((4, 1, 3, 3), np.float32)
    assert method_for(x, w, "direct", groups=4) == "bands"
    assert method_for(x.astype(np.uint8), w.astype(np.int8), "direct", groups=4) == "bands"
    last = np.zeros((1, 9, 9, 4), np.float32)
    assert method_for(last, w, "direct", groups=4, last=True) == "slabs"
    assert method_for(x, w[:, :, 0], "direct", groups=4) == "slabs"
    wide = x.astype(np.int32), w.astype(np.int32)
    assert method_for(*wide, "direct", groups=4) == "slabs"  # not exact in floats
    assert method_for(x, w, "direct", groups=4, dilation=9) == "slabs"


# ---------------------------------------------------------------- threads

CASES = {
    "products": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "float32"),
        random_values((70, 40, 3, 3), "float32"),
        stride=2,
    ),
    "gathered": lambda: gpuconv.conv2d(
        random_values((3, 3, 60, 61), "float32"),
        random_values((40, 3, 7, 7), "float32"),
        random_values((40,), "float32"),
        stride=2,
        padding=3,
        activation="relu",
    ),
    "channels last": lambda: gpuconv.conv2d(
        random_values((3, 30, 31, 40), "float32"),
        random_values((70, 40, 3, 3), "float32"),
        padding=1,
        layout="NHWC",
    ),
    "many channels": lambda: gpuconv.conv2d(
        random_values((3, 64, 30, 31), "float32"), random_values((64, 64, 3, 3), "float32")
    ),
    "1x1": lambda: gpuconv.conv2d(
        random_values((3, 64, 30, 31), "float32"), random_values((70, 64, 1, 1), "float32")
    ),
    "depthwise": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "float32"),
        random_values((40, 1, 3, 3), "float32"),
        padding=1,
        groups=40,
    ),
    "slabs": lambda: gpuconv.conv2d(
        random_values((3, 30, 31, 40), "float32"),
        random_values((40, 1, 3, 3), "float32"),
        padding=1,
        groups=40,
        layout="NHWC",
    ),
    "integers": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "uint8"), random_values((70, 40, 3, 3), "int8"), padding=1
    ),
    "transposed": lambda: gpuconv.conv_transpose2d(
        random_values((3, 40, 20, 21), "float32"),
        random_values((40, 30, 4, 4), "float32"),
        stride=2,
    ),
    "pooled": lambda: gpuconv.conv2d_pool2d(
        random_values((3, 8, 60, 61), "float32"), random_values((40, 8, 3, 3), "float32")
    ),
    "max pool": lambda: gpuconv.max_pool2d(
        random_values((3, 40, 60, 61), "float32"), 3, 2, 1, return_indices=True
    ),
    "average": lambda: gpuconv.avg_pool2d(random_values((3, 40, 60, 61), "float32"), 3, 2, 1),
    "global": lambda: gpuconv.global_avg_pool(random_values((3, 40, 60, 61), "float32")),
}


@pytest.mark.parametrize("tiles", ["whole", "small"])
@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_the_threads(case, tiles, monkeypatch):
    if tiles == "small":
        monkeypatch.setattr(products, "SUM_ELEMENTS", 1 << 10)
        monkeypatch.setattr(depthwise, "TILE_ELEMENTS", 1 << 12)
    results = []
    for count in (1, 2, 5):
        threads.set_num_threads(count)
        results.append(CASES[case]())
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_threads_that_need_the_same_weights_find_them_whole():
    x, w = random_values((8, 64, 16, 16), "float32"), random_values((256, 64, 3, 3), "float32")
    threads.set_num_threads(1)
    expected = gpuconv.conv2d(x, w, padding=1)
    threads.set_num_threads(4)
    for _ in range(30):
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, padding=1), expected)


def test_numpy_does_not_warn_on_any_thread():
    threads.set_num_threads(5)
    x = np.full((9, 40, 30, 30), np.float32(3e38))
    w = np.full((40, 40, 3, 3), np.float32(3e38))
    assert np.isinf(gpuconv.conv2d(x, w)).all()
    assert np.isinf(gpuconv.avg_pool2d(x, 2)).all()


# ---------------------------------------------------------------- sums


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [3, 27, 64, 256, 300])
def test_sums_of_many_taps_keep_the_bound(channels, kernel):
    rng = np.random.default_rng(channels)
    for low, high in ((-1, 1), (0, 1), (0.3, 0.3), (0.7, 0.7)):
        x = rng.uniform(low, high, (1, channels, 8, 8)).astype(np.float32)
        w = rng.uniform(low, high, (40, channels, kernel, kernel)).astype(np.float32)
        error = abs(gpuconv.conv2d(x, w) - reference.conv(x, w))
        assert (error <= reference.bound(x, w)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stride", [1, 2])
def test_bands_spread_bad_values_no_further_than_their_windows(bad, stride):
    x = np.array(random_values((2, 5, 11, 12), "float32"))
    w = np.array(random_values((10, 1, 3, 3), "float32"))
    x[1, 2, 5, 6] = x[0, 0, 10, 11] = bad
    w[4, 0, 1, 1] = 0
    arguments = {"padding": 1, "stride": stride, "groups": 5}
    expected = reference.conv(x, w, **arguments)
    actual = gpuconv.conv2d(x, w, **arguments)
    finite = np.isfinite(expected)
    assert 0 < (~finite).sum() < finite.size
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 7), (7, 2)])
@pytest.mark.parametrize("geometry", [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("size", [(3, 4), (8, 9), (13, 30)])
@pytest.mark.parametrize("tiles", ["whole", "small"])
def test_bands_are_the_reference(kernel, geometry, size, tiles, monkeypatch):
    if tiles == "small":
        shrink_tiles(monkeypatch)
    stride, dilation = geometry
    x, w = random_values((2, 3, *size), "float32"), random_values((6, 1, *kernel), "float32")
    padding = tuple(dilation * (n - 1) // 2 for n in kernel) if max(kernel) < 7 else 6
    arguments = {"stride": stride, "dilation": dilation, "padding": padding, "groups": 3}
    expected = reference.conv(x, w, **arguments)
    error = abs(gpuconv.conv2d(x, w, **arguments) - expected)
    assert (error <= reference.bound(x, w, **arguments)).all()


@pytest.mark.parametrize("junk", [0.0, 1e9])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_products_agree_on_flat_and_on_cut_planes(layout, channels, junk, monkeypatch):
    monkeypatch.setattr(products, "JUNK", junk)
    sizes = (7, 9)
    shape = (3, *sizes, channels) if layout == "NHWC" else (3, channels, *sizes)
    x, w = random_values(shape, "int8"), random_values((5, channels, 3, 4), "int8")
    for stride, dilation in ((1, 1), (2, 1), (2, 3), ((1, 3), (2, 1))):
        arguments = {"stride": stride, "dilation": dilation, "padding": 4, "layout": layout}
        expected = reference.conv(x, w, **arguments)
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, **arguments), expected)
